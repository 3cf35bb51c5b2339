"""Everything that is probed of one table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch
from torch import Tensor

from tilezoo.probe.bootstrap import Measured, Resampling, measure
from tilezoo.probe.data import load_vectors, standardise
from tilezoo.probe.fitting import (
    Fit,
    Point,
    Sets,
    Stages,
    curve,
    fit_centroid,
    fit_dino,
    fit_knn,
    fit_linear,
    prior,
)
from tilezoo.probe.linear import fast_products, one_thread_for_few
from tilezoo.probe.options import Choices
from tilezoo.probe.results import FitFacts
from tilezoo.probe.scores import Scorer
from tilezoo.probe.sgd import Anew
from tilezoo.probe.splits import Usable
from tilezoo.table import Table


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What was found of one table, or of one control.

    Attributes:
        fits: Way of probing (`linear`, `knn`, `centroid`) → predictions of the test set.
        measured: Way of probing → scores, and those of every resample.
        points: Of the label-efficiency curve.
        seconds: Step → how long it took.
    """

    fits: Mapping[str, Fit]
    measured: Mapping[str, Measured]
    points: Sequence[Point]
    seconds: Mapping[str, float]

    @property
    def facts(self) -> dict[str, FitFacts]:
        """Way of probing → how the fit went, of those that have anything to say."""
        return {method: fit.facts for method, fit in self.fits.items() if fit.facts}


def sets_of(used: Usable, choices: Choices) -> Sets:
    """Put labels in the order of the split."""
    split = used.split
    return Sets(
        y=used.joined.y[split.order],
        train=len(split.train),
        validation=len(split.validation),
        task=used.joined.task,
        metric=choices.metric_of(used.joined.task),
    )


def vectors_of(
    name: str, table: Table, used: Usable, device: torch.device, stages: Stages
) -> Tensor:
    """Read a table's vectors in the order of the split, raw, shape (N, D)."""
    with stages.step("reading", table.row_count, "tiles") as advance:
        x = load_vectors(name, table, used.joined.ids.take(used.split.order), advance)
    return x.to(device)


def fit_all(
    x: Tensor, sets: Sets, choices: Choices, stages: Stages
) -> tuple[dict[str, Fit], list[Point]]:
    """Probe vectors in every way.

    Args:
        x: Raw, train, validation, test; they are standardised in place.
        sets: Their labels.
        choices: Of the user.
        stages: Of this table.

    Returns:
        Way of probing → predictions, and the points of the label-efficiency curve.
    """
    points: list[Point] = []
    knn = fit_knn(x, sets, choices.seed, stages)
    if choices.protocol == "dino":
        rows = torch.arange(sets.train, device=x.device)
        linear = alone = fit_dino(x, rows, sets, choices.seed, stages)
        points = list(curve(x, sets, choices, alone, stages))
    standardise(x, sets.train)
    if choices.protocol == "standard":
        linear, alone = fit_linear(x, sets, stages)
        points = list(curve(x, sets, choices, alone, stages))
    return {"linear": linear, "knn": knn, "centroid": fit_centroid(x, sets)}, points


def probe_table(
    name: str,
    table: Table,
    used: Usable,
    resampling: Resampling,
    choices: Choices,
    device: torch.device,
    anew: Callable[[pa.Array, int], Anew] | None = None,
    *,
    shown: bool,
) -> Probed:
    """Fit every probe on one table, and score each on the test set and its resamples.

    `anew` shows tiles, by id and seed, anew in each epoch of DINO's protocol.
    """
    stages, sets = Stages(name, shown=shown), sets_of(used, choices)
    if anew is not None:
        ids = used.joined.ids.take(pa.array(used.split.train))
        sets = replace(sets, anew=lambda rows, seed: anew(ids.take(pa.array(rows.numpy())), seed))
    x = vectors_of(name, table, used, device, stages)
    with one_thread_for_few(x), fast_products(x):
        fits, points = fit_all(x, sets, choices, stages)
    del x
    measured = _measured(fits, sets, resampling, stages)
    return Probed(fits=fits, measured=measured, points=points, seconds=stages.seconds)


def probe_prior(used: Usable, choices: Choices, resampling: Resampling, *, shown: bool) -> Probed:
    """Score what is known from labels alone: a linear probe without features."""
    stages, sets = Stages("prior", shown=shown), sets_of(used, choices)
    fits = {"linear": prior(sets)}
    measured = _measured(fits, sets, resampling, stages)
    return Probed(fits=fits, measured=measured, points=[], seconds=stages.seconds)


def _measured(
    fits: Mapping[str, Fit], sets: Sets, resampling: Resampling, stages: Stages
) -> dict[str, Measured]:
    measured = {}
    with stages.step("bootstrap", len(fits) * resampling.replicates, "resamples") as advance:
        for method, fit in fits.items():
            scorer = Scorer(sets.y_test, fit.scores, sets.task)
            measured[method] = measure(scorer, resampling, advance)
    return measured
