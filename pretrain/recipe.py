"""Recipes: every choice of a pretraining, as data that checks itself; and a recipe's schedules."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_origin

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import OptionError
from tilezoo.io import canonical_json, from_builtins, sha256_text
from tilezoo.options import choices_of

Values = NDArray[np.float64]

_REFERENCE_BATCH = 256  # tiles; what a recipe's lr is stated for (arXiv:2104.14294, section 3.2)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which numbers a field may be: `least` to `most`, or more than `least`."""

    least: float
    most: float = math.inf
    above: bool = False

    def check(self, name: str, value: float) -> None:
        """Refuse a number out of bounds, and what is no number."""
        large_enough = value > self.least if self.above else value >= self.least
        if large_enough and value <= self.most and math.isfinite(value):
            return
        if math.isfinite(self.most):
            allowed = f"in {self.least:g}..{self.most:g}"
        else:
            allowed = f"above {self.least:g}" if self.above else f"{self.least:g} or more"
        raise OptionError(f"{name}={value}: must be {allowed}")


ABOVE_0, LEAST_0 = Bounds(0, above=True), Bounds(0)
SHARE, HALF = Bounds(0, 1), Bounds(0, 0.5)
# Sizes that no network of this kind has; beyond, no memory holds what they ask for.
SIDE, OUTPUTS, WIDTH = Bounds(1, 4096), Bounds(1, 2**20), Bounds(1, 2**14)
CROPS, JITTER = Bounds(0, 256), Bounds(0, 100)
SEEDS = Bounds(0, 2**24 - 1)  # with a step and a process it makes torch's, of 64 bits
_MOST_STEPS = 20_000_000  # of a run; a schedule holds a number for each


def setting(help: str, bounds: Bounds | None = None) -> Any:
    """State a field of a recipe: what it means and, where it is a number, its bounds."""
    return field(metadata={"help": help, "bounds": bounds})


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every choice that can change the weights of a pretraining; flat, so `--set k=v` reaches all.

    The letters and defaults are those of Caron et al. 2021 (arXiv:2104.14294) and its code,
    facebookresearch/dino, as the recipes state them.
    """

    architecture: str = setting("timm's name of a vision transformer.")
    # Crops and colours: facebookresearch/dino at 7c446df, main_dino.py, DataAugmentationDINO.
    global_px: int = setting(
        "Side of the two global crops, pixels; the size the network is built for.", SIDE
    )
    global_scale: tuple[float, float] = setting(
        "Smallest and largest share of the tile's area a global crop covers."
    )
    local_crops: int = setting("How many local crops a tile gives.", CROPS)
    local_px: int = setting("Side of a local crop, pixels.", SIDE)
    local_scale: tuple[float, float] = setting(
        "Smallest and largest share of the tile's area a local crop covers."
    )
    hflip: float = setting("Probability of a mirrored crop.", SHARE)
    vflip: float = setting(
        "Probability of an upside-down crop; overhead imagery has no up, DINO's is 0.", SHARE
    )
    jitter: float = setting("Probability of colour jitter.", SHARE)
    brightness: float = setting("Factors are drawn from 1 ± this; so for the next two.", JITTER)
    contrast: float = setting("See brightness.", JITTER)
    saturation: float = setting("See brightness; RGB bands only.", JITTER)
    hue: float = setting(
        "Shift drawn from ± this, turns of the colour circle; RGB bands only.", HALF
    )
    grayscale: float = setting("Probability of losing colour; RGB bands only.", SHARE)
    blur_first: float = setting(
        "Probability of a Gaussian blur (sigma 0.1 to 2 px) of the first global crop.", SHARE
    )
    blur_second: float = setting("The same of the second.", SHARE)
    blur_local: float = setting("The same of local crops.", SHARE)
    solarize: float = setting("Probability of solarising the second global crop.", SHARE)
    # The head: arXiv:2104.14294, appendix C.
    out_dim: int = setting("K, outputs of the projection head.", OUTPUTS)
    hidden_dim: int = setting("Width of its hidden layers.", WIDTH)
    bottleneck_dim: int = setting("Width before its last layer.", WIDTH)
    norm_last_layer: bool = setting("Keep the last layer's weights at length one.")
    drop_path: float = setting("Stochastic depth of the student.", SHARE)
    # The loss: arXiv:2104.14294, section 3.1.
    student_temp: float = setting("Temperature τ_s.", ABOVE_0)
    warmup_teacher_temp: float = setting("τ_t at the start.", ABOVE_0)
    teacher_temp: float = setting("τ_t after its warm-up.", ABOVE_0)
    warmup_teacher_temp_epochs: int = setting("Epochs in which τ_t grows, linearly.", LEAST_0)
    centering: Literal["mean", "sinkhorn"] = setting(
        "mean: c is a moving average, as in DINO; sinkhorn: every batch is spread over all "
        "outputs, as in DINOv2, for small batches of like images."
    )
    center_momentum: float = setting("m of the centre.", SHARE)
    teacher_momentum: float = setting("λ at the start; it grows to 1 by a cosine.", SHARE)
    # The optimiser: arXiv:2104.14294, section 3.2.
    epochs: int = setting("Passes over the tiles.", ABOVE_0)
    batch_size: int = setting("Tiles per step, over all processes.", ABOVE_0)
    lr: float = setting("Learning rate of 256 tiles; scaled linearly with the batch.", ABOVE_0)
    min_lr: float = setting("Learning rate at the end.", LEAST_0)
    warmup_epochs: int = setting(
        "Epochs in which the learning rate grows from 0, linearly.", LEAST_0
    )
    weight_decay: float = setting("At the start; it follows a cosine.", LEAST_0)
    weight_decay_end: float = setting("At the end.", LEAST_0)
    clip_grad: float = setting(
        "Largest norm of one parameter's gradient; 0 for no clipping.", LEAST_0
    )
    freeze_last_layer_epochs: int = setting(
        "Epochs in which the last layer stays as it is.", LEAST_0
    )
    mean_std: Literal["imagenet", "measured"] = setting("What pixels are normalised with.")
    split: str = setting(
        "Tiles that are trained on; all for every one. Packs without splits are taken whole."
    )
    seed: int = setting("Of everything random.", SEEDS)
    checkpoint_every_epochs: int = setting("How often a checkpoint is kept for good.", ABOVE_0)
    keep_checkpoints: int = setting("How many of those are kept, the newest.", ABOVE_0)
    knn_every_epochs: int = setting(
        "How often labelled tiles are classified by kNN; 0 for never.", LEAST_0
    )

    def __post_init__(self) -> None:
        """Refuse values that make no sense together or alone."""
        for each in fields(self):
            _check(each, getattr(self, each.name))
        if self.warmup_epochs > self.epochs:
            raise OptionError(f"warmup_epochs={self.warmup_epochs} exceeds epochs={self.epochs}")

    @property
    def crops(self) -> int:
        """V, crops of a tile: two global ones and the local ones."""
        return 2 + self.local_crops

    @property
    def sha256(self) -> str:
        """Hash over all fields; 64 hex digits."""
        return sha256_text(canonical_json(self.to_json()))

    def to_json(self) -> dict[str, object]:
        """Write it as JSON gives it back."""
        return dict(json.loads(json.dumps(asdict(self))))


def _check(checked: Field[Any], value: object) -> None:
    """Refuse a field's value by its rule."""
    name, choices = checked.name, choices_of(checked.type)
    if choices and value not in choices:
        raise OptionError(f"{name}={value}: one of {', '.join(choices)}")
    if isinstance(value, tuple):
        low, high = value
        if not 0 < low <= high <= 1:
            raise OptionError(f"{name}={low},{high}: write LOW,HIGH with 0 < LOW <= HIGH <= 1")
    elif bounds := checked.metadata["bounds"]:
        bounds.check(name, value)


