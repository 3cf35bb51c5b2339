"""Small packs and runs for the tests of pretraining."""

import csv
from pathlib import Path
from typing import Any

import making
import torch

from tilezoo.pretrain import pack

# Small enough for a step in some milliseconds; everything is in it that the real recipes have.
SMALL = (
    "architecture=vit_tiny_patch16_224", "global_px=32", "local_px=16", "local_crops=2",
    "out_dim=64", "hidden_dim=32", "bottleneck_dim=16", "batch_size=4", "epochs=3",
    "warmup_epochs=1", "checkpoint_every_epochs=1", "keep_checkpoints=2", "drop_path=0.1",
)  # fmt: skip
TILES, TRAINED = 24, 16  # tiles in all, and of the train split: 4 steps an epoch
STEPS = 12


def write_pack(folder: Path, *, tiles: int = TILES, side: int = 40, labels: bool = True) -> Path:
    """Pack RGB tiles; two thirds are of the train split, of two classes one can tell by colour."""
    for number in range(tiles):
        pixels = making.texture(number, side=side)
        pixels[number % 2] //= 4
        making.write_tiff(folder / "tiles" / f"tile_{number:04d}.tif", pixels, photometric="RGB")
    stated = _write_labels(folder / "labels.csv", tiles) if labels else None
    pack(folder / "tiles", out=folder / "pack", labels=stated)
    return folder / "pack"


def weights(run: Path, name: str = "last.pth") -> dict[str, Any]:
    """Read a checkpoint."""
    return dict(torch.load(run / "checkpoints" / name, weights_only=True))


def equal(first: object, second: object) -> bool:
    """Compare nested dicts and lists of tensors bit for bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(equal(first[k], second[k]) for k in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second


def _write_labels(path: Path, tiles: int) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "split"])
        for number in range(tiles):
            split = "validation" if number % 3 == 2 else "train"
            rows.writerow([f"tile_{number:04d}.tif", f"class{number % 2}", split])
    return path
