"""Which tiles a network was trained on: a list beside its weights, and the hash of it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tilezoo.errors import TableError
from tilezoo.geoparquet import BBOX
from tilezoo.io import whole_file

TRAINING_IDS = "pretraining_ids.parquet"  # in run folders, model directories and tables
SCHEMA = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("bbox", BBOX)])


def ids_sha256(ids: Iterable[str]) -> str:
    """Hash a set of tile ids: SHA-256 over the sorted ids, each ended by a newline."""
    digest = hashlib.sha256()
    for tile_id in sorted(ids):
        digest.update(f"{tile_id}\n".encode())
    return digest.hexdigest()


def write_training_ids(path: Path, ids: pa.Array, bboxes: pa.Array | None) -> None:
    """Write ids and, where tiles are georeferenced, their bounding boxes (CRS84).

    Across the antimeridian `xmax` is beyond 180 (see `tilezoo.centres.narrow_boxes`).
    """
    boxes = pa.nulls(len(ids), BBOX) if bboxes is None else bboxes
    with whole_file(path) as temporary:
        pq.write_table(pa.table([ids, boxes], schema=SCHEMA), temporary, compression="zstd")


def read_training_ids(path: Path) -> pa.Table:
    """Read columns `id` and `bbox` (struct, null where unknown).

    Raises:
        TableError: It is not such a list.
    """
    try:
        found = pq.read_table(path)
        return found.select(SCHEMA.names).cast(SCHEMA)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise TableError(f"{path}: not a list of training tiles ({error})") from error
