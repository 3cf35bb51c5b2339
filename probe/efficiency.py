"""The label-efficiency curve: linear probes of growing parts of the train set."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilezoo.probe.fitting import Fit, Sets, Stages, class_scores, fit_dino, sweep
from tilezoo.probe.linear import Problem
from tilezoo.probe.options import Choices
from tilezoo.probe.scores import Labels


@dataclass(frozen=True, kw_only=True)
class Point:
    """A linear probe of a part of the train set, without validation tiles among it.

    Attributes:
        percent: Of the train set.
        seed: Of the subset.
        tiles: How many were learnt from.
        fit: Predictions of the test set.
    """

    percent: float
    seed: int
    tiles: int
    fit: Fit


def curve(x: Tensor, sets: Sets, choices: Choices, whole: Fit, stages: Stages) -> Iterator[Point]:
    """Probe growing parts of the train set; C is chosen on all of validation for each.

    Args:
        x: Standardised features (raw for DINO's protocol), train first, shape (N, D).
        sets: Their labels.
        choices: Fractions, seeds, protocol.
        whole: The fit on all of train, with the first seed.
        stages: Of this table.
    """
    for percent, seed in _plan(choices):
        chosen = subset(sets.y[: sets.train], percent, seed)
        is_whole = percent == 100 and seed == choices.seed
        fit = whole if is_whole else _fit_part(x, chosen, sets, choices, seed, stages)
        yield Point(percent=percent, seed=seed, tiles=len(chosen), fit=fit)


def _plan(choices: Choices) -> Iterator[tuple[float, int]]:
    """Every fraction with every seed; once only where nothing is left to chance."""
    for percent in choices.fractions:
        same = percent == 100 and choices.protocol == "standard"
        for seed in range(choices.seeds)[: 1 if same else None]:
            yield percent, choices.seed + seed


def _fit_part(
    x: Tensor, chosen: NDArray[np.int64], sets: Sets, choices: Choices, seed: int, stages: Stages
) -> Fit:
    rows = torch.from_numpy(chosen).to(x.device)
    if choices.protocol == "dino":
        return fit_dino(x, rows, sets, seed, stages)
    problem = Problem(x[rows], torch.from_numpy(sets.y[chosen]).to(x.device), sets.task)
    best, facts = sweep(problem, x[sets.train : sets.fitted], sets, stages)
    return Fit(scores=class_scores(problem, best, x[sets.fitted :]), facts=facts)


def subset(y: Labels, percent: float, seed: int) -> NDArray[np.int64]:
    """Draw a share of tiles, and one more for each class that would lack tiles with or without it.

    Args:
        y: Labels of the train set; each class has tiles with and without.
        percent: How much of it.
        seed: Of the draw.

    Returns:
        Row numbers, rising.
    """
    order = np.random.default_rng([seed, round(percent * 1000)]).permutation(len(y))
    count = max(1, round(len(y) * percent / 100))
    firsts = [int(np.argmax(column == value)) for column in y[order].T for value in (0, 1)]
    wanted = np.unique([*range(count), *firsts])  # places in the drawn order
    return np.sort(order[wanted])
