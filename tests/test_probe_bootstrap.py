"""Intervals hold what they promise, and claims are made as rarely as they promise."""

import numpy as np
import pytest

from tilezoo.errors import ProbeError
from tilezoo.io import to_builtins
from tilezoo.probe.bootstrap import (
    Measured,
    Resampling,
    all_claims,
    centre,
    find_differences,
    find_p_values,
    holm,
    interval,
    measure,
)
from tilezoo.probe.scores import MACRO, SCALARS, Ranking, Scorer

ACCURACY, ECE = SCALARS.index("accuracy"), SCALARS.index("ece")


def draws(tiles, replicates, seed, blocks=None):
    resampling = Resampling(tiles=tiles, replicates=replicates, seed=seed, blocks=blocks)
    return np.stack([resampling.weights(r) for r in range(replicates)]).astype(float)


def test_intervals_of_95_percent_hold_the_truth_in_93_to_97_percent_of_repeats():
    truth, tiles, repeats = 0.7, 300, 1000
    weights, held = draws(tiles, 1000, seed=0), 0
    for repeat in range(repeats):
        right = np.random.default_rng([1, repeat]).random(tiles) < truth
        replicates = weights @ right.astype(float) / tiles
        low, high = interval(centre(np.array([right.mean()]), replicates[:, None]))
        held += bool(low[0] <= truth <= high[0])
    assert 0.93 <= held / repeats <= 0.97


def models_of_equal_worth(tiles, seed, count=2):
    """Labels of one class, and scores of models that see it equally well through their own noise."""
    rng = np.random.default_rng([5, seed])
    truth = (rng.random(tiles) < 0.3).astype(np.uint8)
    noise = rng.normal(size=tiles)
    scores = [truth + noise + 0.5 * rng.normal(size=tiles) for _ in range(count)]
    return truth, [one.astype(np.float32) for one in scores]


@pytest.fixture(scope="module")
def average_precisions():
    """AP of two models of equal worth on 400 test sets of 1,000 tiles, and on their resamples."""
    resampling = Resampling(tiles=1000, replicates=400, seed=0)
    weights = [resampling.weights(r) for r in range(400)]
    found = []
    for repeat in range(400):
        truth, scores = models_of_equal_worth(1000, repeat)
        rankings = [Ranking(truth, one) for one in scores]
        values = np.array([one.average_precision(np.ones(1000, np.int32)) for one in rankings])
        drawn = np.array([[one.average_precision(w) for one in rankings] for w in weights])
        found.append((values, drawn))
    return found


def test_intervals_of_average_precision_hold_the_truth_as_often(average_precisions):
    truth, scores = models_of_equal_worth(400_000, 10**6, count=1)
    expected = Ranking(truth, scores[0]).average_precision(np.ones(400_000, np.int32))
    bounds = np.stack([interval(centre(values, drawn)) for values, drawn in average_precisions])
    held = ((bounds[:, 0] <= expected) & (expected <= bounds[:, 1])).mean(axis=0)
    assert ((held >= 0.93) & (held <= 0.97)).all()


def test_equal_models_are_told_apart_by_average_precision_at_the_nominal_rate(average_precisions):
    claimed = 0
    for values, drawn in average_precisions:
        low, high = interval(centre(-np.diff(values), -np.diff(drawn)))
        claimed += not low[0] <= 0 <= high[0]
    assert 0.03 <= claimed / 400 <= 0.07


def test_blocks_are_drawn_whole_and_widen_intervals():
    blocks = np.repeat(np.arange(20), 50)
    weights = draws(1000, 200, seed=0, blocks=blocks)
    assert all((row.reshape(20, 50) == row[::50, None]).all() for row in weights)
    right = np.random.default_rng(0).random(20).repeat(50) > 0.5  # alike within a block
    by_block = (weights @ right / weights.sum(axis=1)).std()
    by_tile = (draws(1000, 200, seed=0) @ right / 1000).std()
    assert by_block > 4 * by_tile


