"""Probes are fitted to the optimum, and neighbours are the nearest."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, average_precision_score
from sklearn.neighbors import NearestCentroid

from tilezoo import knn
from tilezoo.probe import linear
from tilezoo.probe.data import standardise
from tilezoo.probe.fitting import Sets, Stages, fit_linear, rate_scores, score_by_centroid
from tilezoo.probe.linear import Problem, chunks, fast_products, fit, one_thread_for_few
from tilezoo.probe.sgd import BATCH, LR, MOMENTUM, fit_sgd, saved


def features(tiles, dimension, *, collinear):
    """Standardised float32 features, with a spectrum as steep as a transformer's if asked."""
    rng = np.random.default_rng(0)
    falling = np.logspace(0, -2.5 if collinear else 0, dimension)
    turned, _ = np.linalg.qr(rng.normal(size=(dimension, dimension)))
    x = torch.from_numpy(
        (rng.normal(size=(tiles, dimension)) * falling @ turned).astype(np.float32)
    )
    standardise(x, tiles)
    return x


def labels(x, classes, task):
    rng = np.random.default_rng(1)
    logits = x.numpy() @ rng.normal(size=(x.shape[1], classes)) * 0.3 - 1
    if task == "multilabel":
        return (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    return np.eye(classes, dtype=np.uint8)[(logits + rng.gumbel(size=logits.shape)).argmax(axis=1)]


def sklearn_fit(x, y, c, task):
    """Weights, shape (D, C), and biases by scikit-learn, converged."""
    double = x.numpy().astype(np.float64)

    def one(target):
        return LogisticRegression(C=c, solver="newton-cholesky", tol=1e-10).fit(double, target)

    if task == "multiclass":
        fitted = one(y.argmax(axis=1))
        return fitted.coef_.T, fitted.intercept_ - fitted.intercept_.mean()
    each = [one(column) for column in y.T]
    return np.stack([f.coef_[0] for f in each], 1), np.array([f.intercept_[0] for f in each])


@pytest.mark.parametrize("collinear", [False, True])
@pytest.mark.parametrize("c", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_weights_and_average_precision_are_scikit_learns(task, c, collinear):
    x = features(600, 24, collinear=collinear)
    y = labels(x, 4, task)
    fitted = fit(Problem(x, torch.from_numpy(y), task), c, tolerance=1e-4, most_passes=400)
    assert fitted.converged
    weights, biases = sklearn_fit(x, y, c, task)
    ours = fitted.coefficients.numpy()
    assert ours[:-1] == pytest.approx(weights, abs=1e-3)
    assert ours[-1] == pytest.approx(biases, abs=1e-3)
    theirs = average_precision_score(y, x.numpy() @ weights + biases, average="macro")
    found = average_precision_score(y, fitted.logits(x), average="macro")
    assert found == pytest.approx(theirs, abs=1e-3)


def test_a_warm_start_ends_at_the_same_optimum_sooner():
    x = features(500, 16, collinear=True)
    problem = Problem(x, torch.from_numpy(labels(x, 3, "multilabel")), "multilabel")
    cold = fit(problem, 1.0, tolerance=1e-5, most_passes=400)
    near = fit(problem, 0.5, tolerance=1e-5, most_passes=400)
    warm = fit(problem, 1.0, near.coefficients, tolerance=1e-5, most_passes=400)
    assert warm.passes <= cold.passes
    torch.testing.assert_close(warm.coefficients, cold.coefficients, atol=1e-4, rtol=0)


def test_classes_that_a_plane_divides_do_not_run_away():
    x = features(200, 5, collinear=False)
    y = (x[:, :2] > 0).to(torch.uint8)
    fitted = fit(Problem(x, y, "multilabel"), 100.0, tolerance=1e-4, most_passes=400)
    assert fitted.converged
    assert bool(torch.isfinite(fitted.coefficients).all())
    assert ((fitted.logits(x) > 0) == y.bool()).all()


def test_passes_that_run_out_are_told():
    x = features(200, 5, collinear=True)
    problem = Problem(x, torch.from_numpy(labels(x, 3, "multiclass")), "multiclass")
    assert not fit(problem, 100.0, tolerance=1e-6, most_passes=2).converged


def test_a_sweep_goes_on_while_weak_fits_all_predict_the_largest_class():
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [70, 20, 10])
    x = torch.from_numpy((np.eye(3)[classes] + rng.normal(size=(100, 3)) * 0.3).astype(np.float32))
    standardise(x, 100)
    y = np.eye(3, dtype=np.uint8)[classes]
    both = Sets(
        y=np.concatenate([y, y, y]), train=100, validation=100, task="multiclass", metric="accuracy"
    )
    final, _ = fit_linear(torch.cat([x, x, x]), both, Stages("x", shown=False))
    assert final.facts.validation > 0.9
    assert final.facts.c > 1e-4


@pytest.mark.parametrize("metric", ["accuracy", "ap_micro", "ap_macro"])
def test_what_is_chosen_by_is_scikit_learns(metric):
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2], [80, 15, 5])
    y = np.eye(3, dtype=np.uint8)[classes]
    scores = (rng.random((100, 3)) + 0.4 * y).astype(np.float32)
    if metric == "accuracy":
        expected = accuracy_score(classes, scores.argmax(axis=1))
    else:
        expected = average_precision_score(y, scores, average=metric.removeprefix("ap_"))
    assert rate_scores(y, scores, metric) == pytest.approx(expected, abs=1e-12)


