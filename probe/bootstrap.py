"""Bootstrap: scores over resampled tiles, or over resampled blocks of ground."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import ProbeError
from tilezoo.probe.results import Claim, Unit
from tilezoo.probe.scores import MACRO, PER_CLASS, SCALARS, Scorer, Weights

_LEVEL = 0.95
_MOST_THREADS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """Which tiles each replicate draws; one seed draws the same for every model.

    Attributes:
        tiles: Test tiles.
        replicates: How many resamples.
        seed: Of the draws.
        blocks: Block of each test tile, numbers from 0, shape (tiles,); None to draw tiles. Blocks
            are drawn whole, because tiles of one block resemble each other.
        called: What a unit is: a tile, a block of ground, or a group that the labels name.
    """

    tiles: int
    replicates: int
    seed: int
    blocks: NDArray[np.int64] | None = None
    called: Unit = "tile"

    def __post_init__(self) -> None:
        """Refuse what has no spread."""
        if self.units < 2:
            raise ProbeError(
                f"the test set holds {self.units} {self.called}: no interval can be estimated; "
                "test on more tiles, or take smaller blocks"
            )

    @property
    def units(self) -> int:
        """How many tiles or blocks are drawn."""
        return self.tiles if self.blocks is None else int(self.blocks.max(initial=-1)) + 1

    def weights(self, replicate: int) -> Weights:
        """How often a replicate draws each tile, shape (tiles,)."""
        rng = np.random.default_rng([self.seed, replicate])
        drawn = np.bincount(rng.integers(self.units, size=self.units), minlength=self.units)
        counts = drawn.astype(np.int32)
        return counts if self.blocks is None else counts[self.blocks]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Scores of one set of predictions.

    Attributes:
        values: On the test tiles as they are, shape (M,), see `Scorer`.
        replicates: On each resample, shape (R, M); NaN where a resample has no such score.
    """

    values: NDArray[np.float64]
    replicates: NDArray[np.float64]


def measure(
    scorer: Scorer, resampling: Resampling, advance: Callable[[int], None] = lambda _: None
) -> Measured:
    """Score the tiles as they are, then every resample.

    Args:
        scorer: Of one set of predictions.
        resampling: The same for all that will be compared.
        advance: Called with the number of replicates that are done.
    """

    def one(replicate: int) -> NDArray[np.float64]:
        scored = scorer(resampling.weights(replicate))
        advance(1)
        return scored

    workers = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        replicates = list(pool.map(one, range(resampling.replicates)))
    values = scorer.plain()
    return Measured(values=values, replicates=drop_lacking_resamples(values, np.stack(replicates)))


