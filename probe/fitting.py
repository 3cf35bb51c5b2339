"""One table's probes: neighbours, centroids and a linear layer, and what was chosen for each.

The label-efficiency curve is made of linear probes of growing parts of the train set.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilezoo.io import canonical_json, sha256_text
from tilezoo.knn import TEMPERATURE, Bank, unit_rows, vote
from tilezoo.probe.linear import Linear, Problem, chunks, fit
from tilezoo.probe.options import Metric, Probing, Task
from tilezoo.probe.results import FitFacts
from tilezoo.probe.scores import Labels, Ranking, Scores, mean_of_known
from tilezoo.probe.sgd import EPOCHS, Anew, fit_sgd, saved
from tilezoo.progress import Advance, progress


class Stages:
    """Tells progress of one table's steps on stderr, and keeps their seconds.

    Attributes:
        seconds: Step → how long it took, all calls together.
    """

    def __init__(self, name: str, *, shown: bool) -> None:
        self._name, self._shown = name, shown
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Show one step while the block runs; it yields what is called with units done."""
        start = time.monotonic()
        with progress(total, f"{self._name}: {label}", unit, shown=self._shown) as advance:
            yield advance
        took = time.monotonic() - start
        self.seconds[label] = round(self.seconds.get(label, 0.0) + took, 3)


def score_by_centroid(train: Tensor, y: Tensor, x: Tensor, task: Task) -> Tensor:
    """Score rows by their cosines with the means of the train set's classes.

    Multi-class: softmax of the cosines / 0.07 (the kNN votes' temperature). Multi-label: sigmoid
    of how much nearer the mean of tiles with the class is than that of tiles without, / 0.07.

    Args:
        train: Standardised features, shape (N, D).
        y: 1 where a class applies, uint8, shape (N, C); each class has tiles with and without.
        x: Standardised features to score, shape (Q, D).
        task: Whether a tile may have several classes.

    Returns:
        float32, shape (Q, C).
    """
    counts, sums = y.sum(dim=0, dtype=torch.float32)[:, None], _class_sums(train, y)
    towards = unit_rows(sums / counts)
    if task == "multilabel":
        others = (train.sum(dim=0) - sums) / (len(train) - counts)
        away = unit_rows(others)
        return torch.sigmoid(_cosines(x, towards - away) / TEMPERATURE)
    return torch.softmax(_cosines(x, towards) / TEMPERATURE, dim=1)


def _class_sums(train: Tensor, y: Tensor) -> Tensor:
    """Add up the tiles of each class, shape (C, D)."""
    sums = train.new_zeros(y.shape[1], train.shape[1])
    for rows in chunks(len(train)):
        sums += y[rows].float().T @ train[rows]
    return sums


def _cosines(x: Tensor, directions: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12)
    return (x @ directions.T) / lengths


KS = (1, 5, 10, 20, 50, 100, 200)  # 10, 20, 100 and 200 are DINO's
STRENGTHS = tuple(10 ** (half / 2) for half in range(-12, 9))  # C: 1e-6, 3.2e-6, … 10,000
MOST_SWEEP_QUERIES = 20_000  # validation tiles that choose k

_SWEEP_TOLERANCE, _SWEEP_PASSES = 3e-3, 60  # enough to tell strengths apart
_TOLERANCE, _MOST_PASSES = 1e-4, 400


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Labels in the order of a table's vectors: train, validation, test.

    Attributes:
        y: 1 where a class applies, shape (N, C).
        train: How many rows are of train.
        validation: How many are of validation.
        task: Whether a tile may have several classes.
        metric: What C and k are chosen by.
        anew: Rows of train and a seed → what shows them anew in each epoch of DINO's protocol; None
            where there are saved vectors only.
    """

    y: Labels
    train: int
    validation: int
    task: Task
    metric: Metric
    anew: Callable[[Tensor, int], Anew] | None = None

    @property
    def fitted(self) -> int:
        """Rows before the test set."""
        return self.train + self.validation

    @property
    def y_validation(self) -> Labels:
        """Labels that strengths are chosen by."""
        return self.y[self.train : self.fitted]

    @property
    def y_test(self) -> Labels:
        """Labels that scores are of."""
        return self.y[self.fitted :]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Predictions of the test set by one probe.

    Attributes:
        scores: Probabilities, float32, shape (test, C).
        facts: What was chosen, and how the fit went; None where there was nothing to choose.
    """

    scores: Scores
    facts: FitFacts | None = None


