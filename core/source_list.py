"""Many sources in little memory: columns of text instead of an object each."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tilezoo.errors import TileErrorKind
from tilezoo.sources import Source

_AT_ONCE = 4096
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.large_string()),
        pa.field("path", pa.large_string()),  # empty where it is the base's folder and the id
        pa.field("rest", pa.int32()),  # which of the list of these
    ]
)
# What many sources have in common: their endings, fills_folder and problem.
_Rest = tuple[tuple[str, ...], bool, tuple[TileErrorKind, str] | None]


class SourceList(Sequence[Source]):
    """Sources by id, each made when it is asked for: its names and 20 bytes instead of 500.

    Args:
        columns: As `gathered` makes them.
        rests: What their column of that name counts.
        base: The folder that ids are relative to.
    """

    def __init__(self, columns: pa.Table, rests: Sequence[_Rest], base: str) -> None:
        self._columns, self._rests, self._base = columns, rests, base

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
            some = self._columns.slice(first, max(0, last - first))
        else:
            some = self._columns.take(pa.array(np.arange(first, last, step)))
        return SourceList(some, self._rests, self._base)

    def __iter__(self) -> Iterator[Source]:
        for batch in self._columns.to_batches(max_chunksize=_AT_ONCE):
            yield from map(self._source, *(column.to_pylist() for column in batch.columns))

    def clash(self) -> tuple[Source, Source] | None:
        """The first two that share an id; None where no two do."""
        places = np.flatnonzero(_as_before(self._columns["id"]))
        return (self[int(places[0]) - 1], self[int(places[0])]) if len(places) else None

    def _source(self, own_id: str, path: str, rest: int) -> Source:
        endings, fills_folder, problem = self._rests[rest]
        return Source(
            id=own_id,
            path=path or _in_base(self._base, own_id),
            endings=endings,
            fills_folder=fills_folder,
            problem=problem,
        )


def gathered(sources: Iterable[Source], base: str) -> SourceList:
    """Sort sources by id (as code points), and drop the repeats of one that was named twice.

    Args:
        sources: In any order.
        base: The folder that most ids are relative to; of one id, what lies there comes first.
    """
    numbers: dict[_Rest, int] = {}
    columns = pa.Table.from_batches(_batches(sources, base, numbers), _SCHEMA).combine_chunks()
    columns = columns.take(pc.sort_indices(columns, [("id", "ascending"), ("path", "ascending")]))
    repeats = _as_before(columns["id"]) & _as_before(columns["path"])
    if repeats.any():
        columns = columns.filter(pa.array(~repeats)).combine_chunks()
    pa.default_memory_pool().release_unused()  # what sorting took
    return SourceList(columns, list(numbers), base)


def _batches(
    sources: Iterable[Source], base: str, numbers: dict[_Rest, int]
) -> Iterator[pa.RecordBatch]:
    """Put sources into columns, some thousands at a time; what is new gets a number."""
    rows = (_row(source, base, numbers) for source in sources)
    while some := list(islice(rows, _AT_ONCE)):
        arrays = [
            pa.array(values, field.type)
            for values, field in zip(zip(*some, strict=True), _SCHEMA, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA)


def _row(source: Source, base: str, numbers: dict[_Rest, int]) -> tuple[str, str, int]:
    path = "" if source.path == _in_base(base, source.id) else source.path
    rest = (source.endings, source.fills_folder, source.problem)
    return source.id, path, numbers.setdefault(rest, len(numbers))


def _in_base(base: str, own_id: str) -> str:
    return f"{base}/{own_id}"


def _as_before(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Mark the values that are those of the row before."""
    marked = np.zeros(len(column), np.bool_)
    marked[1:] = pc.equal(column.slice(1), column.slice(0, max(0, len(column) - 1))).to_numpy()
    return marked
