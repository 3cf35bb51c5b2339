"""Unit vectors of a table, streamed, and the exact answers that an index is judged by."""

from collections.abc import Iterator

import faiss
import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import TableError
from tilezoo.table import Table

Vectors = NDArray[np.float32]


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
