"""Measure `tilezoo pretrain` against lightly-train's DINO, in turn, on one machine in one run.

python benchmarks/pretrain.py [--lightly PYTHON] [--rounds 3] [--batch 8] [--steps 40] [--json FILE]

Same images (120 px RGB), same crops (2 x 224 + 8 x 96 px), same network (ViT-S/16, 65,536 outputs)
and batch. PYTHON is an interpreter that has lightly-train; without one it is left out. With a GPU,
ours is measured on it at several batch sizes, with and without torch.compile.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Self

import numpy as np
import torch
from making import busy_s, machine, make_tiles, peak_gflops, wait_for_quiet
from PIL import Image as Pillow
from torch.utils.flop_counter import FlopCounterMode

from tilezoo.pretrain import pack, pretrain
from tilezoo.pretrain.log import curve, read_log
from tilezoo.pretrain.network import build_network, use_fused_attention
from tilezoo.pretrain.packs.shards import open_pack
from tilezoo.pretrain.recipe import Recipe, find_recipe

_RECIPE = "dino-vits16-bigearthnet"
_LIGHTLY = ("bf16-mixed", "32-true")  # the second is what it takes on a CPU unless told otherwise
_GPU_BATCHES = (64, 128, 256, 512)


@dataclass(frozen=True, kw_only=True)
class Round:
    """One measurement.

    Attributes:
        what: Whose DINO, on what, how.
        images_per_s: In steady state, data included.
        data_wait: Share of the time that training waited for data; None where it is not told.
        peak_share: Of the machine's matrix products in the same precision.
        others: Cores that other processes kept busy meanwhile, on average.
    """

    what: str
    images_per_s: float
    data_wait: float | None
    peak_share: float | None
    others: float


def main() -> None:
    """Measure, print a Markdown table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lightly", help="a Python that has lightly-train")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.lightly is None:
        print("lightly-train is left out: name a Python that has it, --lightly", file=sys.stderr)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make_images(work, tiles_needed(args.batch, args.steps))
        rounds = list(measure(work, args))
    where = machine()
    print(table(rounds))
    print(where["machine"], where["torch"], where["commit"], where["command"], sep=" · ")
    if args.json:
        record = {**where, "rounds": [asdict(each) for each in rounds]}
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def tiles_needed(batch: int, steps: int) -> int:
    """An epoch is all the steps on a CPU; a GPU's large batches go through it several times."""
    return max(batch * steps, 2 * max(_GPU_BATCHES) if torch.cuda.is_available() else 0)


def make_images(work: Path, count: int) -> None:
    """Lay the same tiles out twice: packed for us, as PNGs for lightly-train."""
    make_tiles(work / "tiles", count)
    pack(work / "tiles", out=work / "pack", bands="B04,B03,B02", value_range="0,2000")
    (work / "png").mkdir()
    for number, tile in enumerate(np.load(work / "pack" / "shard-00000.npy", mmap_mode="r")):
        Pillow.fromarray(np.moveaxis(tile, 0, -1)).save(work / "png" / f"{number:05d}.png")


def measure(work: Path, args: argparse.Namespace) -> Iterator[Round]:
    """Take turns: each round measures every way once."""
    for number in range(args.rounds):
        yield from one_round(work, args, number)


def one_round(work: Path, args: argparse.Namespace, number: int) -> Iterator[Round]:
    """Measure the two on the CPU, and ours on the GPU where there is one."""
    yield ours(work / "pack", work / f"cpu{number}", "cpu", args.batch, args.steps)
    for precision in _LIGHTLY if args.lightly else ():
        yield theirs(work, args, precision)
    for batch in _GPU_BATCHES if torch.cuda.is_available() else ():
        for compiled in (False, True):
            out = work / f"cuda{number}-{batch}-{compiled}"
            yield ours(work / "pack", out, "cuda", batch, args.steps, compiled=compiled)


def ours(
    shards: Path, out: Path, device: str, batch: int, steps: int, *, compiled: bool = False
) -> Round:
    """Run `tilezoo pretrain` and read its own log, its first ten steps left out."""
    wait_for_quiet()
    epochs = -(-steps // (len(open_pack(shards)) // batch))
    changes = (f"batch_size={batch}", f"epochs={epochs}", "warmup_epochs=0")
    recipe = find_recipe(_RECIPE, changes)
    with Others() as others:
        pretrain(shards, out=out, settings=changes, device=device, compiled=compiled)
    request = json.loads((out / "run.json").read_text(encoding="utf-8"))
    entries = read_log(out)
    rate = median(rate for _, rate in curve(entries, "images_per_s")[1:])
    dtype = torch.bfloat16 if request["settings"]["precision"] == "bf16" else torch.float32
    share = rate * gflop_of(recipe) / peak_gflops(device, dtype)
    found = Round(
        what=f"tilezoo, {device}, {request['settings']['precision']}, batch {batch}"
        + (", compiled" if compiled else ""),
        images_per_s=rate,
        data_wait=median(wait for _, wait in curve(entries, "data_wait")[1:]),
        peak_share=share,
        others=others.cores,
    )
    print(found, file=sys.stderr)
    return found


def theirs(work: Path, args: argparse.Namespace, precision: str) -> Round:
    """Run lightly_dino.py in a process of its own."""
    wait_for_quiet()
    with tempfile.TemporaryDirectory() as out, Others() as others:
        script = Path(__file__).with_name("lightly_dino.py")
        counts = ["--batch", str(args.batch), "--out-dim", "65536"]
        command = [
            args.lightly,
            script,
            work / "png",
            f"{out}/run",
            *counts,
            "--precision",
            precision,
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=out)
    rate = float(json.loads(done.stdout.splitlines()[-1])["images_per_s"])
    what = f"lightly-train, cpu, {precision}, batch {args.batch}"
    found = Round(
        what=what, images_per_s=rate, data_wait=None, peak_share=None, others=others.cores
    )
    print(found, file=sys.stderr)
    return found


def gflop_of(recipe: Recipe) -> float:
    """Count an image's floating-point operations in a step: 2 x multiply-accumulates.

    The student goes forward and back on all crops, the teacher forward on the global ones.
    """
    network = build_network(recipe, 3, drop_path=0.0)
    use_fused_attention(network, on=False)  # the counter does not see the fused one on a CPU
    big = torch.zeros(2, 3, recipe.global_px, recipe.global_px)
    small = torch.zeros(recipe.local_crops, 3, recipe.local_px, recipe.local_px)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            network([big])
        network([big, small]).sum().backward()
    return float(counter.get_total_flops()) / 1e9


class Others:
    """Cores that others keep busy while the block runs."""

    def __enter__(self) -> Self:
        self._before, self._start = busy_s(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        everyone, we = (now - was for now, was in zip(busy_s(), self._before, strict=True))
        self.cores = (everyone - we) / (time.monotonic() - self._start)


def table(rounds: list[Round]) -> str:
    """Write medians over the rounds as a Markdown table."""
    lines = [
        "| what | images/s: median (rounds) | data wait | share of peak | others, cores |",
        "|---|---|---|---|---|",
    ]
    for what in dict.fromkeys(each.what for each in rounds):
        some = [each for each in rounds if each.what == what]
        rates = ", ".join(f"{each.images_per_s:.2f}" for each in some)
        cells = [
            what,
            f"**{median(each.images_per_s for each in some):.2f}** ({rates})",
            _percent([each.data_wait for each in some]),
            _percent([each.peak_share for each in some]),
            f"{median(each.others for each in some):.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(shares: list[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{median(known):.1%}" if known else "–"


if __name__ == "__main__":
    main()
