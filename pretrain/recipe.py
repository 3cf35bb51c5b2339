"""Recipes: every choice of a pretraining, as data that checks itself."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import OptionError
from tilezoo.io import canonical_json, sha256_text

MeanStd = Literal["imagenet", "measured"]
Centering = Literal["mean", "sinkhorn"]
_ABOVE_ZERO = (
    "global_px", "local_px", "epochs", "batch_size", "lr", "out_dim", "hidden_dim",
    "bottleneck_dim", "student_temp", "teacher_temp", "warmup_teacher_temp", "keep_checkpoints",
)  # fmt: skip
_SHARES = (
    "hflip", "vflip", "jitter", "grayscale", "blur_first", "blur_second", "blur_local", "solarize",
    "center_momentum", "teacher_momentum", "drop_path",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Every choice that can change the weights of a pretraining; flat, so `--set k=v` reaches all.

    The letters and defaults are those of Caron et al. 2021 (arXiv:2104.14294) and its code,
    facebookresearch/dino, as the recipes state them.

    Attributes:
        architecture: timm's name of a vision transformer.
        global_px: Side of the two global crops, pixels; the size the network is built for.
        global_scale: Smallest and largest share of the tile's area a global crop covers.
        local_crops: How many local crops a tile gives.
        local_px: Side of a local crop, pixels.
        local_scale: Smallest and largest share of the tile's area a local crop covers.
        hflip: Probability of a mirrored crop.
        vflip: Probability of an upside-down crop (overhead imagery has no up; DINO's is 0).
        jitter: Probability of colour jitter.
        brightness: Factors are drawn from 1 ± this; so for contrast and saturation.
        contrast: See brightness.
        saturation: See brightness; RGB bands only.
        hue: Shift drawn from ± this share of the colour circle; RGB bands only.
        grayscale: Probability of losing colour; RGB bands only.
        blur_first: Probability of a Gaussian blur (sigma 0.1–2 px) of the first global crop.
        blur_second: The same of the second.
        blur_local: The same of local crops.
        solarize: Probability of solarising the second global crop.
        out_dim: K, outputs of the projection head.
        hidden_dim: Width of its hidden layers.
        bottleneck_dim: Width before its last layer.
        norm_last_layer: Keep the last layer's weights at length one.
        drop_path: Stochastic depth of the student.
        student_temp: Temperature τ_s.
        warmup_teacher_temp: τ_t at the start.
        teacher_temp: τ_t after its warm-up.
        warmup_teacher_temp_epochs: Epochs in which τ_t grows, linearly.
        centering: `mean`: c is a moving average, as in DINO; `sinkhorn`: every batch is spread
            over all outputs, as in DINOv2, for small batches of like images.
        center_momentum: m of the centre.
        teacher_momentum: λ at the start; it grows to 1 by a cosine.
        epochs: Passes over the tiles.
        batch_size: Tiles per step, over all processes.
        lr: Learning rate of 256 tiles; scaled linearly with the batch.
        min_lr: At the end.
        warmup_epochs: Epochs in which the learning rate grows from 0, linearly.
        weight_decay: At the start; it follows a cosine.
        weight_decay_end: At the end.
        clip_grad: Largest norm of one parameter's gradient; 0 for no clipping.
        freeze_last_layer_epochs: Epochs in which the last layer stays as it is.
        mean_std: What pixels are normalised with.
        split: Tiles that are trained on; `all` for every one. Packs without splits are taken whole.
        seed: Of everything random.
        checkpoint_every_epochs: How often a checkpoint is kept for good.
        keep_checkpoints: How many of those are kept, the newest.
        knn_every_epochs: How often labelled tiles are classified by kNN; 0 for never.
    """

    architecture: str
    global_px: int
    global_scale: tuple[float, float]
    local_crops: int
    local_px: int
    local_scale: tuple[float, float]
    hflip: float
    vflip: float
    jitter: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grayscale: float
    blur_first: float
    blur_second: float
    blur_local: float
    solarize: float
    out_dim: int
    hidden_dim: int
    bottleneck_dim: int
    norm_last_layer: bool
    drop_path: float
    student_temp: float
    warmup_teacher_temp: float
    teacher_temp: float
    warmup_teacher_temp_epochs: int
    centering: Centering
    center_momentum: float
    teacher_momentum: float
    epochs: int
    batch_size: int
    lr: float
    min_lr: float
    warmup_epochs: int
    weight_decay: float
    weight_decay_end: float
    clip_grad: float
    freeze_last_layer_epochs: int
    mean_std: MeanStd
    split: str
    seed: int
    checkpoint_every_epochs: int
    keep_checkpoints: int
    knn_every_epochs: int

    def __post_init__(self) -> None:
        """Refuse values that make no sense together or alone."""
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise OptionError(f"{name}={getattr(self, name)}: must be above 0")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name}={getattr(self, name)}: must be in 0..1")
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise OptionError(f"{name}={low},{high}: write LOW,HIGH with 0 < LOW <= HIGH <= 1")
        if self.local_crops < 0 or self.warmup_epochs < 0 or self.knn_every_epochs < 0:
            raise OptionError("local_crops, warmup_epochs and knn_every_epochs must be 0 or more")
        if self.warmup_epochs > self.epochs:
            raise OptionError(f"warmup_epochs={self.warmup_epochs} exceeds epochs={self.epochs}")
        for name, kinds in (("mean_std", MeanStd), ("centering", Centering)):
            if getattr(self, name) not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                raise OptionError(f"{name}={getattr(self, name)}: one of {known}")

    @property
    def crops(self) -> int:
        """V, crops of a tile: two global ones and the local ones."""
        return 2 + self.local_crops

    @property
    def sha256(self) -> str:
        """Hash over all fields; 64 hex digits."""
        return sha256_text(canonical_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON gives it back."""
        return dict(json.loads(json.dumps(asdict(self))))


@cache
def _book() -> dict[str, dict[str, Any]]:
    """Read recipes.json: name → fields, on top of those of the recipe it `extends`."""
    text = files("tilezoo.pretrain").joinpath("recipes.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def recipe_names() -> list[str]:
    """Name every recipe that ships."""
    return list(_book())


def find_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """Take a recipe by name and change it by `key=value` settings.

    Raises:
        OptionError: No such recipe, no such field, or a value that makes no sense.
    """
    if name not in _book():
        near = get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(recipe_names())}"
        raise OptionError(f"no recipe {name!r}; {hint}")
    return replace(recipe_from(_whole(name)), **dict(map(_setting, settings)))


def _whole(name: str) -> dict[str, Any]:
    own = dict(_book()[name])
    base = own.pop("extends", None)
    own.pop("about", None)
    return {**(_whole(base) if base else {}), **own}


def recipe_from(stored: Mapping[str, Any]) -> Recipe:
    """Build a recipe from JSON.

    Raises:
        OptionError: Fields are missing or unknown.
    """
    names = {field.name for field in fields(Recipe)}
    if names != set(stored):
        odd = ", ".join(sorted(names ^ set(stored)))
        raise OptionError(f"not a recipe of this version: {odd} missing or unknown")
    pairs = {name: tuple(value) for name, value in stored.items() if isinstance(value, list)}
    return Recipe(**{**stored, **pairs})


def _setting(text: str) -> tuple[str, Any]:
    """Read one `key=value` in the type of the field it names."""
    name, equals, written = text.partition("=")
    kinds = {field.name: field.type for field in fields(Recipe)}
    if not equals or name not in kinds:
        near = get_close_matches(name, kinds, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see the recipe in RUN/run.json"
        raise OptionError(f"--set {text}: no such field; {hint}")
    try:
        return name, _read(written, kinds[name])
    except ValueError as error:
        raise OptionError(f"--set {text}: {error}") from error


def _read(written: str, kind: Any) -> Any:
    if get_origin(kind) is tuple:
        low, high = (float(part) for part in written.split(","))
        return low, high
    if kind is bool:
        if written.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return written.lower() == "true"
    if kind in (int, float):
        return kind(written)
    return written


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