def test_classes_that_validation_lacks_have_no_part_in_what_is_chosen_by():
    y = np.zeros((4, 2), np.uint8)
    y[:2, 0] = 1
    scores = np.array([[0.9, 0.1], [0.2, 0.1], [0.5, 0.1], [0.1, 0.1]], np.float32)
    assert rate_scores(y, scores, "ap_macro") == pytest.approx(
        average_precision_score(y[:, 0], scores[:, 0])
    )
    assert rate_scores(np.zeros_like(y), scores, "ap_macro") == -1


def test_rows_in_many_pieces_sum_to_the_same(monkeypatch):
    x = features(500, 8, collinear=False)
    y = torch.from_numpy(labels(x, 3, "multilabel"))
    whole = fit(Problem(x, y, "multilabel"), 1.0, tolerance=1e-5, most_passes=100)
    monkeypatch.setattr(linear, "chunks", lambda count: chunks(count, 64))
    pieces = fit(Problem(x, y, "multilabel"), 1.0, tolerance=1e-5, most_passes=100)
    torch.testing.assert_close(pieces.coefficients, whole.coefficients, atol=1e-5, rtol=0)


def test_standardising_uses_train_alone_and_stills_what_does_not_vary():
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * 4 + 7
    x[:, 2] = 3.3
    before = x.clone()
    standardise(x, 60)
    mean, deviation = before[:60].mean(0), before[:60].std(0, correction=0)
    torch.testing.assert_close(x[:, :2], ((before - mean) / deviation)[:, :2])
    assert (x[:, 2] == 0).all()


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_dinos_protocol_is_pytorchs_sgd(task):
    """The same updates by autograd, torch's optimiser and scheduler, on the same draws."""
    x = features(300, 6, collinear=False)
    y = torch.from_numpy(labels(x, 3, task))
    whole = saved(x, torch.arange(300))
    ours = fit_sgd(whole, y, task, dimension=6, seed=5, epochs=3).coefficients
    draws = torch.Generator().manual_seed(5)
    layer = torch.nn.Linear(6, 3)
    layer.weight.data = (torch.randn(6, 3, generator=draws) * 0.01).T.contiguous()
    layer.bias.data.zero_()
    multilabel = task == "multilabel"
    loss = torch.nn.BCEWithLogitsLoss() if multilabel else torch.nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(layer.parameters(), LR, momentum=MOMENTUM, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 3, eta_min=0)
    for _ in range(3):
        for rows in torch.randperm(300, generator=draws).split(BATCH):
            optimiser.zero_grad()
            loss(layer(x[rows]), y[rows].float() if multilabel else y[rows].argmax(1)).backward()
            optimiser.step()
        schedule.step()
    assert pytest.approx(0.0005) == LR
    torch.testing.assert_close(ours[:-1].T.float(), layer.weight.data, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours[-1].float(), layer.bias.data, atol=1e-6, rtol=1e-5)


