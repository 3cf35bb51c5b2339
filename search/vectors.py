"""A table's vectors scaled to length 1, so that an inner product is a cosine; and exact neighbours."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import TableError
from tilezoo.table import Table

Vectors = NDArray[np.float32]


def unit(vectors: Vectors) -> Vectors:
    """Scale rows to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def unit_vectors(table: Table) -> Iterator[Vectors]:
    """Stream a table's unit vectors in row order.

    Raises:
        TableError: A vector is not finite.
    """
    first = 0
    for vectors in table.vectors():
        _refuse_broken(table, vectors, np.arange(first, first + len(vectors)))
        yield unit(vectors)
        first += len(vectors)


def rows_at(table: Table, numbers: NDArray[np.int64]) -> Vectors:
    """Fetch unit vectors by row number, shape (N, D); little else of the table is read.

    Raises:
        TableError: One of them is not finite.
    """
    vectors = table.vectors_at(numbers)
    _refuse_broken(table, vectors, numbers)
    return unit(vectors)


def _refuse_broken(table: Table, vectors: Vectors, numbers: NDArray[np.int64]) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        row = numbers[bad[0]]
        raise TableError(f"{table.path}: the vector of row {row} is not finite; embed it again")


def exact(table: Table, queries: Vectors, k: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Find the k nearest rows of each query by comparing with every row.

    Returns:
        Cosines and row numbers, both of shape (Q, k), the best first; -1 where a table has
        fewer rows.
    """
    import faiss

    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    first = 0
    for vectors in unit_vectors(table):
        scores, rows = faiss.knn(queries, vectors, min(k, len(vectors)), faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, rows + first)
        first += len(vectors)
    best.finalize()
    return best.D, best.I
