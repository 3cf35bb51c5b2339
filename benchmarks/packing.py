"""Measure `tilezoo pack` and random reads from what it makes.

python benchmarks/packing.py [--tiles 40000] [--rounds 3]
"""

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from making import link_tiles, machine, make_tiles, wait_for_quiet

from tilezoo.pretrain import pack
from tilezoo.pretrain.packs.shards import Pack, open_pack

_SIDE_PX = 120
_ORIGINALS = 2000  # the others are hard links to these
_READ = 40_000  # tiles in one measurement
_FORGET = 4  # POSIX_FADV_DONTNEED


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make_tiles(work / "originals", _ORIGINALS, _SIDE_PX)
        link_tiles(work / "tiles", work / "originals", args.tiles)
        wait_for_quiet()
        shards = pack_all(work / "tiles", work / "shards", args.tiles)
        print("\n| rows | batch | threads | tiles/s, each round |\n|---|---|---|---|", flush=True)
        for order in ("random", "random, first read from disk"):
            for batch, threads in ((256, 1), (1024, 1), (256, 2), (1024, 2)):
                rates = [read_all(shards, order, batch, threads) for _ in range(args.rounds)]
                told = ", ".join(f"{rate:,.0f}" for rate in rates)
                print(f"| {order} | {batch} | {threads} | {told} |", flush=True)
    print(" · ".join(machine().values()))


def pack_all(tiles: Path, out: Path, count: int) -> Pack:
    """Pack tiles of uint16 into 8 bits and tell how fast."""
    start = time.monotonic()
    pack(tiles, out=out, bands="B04,B03,B02", value_range="0,2000")
    seconds = time.monotonic() - start
    print(f"packed {count:,} tiles of 3x{_SIDE_PX}x{_SIDE_PX} px: {count / seconds:,.0f} tiles/s")
    shards = open_pack(out)
    start = time.monotonic()
    shards.check()
    size = sum(path.stat().st_size for path in out.glob("*.npy"))
    print(f"checked: {size / (time.monotonic() - start) / 1e9:.2f} GB/s")
    return shards


def read_all(shards: Pack, order: str, batch: int, threads: int) -> float:
    """Read random rows by batches; tiles per second."""
    if "disk" in order:
        shards = forgotten(shards)
    rows = np.random.default_rng(0).permutation(max(_READ, len(shards)))[:_READ] % len(shards)
    batches = np.array_split(rows, len(rows) // batch)
    with ThreadPoolExecutor(threads) as pool:
        start = time.monotonic()
        for _ in pool.map(shards.read, batches):  # results are dropped as a training loop does
            pass
        return len(rows) / (time.monotonic() - start)


def forgotten(shards: Pack) -> Pack:
    """Ask the kernel to drop the shards from memory, which it does once nothing maps them."""
    shards.__dict__.pop("_maps", None)
    for path in shards.path.glob("*.npy"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, _FORGET)
        os.close(descriptor)
    return open_pack(shards.path)


if __name__ == "__main__":
    main()
