"""What is drawn for crops: distributed as torchvision draws it, and tied to the tile alone."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision import transforms

from tilezoo.pretrain.draws import NEUTRAL, Draw, draw_crops
from tilezoo.pretrain.recipe import Recipe, find_recipe

DINO = find_recipe("dino-vits16-bigearthnet")
TILES = np.arange(3000)
RATIO = (3 / 4, 4 / 3)


@pytest.fixture(scope="module")
def drawn() -> Draw:
    return draw_crops(DINO, 4, TILES, 120)


def apart(first: NDArray[np.generic], second: NDArray[np.generic]) -> float:
    """Kolmogorov and Smirnov's statistic, over what it exceeds once in a thousand times by chance.

    Smirnov 1948, doi:10.1214/aoms/1177730256: c(α) = sqrt(-ln(α / 2) / 2).
    """
    every = np.concatenate([first, second])
    shares = [
        np.searchsorted(np.sort(sample), every, side="right") / len(sample)
        for sample in (first, second)
    ]
    allowed = np.sqrt(-np.log(0.001 / 2) / 2 * (1 / len(first) + 1 / len(second)))
    return float(np.abs(shares[0] - shares[1]).max() / allowed)


def rate_fits(mask: NDArray[np.bool_], probability: float) -> bool:
    """Whether a rate is within 4 standard errors of its probability."""
    error = np.sqrt(probability * (1 - probability) / mask.size)
    return bool(abs(mask.mean() - probability) <= 4 * error)


def by_torchvision(size_px: int, scale: tuple[float, float], count: int) -> NDArray[np.int64]:
    image = torch.empty(3, size_px, size_px)
    torch.manual_seed(0)
    get = transforms.RandomResizedCrop.get_params
    return np.array([get(image, list(scale), list(RATIO)) for _ in range(count)])


@pytest.mark.parametrize(
    ("size_px", "scale"),
    [(120, (0.4, 1.0)), (120, (0.05, 0.4)), (64, (0.9, 1.0)), (17, (0.05, 1.0)), (264, (1.0, 1.0))],
)
def test_boxes_lie_where_torchvisions_do(size_px: int, scale: tuple[float, float]) -> None:
    recipe = replace(DINO, local_scale=scale, local_crops=2)
    ours = draw_crops(recipe, 0, TILES, size_px).boxes[:, 2:].reshape(-1, 4)
    theirs = by_torchvision(size_px, scale, 4000)
    for measure in (
        lambda b: b[:, 2] * b[:, 3],  # area
        lambda b: b[:, 3] / b[:, 2],  # aspect
        lambda b: b[:, 2],
        lambda b: b[:, 3],
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 0] + b[:, 2],  # lower edge
        lambda b: b[:, 1] - b[:, 0],  # corners: rows and columns apart
    ):
        assert apart(measure(ours), measure(theirs)) < 1
    whole = (ours[:, 2:] == size_px).all(1), (theirs[:, 2:] == size_px).all(1)
    assert abs(whole[0].mean() - whole[1].mean()) < 4 * np.sqrt(0.25 / 4000 + 0.25 / len(ours))


def test_boxes_are_whole_pixels_of_the_tile(drawn: Draw) -> None:
    assert drawn.boxes.dtype == np.int64
    assert drawn.boxes.shape == (3000, 10, 4)
    corner, sides = drawn.boxes[..., :2], drawn.boxes[..., 2:]
    assert corner.min() == 0
    assert sides.min() > 0
    assert (corner + sides).max() == 120


def test_global_crops_are_the_large_ones(drawn: Draw) -> None:
    share = drawn.boxes[..., 2] * drawn.boxes[..., 3] / 120**2
    assert share[:, :2].min() > 0.38
    assert share[:, 2:].max() < 0.42


@pytest.mark.parametrize("size_px", [1, 2, 3])
def test_the_smallest_tiles_have_boxes(size_px: int) -> None:
    boxes = draw_crops(DINO, 0, TILES, size_px).boxes
    assert boxes[..., 2:].min() >= 1
    assert (boxes[..., :2] + boxes[..., 2:]).max() <= size_px


def test_jitter_is_distributed_as_torchvisions(drawn: Draw) -> None:
    jittered = (drawn.factors != NEUTRAL).any(-1)
    assert rate_fits(jittered, 0.8)
    ours = drawn.factors[jittered]
    torch.manual_seed(1)
    jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
    reach = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    theirs = [jitter.get_params(*reach) for _ in range(4000)]
    for kind in range(4):
        assert apart(ours[:, kind], np.array([params[1 + kind] for params in theirs])) < 1
    assert np.abs(np.corrcoef(ours.T) - np.eye(4)).max() < 4 / np.sqrt(len(ours))


def test_all_24_orders_are_as_likely(drawn: Draw) -> None:
    assert (np.sort(drawn.order, axis=-1) == np.arange(4)).all()
    orders, counts = np.unique(drawn.order.reshape(-1, 4), axis=0, return_counts=True)
    assert len(orders) == 24
    expected = counts.sum() / 24
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 23 + 4 * np.sqrt(2 * 23)


def test_a_factor_is_never_below_0() -> None:
    recipe = replace(DINO, brightness=1.5, jitter=1.0)
    brightness = draw_crops(recipe, 0, TILES, 120).factors[..., 0]
    assert 0 <= brightness.min() < 0.01
    assert 2.49 < brightness.max() <= 2.5
    assert brightness.mean() == pytest.approx(1.25, abs=0.02)


def test_rates_are_those_of_dino(drawn: Draw) -> None:
    assert rate_fits(drawn.flips[..., 1], 0.5)
    assert not drawn.flips[..., 0].any()
    assert rate_fits(drawn.grayscale, 0.2)
    blurred = drawn.sigmas > 0
    assert blurred[:, 0].all()
    assert rate_fits(blurred[:, 1], 0.1)
    assert rate_fits(blurred[:, 2:], 0.5)
    assert rate_fits(drawn.solarize[:, 1], 0.2)
    assert not drawn.solarize[:, [0, *range(2, 10)]].any()


def test_blurs_are_between_a_tenth_of_a_pixel_and_two(drawn: Draw) -> None:
    sigmas = drawn.sigmas[drawn.sigmas > 0]
    assert apart(sigmas, np.random.default_rng(0).uniform(0.1, 2.0, 20_000)) < 1


def test_tiles_may_be_turned_upside_down() -> None:
    flips = draw_crops(replace(DINO, vflip=0.3), 0, TILES, 120).flips
    assert rate_fits(flips[..., 0], 0.3)
    assert rate_fits(flips.all(-1), 0.15)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_what_is_certain_always_happens_and_what_is_not_never(probability: float) -> None:
    names = ("jitter", "hflip", "vflip", "grayscale", "blur_first", "blur_second", "blur_local")
    recipe = replace(DINO, solarize=probability, **dict.fromkeys(names, probability))
    draw = draw_crops(recipe, 0, TILES[:200], 120)
    happened = [draw.flips, draw.grayscale, draw.sigmas > 0, draw.solarize[:, 1]]
    happened.append((draw.factors != NEUTRAL).any(-1))
    assert all((mask == bool(probability)).all() for mask in happened)


def test_choices_for_a_crop_have_nothing_to_do_with_each_other(drawn: Draw) -> None:
    columns = [
        drawn.boxes[:, 2:, 0] / np.maximum(1, 120 - drawn.boxes[:, 2:, 2]),
        drawn.boxes[:, 2:, 2] * drawn.boxes[:, 2:, 3],
        drawn.flips[:, 2:, 1],
        drawn.factors[:, 2:, 0],
        drawn.grayscale[:, 2:],
        drawn.sigmas[:, 2:],
        drawn.order[:, 2:, 0],
    ]
    flat = np.stack([column.ravel().astype(float) for column in columns])
    assert np.abs(np.corrcoef(flat) - np.eye(len(flat))).max() < 4.5 / np.sqrt(flat.shape[1])
    between = np.corrcoef(drawn.factors[..., 0].T)  # crops of one tile
    assert np.abs(between - np.eye(10)).max() < 4.5 / np.sqrt(3000)


def equal(first: Draw, second: Draw) -> bool:
    return all(
        np.array_equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Draw)
    )


def test_a_tile_has_its_crops_in_every_batch(drawn: Draw) -> None:
    for tiles in (TILES[700:708], TILES[[5, 2999, 5, 0]]):
        part = draw_crops(DINO, 4, tiles, 120)
        picked = {f.name: getattr(drawn, f.name) for f in fields(Draw)}
        picked = {k: v if k == "size_px" else v[tiles] for k, v in picked.items()}
        assert equal(part, Draw(**picked))


def test_every_epoch_and_seed_has_crops_of_its_own(drawn: Draw) -> None:
    for other in (
        draw_crops(DINO, 5, TILES, 120),
        draw_crops(replace(DINO, seed=1), 4, TILES, 120),
    ):
        same = (drawn.factors == other.factors) & (drawn.factors != NEUTRAL)
        assert not same.any()
        assert abs(np.corrcoef(drawn.sigmas[:, 0], other.sigmas[:, 0])[0, 1]) < 4.5 / np.sqrt(3000)


def test_a_recipe_with_more_crops_has_the_same_first_ones(drawn: Draw) -> None:
    fewer = replace(DINO, local_crops=3)
    assert np.array_equal(draw_crops(fewer, 4, TILES, 120).boxes, drawn.boxes[:, :5])


def test_without_local_crops_there_are_the_two_global_ones() -> None:
    recipe: Recipe = replace(DINO, local_crops=0)
    assert draw_crops(recipe, 0, TILES[:3], 120).boxes.shape == (3, 2, 4)
