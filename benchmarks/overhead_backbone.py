"""Make a backbone from open overhead imagery: corpus, pack, run, models, and how good they are.

python benchmarks/overhead_backbone.py DATA OUT [--recipe dino-vitt16-overhead] [--processes 2]
    [--set key=value ...]

DATA is as overhead_corpus.py takes it. Stopped at any moment, the same command goes on where it was;
one to three hours on two cores. Written are OUT/corpus, OUT/pack, OUT/run, and one model directory per
size it can be fed at. They are judged by the training side alone, mines and climate of the validation
parts (OUT/judged/…/report.md): choices are made by those, and the test parts are looked at once, by
overhead_compare.py.
"""

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

from tilezoo.cli import compare

_HERE = Path(__file__).parent
_BIN = Path(sys.executable).parent
_SIDE_PX = 128  # of packed tiles; chips of the Amazon are enlarged to it
_FED_PX = (64, 128)


def main() -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="dino-vitt16-overhead")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    args = parser.parse_args()
    corpus = lay_out(args.data, args.out / "corpus")
    packed = pack_up(corpus, args.out / "pack")
    run = train(packed, args.out / "run", args.recipe, args.processes, args.settings)
    models = [export(run, args.out / f"fed-{side}", side) for side in _FED_PX]
    for task, block_deg in (("mines", None), ("climate", 10.0)):
        judge(corpus, task, models, block_deg, args.out / "judged")


def lay_out(data: Path, corpus: Path) -> Path:
    """Write the corpus and the probes' tiles; corpus.json is written last."""
    if not (corpus / "corpus.json").exists():
        subprocess.run([sys.executable, _HERE / "overhead_corpus.py", data, corpus], check=True)
    return corpus


def pack_up(corpus: Path, packed: Path) -> Path:
    """Pack both parts that training may see; goes on or tells that all is there."""
    tilezoo(
        "pack", corpus / "tiles", "-o", packed, "--labels", corpus / "tiles.csv",
        "--split", "train,validation", "--size-px", _SIDE_PX,
    )  # fmt: skip
    return packed


def train(packed: Path, run: Path, recipe: str, processes: int, settings: list[str]) -> Path:
    """Train with one thread a process, which on few cores is faster than threads that wait."""
    told = [part for setting in settings for part in ("--set", setting)]
    command = [_BIN / "tilezoo", "pretrain", packed, "-o", run, "--recipe", recipe, *told]
    if processes > 1:
        together = ["--standalone", "--nproc-per-node", str(processes), "--no-python"]
        command = [_BIN / "torchrun", *together, *command]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return run


def export(run: Path, model: Path, side_px: int) -> Path:
    """Write a model in 16 bits, fed at a size."""
    if not model.exists():
        tilezoo("export", run, "-o", model, "--half", "--size-px", side_px, "--pooling", "cls+mean")
    return model


def judge(corpus: Path, task: str, models: list[Path], block_deg: float | None, out: Path) -> None:
    """Compare sizes, random weights and colours on the validation part; test is left out."""
    out.mkdir(parents=True, exist_ok=True)
    compare(
        corpus / task,
        labels=training_side(corpus / f"{task}.csv", out / f"{task}.csv"),
        models=[str(model) for model in models],
        out=out / task,
        block_deg=block_deg,
        dataset=f"{task}, validation part",
        note="For choosing: nothing of the test part is in here.",
        show_progress=True,
    )


def training_side(labels: Path, out: Path) -> Path:
    """Write labels without the test part, validation in its place."""
    with labels.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] != "test"]
    for row in rows:
        row["split"] = {"validation": "test"}.get(row["split"], row["split"])
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return out


def tilezoo(*arguments: object) -> None:
    """Run a command of tilezoo."""
    subprocess.run([_BIN / "tilezoo", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
