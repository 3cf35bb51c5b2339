"""Many sources in little memory: columns of text instead of an object each."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tilezoo.sources import Source

_AT_ONCE = 4096
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.large_string()),
        pa.field("path", pa.large_string()),
        pa.field("endings", pa.int32()),  # which of the tuples of endings
        pa.field("fills_folder", pa.bool_()),
        pa.field("kind", pa.string()),
        pa.field("message", pa.string()),
    ]
)


class SourceList(Sequence[Source]):
    """Sources by id, each made when it is asked for: their text and 50 bytes instead of 500.

    Args:
        columns: As `gathered` makes them.
        endings: What the column of that name counts.
    """

    def __init__(self, columns: pa.Table, endings: Sequence[tuple[str, ...]]) -> None:
        self._columns, self._endings = columns, endings

    def __len__(self) -> int:
        return int(self._columns.num_rows)

    @overload
    def __getitem__(self, place: int) -> Source: ...

    @overload
    def __getitem__(self, place: slice) -> "SourceList": ...

    def __getitem__(self, place: int | slice) -> "Source | SourceList":
        if isinstance(place, int):
            return self._source(*(column[place].as_py() for column in self._columns.columns))
        first, last, step = place.indices(len(self))
        if step == 1:
            return SourceList(self._columns.slice(first, max(0, last - first)), self._endings)
        rows = pa.array(np.arange(first, last, step))
        return SourceList(self._columns.take(rows), self._endings)

    def __iter__(self) -> Iterator[Source]:
        for batch in self._columns.to_batches(max_chunksize=_AT_ONCE):
            yield from map(self._source, *(column.to_pylist() for column in batch.columns))

    def clash(self) -> tuple[Source, Source] | None:
        """The first two that share an id; None where no two do."""
        places = np.flatnonzero(_as_before(self._columns["id"]))
        return (self[int(places[0]) - 1], self[int(places[0])]) if len(places) else None

    def _source(
        self, own_id: str, path: str, endings: int, fills_folder: bool, kind: Any, message: Any
    ) -> Source:
        return Source(
            id=own_id,
            path=path,
            endings=self._endings[endings],
            fills_folder=fills_folder,
            problem=None if kind is None else (kind, message),
        )


def gathered(sources: Iterable[Source]) -> SourceList:
    """Sort sources by id (as code points), and drop the repeats of one that was named twice."""
    numbers: dict[tuple[str, ...], int] = {}
    columns = pa.Table.from_batches(_batches(sources, numbers), _SCHEMA).combine_chunks()
    columns = columns.take(pc.sort_indices(columns, [("id", "ascending"), ("path", "ascending")]))
    repeats = _as_before(columns["id"]) & _as_before(columns["path"])
    if repeats.any():
        columns = columns.filter(pa.array(~repeats)).combine_chunks()
    pa.default_memory_pool().release_unused()  # what sorting took
    return SourceList(columns, list(numbers))


def _batches(
    sources: Iterable[Source], numbers: dict[tuple[str, ...], int]
) -> Iterator[pa.RecordBatch]:
    """Put sources into columns, some thousands at a time; `numbers` are given to new endings."""
    rows = (
        (s.id, s.path, numbers.setdefault(s.endings, len(numbers)), s.fills_folder)
        + (s.problem or (None, None))
        for s in sources
    )
    while some := list(islice(rows, _AT_ONCE)):
        arrays = [
            pa.array(values, field.type)
            for values, field in zip(zip(*some, strict=True), _SCHEMA, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _as_before(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Mark the values that are those of the row before."""
    marked = np.zeros(len(column), np.bool_)
    marked[1:] = pc.equal(column.slice(1), column.slice(0, max(0, len(column) - 1))).to_numpy()
    return marked
