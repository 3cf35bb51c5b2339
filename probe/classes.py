"""Classes that cannot be learnt or tested are refused, or left out and named."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import ProbeError
from tilezoo.probe.join import Joined
from tilezoo.probe.recipe import Rare
from tilezoo.probe.scores import Labels
from tilezoo.probe.splits import Split

_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Usable:
    """What is left to probe.

    Attributes:
        joined: With the classes that are left.
        split: With the tiles that are left.
        dropped: Classes that were left out.
    """

    joined: Joined
    split: Split
    dropped: tuple[str, ...]


def usable(joined: Joined, split: Split, rare: Rare) -> Usable:
    """See that every class has tiles with and without it in train, and with it in test.

    Tiles of a class that is left out go with it where a tile has one class only.

    Raises:
        ProbeError: A class has none, and `rare` is `error`; or fewer than two classes are left.
    """
    lacking = _lacking(joined.y, split)
    if not lacking.any():
        return Usable(joined=joined, split=split, dropped=())
    if rare == "error":
        raise ProbeError(_message(joined, split, np.flatnonzero(lacking)))
    left = joined.with_classes(~lacking)
    if left.y.shape[1] < 2:
        raise ProbeError(
            f"{_message(joined, split, np.flatnonzero(lacking))}; without them fewer than two are "
            "left"
        )
    if joined.task == "multiclass":
        split = split.where(left.y.sum(axis=1) > 0)
    names = zip(joined.classes, lacking, strict=True)
    return Usable(joined=left, split=split, dropped=tuple(name for name, is_ in names if is_))


def _lacking(y: Labels, split: Split) -> NDArray[np.bool_]:
    train, test = y[split.train], y[split.test]
    return np.asarray(~train.any(axis=0) | train.all(axis=0) | ~test.any(axis=0))


def _message(joined: Joined, split: Split, lacking: NDArray[np.int64]) -> str:
    told = []
    for number in lacking[:_MOST_NAMED]:
        column = joined.y[:, number]
        counts = [f"{int(column[rows].sum())} of {len(rows)}" for rows in (split.train, split.test)]
        told.append(
            f"{joined.classes[number]!r} is on {counts[0]} tiles of train, {counts[1]} of test"
        )
    more = f" and {len(lacking) - _MOST_NAMED} more classes" * (len(lacking) > _MOST_NAMED)
    return (
        f"{'; '.join(told)}{more}: a class is learnt from tiles with and without it, and tested on "
        "some with it; give more tiles, another split, or --rare drop to leave such classes out"
    )
