"""Measure `tilezoo probe` on a table as large as BigEarthNet: 384 values, 19 classes, many a tile.

python benchmarks/probing.py [--scale 1.0] [--tables 1]

Vectors are synthetic, with a spectrum that falls as a vision transformer's does, so that the linear
probe is as badly conditioned as it is there; classes follow from them, and are as rare as
BigEarthNet's. The table is a real one, written through tilezoo.table's schema and read by the
command.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from making import machine
from numpy.typing import NDArray

from tilezoo.io import sha256_file, write_state
from tilezoo.space import Contract, Space
from tilezoo.table import NamedModel, Part, TableManifest, TableRequest, schema

# The official splits of BigEarthNet v1 after its recommended filter.
_SPLITS = {"train": 269_695, "validation": 123_723, "test": 125_866}
_DIMENSION, _CLASSES, _HIDDEN = 384, 19, 48
_PART = 65_536


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the tiles")
    parser.add_argument("--tables", type=int, default=1, help="how many are compared")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        names = [f"table{number}" for number in range(args.tables)]
        make(work, {split: round(n * args.scale) for split, n in _SPLITS.items()}, names)
        peak_mb, seconds, cpu_seconds = run(work, names)
        timing = json.loads((work / "out" / "timing.json").read_text())
        results = json.loads((work / "out" / "results.json").read_text())
    print("| table | step | seconds |\n|---|---|---|")
    for name, steps in timing["steps"].items():
        for step, took in steps.items():
            print(f"| {name} | {step} | {took:.0f} |")
    print(f"\nwhole command: {seconds:.0f} s ({cpu_seconds:.0f} s of a core), {peak_mb:,.0f} MB")
    print(results["fits"], results["results"]["table0"]["linear"]["ap_micro"])
    print(" · ".join(machine().values()))


def make(work: Path, splits: dict[str, int], names: list[str]) -> None:
    """Write labels and tables of the same tiles."""
    rng = np.random.default_rng(0)
    count = sum(splits.values())
    hidden = rng.normal(size=(count, _HIDDEN)).astype(np.float32)
    slopes = rng.normal(size=(_HIDDEN, _CLASSES)).astype(np.float32) / np.sqrt(_HIDDEN) * 4
    # From a third of the tiles to one in a thousand, 2.9 classes a tile on average.
    offsets = np.linspace(-1.5, -9, _CLASSES, dtype=np.float32)
    logits = hidden @ slopes + offsets + rng.logistic(size=(count, _CLASSES))
    ids = [f"patch_{number:07d}" for number in range(count)]
    classes = np.array([f"class {number:02d}" for number in range(_CLASSES)], object)
    labels = pa.array([classes[row] for row in logits > 0], pa.list_(pa.string()))
    split = np.repeat(list(splits), list(splits.values()))
    pq.write_table(pa.table({"id": ids, "labels": labels, "split": split}), work / "labels.parquet")
    for name in names:
        write_table(work / name, ids, hidden, rng)


def write_table(
    folder: Path, ids: list[str], hidden: NDArray[np.float32], rng: np.random.Generator
) -> None:
    """Write one finished table in parts."""
    folder.mkdir()
    falling = np.logspace(0, -2.5, _DIMENSION, dtype=np.float32)
    mixing = rng.normal(size=(_HIDDEN, _DIMENSION)).astype(np.float32) / np.sqrt(_HIDDEN)
    turned, _ = np.linalg.qr(rng.normal(size=(_DIMENSION, _DIMENSION)))
    parts = []
    for first in range(0, len(ids), _PART):
        rows = hidden[first : first + _PART] @ mixing
        rows += rng.normal(size=rows.shape).astype(np.float32)
        vectors = (rows * falling) @ turned.astype(np.float32) + 0.02
        path = folder / f"part-{len(parts):05d}.parquet"
        pq.write_table(_part(ids[first : first + _PART], vectors), path, compression="zstd")
        parts.append(Part(file=path.name, rows=len(vectors), sha256=sha256_file(path)))
    write_state(folder / "manifest.json", _manifest(parts))


def _part(ids: list[str], vectors: NDArray[np.float32]) -> pa.Table:
    columns = schema(_DIMENSION, "float32")
    flat = pa.array(vectors.astype(np.float32).ravel())
    given = {
        "id": pa.array(ids),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, _DIMENSION),
        "source_uri": pa.array(ids),
        "pixel_bbox": pa.array([[0, 0, 120, 120]] * len(ids), columns.field("pixel_bbox").type),
        "nodata_fraction": pa.array(np.zeros(len(ids), np.float32)),
    }
    arrays = [given.get(field.name, pa.nulls(len(ids), field.type)) for field in columns]
    return pa.table(arrays, schema=columns)


def _manifest(parts: list[Part]) -> TableManifest:
    contract = Contract(
        bands=("R", "G", "B"),
        unit="uint8",
        value_range=(0, 255),
        quantize_uint8=False,
        size_px=224,
        resize="squash",
        resize_px=224,
        interpolation="bicubic",
        gsd_m=None,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    space = Space(weights_sha256="0" * 64, architecture="none", contract=contract, pooling="cls")
    return TableManifest(
        complete=True,
        rows=sum(part.rows for part in parts),
        tiles=sum(part.rows for part in parts),
        dimension=_DIMENSION,
        space=space.state,
        model=NamedModel(name="none", source="none"),
        request=TableRequest(),
        precision="fp32",
        device="cpu",
        georeferenced=False,
        tiles_sha256="",
        part_rows=max(part.rows for part in parts),
        segment_tiles=1024,
        parts=tuple(parts),
    )


def run(work: Path, names: list[str]) -> tuple[float, float, float]:
    """Probe in a process of its own; peak resident memory in MB, seconds, seconds of cores."""
    program = Path(sys.executable).with_name("tilezoo")
    words = [*(work / name for name in names), "--labels", work / "labels.parquet"]
    start = time.monotonic()
    process = subprocess.Popen([program, "probe", *words, "-o", work / "out", "--no-report"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"tilezoo probe ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, KiB elsewhere
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return usage.ru_maxrss * unit / 1e6, time.monotonic() - start, cpu_seconds


if __name__ == "__main__":
    main()
