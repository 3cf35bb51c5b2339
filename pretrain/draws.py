"""What is drawn for every crop: where it lies, and what is done to its colours."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilezoo.pretrain.recipe import Recipe

_Numbers = NDArray[np.float64]
_Words = NDArray[np.uint64]

# The finaliser of SplitMix64 and its increment: Steele, Lea & Flood 2014, "Fast splittable
# pseudorandom number generators", OOPSLA, doi:10.1145/2660193.2660195, figure 17.
_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_ALL_BITS = (1 << 64) - 1
_SPARE_BITS = np.uint64(11)  # a float64 holds 53 of the 64

GLOBAL_CROPS = 2
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # columns of `Draw.factors`
NEUTRAL = np.array([1.0, 1.0, 1.0, 0.0])  # factors that change nothing

_ORDERS = np.array(list(permutations(range(4))))
# torchvision's RandomResizedCrop: 10 attempts, aspect 3/4..4/3, its logarithm uniform.
_ATTEMPTS = 10
_LOG_RATIO = math.log(4 / 3)
# facebookresearch/dino, utils.py, GaussianBlur: the standard deviation in pixels.
_SIGMA_PX = (0.1, 2.0)

# How many random numbers a crop takes, and for what. Change this, and every crop is another: runs
# under way would not go on as they began.
_SLOTS = {
    "area": _ATTEMPTS, "ratio": _ATTEMPTS, "corner": 2, "flips": 2, "jitter": 1, "order": 1,
    "factors": 4, "grayscale": 1, "blur": 1, "sigma": 1, "solarize": 1,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """All that is random about the crops of B tiles, V each: the two global ones, then the local.

    Attributes:
        size_px: Side of the tiles.
        boxes: top, left, height, width in pixels of the tile, shape (B, V, 4).
        flips: Upside down, mirrored, shape (B, V, 2).
        order: In which order brightness, contrast, saturation and hue (0 to 3) are changed,
            shape (B, V, 4).
        factors: What those four are changed by, hue in turns of the colour circle; `NEUTRAL`
            where a crop is not jittered. Shape (B, V, 4).
        grayscale: Whether colour is lost, shape (B, V).
        sigmas: Standard deviation of the blur, pixels of the crop; 0 for none. Shape (B, V).
        solarize: Whether the upper half of values is inverted, shape (B, V).
    """

    size_px: int
    boxes: NDArray[np.int64]
    flips: NDArray[np.bool_]
    order: NDArray[np.int64]
    factors: _Numbers
    grayscale: NDArray[np.bool_]
    sigmas: _Numbers
    solarize: NDArray[np.bool_]

    def __len__(self) -> int:
        """B, the tiles."""
        return len(self.boxes)

    def part(self, tiles: slice, crops: slice) -> "Draw":
        """What was drawn for some of the crops of some of the tiles."""
        return self._each(lambda array: array[tiles, crops])

    def flat(self) -> "Draw":
        """The same with tiles and crops on one axis, tile by tile: (B, V, …) → (B * V, …)."""
        return self._each(lambda array: array.reshape(-1, *array.shape[2:]))

    def _each(self, change: Callable[[NDArray[Any]], NDArray[Any]]) -> "Draw":
        names = [field.name for field in fields(self) if field.name != "size_px"]
        arrays: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return replace(self, **arrays)


def draw_crops(recipe: Recipe, epoch: int, tiles: NDArray[np.int64], size_px: int) -> Draw:
    """Draw the crops of square tiles; which others are in the batch has no influence.

    Args:
        recipe: The ranges and probabilities.
        epoch: Counts the passes over the tiles; each has crops of its own.
        tiles: A number for each tile, shape (B,).
        size_px: Side of the tiles.
    """
    uniform = _numbers_by_use(recipe.seed, epoch, tiles, recipe.crops)
    blurred = uniform["blur"] < _by_crop(recipe, "blur_first", "blur_second", "blur_local")
    low, high = _SIGMA_PX
    return Draw(
        size_px=size_px,
        boxes=_boxes(uniform, _scales(recipe), size_px),
        flips=uniform["flips"] < (recipe.vflip, recipe.hflip),
        order=_ORDERS[(uniform["order"][..., 0] * len(_ORDERS)).astype(np.int64)],
        factors=_factors(uniform, recipe),
        grayscale=(uniform["grayscale"] < recipe.grayscale)[..., 0],
        sigmas=np.where(blurred, low + (high - low) * uniform["sigma"], 0.0)[..., 0],
        solarize=(uniform["solarize"] < _by_crop(recipe, None, "solarize", None))[..., 0],
    )


def draw_boxes(
    seed: int, epoch: int, tiles: NDArray[np.int64], size_px: int, area: tuple[float, float]
) -> tuple[NDArray[np.int64], _Numbers]:
    """Draw one crop of each square tile, as `draw_crops` does its first.

    Args:
        seed: Of all that is random.
        epoch: Each has crops of its own.
        tiles: A number for each tile, shape (B,).
        size_px: Side of the tiles.
        area: Smallest and largest share of the tile's area that a crop covers.

    Returns:
        top, left, height, width, shape (B, 4); and a random number in [0, 1) for each crop, shape
        (B,), by which to mirror it.
    """
    uniform = _numbers_by_use(seed, epoch, tiles, 1)
    return _boxes(uniform, np.array([area]), size_px)[:, 0], uniform["flips"][:, 0, 1]


def _numbers_by_use(
    seed: int, epoch: int, tiles: NDArray[np.int64], crops: int
) -> Mapping[str, _Numbers]:
    """Random numbers in [0, 1) by what they are for, each of shape (B, V, slots)."""
    numbers = counter_rng(seed, epoch, tiles, (crops, sum(_SLOTS.values())))
    parts = np.split(numbers, np.cumsum(list(_SLOTS.values()))[:-1], axis=2)
    return dict(zip(_SLOTS, parts, strict=True))


def _by_crop(recipe: Recipe, first: str | None, second: str | None, local: str | None) -> _Numbers:
    """A probability for each crop, shape (V, 1), from the recipe's fields; None for never."""
    names = [first, second, *[local] * recipe.local_crops]
    return np.array([[getattr(recipe, name) if name else 0.0] for name in names])


