"""Time the bf16 products on packed weights (`tilezoo.zoo.network.pack`) against torch's own.

    python benchmarks/packed.py [--rounds 7]

Both embed the same 64 tiles of a model, turn by turn, so that whatever else runs slows both. The
clock's figures are those of the fastest turn; CPU seconds, the median turn's, hardly feel other programs.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from making import make_model

from tilezoo.tiles import Tile
from tilezoo.zoo import load
from tilezoo.zoo.backbone import Backbone

_BATCH = 64
_MODELS: dict[str, dict[str, int]] = {
    "ViT-Ti/16": {"embed_dim": 192, "num_heads": 3},
    "ViT-S/16": {},
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print("| model | px | torch's own, tiles/s | packed, tiles/s | gain | gain, CPU time |")
    print("|---|---|---|---|---|---|")
    for name, args in _MODELS.items():
        for side_px in (224, 128):
            with tempfile.TemporaryDirectory() as folder:
                model = Path(folder) / name.replace("/", "-")
                make_model(model, side_px, **args)
                print(measure(model, side_px, rounds), flush=True)


def measure(model: Path, side_px: int, rounds: int) -> str:
    """Make the row of one model."""
    plain, packed = load_bf16(model, packed=False), load_bf16(model, packed=True)
    batch = tiles(side_px)
    times: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(rounds):
        for is_packed, backbone in ((False, plain), (True, packed)):
            times[is_packed].append(time_batch(backbone, batch))
    clock = {kind: min(each[0] for each in times[kind]) for kind in times}
    cpu = {kind: statistics.median(each[1] for each in times[kind]) for kind in times}
    rates = f"{_BATCH / clock[False]:.1f} | {_BATCH / clock[True]:.1f}"
    gains = f"{clock[False] / clock[True] - 1:+.1%} | {cpu[False] / cpu[True] - 1:+.1%}"
    return f"| {model.name} | {side_px} | {rates} | {gains} |"


def load_bf16(model: Path, *, packed: bool) -> Backbone:
    """Load a model in bf16, with packed weights or without."""
    with patch("tilezoo.zoo.backbone.can_pack", return_value=packed):
        backbone = load(model, device="cpu")
        backbone.use("bf16")
    return backbone


def time_batch(backbone: Backbone, batch: list[Tile]) -> tuple[float, float]:
    """Embed a batch; tell the clock's seconds and the CPU's."""
    clock, cpu = time.perf_counter(), time.process_time()
    backbone.encode(batch)
    return time.perf_counter() - clock, time.process_time() - cpu


def tiles(side_px: int) -> list[Tile]:
    """Make a batch of tiles that are fitted to the model's size already."""
    pixels = np.random.default_rng(0).integers(0, 255, (_BATCH, 3, side_px, side_px), np.uint8)
    return [
        Tile(
            id=str(number), pixels=one, source_uri="", nodata_fraction=0.0, crs=None,
            footprint=None, datetime=None, pixel_bbox=(0, 0, side_px, side_px), fitted=True,
        )
        for number, one in enumerate(pixels)
    ]  # fmt: skip


if __name__ == "__main__":
    main()