def rate_scores(y: Labels, scores: Scores, metric: Metric) -> float:
    """Score by the metric that C and k are chosen by; -1 where no tile has a class."""
    if metric == "accuracy":
        return float(np.take_along_axis(y, scores.argmax(axis=1)[:, None], axis=1).mean())
    each = [Ranking(y, scores)] if metric == "ap_micro" else map(Ranking, y.T, scores.T)
    once = np.ones(len(y), np.int32)
    known = mean_of_known(np.array([ranking.average_precision(once) for ranking in each]))
    return -1.0 if np.isnan(known) else known


def fit_knn(x: Tensor, sets: Sets, seed: int, stages: Stages) -> Fit:
    """Choose k on validation tiles, then let the train set vote on the test set.

    Args:
        x: Raw vectors, train first, shape (N, D).
        sets: Their labels.
        seed: Of the validation tiles, where there are more than are needed.
        stages: Of this table.
    """
    y = torch.from_numpy(sets.y[: sets.train]).to(x.device)
    bank = Bank(unit=unit_rows(x[: sets.train]), y=y)
    asked, test = _some(sets.validation, seed), x[sets.fitted :]
    queries = x[sets.train + torch.from_numpy(asked).to(x.device)]
    ks = tuple(k for k in KS if k <= sets.train)
    with stages.step("kNN", len(asked) + len(test), "tiles") as advance:
        votes = vote(bank, queries, ks, advance)
        y_asked = sets.y_validation[asked]
        scored = {k: rate_scores(y_asked, _numpy(votes[k]), sets.metric) for k in ks}
        k = max(ks, key=lambda k: scored[k])
        scores = _numpy(vote(bank, test, (k,), advance)[k])
    return Fit(scores=scores, facts=FitFacts(k=k, validation=scored[k], chosen_on=len(asked)))


def _some(count: int, seed: int) -> NDArray[np.int64]:
    if count <= MOST_SWEEP_QUERIES:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, MOST_SWEEP_QUERIES, replace=False))


def fit_centroid(x: Tensor, sets: Sets) -> Fit:
    """Score the test set by class centroids of the train set; x standardised."""
    y = torch.from_numpy(sets.y[: sets.train]).to(x.device)
    scores = score_by_centroid(x[: sets.train], y, x[sets.fitted :], sets.task)
    return Fit(scores=_numpy(scores))


def fit_linear(x: Tensor, sets: Sets, stages: Stages) -> tuple[Fit, Fit]:
    """Choose C on validation, then fit train and validation together.

    Args:
        x: Standardised features, train first, shape (N, D).
        sets: Their labels.
        stages: Of this table.

    Returns:
        Predictions by the final fit, and by the fit on train alone that C was chosen for.
    """
    y = torch.from_numpy(sets.y).to(x.device)
    test = x[sets.fitted :]
    train = Problem(x[: sets.train], y[: sets.train], sets.task)
    best, c, facts = sweep(train, x[sets.train : sets.fitted], sets, stages)
    alone = Fit(scores=class_scores(train, best, test), facts=facts)
    with stages.step("refit", 1, "fits") as advance:
        both = Problem(x[: sets.fitted], y[: sets.fitted], sets.task)
        final = fit(both, c, best.coefficients, tolerance=_TOLERANCE, most_passes=_MOST_PASSES)
        advance(1)
    facts = replace(facts, passes=final.passes, converged=final.converged)
    return Fit(scores=class_scores(both, final, test), facts=facts), alone


def sweep(
    problem: Problem, x_validation: Tensor, sets: Sets, stages: Stages
) -> tuple[Linear, float, FitFacts]:
    """Fit every C, each from the last one's coefficients, and take the best on validation.

    The sweep does not stop early: weak fits of few values may all predict the largest class.

    Returns:
        The best fit, its C, and what results.json says of it.
    """
    found: list[tuple[float, float, Linear]] = []
    with stages.step("linear", len(STRENGTHS), "fits") as advance:
        for c in STRENGTHS:
            start = found[-1][2].coefficients if found else None
            fitted = fit(problem, c, start, tolerance=_SWEEP_TOLERANCE, most_passes=_SWEEP_PASSES)
            scores = class_scores(problem, fitted, x_validation)
            found.append((rate_scores(sets.y_validation, scores, sets.metric), c, fitted))
            advance(1)
    scored, c, chosen = max(found, key=itemgetter(0))  # the smallest C of the best
    at_edge = c in (STRENGTHS[0], STRENGTHS[-1])
    return chosen, c, FitFacts(c=c, validation=scored, at_edge=at_edge)


