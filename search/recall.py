"""How much of the truth an index finds, and how fast: rows of a table, asked for their neighbours.

Recall@10 is the share of an index's ten answers that are right. An answer is right if its cosine
with the query, of the vectors as the table has them, is not below that of the tenth true neighbour
(less 1e-6, for rounding). So of vectors that are equal any will do, and which of them an index names
says nothing about it.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilezoo.search.vectors import Vectors, exact, rows_at
from tilezoo.table import Table

_QUERIES = 200
_K = 10
_LISTED = 2 * _K  # true neighbours that are kept: ties with the tenth are told beyond it
_TIE = 1e-6
_SEED = 0


@dataclass(frozen=True)
class Queries:
    """Rows of a table as queries, with their true neighbours (themselves left out).

    Attributes:
        table: Theirs.
        rows: Their numbers, shape (Q,).
        vectors: Unit vectors, shape (Q, D).
        truth: Row numbers of the nearest, the best first, -1 where there are fewer, shape (Q, 20).
        cosines: Of these, shape (Q, 20).
    """

    table: Table = field(repr=False)
    rows: NDArray[np.int64]
    vectors: Vectors
    truth: NDArray[np.int64]
    cosines: Vectors

    @classmethod
    def of(cls, table: Table) -> "Queries":
        """Draw queries and compare them with every row."""
        rows = draw_rows(table.row_count, _QUERIES)
        vectors = rows_at(table, rows)
        cosines, truth = exact(table, vectors, _LISTED + 1)
        others = _leave_out_self(truth, rows)
        return cls(
            rows=rows,
            table=table,
            vectors=vectors,
            truth=truth[others].reshape(len(rows), -1),
            cosines=cosines[others].reshape(len(rows), -1),
        )

    def recall(self, index: Any) -> float:
        """Share of a faiss index's ten answers that are right; 1 for a table of one row."""
        wanted = min(_K, self.table.row_count - 1)
        if wanted == 0:
            return 1.0
        _, found = index.search(self.vectors, _K + 1)
        found = found[_leave_out_self(found, self.rows)].reshape(len(self.rows), -1)
        return float(
            self._are_right(found, self.cosines[:, wanted - 1] - _TIE).sum(1).mean() / wanted
        )

    def _are_right(self, found: NDArray[np.int64], least: Vectors) -> NDArray[np.bool_]:
        """Tell which rows found, shape (Q, k), have the least cosine of their query, shape (Q,).

        The vectors of those that are not listed are read only where ties go on beyond the list.
        """
        listed = (found[:, :, None] == self.truth[:, None, :]) & (found[:, :, None] >= 0)
        near = self.cosines >= least[:, None]
        right: NDArray[np.bool_] = (listed & near[:, None, :]).any(axis=2)
        tied = self.cosines[:, -1] >= least
        query, place = np.nonzero(tied[:, None] & ~listed.any(axis=2) & (found >= 0))
        cosines = np.einsum(
            "nd,nd->n", self.vectors[query], rows_at(self.table, found[query, place])
        )
        right[query, place] = cosines >= least[query]
        return right

    def latency(self, index: Any) -> tuple[float, float]:
        """Milliseconds of single queries in a faiss index: median and 95th percentile."""
        times = []
        for vector in self.vectors:
            start = time.perf_counter()
            index.search(vector[None], _K)
            times.append(1000 * (time.perf_counter() - start))
        return float(np.median(times)), float(np.percentile(times, 95))


def draw_rows(row_count: int, count: int) -> NDArray[np.int64]:
    """Draw row numbers, ascending, the same each time."""
    draw = np.random.default_rng(_SEED).choice(row_count, min(count, row_count), replace=False)
    return np.sort(draw)


def _leave_out_self(found: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark all but each query's own row (or the last, where that was not found), shape (Q, k)."""
    own: NDArray[np.bool_] = found == rows[:, None]
    own[~own.any(axis=1), -1] = True
    return np.logical_not(own)
