"""Measure the peak memory of `tilezoo embed` for few and for many tiny tiles.

python benchmarks/memory.py [--tiles 10000 100000] [--rounds 2]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

from making import link_tiles, machine, make_model, make_tiles

_SIDE_PX = 16
_ORIGINALS = 100  # the others are hard links to these
_EVERY_S = 0.05


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
            peak_mb, own_mb, seconds = run(work / f"{count}", work / "model", work / "table")
            cells = f"{number} | {count:,} | {peak_mb:,.0f} | {own_mb:,.0f} | {seconds:.0f}"
            print(f"| {cells} |", flush=True)
    print(" · ".join(machine().values()))


def run(tiles: Path, model: Path, out: Path) -> tuple[float, float, float]:
    """Embed in a process of its own.

    Returns:
        Peak resident memory, MB; peak of the part that is no file's (libraries' code is), MB, 0
        where there is no /proc; seconds.
    """
    program = Path(sys.executable).with_name("tilezoo")
    start, own_kib = time.monotonic(), 0
    process = subprocess.Popen(
        [program, "embed", tiles, "-m", model, "-o", out, "--overwrite"], stdout=subprocess.DEVNULL
    )
    ended, status = 0, 0
    while not ended:
        own_kib = max(own_kib, anonymous_kib(process.pid))
        time.sleep(_EVERY_S)
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"tilezoo embed ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, KiB elsewhere
    return usage.ru_maxrss * unit / 1e6, own_kib * 1024 / 1e6, time.monotonic() - start


def anonymous_kib(process: int) -> int:
    """Resident memory of a process that is no file's; 0 where that cannot be told."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return 0
    lines = status.read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    main()