def _scales(recipe: Recipe) -> _Numbers:
    """Smallest and largest share of the area for each crop, shape (V, 2)."""
    scales = [recipe.global_scale] * GLOBAL_CROPS + [recipe.local_scale] * recipe.local_crops
    return np.array(scales)


def _boxes(uniform: Mapping[str, _Numbers], scales: _Numbers, size_px: int) -> NDArray[np.int64]:
    """Take the first attempt that fits; none, and it is the whole tile, as tiles are square."""
    low, high = scales[:, :1], scales[:, 1:]
    area = size_px**2 * (low + (high - low) * uniform["area"])  # (B, V, attempts)
    ratio = np.exp(_LOG_RATIO * (2 * uniform["ratio"] - 1))  # width to height
    sides = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], axis=-1)))
    fits = ((sides > 0) & (sides <= size_px)).all(axis=-1)
    first = fits.argmax(axis=-1)[..., None, None]
    chosen = np.take_along_axis(sides, first, axis=2)[:, :, 0]  # (B, V, 2): height, width
    chosen = np.where(fits.any(axis=-1, keepdims=True), chosen, size_px)
    corner = np.floor(uniform["corner"] * (size_px - chosen + 1))
    return np.concatenate([corner, chosen], axis=-1).astype(np.int64)


def _factors(uniform: Mapping[str, _Numbers], recipe: Recipe) -> _Numbers:
    reach = np.array([recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue])
    low = np.maximum(NEUTRAL - reach, [0.0, 0.0, 0.0, -np.inf])  # only hue goes both ways from 0
    factors = low + (NEUTRAL + reach - low) * uniform["factors"]
    return np.where(uniform["jitter"] < recipe.jitter, factors, NEUTRAL)


def counter_rng(
    seed: int, epoch: int, tiles: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Random numbers in [0, 1), shape (B, *shape), each a hash of (seed, epoch, tile, position).

    So a tile's numbers are the same in every batch, on every process and after every resume.

    Args:
        seed: Any integer; its lowest 64 bits count.
        epoch: As the seed.
        tiles: A number for each tile, shape (B,); its place in the batch does not matter.
        shape: Of the numbers of one tile.
    """
    tile_words = np.asarray(tiles, np.int64).view(np.uint64)
    positions = np.arange(math.prod(shape), dtype=np.uint64)
    keys = _join(_join(_to_word(seed), _to_word(epoch)), tile_words)
    bits = _join(keys[:, None], positions)
    whole = (bits >> _SPARE_BITS).astype(np.float64)
    return (whole * 2.0**-53).reshape(len(tile_words), *shape)


def _to_word(number: int) -> _Words:
    """One word as an array: arrays wrap around in silence, scalars warn."""
    return np.array([number & _ALL_BITS], np.uint64)


def _join(keys: _Words, words: _Words) -> _Words:
    """Hash keys and words together; which is which matters."""
    return _mix(keys ^ _mix(words + _INCREMENT))


def _mix(words: _Words) -> _Words:
    """Spread every bit over all 64, one to one."""
    for shift, factor in _STEPS:
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    return words