def test_intervals_of_40_blocks_hold_the_truth_about_as_often_and_of_few_less():
    def held(count, repeats=1000):
        blocks = np.repeat(np.arange(count), 25)
        weights, found = draws(25 * count, 600, seed=0, blocks=blocks), 0
        for repeat in range(repeats):
            rng = np.random.default_rng([9, repeat])
            right = rng.random(25 * count) < rng.beta(3, 1.5, count)[blocks]  # 2/3 on average
            drawn = weights @ right.astype(float) / weights.sum(axis=1)
            low, high = interval(centre(np.array([right.mean()]), drawn[:, None]))
            found += bool(low[0] <= 2 / 3 <= high[0])
        return found / repeats

    assert 0.93 <= held(40) <= 0.97
    assert held(15, 600) < 0.93  # which results say


def test_one_seed_draws_the_same_for_every_model_whatever_the_order():
    resampling = Resampling(tiles=50, replicates=10, seed=3)
    forwards = [resampling.weights(r) for r in range(10)]
    backwards = [resampling.weights(r) for r in reversed(range(10))]
    assert all((a == b).all() for a, b in zip(forwards, reversed(backwards), strict=True))
    assert not (forwards[0] == forwards[1]).all()
    assert {int(row.sum()) for row in forwards} == {50}


@pytest.mark.parametrize(
    ("tiles", "blocks", "called"),
    [
        (1, None, "tile"),
        (30, np.zeros(30, np.int64), "block"),
        (30, np.zeros(30, np.int64), "group"),
    ],
)
def test_one_tile_block_or_group_has_no_interval(tiles, blocks, called):
    with pytest.raises(ProbeError, match=f"holds 1 {called}:"):
        Resampling(tiles=tiles, replicates=100, seed=0, blocks=blocks, called=called)


def test_a_biased_score_lies_within_its_interval():
    rng = np.random.default_rng(0)
    scores = rng.random((200, 3)).astype(np.float32)
    truth = (rng.random((200, 3)) < scores).astype(np.uint8)  # calibrated: resamples look worse
    found = measure(
        Scorer(truth, scores, "multilabel"), Resampling(tiles=200, replicates=300, seed=0)
    )
    assert found.replicates[:, ECE].mean() > found.values[ECE] * 1.1
    low, high = interval(centre(found.values, found.replicates))
    assert (low <= found.values).all()
    assert (found.values <= high).all()


def measured(right, weights):
    """Accuracy of one model on given resamples, in the place of every metric."""
    values = np.full(len(SCALARS), right.mean())
    drawn = weights @ right.astype(float) / len(right)
    replicates = np.repeat(drawn[:, None], len(SCALARS), axis=1)
    return Measured(values=values, replicates=replicates)


def test_two_equal_models_are_told_apart_at_the_nominal_rate_only():
    tiles, repeats = 300, 1000
    weights, claimed = draws(tiles, 1000, seed=0), 0
    for repeat in range(repeats):
        rng = np.random.default_rng([2, repeat])
        shared = rng.random(tiles) < 0.5  # both models find the same tiles easy
        first, second = (shared | (rng.random(tiles) < 0.4) for _ in range(2))
        pair = (measured(first, weights), measured(second, weights))
        found = find_differences(("a", "b"), pair, [])[ACCURACY]
        claimed += not found.low <= 0 <= found.high
    assert 0.035 <= claimed / repeats <= 0.065


def test_a_model_and_itself_differ_by_nothing():
    right = np.random.default_rng(0).random(100) < 0.5
    one = {"linear": measured(right, draws(100, 100, seed=0))}
    entries = all_claims([("a", "b")], {"a": one, "b": one}, [])
    assert {(e.absolute, e.low, e.high, e.p) for e in entries} == {(0, 0, 0, 1)}
    assert all("no difference" in entry.claim for entry in entries)