def fit_dino(x: Tensor, rows: Tensor, sets: Sets, seed: int, stages: Stages) -> Fit:
    """Train a linear layer by DINO's protocol on some rows of the train set; x raw."""
    y = torch.from_numpy(sets.y).to(x.device)[rows]
    anew = sets.anew and sets.anew(rows.cpu(), seed)
    with stages.step("SGD", EPOCHS * len(rows), "tiles") as advance:
        layer = fit_sgd(
            anew.batches if anew else saved(x, rows),
            y,
            sets.task,
            dimension=x.shape[1],
            seed=seed,
            kept=name_kept_file(anew, y, sets.task, seed) if anew else None,
            advance=advance,
        )
    z = layer.logits(x[sets.fitted :])
    scores = torch.sigmoid(z) if sets.task == "multilabel" else torch.softmax(z, dim=1)
    return Fit(scores=_numpy(scores), facts=FitFacts(epochs=EPOCHS))


def name_kept_file(anew: Anew, y: Tensor, task: Task, seed: int) -> Path:
    """Name a file by all that a layer depends on."""
    labels = hashlib.sha256(y.cpu().numpy().tobytes()).hexdigest()
    state = [anew.state, labels, list(y.shape), task, seed, EPOCHS, y.device.type]
    return anew.folder / f"{sha256_text(canonical_json(state))[:16]}.safetensors"


def fit_prior(sets: Sets) -> Fit:
    """Score every tile with each class's share of train and validation: labels alone."""
    shares = sets.y[: sets.fitted].mean(axis=0, dtype=np.float64).astype(np.float32)
    return Fit(scores=np.tile(shares, (len(sets.y_test), 1)))


def class_scores(problem: Problem, fitted: Linear, x: Tensor) -> Scores:
    """Predict probabilities, float32, shape (N, C)."""
    return _numpy(problem.probabilities(fitted.logits(x)))


def _numpy(scores: Tensor) -> Scores:
    return np.asarray(scores.cpu().numpy(), np.float32)


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


def fit_curve(
    x: Tensor, sets: Sets, options: Probing, whole: Fit, stages: Stages
) -> Iterator[Point]:
    """Probe growing parts of the train set; C is chosen on all of validation for each.

    Args:
        x: Standardised features (raw for DINO's protocol), train first, shape (N, D).
        sets: Their labels.
        options: Fractions, seeds, protocol.
        whole: The fit on all of train, with the first seed.
        stages: Of this table.
    """
    for percent, seed in _plan(options):
        chosen = draw_subset(sets.y[: sets.train], percent, seed)
        is_whole = percent == 100 and seed == options.seed
        fit = whole if is_whole else _fit_part(x, chosen, sets, options, seed, stages)
        yield Point(percent=percent, seed=seed, tiles=len(chosen), fit=fit)


def _plan(options: Probing) -> Iterator[tuple[float, int]]:
    """Every fraction with every seed; once only where nothing is left to chance."""
    for percent in options.percents:
        same = percent == 100 and options.protocol == "standard"
        for seed in range(options.seeds)[: 1 if same else None]:
            yield percent, options.seed + seed


def _fit_part(
    x: Tensor, chosen: NDArray[np.int64], sets: Sets, options: Probing, seed: int, stages: Stages
) -> Fit:
    rows = torch.from_numpy(chosen).to(x.device)
    if options.protocol == "dino":
        return fit_dino(x, rows, sets, seed, stages)
    problem = Problem(x[rows], torch.from_numpy(sets.y[chosen]).to(x.device), sets.task)
    best, _, facts = sweep(problem, x[sets.train : sets.fitted], sets, stages)
    return Fit(scores=class_scores(problem, best, x[sets.fitted :]), facts=facts)


def draw_subset(y: Labels, percent: float, seed: int) -> NDArray[np.int64]:
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
