"""Bootstrap: scores over resampled tiles, or over resampled blocks of ground."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import ProbeError
from tilezoo.probe.scores import MACRO, SCALARS, Scorer, Weights

_LEVEL = 0.95
_MOST_THREADS = 8


Unit = Literal["tile", "block", "group"]


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
        advance: Told when replicates are done.
    """

    def one(replicate: int) -> NDArray[np.float64]:
        scored = scorer(resampling.weights(replicate))
        advance(1)
        return scored

    workers = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        replicates = list(pool.map(one, range(resampling.replicates)))
    values = scorer.plain()
    return Measured(values=values, replicates=with_all_classes(values, np.stack(replicates)))


def with_all_classes(
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


def centred(values: NDArray[np.float64], replicates: NDArray[np.float64]) -> NDArray[np.float64]:
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
