"""Files of an older commit, kept in tests/kept/: how they are made, unpacked and made again.

`python tests/keeping.py` writes the archive anew. It was run by hand, once, at the last commit
before the rooms were redrawn; it is not run again, unless a file format is changed on purpose.
Then it is run at the commit before the change. Only making them knows inner modules.

What is kept lies in one folder and is named by paths relative to it. Whoever reads it works in
that folder. `commands.json` in it holds every command by the folder or file it made.
"""

import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ARCHIVE = Path(__file__).parent / "kept" / "kept.tar.xz"
PACKAGES = ("tilezoo", "torch", "timm", "numpy", "pyarrow", "rasterio", "scikit-learn", "faiss-cpu")
ARCHITECTURE = "vit_kept_patch8_32"
BROKEN = 7  # the number of a tile that cannot be read
_SMALL = (
    f"architecture={ARCHITECTURE}", "global_px=32", "local_px=16", "local_crops=2", "out_dim=16",
    "hidden_dim=16", "bottleneck_dim=8", "batch_size=6", "epochs=3", "warmup_epochs=1",
    "checkpoint_every_epochs=1", "keep_checkpoints=1", "knn_every_epochs=1", "lr=0.2",
    "teacher_momentum=0.7",
)  # fmt: skip
_CPU = ("--device", "cpu", "--precision", "fp32")
_EMBED = (*_CPU, "--batch-size", "4", "--part-rows", "8", "--workers", "1", "--max-errors", "1")
_WINDOWS = (
    *_CPU, "--bands", "B04,B03,B02", "--value-range", "0,3000", "--tile-px", "4",
    "--batch-size", "520", "--workers", "1",
)  # fmt: skip
_PRETRAIN = (
    *_CPU, "--checkpoint-minutes", "0", *(word for text in _SMALL for word in ("--set", text)),
)  # fmt: skip
_SHARDS = ("--tile-px", "64", "--stride-px", "4", "--shard-mb", "1", "--workers", "1")
_PROBE = ("--device", "cpu", "--bootstrap", "200", "--dataset", "Kept tiles")
_LAUNCH = (
    "--dry-run", "--region", "us-east-1", "--role", "arn:aws:iam::123456789012:role/training",
    "--output", "s3://kept/out", "--name", "kept", "--instance", "ml.g5.2xlarge", "--spot",
)  # fmt: skip
# By what they make, in this order; .json and .txt are what they print.
COMMANDS: dict[str, tuple[str, ...]] = {
    "pack": ("pack", "tiles", "-o", "pack", "--labels", "labels.csv", "--max-errors", "1"),
    "shards": ("pack", "wide.tif", "-o", "shards", *_SHARDS),
    "run": ("pretrain", "pack", "-o", "run", *_PRETRAIN),
    "model": ("export", "run", "-o", "model", "--name", "kept-vit", "--licence", "Apache-2.0"),
    "early": ("export", "run-stopped", "-o", "early", "--name", "kept-early"),
    "registry.txt": ("publish", "model", "--as", "kept/vit", "--registry", "registry"),
    "table": ("embed", "tiles", "-m", "model", "-o", "table", *_EMBED),
    "windows": ("embed", "scene.tif", "-m", "model", "-o", "windows", *_WINDOWS),
    "table-early": ("embed", "tiles", "-m", "early", "-o", "table-early", *_EMBED),
    "table-mean": (
        "embed", "tiles", "-m", "model", "-o", "table-mean", *_EMBED,
        "--pooling", "mean", "--dtype", "float16",
    ),
    "table/index": ("index", "table"),
    "windows/index": ("index", "windows", "--kind", "ivf", "--recall", "0.9"),
    "search-row.json": ("search", "table", "tile_0003.tif", "-k", "5", "--json"),
    "search-image.json": ("search", "table", "tiles/tile_0004.tif", "-k", "5", "--json"),
    "search-place.json": ("search", "windows", "--at", "15.0008,40.6499", "-k", "5", "--json"),
    "probe": (
        "probe", "cls=table", "mean=table-mean", "--control", "early=table-early",
        "--labels", "labels.csv", "-o", "probe", *_PROBE, "--fractions", "50,100", "--seeds", "2",
    ),
    "probe-blocks": (
        "probe", "table", "--labels", "many.parquet", "-o", "probe-blocks", *_PROBE,
        "--split", "both", "--block-km", "0.35", "--rare", "drop",
    ),
    "compare": (
        "compare", "tiles", "--labels", "labels.csv", "-m", "cls=model", "-m", "early=early",
        "-o", "compare", *_CPU, "--batch-size", "4", "--workers", "1", "--max-errors", "1",
        "--bootstrap", "200",
    ),
    "metadata.parquet": (
        "prepare", "bigearthnet", "patches", "-o", "metadata.parquet", "--lists", "lists",
        "--max-errors", "1",
    ),
    "launch.json": ("launch", *_LAUNCH, "--", "pretrain", "s3://kept/shards", "-o", "s3://kept/run"),
    "models.json": ("models", "--json"),
    "show-zoo.json": ("show", "dino-vitt16-overhead", "--json"),
    "show-model.json": ("show", "model", "--json"),
    "show-model.txt": ("show", "model"),
}  # fmt: skip
# What is made a second time, as far as a process came that was killed at the n-th of these calls.
_KILLED: dict[str, tuple[str, str, int]] = {
    "shards": ("tilezoo.pretrain.pack_store", "write_json", 2),  # the job, a shard's state
    "run": ("tilezoo.pretrain.loop", "save_last", 5),
    "table": ("tilezoo.embed.store", "Store.add", 2),
    "windows": ("tilezoo.embed.store", "Store.add", 1),
}
# Kept only where nothing else holds the same: pages, pictures, and what `compare` embeds.
_LEFT_OUT = (".html", ".png", ".svg", ".lock")
_LEFT_OUT_FOLDERS = (
    "compare/tables",
    "compare/models",
    "run/tensorboard",
    "run-stopped/tensorboard",
)


