"""What goes wrong: which classes are taken for which, and the tiles that are mistaken most."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tilezoo.probe.scores import Labels, Scores, Task, predicted
from tilezoo.probe.splits import Usable

MOST_CLASSES = 40  # of which a matrix can still be read
MOST_TILES = 8


def mistakes(used: Usable, scores_of: Mapping[str, Scores]) -> dict[str, Any]:
    """Write each model's mistakes on the test set, by its linear probe.

    Args:
        used: Labels and split.
        scores_of: Name → scores of the test set, shape (test, C).

    Returns:
        `confusion`: name → counts by true class (row) and predicted class (column), left out
        where there are more than `MOST_CLASSES`; `tiles`: name → those mistaken most.
    """
    joined, rows = used.joined, used.split.test
    truth, ids = joined.y[rows], joined.ids.take(pa.array(rows))
    few = len(joined.classes) <= MOST_CLASSES
    return {
        "method": "linear",
        "confusion": {
            name: confusion(truth, scores, joined.task) for name, scores in scores_of.items() if few
        },
        "tiles": {
            name: most_mistaken(ids, truth, scores, joined.classes, joined.task)
            for name, scores in scores_of.items()
        },
    }


def confusion(truth: Labels, scores: Scores, task: Task) -> list[list[int]]:
    """Count tiles by true class (row) and predicted class (column).

    Where a tile may have several classes, it counts in each pair of a true and a predicted one.
    """
    counts = truth.astype(np.float64).T @ predicted(scores, task).astype(np.float64)
    return [[round(count) for count in row] for row in counts]


def most_mistaken(
    ids: pa.Array, truth: Labels, scores: Scores, classes: Sequence[str], task: Task
) -> list[dict[str, Any]]:
    """Find the tiles with the widest gap between a class's score and the truth, widest first.

    Returns:
        `id`, `labels`; `class`: the one that was predicted wrongly, or missed where it is among
        the labels; `score`: of that class.
    """
    wrong = predicted(scores, task) != (truth > 0)
    if task == "multiclass":
        wrong &= truth == 0  # of the two classes concerned, the one that was predicted
    gaps = np.where(wrong, np.abs(truth - scores), -1.0)
    worst = gaps.max(axis=1)
    order = np.argsort(-worst, kind="stable")[:MOST_TILES]
    return [
        {
            "id": ids[int(tile)].as_py(),
            "labels": [classes[int(c)] for c in np.flatnonzero(truth[tile])],
            "class": classes[int(gaps[tile].argmax())],
            "score": float(scores[tile, gaps[tile].argmax()]),
        }
        for tile in order
        if worst[tile] >= 0
    ]