def drop_lacking_resamples(
    values: NDArray[np.float64], replicates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Take macro scores off resamples that lack a class: means over other classes are other scores.

    Three sheets of ten with mines are all missed by 3 % of resamples, whose macro AP is then that of
    the other class, and one end of a 95 % interval. Where most resamples lack a class, as with
    classes of a single tile, the means over those that are there stay.
    """
    each = slice(len(SCALARS), None)
    lacking = (np.isnan(replicates[:, each]) & ~np.isnan(values[each])).any(axis=1)
    if lacking.mean() > 0.5:
        return replicates
    mended = replicates.copy()
    mended[np.ix_(np.flatnonzero(lacking), np.flatnonzero(np.isin(SCALARS, MACRO)))] = np.nan
    return mended


def centre(values: NDArray[np.float64], replicates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift replicates, shape (R, M), so that their mean is the measured value.

    Scores with a bias (ECE above all, AP of rare classes) are biased in resamples once more; the
    bootstrap's own estimate of that is taken off. NaNs (a class that was not drawn) stay.
    """
    known = ~np.isnan(replicates)
    sums = np.where(known, replicates, 0).sum(axis=0)
    means = sums / np.maximum(known.sum(axis=0), 1)
    return np.asarray(replicates - means + values)


def interval(shifted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take the middle 95 % of each column of shape (R, M); low and high, shape (2, M)."""
    tails = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    return np.asarray(np.nanquantile(shifted, tails, axis=0))


_ALPHA = 0.05
_LOWER_IS_BETTER = ("ece",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How much more one model scores than another by one metric.

    Attributes:
        first: The model that is subtracted from.
        second: The model that is subtracted.
        metric: Name of the metric.
        class_name: Of a score by class; else None.
        absolute: First minus second.
        relative: The same as a share of the second; None where that is 0.
        low: Of the 95 % interval of `absolute`.
        high: Of the 95 % interval of `absolute`.
        p: Two-sided bootstrap p-value.
    """

    first: str
    second: str
    metric: str
    class_name: str | None
    absolute: float
    relative: float | None
    low: float
    high: float
    p: float


def find_differences(
    pair: tuple[str, str], measured: tuple[Measured, Measured], classes: Sequence[str]
) -> list[Difference]:
    """Compare two models by every metric; their replicates must be of the same resamples."""
    first, second = measured
    values = first.values - second.values
    shifted = centre(values, first.replicates - second.replicates)
    low, high = interval(shifted)
    p_values = find_p_values(shifted)
    names = [*((name, None) for name in SCALARS), *((PER_CLASS, name) for name in classes)]
    return [
        Difference(
            first=pair[0],
            second=pair[1],
            metric=metric,
            class_name=class_name,
            absolute=float(values[m]),
            relative=float(values[m] / second.values[m]) if second.values[m] else None,
            low=float(low[m]),
            high=float(high[m]),
            p=float(p_values[m]),
        )
        for m, (metric, class_name) in enumerate(names)
    ]


def find_p_values(shifted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take twice the smaller share of replicates, shape (R, M), on either side of 0; shape (M,).

    One replicate is added to each count, so that no p-value is 0: Davison & Hinkley 1997,
    "Bootstrap Methods and their Application", section 4.2.
    """
    known = (~np.isnan(shifted)).sum(axis=0)
    sides = np.minimum((shifted <= 0).sum(axis=0), (shifted >= 0).sum(axis=0))
    return np.asarray(np.minimum(1.0, 2 * (sides + 1) / (known + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of one family, so that each may be held against the level itself."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(value) for value in adjusted]


def make_claims(differences: Sequence[Difference], method: str) -> list[Claim]:
    """Say of each difference what it allows to be claimed.

    Args:
        differences: Of several pairs; those of one metric (and class) are one family.
        method: How the models were probed.
    """
    families: dict[tuple[str, str | None], list[Difference]] = {}
    for difference in differences:
        families.setdefault((difference.metric, difference.class_name), []).append(difference)
    adjusted = {
        id(difference): (p_value, len(family))
        for family in families.values()
        for difference, p_value in zip(family, holm([member.p for member in family]), strict=True)
    }
    return [_claim_of(difference, method, *adjusted[id(difference)]) for difference in differences]


def _claim_of(difference: Difference, method: str, p_holm: float, pairs: int) -> Claim:
    named = {} if difference.class_name is None else {"class_name": difference.class_name}
    return Claim(
        a=difference.first,
        b=difference.second,
        method=method,
        metric=difference.metric,
        absolute=difference.absolute,
        relative=difference.relative,
        low=difference.low,
        high=difference.high,
        p=difference.p,
        p_holm=p_holm,
        may_be_claimed=may_be_claimed(difference, p_holm, pairs),
        claim=say_claim(difference, p_holm, pairs),
        **named,
    )


def may_be_claimed(difference: Difference, p_holm: float, pairs: int) -> bool:
    """Whether a difference stands out from chance, over all pairs that are compared."""
    leaves_out_0 = not difference.low <= 0 <= difference.high
    return leaves_out_0 and (pairs == 1 or p_holm <= _ALPHA)


def say_claim(difference: Difference, p_holm: float, pairs: int) -> str:
    """Say in one sentence what may be said of a difference, and what not."""
    d = difference
    what = d.metric if d.class_name is None else f"AP of {d.class_name}"
    bounds = f"{d.low:+.4f} to {d.high:+.4f}"
    if d.low <= 0 <= d.high:
        return (
            f"{d.first} and {d.second}: no difference in {what} may be claimed at 95 % "
            f"(interval {bounds} includes 0)."
        )
    if not may_be_claimed(d, p_holm, pairs):
        return (
            f"{d.first} and {d.second}: no difference in {what} may be claimed at 95 % over "
            f"{pairs} pairs (Holm's p = {p_holm:.3f}), though its own interval, {bounds}, leaves "
            "out 0."
        )
    better = (d.absolute < 0) == (d.metric in _LOWER_IS_BETTER)
    relative = "" if d.relative is None else f" ({d.relative:+.1%})"
    return (
        f"{d.first} is {'better' if better else 'worse'} than {d.second} by {what}: "
        f"{d.absolute:+.4f}{relative}, 95 % interval {bounds}, on tiles drawn as these were."
    )


def all_claims(
    pairs: Sequence[tuple[str, str]],
    measured: Mapping[str, Mapping[str, Measured]],
    classes: Sequence[str],
) -> list[Claim]:
    """Compare each pair by every way both were probed.

    Args:
        pairs: Names (a, b) of one family of comparisons.
        measured: Name → way of probing → scores.
        classes: Names of classes.
    """
    methods = dict.fromkeys(m for pair in pairs for m in measured[pair[0]])
    entries: list[Claim] = []
    for method in methods:
        found = [
            difference
            for a, b in pairs
            if method in measured[a] and method in measured[b]
            for difference in find_differences(
                (a, b), (measured[a][method], measured[b][method]), classes
            )
        ]
        entries += make_claims(found, method)
    return entries