@settings(deadline=None)
@given(st.integers(1, 700), st.integers(1, 30), st.integers(0, 5))
def test_neighbours_are_those_of_a_full_sort(bank_rows, k, seed):
    draws = torch.Generator().manual_seed(seed)
    bank, queries = (torch.randn(n, 8, generator=draws) for n in (bank_rows, 7))
    k = min(k, bank_rows)
    similarity, rows = knn.nearest(bank, queries, k)
    whole = (queries @ bank.T).sort(dim=1, descending=True).values[:, :k]
    torch.testing.assert_close(similarity, whole)
    torch.testing.assert_close((queries @ bank.T).gather(1, rows), whole)


def test_neighbours_of_a_bank_in_pieces_are_the_same(monkeypatch):
    draws = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(1000, 8, generator=draws), torch.randn(50, 8, generator=draws)
    whole = knn.nearest(bank, queries, 10)
    monkeypatch.setattr(knn, "_BANK_ROWS", 130)
    pieces = knn.nearest(bank, queries, 10)
    torch.testing.assert_close(pieces[0], whole[0])
    assert (pieces[1] == whole[1]).all()


def test_neighbours_vote_with_exp_of_cosine_over_temperature():
    x = features(60, 5, collinear=False)
    y = torch.from_numpy(labels(x, 3, "multilabel"))
    bank = knn.Bank(unit=knn.unit_rows(x), y=y)
    queries = features(80, 5, collinear=False)[60:] * 3  # their length must not matter
    votes = knn.vote(bank, queries, (1, 7))
    cosines = (knn.unit_rows(queries) @ bank.unit.T).double()
    for k, found in votes.items():
        best, rows = cosines.topk(k)
        weights = torch.exp(best / 0.07)
        expected = (weights[:, :, None] * y[rows]).sum(1) / weights.sum(1, keepdim=True)
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_centroids_of_one_class_a_tile_are_nearest_centroids():
    x = features(400, 6, collinear=False)
    y = labels(x, 3, "multiclass")
    scores = score_by_centroid(x, torch.from_numpy(y), x, "multiclass")
    unit = knn.unit_rows(x).numpy()
    means = np.stack([x.numpy()[column > 0].mean(0) for column in y.T])
    reference = NearestCentroid().fit(unit, y.argmax(1))
    reference.centroids_ = means / np.linalg.norm(means, axis=1, keepdims=True)
    assert (reference.predict(unit) == scores.argmax(1).numpy()).all()
    assert scores.sum(1) == pytest.approx(1.0, abs=1e-5)


def test_centroids_of_several_classes_say_on_which_side_a_tile_is():
    x = features(400, 6, collinear=False)
    y = (x[:, :2] > 0.3).to(torch.uint8)
    scores = score_by_centroid(x, y, x, "multilabel")
    assert ((scores > 0.5) == y.bool()).float().mean() > 0.8


def test_products_are_as_exact_when_fast_and_the_setting_goes_back():
    x = features(300, 40, collinear=False)
    plain, before = x @ x.T, torch.get_float32_matmul_precision()
    with fast_products(x):
        fast = x @ x.T
    torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-5)
    assert torch.get_float32_matmul_precision() == before


@pytest.fixture
def two_threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_few_vectors_take_one_thread_and_the_setting_goes_back(two_threads):
    with one_thread_for_few(torch.zeros(100, 8)):
        assert torch.get_num_threads() == 1
    with one_thread_for_few(torch.zeros(1 << 19, 8)):
        assert torch.get_num_threads() == two_threads
    assert torch.get_num_threads() == two_threads
