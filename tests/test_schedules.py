"""Schedules: DINO's, in closed form and at their ends."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.errors import OptionError
from tilezoo.pretrain.recipe import cosine, find_recipe, make_schedules

VALUES = st.floats(-2, 2)
PUBLISHED = "dino-vits16-bigearthnet"


@given(VALUES, VALUES, st.integers(0, 40), st.integers(0, 40), VALUES)
def test_a_schedule_is_a_line_and_half_a_cosine(
    start: float, end: float, warmup: int, rest: int, low: float
) -> None:
    values = cosine(start, end, steps=warmup + rest, warmup_steps=warmup, warmup_from=low)
    line = [low + (start - low) * i / max(warmup - 1, 1) for i in range(warmup)]
    wave = [end + (start - end) * (1 + math.cos(math.pi * i / rest)) / 2 for i in range(rest)]
    assert values.dtype == np.float64
    assert values == pytest.approx(np.array(line + wave), abs=1e-12)


def test_a_schedule_starts_at_its_start_and_would_reach_its_end_one_step_later() -> None:
    values = cosine(3.0, 1.0, steps=10)
    longer = 1 + (1 + math.cos(math.pi * 10 / 10)) * (3 - 1) / 2
    assert values[0] == 3
    assert values[5] == pytest.approx(2)
    assert values[-1] > 1
    assert longer == pytest.approx(1)
    assert (np.diff(values) < 0).all()


def test_a_warm_up_goes_from_its_own_start_to_the_start_twice() -> None:
    values = cosine(1.0, 0.0, steps=8, warmup_steps=5)
    assert values[:6].tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


def test_a_schedule_that_is_all_warm_up_ends_at_its_start() -> None:
    assert cosine(2.0, 0.0, steps=3, warmup_steps=3).tolist() == [0, 1, 2]


def test_the_published_run_has_the_values_of_facebookresearch_dino_at_its_ends() -> None:
    recipe, steps = find_recipe(PUBLISHED), 7
    made = make_schedules(recipe, steps)
    lengths = {len(v) for v in (made.lr, made.weight_decay, made.teacher_momentum)}
    assert lengths == {700}
    assert made.lr[0] == 0
    assert made.lr[69] == made.lr[70] == made.lr.max() == 0.0005 * 128 / 256
    assert made.lr[-1] == pytest.approx(1e-6, rel=0.02)
    assert made.weight_decay[[0, -1]] == pytest.approx([0.04, 0.4], rel=1e-4)
    assert made.teacher_momentum[[0, -1]] == pytest.approx([0.996, 1], rel=1e-6)
    assert (np.diff(made.weight_decay) > 0).all()
    assert (np.diff(made.teacher_momentum) > 0).all()


@pytest.mark.parametrize("batch", [16, 256, 1024])
def test_the_learning_rate_grows_with_the_batch(batch: int) -> None:
    recipe = find_recipe(PUBLISHED, [f"batch_size={batch}"])
    assert make_schedules(recipe, 3).lr.max() == pytest.approx(0.0005 * batch / 256)


def test_the_teachers_temperature_rises_from_epoch_to_epoch_and_stays() -> None:
    settings = ["epochs=5", "warmup_epochs=1", "teacher_temp=0.07", "warmup_teacher_temp_epochs=3"]
    temps = make_schedules(find_recipe(PUBLISHED, settings), 2).teacher_temp
    expected = np.repeat([0.04, 0.055, 0.07, 0.07, 0.07], 2)
    assert temps == pytest.approx(expected)


def test_a_temperature_that_never_warms_up_is_the_same_throughout() -> None:
    assert set(make_schedules(find_recipe(PUBLISHED), 2).teacher_temp) == {0.04}


def test_a_temperature_that_warms_up_for_longer_than_the_run_is_refused() -> None:
    recipe = find_recipe(PUBLISHED, ["epochs=12", "warmup_teacher_temp_epochs=30"])
    with pytest.raises(OptionError, match=r"warmup_teacher_temp_epochs=30: must be in 0\.\.epochs"):
        make_schedules(recipe, 2)