def run_tilezoo(*words: str) -> str:
    """Run the installed command in this process; what it prints to stdout.

    Raises:
        SystemExit: It ended otherwise than well.
    """
    register_network()
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="tilezoo")
    main, before, printed = script.load(), sys.argv, io.StringIO()
    sys.argv = ["tilezoo", *words]
    try:
        with contextlib.redirect_stdout(printed):
            main()
    except SystemExit as ended:
        if ended.code not in (0, None):
            raise
    finally:
        sys.argv = before
    return printed.getvalue()


def run_kept(made: str, out: str | None = None) -> str:
    """Run the command that made something, into another folder where one is given."""
    words = json.loads(Path("commands.json").read_text(encoding="utf-8"))[made]
    if out is not None:
        words[words.index("-o") + 1] = out
    return run_tilezoo(*words)


def unpack(folder: Path) -> Path:
    """Unpack what is kept."""
    with tarfile.open(ARCHIVE, "r:xz") as archive:
        archive.extractall(folder, filter="data")
    _settle(folder)
    return folder


def _settle(folder: Path) -> None:
    """Say where models lie now in the texts that name it by its whole path."""
    before = made_on(folder)["folder"]
    for path in [*folder.rglob("*.json"), *folder.rglob("*.txt")]:
        text = path.read_bytes()
        named = text.replace(f"{before}/".encode(), f"{folder}/".encode())
        if named != text:
            path.write_bytes(named)


def made_on(folder: Path) -> dict[str, Any]:
    """Read on what machine, with what packages and in what folder all was made."""
    return dict(json.loads((folder / "machine.json").read_text(encoding="utf-8")))


def machine() -> dict[str, Any]:
    """What decides the last bits of what is computed."""
    import torch

    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    named = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    own = {"processor": named[0].partition(":")[2].strip() if named else ""}
    return {"versions": versions, **own, "capability": torch.backends.cpu.get_cpu_capability()}


