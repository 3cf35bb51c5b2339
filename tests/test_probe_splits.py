"""Splits: each class alike, whole blocks, and a block's distance between train and test."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tilezoo.errors import OptionError, ProbeError
from tilezoo.probe.data import Joined
from tilezoo.probe.fitting import draw_subset
from tilezoo.probe.options import Probing, parse_fractions
from tilezoo.probe.splits import choose_kind, grid, leave_out_rare, make_split

RADIUS_KM = 6371.0088


def choices(**changed):
    usual = {
        "split": None, "block_deg": None, "block_km": None, "protocol": "standard", "task": None,
        "metric": None, "rare": "error", "fractions": None, "seeds": 1, "bootstrap": 100, "seed": 0,
    }  # fmt: skip
    return Probing(**{**usual, **changed})


def joined(y, *, splits=None, lonlat=None, side=0.001, task=None, groups=None):
    y = np.asarray(y, np.uint8)
    return Joined(
        ids=pa.array([f"t{n:05d}" for n in range(len(y))]),
        y=y,
        classes=tuple(f"class {c}" for c in range(y.shape[1])),
        task=task or ("multiclass" if (y.sum(1) == 1).all() else "multilabel"),
        splits=pa.array(splits or [None] * len(y), pa.string()),
        groups=groups,
        boxes=None if lonlat is None else np.hstack([lonlat - side / 2, lonlat + side / 2]),
        lonlat=lonlat,
        unlabelled=0,
        unmatched=0,
    )


def one_class(counts):
    return np.eye(len(counts), dtype=np.uint8)[np.repeat(np.arange(len(counts)), counts)]


def distances_km(first, second):
    """Great-circle distances by the haversine formula, shape (N, M)."""
    (lon, lat), (lon2, lat2) = np.radians(first).T[:, :, None], np.radians(second).T[:, None]
    h = np.sin((lat - lat2) / 2) ** 2
    h = h + np.cos(lat) * np.cos(lat2) * np.sin((lon - lon2) / 2) ** 2
    return 2 * RADIUS_KM * np.arcsin(np.sqrt(np.minimum(h, 1)))


def test_a_random_split_keeps_groups_whole():
    groups = np.repeat(np.arange(40), 5)
    both = joined(one_class([100, 100]), groups=groups)
    split = make_split(both, choices(), "random")
    sides = [set(groups[getattr(split, part)]) for part in ("train", "validation", "test")]
    assert sorted(group for side in sides for group in side) == list(range(40))
    assert 30 <= len(split.test) <= 50
    assert [len(set(groups[split.test])), split.blocks.max() + 1] == [len(sides[2])] * 2


def test_given_splits_are_taken_as_they_are():
    names = ["train", "test", None, "validation", "train"]
    both = joined(one_class([3, 2]), splits=names)
    split = make_split(both, choices(), choose_kind(both, choices()))
    found = {part: getattr(split, part).tolist() for part in ("train", "validation", "test")}
    assert found == {"train": [0, 4], "validation": [3], "test": [1]}
    assert (split.kind, split.unnamed, split.carved) == ("given", 1, False)
    assert split.order.tolist() == [0, 4, 3, 1]


def test_validation_is_taken_from_train_where_none_is_given():
    names = ["train"] * 100 + ["test"] * 20
    split = make_split(joined(one_class([60, 60]), splits=names), choices(), "given")
    assert split.carved
    assert len(split.validation) == 10
    assert sorted([*split.train, *split.validation]) == list(range(100))


def test_an_unknown_split_is_named():
    both = joined(one_class([2, 2]), splits=["train", "test", "holdout", "holdout"])
    with pytest.raises(ProbeError, match=r"unknown split 'holdout' \(2 tiles\)"):
        make_split(both, choices(), "given")


def test_splits_that_are_not_there_are_refused():
    both = joined(one_class([2, 2]))
    with pytest.raises(ProbeError, match="hold no splits; make them: --split random"):
        choose_kind(both, choices(split="given"))
    assert choose_kind(both, choices()) == "random"
    with pytest.raises(ProbeError, match="leaves no tile for test"):
        make_split(joined(one_class([2, 2]), splits=["train"] * 4), choices(), "given")


def test_a_random_split_gives_each_class_its_share():
    y = one_class([600, 300, 50, 10])
    split = make_split(joined(y), choices(), "random")
    assert sorted(split.order) == list(range(960))
    assert y[split.test].sum(0).tolist() == [120, 60, 10, 2]
    assert y[split.validation].sum(0).tolist() == [120, 60, 10, 2]
    other = make_split(joined(y), choices(seed=1), "random")
    assert other.test.tolist() != split.test.tolist()
    assert make_split(joined(y), choices(), "random").test.tolist() == split.test.tolist()


def test_rare_classes_of_many_labels_are_on_both_sides():
    rng = np.random.default_rng(0)
    y = (rng.random((2000, 6)) < (0.6, 0.4, 0.2, 0.1, 0.01, 0.005)).astype(np.uint8)
    split = make_split(joined(y), choices(), "random")
    for rows in (split.train, split.validation, split.test):
        assert (y[rows].sum(0) > 0).all()
    assert len(split.test) / 2000 == pytest.approx(0.2, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-180, 180),
    st.floats(-90, 90),
    st.floats(1.0, 3.5),
    st.integers(0, 10**6),
)
def test_no_test_tile_is_within_a_block_of_a_train_tile(lon, lat, log_km, seed):
    """All over the globe, across the antimeridian and at the poles, in kilometres."""
    side_km = 10**log_km
    rng = np.random.default_rng(seed)
    reach = side_km / 111 * 12
    east = rng.uniform(-reach, reach, 400) / max(0.05, np.cos(np.radians(lat)))
    lonlat = np.stack(
        [
            np.mod(lon + east + 180, 360) - 180,
            np.clip(lat + rng.uniform(-reach, reach, 400), -89.99, 89.99),
        ],
        axis=1,
    )
    both = joined(one_class([200, 200]), lonlat=lonlat)
    try:
        split = make_split(both, choices(split="blocks", block_km=side_km), "blocks")
    except ProbeError:  # so few blocks that all are near each other
        assume(False)
    learnt = np.concatenate([split.train, split.validation])
    assert distances_km(lonlat[split.test], lonlat[learnt]).min() >= side_km * (1 - 1e-9)
    assert len(learnt) + len(split.test) + split.near_test == 400


def test_blocks_in_degrees_keep_a_block_between_train_and_test_too():
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(150, 210, 3000), rng.uniform(-20, 30, 3000)], 1)
    lonlat[:, 0] = np.mod(lonlat[:, 0] + 180, 360) - 180
    both = joined(one_class([1500, 1500]), lonlat=lonlat)
    split = make_split(both, choices(split="blocks", block_deg=1.5), "blocks")
    learnt = np.concatenate([split.train, split.validation])
    apart = np.abs(lonlat[split.test][:, None] - lonlat[learnt][None])
    apart[..., 0] = np.minimum(apart[..., 0], 360 - apart[..., 0])
    assert apart.max(axis=2).min() >= 1.5
    assert len(split.test) / 3000 == pytest.approx(0.2, abs=0.1)
    assert split.near_test < 0.25 * 3000


def test_a_block_is_never_on_two_sides():
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(0, 10, 2000), rng.uniform(40, 50, 2000)], 1)
    split = make_split(
        joined(one_class([1000, 1000]), lonlat=lonlat), choices(block_km=40), "blocks"
    )
    cells = grid(block_deg=None, block_km=40).place(lonlat)
    sides = [{tuple(cell) for cell in cells[rows]} for rows in (split.train, split.test)]
    assert not sides[0] & sides[1]
    assert split.blocks is not None
    for block in range(split.blocks.max() + 1):  # resampled whole: one cell of the grid each
        assert len(np.unique(cells[split.test[split.blocks == block]], axis=0)) == 1


def test_few_train_tiles_are_lost_between_blocks_in_a_row():
    cells = np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2) + 0.5
    both = joined(one_class([800, 800]), lonlat=cells)
    split = make_split(both, choices(block_deg=1.0), "blocks")
    assert split.near_test / 1600 < 0.25  # single blocks dealt out would lose most


def test_only_the_neighbouring_blocks_are_near():
    blocks = grid(block_deg=1.0, block_km=None)
    cells = np.array([[row, column] for row in range(50, 60) for column in range(50, 60)])
    near = blocks.near(cells, np.array([[55, 55]]))
    assert {tuple(cell) for cell in cells[near]} == {
        (row, column) for row in (54, 55, 56) for column in (54, 55, 56)
    }
    around = np.array([[50, column] for column in range(360)])
    assert np.flatnonzero(blocks.near(around, np.array([[50, 0]]))).tolist() == [0, 1, 359]


def test_blocks_need_footprints_and_are_no_smaller_than_tiles():
    with pytest.raises(ProbeError, match="the tiles have no footprint"):
        make_split(joined(one_class([9, 9])), choices(block_km=5), "blocks")
    lonlat = np.random.default_rng(0).uniform(0, 10, (18, 2))
    lonlat[3] = np.nan
    with pytest.raises(ProbeError, match="1 tiles have no footprint"):
        make_split(joined(one_class([9, 9]), lonlat=lonlat), choices(block_km=5), "blocks")
    lonlat[3] = 5
    wide = joined(one_class([9, 9]), lonlat=lonlat, side=0.5)
    with pytest.raises(ProbeError, match=r"blocks of 0\.1° are smaller .* \(0\.5° high\)"):
        make_split(wide, choices(block_deg=0.1), "blocks")
    with pytest.raises(ProbeError, match=r"of 10 km are smaller .* \(55\.6 km high\).*--block-km"):
        make_split(wide, choices(block_km=10), "blocks")
    with pytest.raises(ProbeError, match=r"leaves no tile for .* smaller blocks"):
        make_split(joined(one_class([9, 9]), lonlat=lonlat), choices(block_deg=60), "blocks")


def test_a_class_that_train_or_test_lacks_is_named_with_its_counts():
    y = one_class([50, 50, 1])
    both = joined(y)
    split = make_split(both, choices(), "random")
    told = r"'class 2' is on 1 of \d+ tiles of train, 0 of \d+ of test.*--rare drop"
    with pytest.raises(ProbeError, match=told):
        leave_out_rare(both, split, "error")
    left = leave_out_rare(both, split, "drop")
    assert left.dropped == ("class 2",)
    assert left.joined.classes == ("class 0", "class 1")
    assert 100 not in left.split.order  # the tile of that class goes with it
    assert len(left.split.order) == 100


def test_a_class_of_every_train_tile_cannot_be_learnt():
    y = np.array([[1, 0, 1], [1, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1]])
    both = joined(y, splits=["train", "train", "validation", "test", "test"])
    split = make_split(both, choices(), "given")
    with pytest.raises(ProbeError, match="'class 0' is on 2 of 2 tiles of train"):
        leave_out_rare(both, split, "error")
    assert leave_out_rare(both, split, "drop").dropped == ("class 0",)


def test_a_test_set_of_one_class_is_refused():
    both = joined(one_class([4, 4]), splits=[*["train"] * 2, *["test"] * 2, *["train"] * 4])
    split = make_split(both, choices(), "given")
    with pytest.raises(ProbeError, match=r"'class 1' is on .* 0 of 2 of test"):
        leave_out_rare(both, split, "error")
    with pytest.raises(ProbeError, match="fewer than two are left"):
        leave_out_rare(both, split, "drop")


@given(st.floats(0.1, 100), st.integers(0, 50))
def test_a_part_of_train_holds_tiles_with_and_without_each_class(percent, seed):
    y = (np.random.default_rng(0).random((300, 4)) < (0.5, 0.2, 0.02, 0.98)).astype(np.uint8)
    rows = draw_subset(y, percent, seed)
    assert (np.diff(rows) > 0).all()
    assert round(300 * percent / 100) <= len(rows) <= max(1, round(300 * percent / 100)) + 8
    assert (y[rows].any(0) & ~y[rows].all(0)).all()


def test_all_of_train_is_all_of_it():
    y = one_class([5, 5])
    assert draw_subset(y, 100, 3).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"bootstrap": 50}, "--bootstrap 50"),
        ({"seeds": 0}, "--seeds 0"),
        ({"block_deg": 1.0, "block_km": 10.0}, "keep one"),
        ({"block_km": -1.0}, "--block-km -1"),
        ({"block_deg": 100.0}, "--block-deg 100"),
        ({"split": "blocks"}, "--split blocks needs the side of a block"),
        ({"fractions": "0.0"}, "--fractions 0"),
    ],
)
def test_choices_that_make_no_sense_are_refused(changed, told):
    with pytest.raises(OptionError, match=told):
        choices(**changed)


def test_fractions_are_percent_divided_by_commas():
    assert parse_fractions("100,1,10,1") == (1, 10, 100)
    assert parse_fractions(None) == ()
    with pytest.raises(OptionError, match="1,10,100"):
        parse_fractions("a few")
