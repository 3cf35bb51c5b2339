"""Single rows out of large Parquet files: only the groups of rows that hold them are read.

Nothing here has pyarrow load pandas, as its scalars, arrays of NumPy's and times do: that takes
longer than to find a row.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tilezoo.errors import TableError

_ROWS_PER_BATCH = 8192
_TIME = pa.timestamp("us", tz="UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows `first` to `end` (exclusive): group `number` of a file.

    Attributes:
        file: Which, counted from 0.
        number: Of the group within its file.
        first: Row number, counted over all files.
        end: Row number after the last.
        ids: The least and the greatest id; None where the file does not say.
    """

    file: int
    number: int
    first: int
    end: int
    ids: tuple[str, str] | None

    def may_hold(self, row_id: str) -> bool:
        return self.ids is None or self.ids[0] <= row_id <= self.ids[1]


@dataclass(frozen=True)
class RowGroups:
    """The rows of several Parquet files, numbered through.

    Attributes:
        files: In the order of rows.
        footers: Of each.
    """

    files: tuple[Path, ...]
    footers: tuple[pq.FileMetaData, ...] = field(repr=False)

    def find(self, row_id: str) -> int | None:
        """Find the first row of an id; None when there is none.

        Only groups whose statistics leave room for the id are read: few, where ids are in order.

        Raises:
            TableError: A file is damaged.
        """
        groups = (group for group in self._groups if group.may_hold(row_id))
        for rows, batch in self._read(groups, ["id"]):
            names: list[str] = batch.column(0).to_pylist()
            if row_id in names:
                return rows[names.index(row_id)]
        return None

    def take(
        self, numbers: NDArray[np.int64], columns: Sequence[str] | None
    ) -> Iterator[pa.RecordBatch]:
        """Fetch rows by ascending numbers, all columns or those named, a group's at a time.

        Raises:
            IndexError: There is no such row.
            TableError: A file is damaged.
        """
        count = self._groups[-1].end if self._groups else 0
        if len(numbers) and not 0 <= numbers[0] <= numbers[-1] < count:
            raise IndexError(f"rows {numbers[0]} to {numbers[-1]} of {count}")
        groups = (g for g in self._groups if len(_between(numbers, g.first, g.end)))
        for rows, batch in self._read(groups, columns):
            here = _between(numbers, rows.start, rows.stop)
            if len(here):
                yield batch.take(_to_arrow(here - rows.start))

    def column(self, name: str) -> pa.ChunkedArray:
        """Read one column whole.

        Raises:
            TableError: A file is damaged.
        """
        chunks: list[pa.Array] = []
        for path, footer in zip(self.files, self.footers, strict=True):
            with tell_damage(path), pq.ParquetFile(path, metadata=footer) as file:
                chunks += file.read([name])[name].chunks
        return pa.chunked_array(chunks, self.footers[0].schema.to_arrow_schema().field(name).type)

    @cached_property
    def _groups(self) -> tuple[_Group, ...]:
        counted = [
            (file, number, footer.row_group(number))
            for file, footer in enumerate(self.footers)
            for number in range(footer.num_row_groups)
        ]
        ends = np.cumsum([group.num_rows for _, _, group in counted]).tolist()
        return tuple(
            _Group(file, number, end - group.num_rows, end, _id_statistics(group))
            for (file, number, group), end in zip(counted, ends, strict=True)
        )

    def _read(
        self, groups: Iterable[_Group], columns: Sequence[str] | None
    ) -> Iterator[tuple[range, pa.RecordBatch]]:
        """Read groups, some thousand rows at a time, each with its rows' numbers."""
        names = None if columns is None else list(columns)
        for which, some in groupby(groups, key=lambda group: group.file):
            path, footer = self.files[which], self.footers[which]
            with tell_damage(path), pq.ParquetFile(path, metadata=footer) as file:
                for group in some:
                    first = group.first
                    for batch in file.iter_batches(
                        _ROWS_PER_BATCH, [group.number], names, use_threads=False
                    ):
                        yield range(first, first + batch.num_rows), batch
                        first += batch.num_rows


def to_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Turn rows into dicts of Python's values, as `to_pylist` does, times without loading pandas."""
    columns = [_to_values(column) for column in batch.columns]
    return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _to_arrow(numbers: NDArray[np.int64]) -> pa.Array:
    """As `pa.array`, without loading pandas."""
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def _to_values(column: pa.Array) -> list[Any]:
    if column.type != _TIME:
        return list(column.to_pylist())
    counts = column.view(pa.int64()).to_pylist()
    return [None if n is None else _EPOCH + timedelta(microseconds=n) for n in counts]


@contextmanager
def tell_damage(path: Path) -> Iterator[None]:
    """Turn what reading a damaged or missing file raises into a TableError."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: missing or damaged; make the table again") from error


def _between(numbers: NDArray[np.int64], first: int, end: int) -> NDArray[np.int64]:
    """Those of ascending numbers from `first` to `end` (exclusive)."""
    low, high = np.searchsorted(numbers, [first, end])
    return numbers[low:high]


def _id_statistics(group: pq.RowGroupMetaData) -> tuple[str, str] | None:
    columns = (group.column(number) for number in range(group.num_columns))
    found = next(column for column in columns if column.path_in_schema == "id").statistics
    return (found.min, found.max) if found is not None and found.has_min_max else None