def register_network() -> None:
    """Let timm know a vision transformer of some thousand weights, to be pretrained by name."""
    import timm
    from timm.models import vision_transformer

    if timm.is_model(ARCHITECTURE):
        return

    def vit_kept_patch8_32(**given: Any) -> Any:
        built = {"patch_size": 8, "img_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 1}
        return vision_transformer.VisionTransformer(**{**built, **_known(given)})

    vit_kept_patch8_32.__module__ = vision_transformer.__name__  # as pretraining asks
    timm.models.register_model(vit_kept_patch8_32)


def _known(given: dict[str, Any]) -> dict[str, Any]:
    """What a network is built with, without what timm says of where its weights are from."""
    beside = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
    return {name: value for name, value in given.items() if name not in beside}


def _keep() -> None:
    import torch

    torch.set_num_threads(1)
    made = Path(tempfile.gettempdir()) / "tilezoo-kept"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    with contextlib.chdir(made), tempfile.TemporaryDirectory() as cache:
        os.environ["TILEZOO_CACHE"] = cache
        _write_inputs()
        Path("commands.json").write_text(json.dumps(COMMANDS, indent=1), encoding="utf-8")
        Path("machine.json").write_text(
            json.dumps({"folder": str(made), **machine()}, indent=1), encoding="utf-8"
        )
        for name, words in COMMANDS.items():
            if name in _KILLED:
                _make_killed(words, f"{name}-stopped", *_KILLED[name])
            with _out_of_sight("tiles") if words[0] == "probe" else contextlib.nullcontext():
                printed = run_tilezoo(*words)
            if Path(name).suffix in (".json", ".txt"):
                Path(name).write_text(printed, encoding="utf-8")
        ARCHIVE.parent.mkdir(exist_ok=True)
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            for path in sorted(Path().iterdir()):
                archive.add(path, filter=_plain)


@contextlib.contextmanager
def _out_of_sight(name: str) -> Iterator[None]:
    """Rename a folder: reports show pictures of tiles, and later these lie elsewhere."""
    Path(name).rename("away")
    try:
        yield
    finally:
        Path("away").rename(name)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if entry.name.endswith(_LEFT_OUT) or entry.name in _LEFT_OUT_FOLDERS:
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _make_killed(words: Sequence[str], out: str, module: str, call: str, count: int) -> None:
    words = [
        out if before == "-o" else word for before, word in zip(("", *words), words, strict=False)
    ]
    command = [sys.executable, __file__, "killed", module, call, str(count), *words]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert ended.returncode == 9, out


def _run_killed(module: str, call: str, count: str, *words: str) -> None:
    """Run a command in this process, which ends at once after the n-th of some calls."""
    *path, name = call.split(".")
    holder: Any = importlib.import_module(module)
    for part in path:
        holder = getattr(holder, part)
    real, left = getattr(holder, name), [int(count)]

    def counted(*given: Any, **named: Any) -> Any:
        result = real(*given, **named)
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)
        return result

    setattr(holder, name, counted)
    run_tilezoo(*words)


def _write_inputs() -> None:
    """Write tiles, labels, scenes and patches."""
    import bigearthnet
    import making
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from rasterio.transform import from_origin

    labels, many = ["id,label,split"], {}
    for number in range(36):
        pixels = making.texture(number, side=32) // 8 * 8
        pixels[number % 3] //= 4
        place = from_origin(500_000 + number % 6 * 750, 4_500_000 - number // 6 * 750, 10, 10)
        when = {"TIFFTAG_DATETIME": f"2020:06:{1 + number % 28:02d} 10:00:00"}
        name = f"tile_{number:04d}.tif"
        making.write_tiff(
            Path("tiles") / name, pixels, transform=place, tags=when, photometric="RGB"
        )
        split = ("train", "train", "validation", "test")[number // 3 % 4]
        kind = (number + (number % 5 == 0)) % 3  # a fifth is of the other class than it looks
        labels.append(f"{name},class{kind},{split}")
        many[name] = ["red" if number % 2 else "blue", *["late"] * (number > 20)]
    (Path("tiles") / f"tile_{BROKEN:04d}.tif").write_text("no image")
    Path("labels.csv").write_text("\n".join(labels) + "\n")
    pq.write_table(pa.table({"id": list(many), "labels": list(many.values())}), "many.parquet")
    wide = making.texture(100, side=120) // 16 * 16
    making.write_tiff(Path("wide.tif"), wide, photometric="RGB")
    scene = making.texture(101, side=112, low=1, high=3000, dtype="uint16") // 64 * 64
    making.write_tiff(Path("scene.tif"), scene.astype(np.uint16), names=("B04", "B03", "B02"))
    for name, when in (
        (bigearthnet.SUMMER, "2017-06-13 10:10:31"),
        (bigearthnet.FALL, "2017-09-24 09:30:20"),
        (bigearthnet.SNOWY, "2018-02-04 09:41:56"),
    ):
        bigearthnet.write_json(Path("patches"), name, acquisition_date=when)
    bigearthnet.write_text(Path("patches"), "S2A_MSIL2A_20171221T112501_56_35", "no JSON")
    bigearthnet.write_lists(
        Path("lists"),
        train=[bigearthnet.FALL],
        test=[bigearthnet.SUMMER],
        snow=[bigearthnet.SNOWY],
        others=[bigearthnet.SNOWY],
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["killed"]:
        _run_killed(*sys.argv[2:])
    else:
        _keep()
