"""Measure the peak memory of `tilezoo embed` for few and for many tiny tiles.

python benchmarks/memory.py [--tiles 10000 100000]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from making import link_tiles, machine, make_model, make_tiles

_SIDE_PX = 16
_ORIGINALS = 100  # the others are hard links to these


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, nargs="+", default=[10_000, 100_000])
    args = parser.parse_args()
    print("| tiles | peak memory, MB | seconds |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make_tiles(work / "originals", _ORIGINALS, _SIDE_PX)
        make_model(work / "model", _SIDE_PX, embed_dim=64, depth=1, num_heads=1)
        for count in args.tiles:
            link_tiles(work / f"{count}", work / "originals", count)
            peak_mb, seconds = run(work / f"{count}", work / "model", work / f"table{count}")
            print(f"| {count:,} | {peak_mb:,.0f} | {seconds:.0f} |", flush=True)
    print(" · ".join(machine().values()))


def run(tiles: Path, model: Path, out: Path) -> tuple[float, float]:
    """Embed in a process of its own; its peak resident memory in MB, and the seconds it took."""
    program = Path(sys.executable).with_name("tilezoo")
    start = time.monotonic()
    process = subprocess.Popen(
        [program, "embed", tiles, "-m", model, "-o", out], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"tilezoo embed ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, KiB elsewhere
    return usage.ru_maxrss * unit / 1e6, time.monotonic() - start


if __name__ == "__main__":
    main()
