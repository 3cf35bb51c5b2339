"""Schedules: what changes from step to step, worked out for the whole run before it begins."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import OptionError
from tilezoo.pretrain.recipe import Recipe

Values = NDArray[np.float64]
_REFERENCE_BATCH = 256  # tiles; what a recipe's lr is stated for (arXiv:2104.14294, section 3.2)


@dataclass(frozen=True, kw_only=True)
class Schedules:
    """One value for each step of a run, shape (epochs × steps of an epoch,).

    Attributes:
        lr: Learning rate, for this batch size.
        weight_decay: Of the regularised parameters.
        teacher_momentum: λ of the teacher's moving average.
        teacher_temp: τ_t; the same through an epoch.
    """

    lr: Values
    weight_decay: Values
    teacher_momentum: Values
    teacher_temp: Values


def cosine(
    start: float, end: float, *, steps: int, warmup_steps: int = 0, warmup_from: float = 0.0
) -> Values:
    """Go from `start` towards `end` by half a cosine, after a linear warm-up to `start`.

    The warm-up holds both its ends, so `start` comes twice; `end` itself would be one step on.

    Args:
        start: Value at the end of the warm-up.
        end: Value that is approached.
        steps: Length of the schedule, warm-up included.
        warmup_steps: Length of the warm-up.
        warmup_from: Value of step 0 where there is a warm-up.

    Returns:
        Shape (steps,).

    Source:
        facebookresearch/dino at 7c446df, utils.py, cosine_scheduler.
    """
    warmup = np.linspace(warmup_from, start, warmup_steps)
    count = steps - warmup_steps
    phase = np.pi * np.arange(count) / max(count, 1)
    return np.concatenate([warmup, end + 0.5 * (start - end) * (1 + np.cos(phase))])


def make_schedules(recipe: Recipe, steps_per_epoch: int) -> Schedules:
    """Work out every step's learning rate, weight decay, momentum and teacher temperature.

    Raises:
        OptionError: The teacher's temperature would warm up for longer than the run.

    Source:
        facebookresearch/dino at 7c446df, main_dino.py, train_dino and DINOLoss.
    """
    steps = recipe.epochs * steps_per_epoch
    return Schedules(
        lr=cosine(
            recipe.lr * recipe.batch_size / _REFERENCE_BATCH,
            recipe.min_lr,
            steps=steps,
            warmup_steps=recipe.warmup_epochs * steps_per_epoch,
        ),
        weight_decay=cosine(recipe.weight_decay, recipe.weight_decay_end, steps=steps),
        teacher_momentum=cosine(recipe.teacher_momentum, 1.0, steps=steps),
        teacher_temp=np.repeat(_teacher_temps(recipe), steps_per_epoch),
    )


def _teacher_temps(recipe: Recipe) -> Values:
    """τ_t of each epoch, shape (epochs,)."""
    warmup, epochs = recipe.warmup_teacher_temp_epochs, recipe.epochs
    if not 0 <= warmup <= epochs:
        raise OptionError(f"warmup_teacher_temp_epochs={warmup}: must be in 0..epochs={epochs}")
    rising = np.linspace(recipe.warmup_teacher_temp, recipe.teacher_temp, warmup)
    return np.concatenate([rising, np.full(epochs - warmup, recipe.teacher_temp)])