def recipe_names() -> list[str]:
    """Name every recipe that ships."""
    return list(_read_book())


def find_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Take a recipe by name and change it by `key=value` settings.

    Raises:
        OptionError: No such recipe, no such field, or a value that makes no sense.
    """
    if name not in _read_book():
        near = get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(recipe_names())}"
        raise OptionError(f"no recipe {name!r}; {hint}")
    changes: dict[str, Any] = dict(map(_read_change, settings))
    return replace(from_builtins(_extend(name), Recipe), **changes)


@cache
def _read_book() -> Mapping[str, Mapping[str, object]]:
    """Read recipes.json: name → fields, on top of those of the recipe it `extends`."""
    text = files("tilezoo.pretrain").joinpath("recipes.json").read_text(encoding="utf-8")
    return from_builtins(json.loads(text), dict[str, dict[str, object]])


def _extend(name: str) -> dict[str, object]:
    """Put a recipe's own fields on top of those it extends.

    Raises:
        OptionError: One of them is no field.
    """
    own = {key: value for key, value in _read_book()[name].items() if key != "about"}
    base = own.pop("extends", None)
    if unknown := own.keys() - {each.name for each in fields(Recipe)}:
        raise OptionError(f"recipe {name}: no field {min(unknown)}")
    return {**(_extend(str(base)) if base else {}), **own}


def _read_change(text: str) -> tuple[str, object]:
    """Read one `key=value` in the type of the field it names."""
    name, equals, written = text.partition("=")
    kinds = {each.name: each for each in fields(Recipe)}
    if name in kinds and not equals:
        raise OptionError(f"--set {text}: write {name}=VALUE ({kinds[name].metadata['help']})")
    if name not in kinds:
        near = get_close_matches(name, kinds, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see the recipe in RUN/run.json"
        raise OptionError(f"--set {text}: no such field; {hint}")
    try:
        return name, _read_value(written, kinds[name].type)
    except ValueError as error:
        raise OptionError(f"--set {text}: {error} ({kinds[name].metadata['help']})") from error


def _read_value(written: str, kind: Any) -> object:
    if get_origin(kind) is tuple:
        low, high = (float(part) for part in written.split(","))
        return low, high
    if kind is bool:
        if written.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return written.lower() == "true"
    return kind(written) if kind in (int, float) else written


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
        OptionError: The teacher's temperature would warm up for longer than the run, or the run is
            too long.

    Source:
        facebookresearch/dino at 7c446df, main_dino.py, train_dino and DINOLoss.
    """
    steps = recipe.epochs * steps_per_epoch
    if steps > _MOST_STEPS:
        raise OptionError(
            f"epochs={recipe.epochs}: {steps:,} steps of {recipe.batch_size} tiles; a run has at most "
            f"{_MOST_STEPS:,}"
        )
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
