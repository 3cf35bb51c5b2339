"""Building an index over a table, measuring it, and opening it again."""

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import OptionError, TableError, VectorIndexError
from tilezoo.io import read_state, to_builtins, whole_file, write_state
from tilezoo.options import verb
from tilezoo.progress import progress
from tilezoo.search.options import IndexOptions, Kind
from tilezoo.table import Table, open_table

Vectors = NDArray[np.float32]
# faiss hands out subclasses by name; what they have beyond faiss.Index is not typed.
AnyIndex = Any

FLAT_ROWS = 100_000  # up to here comparing with every row takes milliseconds
_QUERIES = 200
_K = 10
_SEED = 0
_TRAIN_PER_LIST = 64  # faiss asks for 39 at least and uses 256 at most
_HNSW_LINKS = 32


@dataclass(frozen=True, kw_only=True)
class MeasuredOn:
    """What recall and latency were measured with.

    Attributes:
        queries: Rows of the table that were searched for.
        machine: Architecture and cores.
        faiss: Its version.
    """

    queries: int
    machine: str
    faiss: str


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """What index.json says.

    Attributes:
        space: Fingerprint of the vectors' space.
        table: Fingerprint of the table's state that the index is of.
        kind: `flat`, `ivf` or `hnsw`.
        parameters: What faiss is set to, by name.
        rows: How many vectors it holds.
        recall_at_10: Share of the ten true neighbours that it finds.
        p50_ms: Median latency of a query.
        p95_ms: 95th percentile of the same.
        measured_on: With what that was measured.
    """

    space: str
    table: str
    kind: Kind
    parameters: dict[str, int]
    rows: int
    recall_at_10: float
    p50_ms: float
    p95_ms: float
    measured_on: MeasuredOn