def test_pairing_finds_what_two_intervals_would_hide():
    rng = np.random.default_rng(0)
    second = rng.random(2000) < 0.6
    first = second | (rng.random(2000) < 0.03)  # right wherever the other is, and a little more
    weights = draws(2000, 300, seed=0)
    models = {name: {"linear": measured(r, weights)} for name, r in (("a", first), ("b", second))}
    low, high = interval(centre(models["a"]["linear"].values, models["a"]["linear"].replicates))
    assert low[0] < second.mean()
    entries = {e.metric: e for e in all_claims([("a", "b")], models, [])}
    assert entries["accuracy"].low > 0
    assert entries["accuracy"].relative == pytest.approx(first.mean() / second.mean() - 1)
    assert entries["accuracy"].claim.startswith("a is better than b by accuracy: +0.0")
    assert entries["ece"].claim.startswith("a is worse than b by ece")  # less is better
    assert set(to_builtins(entries["accuracy"])) == {
        "a", "b", "method", "metric", "absolute", "relative", "low", "high", "p", "p_holm",
        "may_be_claimed", "claim",
    }  # fmt: skip
    assert (high > low).all()


def test_many_pairs_are_held_to_holms_correction():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    rng, weights = np.random.default_rng(4), draws(500, 400, seed=0)
    models = {f"m{n}": {"linear": measured(rng.random(500) < 0.5, weights)} for n in range(8)}
    pairs = [(f"m{a}", f"m{b}") for a in range(8) for b in range(a)]
    entries = [e for e in all_claims(pairs, models, []) if e.metric == "accuracy"]
    bare = [e for e in entries if not e.low <= 0 <= e.high]
    assert bare  # of 28 pairs of equal models, some look different
    for entry in bare:
        assert f"over 28 pairs (Holm's p = {entry.p_holm:.3f})" in entry.claim


def test_p_values_are_never_nought_and_agree_with_intervals():
    shifted = np.random.default_rng(0).normal([0, 1.9, 2.1, 9], 1, size=(4000, 4))
    p_values = find_p_values(shifted)
    assert p_values.min() == pytest.approx(2 / 4001)
    low, high = interval(shifted)
    assert ((p_values < 0.05) == ((low > 0) | (high < 0))).all()


def test_classes_are_compared_too():
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 2)) < 0.4).astype(np.uint8)
    found = []
    for noise in (0.5, 3.0):
        scores = (1 / (1 + np.exp(-rng.normal(truth, noise)))).astype(np.float32)
        resampling = Resampling(tiles=200, replicates=100, seed=0)
        found.append({"knn": measure(Scorer(truth, scores, "multilabel"), resampling)})
    models = dict(zip("ab", found, strict=True))
    entries = [
        e for e in all_claims([("a", "b")], models, ["Inland waters", "Pastures"]) if e.class_name
    ]
    assert [(e.metric, e.class_name) for e in entries] == [
        ("ap_per_class", "Inland waters"),
        ("ap_per_class", "Pastures"),
    ]
    assert "a is better than b by AP of Pastures" in entries[1].claim
    assert to_builtins(entries[1])["class"] == "Pastures"


def test_resamples_that_lack_a_class_have_no_macro_scores():
    """A model that ranks at random scores about 0.5 on two classes, and never 1."""
    rng = np.random.default_rng(0)
    sheets = np.repeat(np.arange(10), 40)
    positive = np.isin(sheets, [1, 4, 8])
    truth = np.stack([~positive, positive], axis=1).astype(np.uint8)
    scores = rng.random((400, 1)).astype(np.float32)
    scorer = Scorer(truth, np.hstack([scores, 1 - scores]), "multiclass")
    found = measure(scorer, Resampling(tiles=400, replicates=400, seed=0, blocks=sheets))
    lacking = np.isnan(found.replicates[:, len(SCALARS) :]).any(axis=1)
    assert 0.005 < lacking.mean() < 0.08
    for name in SCALARS:
        unknown = np.isnan(found.replicates[:, SCALARS.index(name)])
        assert np.array_equal(unknown, lacking if name in MACRO else np.zeros_like(lacking)), name
    assert found.replicates[~lacking, SCALARS.index("ap_macro")].max() < 0.75


def test_macro_scores_stay_where_most_resamples_lack_a_class():
    truth = np.eye(6, dtype=np.uint8)[[0, 0, 0, 0, 0, 1, 2, 3, 4, 5]]
    scores = np.random.default_rng(0).random(truth.shape).astype(np.float32)
    scorer = Scorer(truth, scores, "multiclass")
    found = measure(scorer, Resampling(tiles=10, replicates=100, seed=0))
    assert not np.isnan(found.replicates[:, : len(SCALARS)]).any()
