"""Does it learn? kNN accuracy on climate, before and after the smoke recipe, for some seeds.

python benchmarks/learning.py [--seeds 0 1 2] [--out FOLDER] [--tile-px 128] [--stride-px 16]
    [--set key=value ...]

ViT-Ti/16 at 64 px on windows of NASA's Blue Marble, so that two crops of one show neighbouring
ground; each seed has its own split by blocks of 30° of longitude, weights, shuffles and crops. The
network at random weights is the same one before its first step. Also with features of colour alone:
mean and deviation of each band.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from climate import write_globe, write_labels
from making import machine
from numpy.typing import NDArray

from tilezoo.pretrain import pack, pretrain
from tilezoo.pretrain.knn_task import KnnTask, find_knn_task, predict_classes
from tilezoo.pretrain.log import curve, read_log
from tilezoo.pretrain.packs.shards import open_pack
from tilezoo.pretrain.recipe import find_recipe
from tilezoo.pretrain.setup import stored_contract

_RECIPE = "dino-vits16-bigearthnet-smoke"


def main() -> None:
    """Pack, pretrain and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("learning"))
    parser.add_argument("--tile-px", type=int, default=128)
    parser.add_argument("--stride-px", type=int, default=16)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    args = parser.parse_args()
    print(
        "| seed | tiles: train, validation | colour alone | random weights | pretrained | best epoch | minutes |"
    )
    print("|---|---|---|---|---|---|---|")
    for seed in args.seeds:
        tiles = write_tiles(args.out / f"seed{seed}", seed, args.tile_px, args.stride_px)
        print(one_seed(tiles, seed, args.settings), flush=True)
    print(*machine().values(), sep=" · ")


def write_tiles(folder: Path, seed: int, tile_px: int, stride_px: int) -> Path:
    """Pack windows of the globe, split by the seed's blocks, in a folder; returns it."""
    globe = write_globe(folder)
    labels = write_labels(globe, tile_px, stride_px, seed)
    pack(
        globe,
        out=folder / "pack",
        tile_px=tile_px,
        stride_px=stride_px,
        labels=labels,
        split="train,validation",
        max_errors=1_000_000,  # windows over the edges
    )
    return folder


def one_seed(folder: Path, seed: int, settings: list[str]) -> str:
    """One row of the table."""
    changes = [f"seed={seed}", "knn_every_epochs=1", *settings]
    start = time.monotonic()
    pretrain(
        folder / "pack", out=folder / "run", recipe=_RECIPE, settings=changes, show_progress=True
    )
    minutes = (time.monotonic() - start) / 60
    packed, recipe = open_pack(folder / "pack"), find_recipe(_RECIPE, changes)
    task = find_knn_task(packed, stored_contract(packed, recipe), seed)
    assert task is not None
    measured = dict(curve(read_log(folder / "run"), "knn_accuracy"))
    best = max(measured, key=lambda epoch: measured[epoch])
    cells = [
        str(seed),
        f"{len(task.known)}, {len(task.asked)}",
        f"{colour_accuracy(task):.3f}",
        f"{measured[0]:.3f}",
        f"**{measured[max(measured)]:.3f}**",
        f"{best:g} ({measured[best]:.3f})",
        f"{minutes:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def colour_accuracy(task: KnnTask) -> float:
    """The same kNN on mean and deviation of each band, standardised over the known tiles."""
    known, asked = _colours(task, task.known), _colours(task, task.asked)
    mean, std = known.mean(0), known.std(0)
    predicted = predict_classes(
        (known - mean) / std, task.known_class, (asked - mean) / std, task.classes
    )
    return float((predicted == task.asked_class).mean())


def _colours(task: KnnTask, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    pixels = task.pack.read(rows).astype(np.float32)
    return np.concatenate([pixels.mean((2, 3)), pixels.std((2, 3))], axis=1)


if __name__ == "__main__":
    main()