@dataclass(frozen=True)
class VectorIndex:
    """An index over one state of one table.

    Attributes:
        index: faiss's; scores are cosines.
        facts: What index.json says; None for one that was made in memory.
    """

    index: AnyIndex
    facts: IndexFacts | None

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the k nearest rows of unit vectors, shape (Q, D): cosines and row numbers."""
        scores, rows = self.index.search(queries, k)
        return scores, rows


@verb(IndexOptions)
def build_index(options: IndexOptions) -> dict[str, Any]:
    """Build, tune and measure an index, and keep it beside the table.

    Returns:
        What index.json says: kind, parameters, rows, measured recall and latency.

    Raises:
        TableError: There is no such table.
        OptionError: `recall` is not a share, or the table is empty.
    """
    table = open_table(options.table)
    if table.row_count == 0:
        raise OptionError(f"{options.table} has no rows; there is nothing to index")
    kind = _choose_kind(options.kind, table.row_count)
    index = _fill(table, _make_empty(kind, table), show_progress=options.show_progress)
    queries = _Queries.of(table)
    parameters = _tune(index, kind, queries, options.recall)
    facts = _measure(table, index, queries, kind, parameters)
    _keep(table.path, index, facts)
    return cast("dict[str, Any]", to_builtins(facts))


def _measure(
    table: Table, index: AnyIndex, queries: "_Queries", kind: Kind, parameters: dict[str, int]
) -> IndexFacts:
    return IndexFacts(
        space=table.space.fingerprint,
        table=table.fingerprint,
        kind=kind,
        parameters=parameters,
        rows=table.row_count,
        recall_at_10=queries.recall(index),
        **queries.latency(index),
        measured_on=MeasuredOn(
            queries=len(queries.vectors),
            machine=f"{platform.machine()}, {os.cpu_count()} cores",
            faiss=faiss.__version__,
        ),
    )


def open_index(table: Table) -> VectorIndex | None:
    """Open a table's index; None when it has none.

    Raises:
        VectorIndexError: It is of another space or another state of the table, or damaged.
    """
    folder = table.path / "index"
    if not (folder / "index.json").is_file():
        return None
    rebuild = f"build it anew with `tilezoo index {table.path}`"
    facts = read_state(folder / "index.json", IndexFacts, fix=rebuild, error=VectorIndexError)
    if facts.space != table.space.fingerprint:
        raise VectorIndexError(
            f"{folder} is of space {facts.space}, the table of another; {rebuild}"
        )
    if facts.table != table.fingerprint:
        raise VectorIndexError(f"{folder} is stale: the table has changed since; {rebuild}")
    try:
        index = faiss.read_index(str(folder / "index.faiss"))
        _set(index, facts.kind, facts.parameters)
    except (RuntimeError, KeyError) as error:
        raise VectorIndexError(f"{folder / 'index.faiss'} is damaged; {rebuild}") from error
    if (index.ntotal, index.d) != (table.row_count, table.dimension):
        raise VectorIndexError(f"{folder} does not have the table's rows; {rebuild}")
    return VectorIndex(index, facts)


def scan(table: Table) -> VectorIndex:
    """Make an exact index in memory, for a small table that has none."""
    return VectorIndex(_fill(table, _make_empty("flat", table), show_progress=False), None)


def _choose_kind(kind: Kind, row_count: int) -> Kind:
    if kind != "auto":
        return kind
    return "flat" if row_count <= FLAT_ROWS else "ivf"


def _make_empty(kind: Kind, table: Table) -> AnyIndex:
    """Make an index of that kind, trained where it needs to be."""
    dimension, metric = table.dimension, faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlatIP(dimension)
    lists = _count_lists(table.row_count)
    recipe = f"IVF{lists},SQfp16" if kind == "ivf" else f"HNSW{_HNSW_LINKS}"
    index = faiss.index_factory(dimension, recipe, metric)
    index.train(_draw_vectors(table, lists * _TRAIN_PER_LIST))
    return index


def _count_lists(row_count: int) -> int:
    """About four times the square root of the rows (faiss's guide), 39 rows a list at least."""
    wished = 4 * int(row_count**0.5)
    power = 1 << max(0, wished.bit_length() - 1)
    return max(1, min(power, row_count // 39))


def _fill(table: Table, index: AnyIndex, *, show_progress: bool) -> AnyIndex:
    with progress(table.row_count, "indexing", "rows", shown=show_progress) as advance:
        for vectors in unit_vectors(table):
            index.add(vectors)
            advance(len(vectors))
    return index


def _draw_vectors(table: Table, count: int) -> Vectors:
    return rows_at(table, _draw_rows(table.row_count, count))


def _draw_rows(row_count: int, count: int) -> NDArray[np.int64]:
    draw = np.random.default_rng(_SEED).choice(row_count, min(count, row_count), replace=False)
    return np.sort(draw)


@dataclass(frozen=True)
class _Queries:
    """Rows of the table as queries, with their true neighbours (themselves left out)."""

    rows: NDArray[np.int64]
    vectors: Vectors
    truth: NDArray[np.int64]

    @classmethod
    def of(cls, table: Table) -> "_Queries":
        rows = _draw_rows(table.row_count, _QUERIES)
        vectors = rows_at(table, rows)
        _, found = exact(table, vectors, _K + 1)
        return cls(rows, vectors, _drop_self(found, rows))

    def recall(self, index: AnyIndex) -> float:
        """Share of the true ten neighbours among the index's ten."""
        _, found = index.search(self.vectors, _K + 1)
        pairs = zip(self.truth, _drop_self(found, self.rows), strict=True)
        hits = [
            len(set(true[true >= 0]) & set(got)) / max(1, (true >= 0).sum()) for true, got in pairs
        ]
        return float(np.mean(hits)) if (self.truth >= 0).any() else 1.0

    def latency(self, index: AnyIndex) -> dict[str, float]:
        """Milliseconds of single queries: median and 95th percentile."""
        times = []
        for vector in self.vectors:
            start = time.perf_counter()
            index.search(vector[None], _K)
            times.append(1000 * (time.perf_counter() - start))
        return {"p50_ms": float(np.median(times)), "p95_ms": float(np.percentile(times, 95))}


def _drop_self(found: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop each query's own row from its neighbours (or the last), shape (Q, k + 1) → (Q, k)."""
    kept = [
        [n for n in near if n != row][: found.shape[1] - 1]
        for near, row in zip(found, rows, strict=True)
    ]
    return np.array(kept, np.int64).reshape(len(rows), -1)


def _tune(index: AnyIndex, kind: Kind, queries: _Queries, recall: float) -> dict[str, int]:
    """Search more of the index until the recall is reached; flat has nothing to tune."""
    if kind == "flat":
        return {}
    most = index.nlist if kind == "ivf" else 4096
    value = 1 if kind == "ivf" else 16
    while True:
        parameters = _name_parameters(index, kind, value)
        _set(index, kind, parameters)
        if value >= most or queries.recall(index) >= recall:
            return parameters
        value = min(2 * value, most)


def _name_parameters(index: AnyIndex, kind: Kind, value: int) -> dict[str, int]:
    if kind == "ivf":
        return {"nlist": int(index.nlist), "nprobe": value}
    return {"links": _HNSW_LINKS, "ef_search": value}


def _set(index: AnyIndex, kind: Kind, parameters: dict[str, int]) -> None:
    if kind == "ivf":
        index.nprobe = parameters["nprobe"]
    elif kind == "hnsw":
        index.hnsw.efSearch = parameters["ef_search"]


def _keep(table: Path, index: AnyIndex, facts: IndexFacts) -> None:
    """Put the index down; index.json comes last, and goes first where there was another."""
    folder = table / "index"
    folder.mkdir(exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    with whole_file(folder / "index.faiss") as temporary:
        faiss.write_index(index, str(temporary))
    write_state(folder / "index.json", facts)


def unit(vectors: Vectors) -> Vectors:
    """Scale rows to length 1, so that an inner product is a cosine; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def unit_vectors(table: Table) -> Iterator[Vectors]:
    """Stream a table's vectors scaled to length 1, in row order.

    Raises:
        TableError: A vector is not finite.
    """
    first = 0
    for vectors in table.vectors():
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            row = first + int(bad[0])
            raise TableError(f"{table.path}: the vector of row {row} is not finite; embed it again")
        yield unit(vectors)
        first += len(vectors)


def rows_at(table: Table, numbers: NDArray[np.int64]) -> Vectors:
    """Gather unit vectors by row number (sorted), shape (N, D), in one pass."""
    found, first = [], 0
    for vectors in unit_vectors(table):
        here = numbers[(numbers >= first) & (numbers < first + len(vectors))]
        found.append(vectors[here - first])
        first += len(vectors)
    return np.concatenate(found) if found else np.empty((0, table.dimension), np.float32)


def exact(table: Table, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Find the k nearest rows of each query by comparing with every row.

    Returns:
        Cosines and row numbers, both of shape (Q, k), the best first; -1 where a table has
        fewer rows.
    """
    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    first = 0
    for vectors in unit_vectors(table):
        scores, rows = faiss.knn(queries, vectors, min(k, len(vectors)), faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, rows + first)
        first += len(vectors)
    best.finalize()
    return best.D, best.I
