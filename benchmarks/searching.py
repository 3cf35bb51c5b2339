"""Measure `tilezoo search`: wall time and peak memory of a whole command over a large table.

python benchmarks/searching.py TABLE [--rows 600000] [--dimension 384] [--rounds 3]

TABLE is made unless it is there: vectors of low rank in clusters, with ids like BigEarthNet's and
footprints on a grid; kept for another run. So is its index.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from making import machine, run_measured
from numpy.typing import NDArray

from tilezoo.embed.store import open_writer
from tilezoo.geo import footprint
from tilezoo.space import Contract, Space
from tilezoo.table import NamedModel, TableManifest, TableRequest, open_table, rows, schema
from tilezoo.tiles import Tile

_RANK, _CLUSTERS = 24, 500
_SEGMENT = 4096
_DEGREES = 0.01  # a tile's side
_COLUMNS = 2000
_PROGRAM = str(Path(sys.executable).with_name("tilezoo"))


def main() -> None:
    """Make what is missing, measure, and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--rows", type=int, default=600_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not args.table.exists():
        make_table(args.table, args.rows, args.dimension)
    if not (args.table / "index" / "index.json").is_file():
        start = time.monotonic()
        subprocess.run([_PROGRAM, "index", args.table], check=True)
        print(f"\n`tilezoo index` took {time.monotonic() - start:.0f} s\n")
    print("| command | seconds, each round | median | CPU | peak memory, MB | no file's, MB |")
    print("|---|---|---|---|---|---|")
    for told, words in list_commands(args.table).items():
        runs = [run_measured([_PROGRAM, *words]) for _ in range(args.rounds)]
        seconds = [run.seconds for run in runs]
        peak, own = (max(getattr(run, name) for run in runs) for name in ("peak_mb", "own_mb"))
        each = ", ".join(f"{one:.2f}" for one in seconds)
        times = f"{each} | {median(seconds):.2f} | {median(run.cpu_s for run in runs):.2f}"
        print(f"| {told} | {times} | {peak:,.0f} | {own:,.0f} |", flush=True)
    facts = json.loads((args.table / "index" / "index.json").read_text(encoding="utf-8"))
    print(json.dumps(facts))
    print(" · ".join(machine().values()))


def list_commands(table: Path) -> dict[str, list[str]]:
    """What is measured: told → words."""
    row = open_table(table).row_count * 2 // 3
    lon, lat = place(row)
    return {
        "`--version`": ["--version"],
        "`search TABLE ID`": ["search", str(table), name(row)],
        "`search TABLE --at LON,LAT`": ["search", str(table), f"--at={lon:.3f},{lat:.3f}"],
    }


def make_table(path: Path, count: int, dimension: int) -> None:
    """Write a table as a run writes it."""
    space = _space()
    manifest = TableManifest(
        tiles=count,
        dimension=dimension,
        space=space.state,
        model=NamedModel(name="none", source="/nowhere/model"),
        request=TableRequest(),
        precision="fp32",
        device="cpu",
        georeferenced=True,
        tiles_sha256="",
        part_rows=128_000_000 // (4 * dimension),
        segment_tiles=_SEGMENT,
    )
    path.mkdir(parents=True)
    store = open_writer(path, manifest, overwrite=False)
    store.begin()
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(_CLUSTERS, _RANK))
    basis = rng.normal(size=(_RANK, dimension))
    for segment in store.missing():
        numbers = range(segment.first, segment.last)
        vectors = _draw(rng, centres, basis, len(numbers))
        made = rows([_tile(number) for number in numbers], vectors)
        store.add(segment, pa.Table.from_batches([made], schema=schema(dimension, "float32")), [])
    store.finish()


def name(row: int) -> str:
    """A tile's id, in the order of rows."""
    return f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{row // 100:05d}_{row % 100:02d}"


def place(row: int) -> tuple[float, float]:
    """A tile's centre: longitude and latitude."""
    line, column = divmod(row, _COLUMNS)
    return -10 + (column + 0.5) * _DEGREES, 40 + (line + 0.5) * _DEGREES


def _draw(
    rng: np.random.Generator, centres: NDArray[np.float64], basis: NDArray[np.float64], count: int
) -> NDArray[np.float32]:
    inner = centres[rng.integers(0, len(centres), count)] + 0.5 * rng.normal(size=(count, _RANK))
    noise = 0.3 * rng.normal(size=(count, basis.shape[1]))
    return (inner @ basis + noise).astype(np.float32)


def _tile(row: int) -> Tile:
    from rasterio.transform import from_origin

    lon, lat = place(row)
    west, north = lon - _DEGREES / 2, lat + _DEGREES / 2
    return Tile(
        id=name(row),
        pixels=np.zeros((1, 1, 1), np.uint8),
        source_uri=f"/nowhere/{name(row)}.tif",
        pixel_bbox=(0, 0, 100, 100),
        nodata_fraction=0.0,
        crs="OGC:CRS84",
        footprint=footprint(
            "OGC:CRS84", from_origin(west, north, _DEGREES / 100, _DEGREES / 100), 100, 100
        ),
        datetime=datetime(2017, 6, 13, tzinfo=UTC),
    )


def _space() -> Space:
    contract = Contract(
        bands=("B04", "B03", "B02"),
        unit="dn",
        value_range=(0, 2000),
        quantize_uint8=True,
        size_px=224,
        resize="shorter_side_then_center_crop",
        resize_px=256,
        interpolation="bicubic",
        gsd_m=(10.0, 10.0),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    return Space(weights_sha256="a" * 64, architecture="none", contract=contract, pooling="cls")


if __name__ == "__main__":
    main()
