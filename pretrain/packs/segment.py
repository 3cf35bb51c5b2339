"""One shard while it is written: its pixels, its rows, and the failures between them."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Generic, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilezoo.folder_writer import write_parquet
from tilezoo.io import whole_file
from tilezoo.labels import LABELS_SCHEMA
from tilezoo.pretrain.packs.choice import Labels
from tilezoo.pretrain.packs.pixels import Sums
from tilezoo.reading import Outcome
from tilezoo.table import ERROR_SCHEMA, FACTS, Failure, error_rows, facts
from tilezoo.tiles import Tile

_ROWS_PER_GROUP = 8192
_NO_PIXELS = np.empty(0, np.uint8)
_AFTER_TIME = FACTS.names.index("datetime") + 1  # where labels stand among what is known
_LABELS = ("labels", "split")  # of a tile; groups are for probes
TILE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        *list(FACTS)[:_AFTER_TIME],
        *(LABELS_SCHEMA.field(name) for name in _LABELS),
        *list(FACTS)[_AFTER_TIME:],
    ]
)
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardForm:
    """What all shards of a pack have in common.

    Attributes:
        shape: Of one tile: C, H, W.
        dtype: Of the pixels.
        shard_bytes: Of a full shard, about.
        value_range: Stored values that are 0 and 1.
    """

    shape: tuple[int, int, int]
    dtype: str
    shard_bytes: int
    value_range: tuple[float, float]

    @property
    def capacity(self) -> int:
        """Tiles that a full shard holds."""
        return max(1, self.shard_bytes // self.tile_bytes)

    @property
    def tile_bytes(self) -> int:
        """Size of one tile's pixels."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Segment:
    """A shard, its rows and its failures, taking outcomes of reading in their order."""

    def __init__(
        self, form: ShardForm, shard: BinaryIO, rows: "_Rows[Tile]", errors: "_Rows[Failure]"
    ) -> None:
        self._form, self._shard, self._rows, self._errors = form, shard, rows, errors
        self.sums = Sums(form.shape[0], *form.value_range)

    @property
    def tiles(self) -> int:
        """Tiles in the shard so far."""
        return self._rows.count

    @property
    def outcomes(self) -> int:
        """Tiles and failures so far."""
        return self._rows.count + self._errors.count

    @property
    def full(self) -> bool:
        """Whether the shard takes no more tiles."""
        return self.tiles == self._form.capacity

    def add(self, outcome: Outcome) -> None:
        """Write a tile's pixels and row, or a failure's row."""
        if isinstance(outcome, Failure):
            self._errors.add(outcome)
            return
        self._shard.write(np.ascontiguousarray(outcome.pixels).data)
        self.sums.add(outcome.pixels)
        self._rows.add(replace(outcome, pixels=_NO_PIXELS))


@contextmanager
def write_segment(
    number: int, form: ShardForm, labels: Labels | None, *, shard: Path, rows: Path, errors: Path
) -> Iterator[Segment]:
    """Yield a segment to fill; its three files are there, whole, once the block succeeds."""

    def tile_rows(tiles: Sequence[Tile], first: int) -> pa.Table:
        return _tile_rows(tiles, number, first, labels)

    def failure_rows(failures: Sequence[Failure], _first: int) -> pa.Table:
        return error_rows(failures)

    with ExitStack() as stack:
        made = [stack.enter_context(whole_file(path)) for path in (shard, rows, errors)]
        file = stack.enter_context(made[0].open("wb"))
        tiles = stack.enter_context(_Rows(made[1], TILE_SCHEMA, tile_rows).writing())
        failures = stack.enter_context(_Rows(made[2], ERROR_SCHEMA, failure_rows).writing())
        file.write(_npy_header(form, 0))
        yield Segment(form, file, tiles, failures)
        file.seek(0)
        file.write(_npy_header(form, tiles.count))


def write_rows(path: Path, schema: pa.Schema, rows: pa.Table) -> None:
    """Write a finished segment's rows again, in groups as they were written first."""
    groups = (rows.slice(first, _ROWS_PER_GROUP) for first in range(0, len(rows), _ROWS_PER_GROUP))
    write_parquet(path, schema, groups, compression="zstd")


class _Rows(Generic[Item]):
    """Rows on their way into a Parquet file, some thousands at a time."""

    def __init__(
        self, path: Path, schema: pa.Schema, table: Callable[[Sequence[Item], int], pa.Table]
    ) -> None:
        self._table = table
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[Item] = []
        self.count = 0

    @contextmanager
    def writing(self) -> Iterator[Self]:
        """Write what is left, and the file's end, once the block succeeds."""
        with self._writer:
            yield self
            self._flush()

    def add(self, item: Item) -> None:
        self._waiting.append(item)
        self.count += 1
        if len(self._waiting) == _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(self._table(self._waiting, self.count - len(self._waiting)))
            self._waiting.clear()


def _tile_rows(tiles: Sequence[Tile], shard: int, first: int, labels: Labels | None) -> pa.Table:
    """Put tiles `first` and following of a shard into rows."""
    ids = pa.array([tile.id for tile in tiles], pa.string())
    known = (
        labels.of(ids)
        if labels
        else [pa.nulls(len(ids), LABELS_SCHEMA.field(name).type) for name in _LABELS]
    )
    columns = {
        "id": ids,
        "shard": np.full(len(tiles), shard, np.int32),
        "row": np.arange(first, first + len(tiles), dtype=np.int32),
        "labels": known[0],
        "split": known[1],
        **facts(tiles),
    }
    return pa.table([columns[name] for name in TILE_SCHEMA.names], schema=TILE_SCHEMA)


def _npy_header(form: ShardForm, tiles: int) -> bytes:
    """Write the head of a .npy file; NumPy leaves room in it, so its length is always the same."""
    head = BytesIO()
    described = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(form.dtype)),
        "fortran_order": False,
        "shape": (tiles, *form.shape),
    }
    np.lib.format.write_array_header_1_0(head, described)
    return head.getvalue()
