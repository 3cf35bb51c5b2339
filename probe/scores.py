"""Scores of a probe, exact, over any weights: a weight is how often a resample drew the tile.

Sorting is done once; a resample only changes weights, so that a thousand of them cost a thousand
cumulative sums.
"""

import numpy as np
from numpy.typing import NDArray

from tilezoo.probe.options import Task

Weights = NDArray[np.int32]
Scores = NDArray[np.float32]
Labels = NDArray[np.uint8]

SCALARS = (
    "accuracy", "balanced_accuracy", "f1_micro", "f1_macro", "ap_micro", "ap_macro", "ece",
)  # fmt: skip
MACRO = ("balanced_accuracy", "f1_macro", "ap_macro")  # means over classes
PER_CLASS = "ap_per_class"
# 15 bins of equal width: Guo et al. 2017, "On Calibration of Modern Neural Networks",
# arXiv:1706.04599, section 4.
ECE_BINS = 15
_MOST_IN_32_BITS = 1 << 28


class Ranking:
    """Tiles in falling order of score, ready to be averaged over any weights."""

    def __init__(self, truth: Labels, scores: Scores) -> None:
        """Sort once.

        Args:
            truth: 1 where it applies, shape (N,) or (N, C): then all pairs of tile and class rank
                together.
            scores: Of the same shape.
        """
        flat = scores.ravel()
        order = np.argsort(-flat, kind="stable")
        per_tile = flat.size // len(scores)
        self._tile = order // per_tile
        # Sums in 32 bits are many times as fast here, where weights cannot overflow them.
        self._sum = np.int32 if flat.size < _MOST_IN_32_BITS else np.int64
        hits = np.flatnonzero(truth.ravel()[order])
        ends = np.append(np.flatnonzero(np.diff(flat[order])), flat.size - 1)
        end = ends[np.searchsorted(ends, hits)]
        self._end = end  # where a hit's group of equal scores ends
        self._last_hit = np.searchsorted(hits, end, side="right") - 1
        self._hit_tile = self._tile[hits]

    def average_precision(self, weights: Weights) -> float:
        """Sum the gains in recall times the precision there, equal scores taken together.

        The value of scikit-learn's `average_precision_score`; NaN where no weight is on a hit.
        """
        gains = np.take(weights, self._hit_tile)
        found = np.cumsum(gains, dtype=self._sum)[self._last_hit]
        if not found.size or not found[-1]:
            return float("nan")
        upto = np.cumsum(np.take(weights, self._tile), dtype=self._sum)[self._end]
        precision = found / np.maximum(upto, 1)  # 0 of 0 has no gain
        return float((gains * precision).sum()) / float(found[-1])


class Scorer:
    """Every score of one set of predictions, as a function of weights.

    Multi-label: a class is predicted where its score exceeds 0.5; accuracy asks for all classes
    of a tile to be right; balanced accuracy averages each class's sensitivity and specificity;
    ECE is over all pairs of tile and class. Multi-class: the highest score is predicted; balanced
    accuracy averages recall over classes; ECE is of the highest score. Both: AP is of each class
    against the rest.
    """

    def __init__(self, truth: Labels, scores: Scores, task: Task) -> None:
        """Prepare what does not depend on weights.

        Args:
            truth: 1 where a class applies, shape (N, C).
            scores: Probabilities, shape (N, C).
            task: Whether a tile may have several classes.
        """
        self._multilabel = task == "multilabel"
        self._classes = truth.shape[1]
        self._pooled = Ranking(truth, scores)
        self._single = [Ranking(truth[:, c], scores[:, c]) for c in range(self._classes)]
        self._facts = self._per_tile(truth, scores, predict(scores, task))

    def _per_tile(
        self, truth: Labels, scores: Scores, chosen: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Put what is summed over tiles side by side, shape (N, 2 + 3C + bins)."""
        positive = truth > 0
        right = (chosen == positive).all(axis=1, keepdims=True)
        gaps = calibration_gaps(truth, scores, multilabel=self._multilabel)
        columns = (np.ones_like(right), right, chosen & positive, chosen, positive, gaps)
        return np.hstack([np.asarray(column, np.float32) for column in columns])

    def __call__(self, weights: Weights) -> NDArray[np.float64]:
        """Score the tiles by `SCALARS`, then each class's AP; shape (7 + C,).

        Classes without weight on any of their tiles have a NaN, and no part in macro scores.
        """
        sums = (weights.astype(np.float32) @ self._facts).astype(np.float64)
        tiles, right = sums[:2]
        hit, chosen, positive = np.split(sums[2 : 2 + 3 * self._classes], 3)
        gaps = sums[2 + 3 * self._classes :]
        each = np.array([ranking.average_precision(weights) for ranking in self._single])
        pairs = tiles * self._classes if self._multilabel else tiles
        f1 = np.where(positive > 0, 2 * hit / np.maximum(chosen + positive, 1), np.nan)
        scalars = [
            right / tiles,
            self._balanced(tiles, hit, chosen, positive),
            2 * hit.sum() / max(chosen.sum() + positive.sum(), 1),
            mean_of_known(f1),
            self._pooled.average_precision(weights),
            mean_of_known(each),
            np.abs(gaps).sum() / pairs,
        ]
        return np.concatenate([scalars, each])

    def plain(self) -> NDArray[np.float64]:
        """Score the tiles as they are, each once."""
        return self(np.ones(len(self._facts), np.int32))

    def _balanced(
        self,
        tiles: float,
        hit: NDArray[np.float64],
        chosen: NDArray[np.float64],
        positive: NDArray[np.float64],
    ) -> float:
        with np.errstate(invalid="ignore"):  # 0 of 0: a class no tile of which was drawn
            recall = hit / positive
            negative = tiles - positive
            specificity = (negative - (chosen - hit)) / negative
        return mean_of_known((recall + specificity) / 2 if self._multilabel else recall)


def predict(scores: Scores, task: Task) -> NDArray[np.bool_]:
    """Mark the classes that scores, shape (N, C), stand for: all above 0.5, or the highest."""
    if task == "multilabel":
        return np.asarray(scores > 0.5, np.bool_)
    return one_hot(scores.argmax(axis=1), scores.shape[1])


def mean_of_known(values: NDArray[np.float64]) -> float:
    """Average what is no NaN; NaN when nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def one_hot(numbers: NDArray[np.intp], count: int) -> NDArray[np.bool_]:
    """Turn class numbers, shape (N,), into rows with one True, shape (N, count)."""
    return np.asarray(numbers[:, None] == np.arange(count), np.bool_)


def calibration_gaps(truth: Labels, scores: Scores, *, multilabel: bool) -> NDArray[np.float64]:
    """Sum predicted minus true by tile and bin of confidence, shape (N, `ECE_BINS`).

    The expected calibration error is the sum over bins of |sum over tiles|, divided by the number
    of predictions.
    """
    if multilabel:
        confidence, correct = scores, truth
    else:
        best = scores.argmax(axis=1)[:, None]
        confidence = np.take_along_axis(scores, best, axis=1)
        correct = np.take_along_axis(truth, best, axis=1)
    tiles = len(confidence)
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    places = (bins + ECE_BINS * np.arange(tiles)[:, None]).ravel()
    gaps = (confidence.astype(np.float64) - correct).ravel()
    summed = np.bincount(places, weights=gaps, minlength=tiles * ECE_BINS)
    return np.asarray(summed.reshape(tiles, ECE_BINS), np.float64)
