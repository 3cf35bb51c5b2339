"""Building an index over a table, measuring it, and opening it again."""

import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import OptionError, VectorIndexError
from tilezoo.io import read_state, sha256_file, whole_file, write_state
from tilezoo.options import verb
from tilezoo.progress import progress, say
from tilezoo.search.options import IndexOptions, Kind
from tilezoo.search.recall import Queries, draw_rows
from tilezoo.search.vectors import Vectors, rows_at, unit_vectors
from tilezoo.table import Table, open_table

# faiss hands out subclasses by name; what they have beyond faiss.Index is not typed.
AnyIndex = Any

FLAT_ROWS = 100_000  # up to here comparing with every row takes milliseconds
_TRAIN_PER_LIST = 64  # faiss asks for 39 at least and uses 256 at most
_HNSW_LINKS = 32
_MOST_EF = 4096
_MOST_COSINE = 1 + 1e-3  # codes of 16 bits are off by half of that
# What reading raises: a hash, a number or a file that is wrong; in files without a hash also what
# faiss and Python make of odd bytes.
_DAMAGE = (
    OSError, ValueError, KeyError, RuntimeError, OverflowError, AttributeError, TypeError, MemoryError,
)  # fmt: skip


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
        recall_at_10: Share of its ten answers that are right: no answer's cosine with the query is
            below the tenth true neighbour's (search/recall.py).
        p50_ms: Median latency of a query in the index alone, once that is open.
        p95_ms: 95th percentile of the same.
        measured_on: With what that was measured.
        open_ms: Time it takes to open index.faiss, its hash checked; None in older files.
        sha256: Of index.faiss; None in older files.
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
    open_ms: float | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class VectorIndex:
    """An index over one state of one table.

    Attributes:
        table: The table's folder.
        index: faiss's; scores are cosines.
        facts: What index.json says; None for one that was made in memory.
    """

    table: Path
    index: AnyIndex
    facts: IndexFacts | None

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Find the k nearest rows of unit vectors, shape (Q, D): cosines and row numbers.

        Raises:
            VectorIndexError: What the index answers cannot be.
        """
        scores, rows = self._search(queries, k)
        wrong = (rows >= self.index.ntotal) | ((rows >= 0) & ~(abs(scores) <= _MOST_COSINE))
        if wrong.any():
            told = f"row {rows[wrong][0]}, cosine {scores[wrong][0]:g}"
            raise VectorIndexError(f"{self.table}/index answers {told}; {_rebuild(self.table)}")
        return scores, rows

    def _search(self, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Ask the index; the lists of an ivf that are looked into may hold too few rows, so more are."""
        if self.facts is None or self.facts.kind != "ivf":
            scores, rows = self.index.search(queries, k)
            return scores, rows
        how, lists = faiss.SearchParametersIVF(), self.facts.parameters["nprobe"]
        while True:
            how.nprobe = lists
            scores, rows = self.index.search(queries, k, params=how)
            if lists >= self.index.nlist or (rows >= 0).all():
                return scores, rows
            lists = min(2 * lists, self.index.nlist)


@verb(IndexOptions)
def build_index(options: IndexOptions) -> IndexFacts:
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
    queries = Queries.of(table)
    parameters = _tune(index, kind, queries, options.recall)
    facts = _measure(table, index, queries, kind, parameters)
    return _keep(table, index, facts)


def _measure(
    table: Table, index: AnyIndex, queries: Queries, kind: Kind, parameters: dict[str, int]
) -> IndexFacts:
    p50_ms, p95_ms = queries.latency(index)
    return IndexFacts(
        space=table.space.fingerprint,
        table=table.fingerprint,
        kind=kind,
        parameters=parameters,
        rows=table.row_count,
        recall_at_10=queries.recall(index),
        p50_ms=p50_ms,
        p95_ms=p95_ms,
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
    folder, rebuild = table.path / "index", _rebuild(table.path)
    if not (folder / "index.json").is_file():
        return None
    facts = read_state(folder / "index.json", IndexFacts, fix=rebuild, error=VectorIndexError)
    if facts.space != table.space.fingerprint:
        raise VectorIndexError(
            f"{folder} is of space {facts.space}, the table of another; {rebuild}"
        )
    if facts.table != table.fingerprint:
        raise VectorIndexError(f"{folder} is stale: the table has changed since; {rebuild}")
    try:
        index = _read(folder / "index.faiss", facts)
    except _DAMAGE as error:
        raise VectorIndexError(f"{folder / 'index.faiss'} is damaged; {rebuild}") from error
    if (index.ntotal, index.d) != (table.row_count, table.dimension):
        raise VectorIndexError(f"{folder} does not have the table's rows; {rebuild}")
    return VectorIndex(table.path, index, facts)


def _rebuild(table: Path) -> str:
    return f"build it anew with `tilezoo index {table}`"


def _read(path: Path, facts: IndexFacts) -> AnyIndex:
    """Read index.faiss; nothing of it is believed before its hash is.

    The lists of an ivf stay in the file, and a query reads those that it looks into.

    Raises:
        ValueError: The file is not the one that was written.
        OSError: It is not there.
        RuntimeError: faiss cannot read it; an older file without a hash, then.
    """
    if facts.sha256 is None:
        say(f"{path} is of an older tilezoo and has no hash; {_rebuild(path.parent.parent)}")
        index = faiss.read_index(str(path))
    elif sha256_file(path) != facts.sha256:
        raise ValueError(f"its hash is not {facts.sha256}")
    else:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    _set(index, facts.kind, facts.parameters)
    return index


def scan(table: Table) -> VectorIndex:
    """Make an exact index in memory, for a small table that has none."""
    index = _fill(table, _make_empty("flat", table), show_progress=False)
    return VectorIndex(table.path, index, None)


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
    index.train(rows_at(table, draw_rows(table.row_count, lists * _TRAIN_PER_LIST)))
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


def _tune(index: AnyIndex, kind: Kind, queries: Queries, recall: float) -> dict[str, int]:
    """Search more of the index until the recall is reached; flat has nothing to tune."""
    if kind == "flat":
        return {}
    most = index.nlist if kind == "ivf" else _MOST_EF
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
    """Set what was tuned.

    Raises:
        ValueError: It cannot have been.
        KeyError: It is not told.
    """
    if kind == "ivf":
        _refuse_outside(parameters["nprobe"], index.nlist)
        index.nprobe = parameters["nprobe"]
    elif kind == "hnsw":
        _refuse_outside(parameters["ef_search"], _MOST_EF)
        index.hnsw.efSearch = parameters["ef_search"]


def _refuse_outside(value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{value} is not in 1..{most}")


def _keep(table: Table, index: AnyIndex, facts: IndexFacts) -> IndexFacts:
    """Put the index down; index.json comes last, and goes first where there was another."""
    folder = table.path / "index"
    folder.mkdir(exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    with whole_file(folder / "index.faiss") as temporary:
        faiss.write_index(index, str(temporary))
    facts = replace(facts, sha256=sha256_file(folder / "index.faiss"))
    start = time.perf_counter()
    _read(folder / "index.faiss", facts)
    facts = replace(facts, open_ms=1000 * (time.perf_counter() - start))
    write_state(folder / "index.json", facts)
    return facts
