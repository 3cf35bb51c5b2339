"""Measure the peak memory of `tilezoo embed` for few and for many tiny tiles.

python benchmarks/memory.py [--tiles 10000 100000] [--rounds 2]
"""

import argparse
import sys
import tempfile
from itertools import product
from pathlib import Path

from making import Measured, link_tiles, machine, make_model, make_tiles, run_measured

_SIDE_PX = 16
_ORIGINALS = 100  # the others are hard links to these


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    print("| round | tiles | peak memory, MB | its own (no file's), MB | seconds |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make_tiles(work / "originals", _ORIGINALS, _SIDE_PX)
        make_model(work / "model", _SIDE_PX, embed_dim=64, depth=1, num_heads=1)
        for count in args.tiles:
            link_tiles(work / f"{count}", work / "originals", count)
        for number, count in product(range(1, args.rounds + 1), args.tiles):
            found = run(work / f"{count}", work / "model", work / "table")
            memory = f"{found.peak_mb:,.0f} | {found.own_mb:,.0f}"
            print(f"| {number} | {count:,} | {memory} | {found.seconds:.0f} |", flush=True)
    print(" · ".join(machine().values()))


def run(tiles: Path, model: Path, out: Path) -> Measured:
    """Embed in a process of its own."""
    program = Path(sys.executable).with_name("tilezoo")
    return run_measured([program, "embed", tiles, "-m", model, "-o", out, "--overwrite"])


if __name__ == "__main__":
    main()
