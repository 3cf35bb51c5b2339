"""Scores are scikit-learn's, and weights count as repeated tiles do."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from tilezoo.probe.scores import SCALARS, Ranking, Scorer, calibration_gaps, one_hot


def ones(count):
    return np.ones(count, np.int32)


@pytest.fixture
def multilabel():
    rng = np.random.default_rng(0)
    truth = (rng.random((300, 4)) < (0.5, 0.3, 0.1, 0.02)).astype(np.uint8)
    truth[0] = 1  # no class without a tile
    # Two decimals: many ties, and probabilities of exactly 0, 0.5 and 1.
    scores = np.clip(rng.normal(0.3 + 0.3 * truth, 0.3), 0, 1).round(2).astype(np.float32)
    return truth, scores


@pytest.fixture
def multiclass():
    rng = np.random.default_rng(1)
    numbers = np.concatenate([np.arange(5), rng.choice(5, 295, p=[0.4, 0.3, 0.2, 0.08, 0.02])])
    logits = rng.normal(size=(300, 5)) + 1.5 * np.eye(5)[numbers]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return one_hot(numbers, 5).astype(np.uint8), scores.astype(np.float32)


def named(scorer):
    return dict(zip(SCALARS, scorer.plain(), strict=False))


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=60).filter(
        lambda rows: any(hit for hit, _ in rows)
    )
)
def test_average_precision_is_scikit_learns_with_ties(rows):
    truth = np.array([hit for hit, _ in rows], np.uint8)
    scores = np.array([score / 7 for _, score in rows], np.float32)
    ours = Ranking(truth, scores).average_precision(ones(len(rows)))
    assert ours == pytest.approx(metrics.average_precision_score(truth, scores), abs=1e-12)


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40
    ).filter(lambda rows: any(hit and weight for hit, _, weight in rows))
)
def test_a_weight_counts_as_so_many_tiles(rows):
    truth, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    truth, scores = truth.astype(np.uint8), scores.astype(np.float32)
    weighted = Ranking(truth, scores).average_precision(weights.astype(np.int32))
    repeated = Ranking(np.repeat(truth, weights), np.repeat(scores, weights))
    assert weighted == pytest.approx(repeated.average_precision(ones(weights.sum())), abs=1e-12)
    by_sklearn = metrics.average_precision_score(truth, scores, sample_weight=weights)
    assert weighted == pytest.approx(by_sklearn, abs=1e-12)


def test_average_precision_without_a_hit_is_not_a_number():
    ranking = Ranking(np.array([1, 0], np.uint8), np.array([0.1, 0.2], np.float32))
    assert np.isnan(ranking.average_precision(np.array([0, 1], np.int32)))


def test_multilabel_scores_are_scikit_learns(multilabel):
    truth, scores = multilabel
    found, chosen = named(Scorer(truth, scores, "multilabel")), scores > 0.5
    by_class = [
        metrics.balanced_accuracy_score(t, c) for t, c in zip(truth.T, chosen.T, strict=True)
    ]
    assert found == {
        "accuracy": pytest.approx(metrics.accuracy_score(truth, chosen)),
        "balanced_accuracy": pytest.approx(np.mean(by_class)),
        "f1_micro": pytest.approx(metrics.f1_score(truth, chosen, average="micro")),
        "f1_macro": pytest.approx(metrics.f1_score(truth, chosen, average="macro")),
        "ap_micro": pytest.approx(metrics.average_precision_score(truth, scores, average="micro")),
        "ap_macro": pytest.approx(metrics.average_precision_score(truth, scores, average="macro")),
        "ece": pytest.approx(plain_ece(scores.ravel(), truth.ravel())),
    }


def test_multiclass_scores_are_scikit_learns(multiclass):
    truth, scores = multiclass
    scorer = Scorer(truth, scores, "multiclass")
    found, numbers, chosen = named(scorer), truth.argmax(1), scores.argmax(1)
    assert found == {
        "accuracy": pytest.approx(metrics.accuracy_score(numbers, chosen)),
        "balanced_accuracy": pytest.approx(metrics.balanced_accuracy_score(numbers, chosen)),
        "f1_micro": pytest.approx(metrics.f1_score(numbers, chosen, average="micro")),
        "f1_macro": pytest.approx(metrics.f1_score(numbers, chosen, average="macro")),
        "ap_micro": pytest.approx(metrics.average_precision_score(truth, scores, average="micro")),
        "ap_macro": pytest.approx(metrics.average_precision_score(truth, scores, average="macro")),
        "ece": pytest.approx(plain_ece(scores.max(1), numbers == chosen)),
    }
    each = metrics.average_precision_score(truth, scores, average=None)
    assert scorer.plain()[len(SCALARS) :] == pytest.approx(each)


def plain_ece(confidence, correct):
    """Guo et al. 2017, equation 3, bin by bin; the first bin takes 0 too."""
    edges, total = np.linspace(0, 1, 16), 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high) | (confidence == 0) & (low == 0)
        if inside.any():
            total += inside.sum() * abs(confidence[inside].mean() - correct[inside].mean())
    return total / len(confidence)


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_every_score_of_weights_is_that_of_repeated_tiles(kind, request):
    truth, scores = request.getfixturevalue(kind)
    weights = np.random.default_rng(2).integers(0, 3, len(truth)).astype(np.int32)
    weights[:5] = 1
    weighted = Scorer(truth, scores, kind)(weights)
    repeated = Scorer(truth.repeat(weights, 0), scores.repeat(weights, 0), kind).plain()
    assert weighted == pytest.approx(repeated, abs=1e-6)


def test_a_class_that_was_not_drawn_has_no_part_in_macro_scores(multilabel):
    truth, scores = multilabel
    weights = (truth[:, 3] == 0).astype(np.int32)
    drawn = Scorer(truth, scores, "multilabel")(weights)
    each = drawn[len(SCALARS) :]
    assert np.isnan(each).tolist() == [False, False, False, True]
    assert drawn[SCALARS.index("ap_macro")] == pytest.approx(each[:3].mean())
    kept = metrics.f1_score(truth[weights > 0], scores[weights > 0] > 0.5, average=None)
    assert drawn[SCALARS.index("f1_macro")] == pytest.approx(kept[:3].mean())
    assert np.isfinite(drawn[: len(SCALARS)]).all()


def test_confidence_is_binned_from_the_first_to_the_last_bin():
    scores = np.array([[0.0], [1.0]], np.float32)
    gaps = calibration_gaps(np.array([[1], [0]], np.uint8), scores, multilabel=True)
    assert gaps[0].tolist() == [-1.0, *[0.0] * 14]
    assert gaps[1].tolist() == [*[0.0] * 14, 1.0]
