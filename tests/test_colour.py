"""Colours: what torchvision's functions make of them, for three bands among any others."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import _functional_tensor as v1
from torchvision.transforms.v2 import functional as v2

from tilezoo.pretrain.colour import (
    RGB,
    brighten,
    change_contrast,
    change_some,
    find_rgb,
    grayscale,
    jitter,
    saturate,
    solarize,
    turn_hue,
)
from tilezoo.pretrain.draws import NEUTRAL

ORDERS = [(0, 1, 2), (2, 1, 0), (3, 0, 2)]  # where red, green and blue are among four bands or more


def images(bands: int = 3, count: int = 5, px: int = 24) -> Tensor:
    """Every kind of pixel: random, few levels (so that bands are equal), gray, black, white."""
    made = torch.rand(count, bands, px, px, generator=torch.Generator().manual_seed(bands))
    made[1] = (made[1] * 3).round() / 3
    made[2] = made[2, :1]
    made[3, :, : px // 2], made[3, :, px // 2 :] = 0, 1
    return made


def after(change: Callable[..., None], crops: Tensor, *amounts: Tensor) -> Tensor:
    """Change a copy of (N, C, y, x), in the layout that changes work in."""
    work = crops.permute(0, 2, 1, 3).contiguous()
    change(work, *amounts)
    return work.permute(0, 2, 1, 3)


def amounts_of(value: float, crops: Tensor) -> Tensor:
    return torch.full((len(crops),), value)


@pytest.mark.parametrize("reference", [v1, v2])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 2.5])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_do_what_torchvisions_do(name: str, factor: float, reference: object) -> None:
    change = {
        "brightness": brighten,
        "contrast": lambda crops, factors: change_contrast(crops, factors, (0, 1, 2)),
        "saturation": lambda crops, factors: saturate(crops, factors, (0, 1, 2)),
    }[name]
    crops = images()
    expected = torch.stack([getattr(reference, f"adjust_{name}")(c, factor) for c in crops])
    ours = after(change, crops, amounts_of(factor, crops))
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reference", [v1, v2])
@pytest.mark.parametrize("turns", [-0.5, -0.3, -0.1, 0.0, 0.05, 1 / 3, 0.5])
def test_hue_turns_as_torchvisions_does(turns: float, reference: object) -> None:
    crops = images()
    expected = reference.adjust_hue(crops, turns)
    ours = after(lambda c, t: turn_hue(c, t, (0, 1, 2)), crops, amounts_of(turns, crops))
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)


def test_hue_turns_as_torchvisions_does_for_all_colours_of_32_levels() -> None:
    level = torch.linspace(0, 1, 32)
    every = torch.stack(torch.meshgrid(level, level, level, indexing="ij"))
    crops = every.reshape(1, 3, 128, 256)
    ours = after(lambda c, t: turn_hue(c, t, (0, 1, 2)), crops, torch.tensor([0.07]))
    assert torch.allclose(ours, v2.adjust_hue(crops, 0.07), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-6, 0.5, 1.0])
def test_pixels_without_colour_stay_without_and_are_never_nan(value: float) -> None:
    crops = torch.full((2, 3, 4, 4), value)
    crops[1, 0] += 1e-7
    for change in (turn_hue, saturate, change_contrast):
        ours = after(lambda c, f, change=change: change(c, f, (0, 1, 2)), crops, torch.ones(2) / 4)
        assert torch.allclose(ours, crops, rtol=0, atol=1.1e-4)  # torchvision's luma adds to .9999


def test_gray_and_solarised_are_torchvisions() -> None:
    crops = images()
    gray = after(lambda c: grayscale(c, (0, 1, 2)), crops)
    expected = v2.rgb_to_grayscale(crops, num_output_channels=3)
    assert torch.allclose(gray, expected, rtol=0, atol=1e-6)
    assert torch.equal(after(solarize, crops), v2.solarize(crops, 0.5))


@pytest.mark.parametrize("rgb", ORDERS)
def test_three_bands_among_five_change_as_they_do_alone(rgb: RGB) -> None:
    crops = images(bands=5)
    colours = crops[:, list(rgb)]
    others = [band for band in range(5) if band not in rgb]
    factors = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    for change in (saturate, turn_hue, change_contrast):
        alone = after(lambda c, f, change=change: change(c, f, (0, 1, 2)), colours, factors)
        among = after(lambda c, f, change=change: change(c, f, rgb), crops, factors)
        assert torch.allclose(among[:, list(rgb)], alone, rtol=0, atol=1e-6)
        if change is not change_contrast:
            assert torch.equal(among[:, others], crops[:, others])
    gray = after(lambda c: grayscale(c, rgb), crops)
    assert torch.equal(gray[:, others], crops[:, others])


@pytest.mark.parametrize("rgb", [None, (0, 1, 2)])
def test_contrast_of_another_band_is_about_its_own_mean(rgb: RGB | None) -> None:
    crops = images(bands=4)
    ours = after(lambda c, f: change_contrast(c, f, rgb), crops, amounts_of(0.3, crops))
    expected = torch.stack([v2.adjust_contrast(crop[3:], 0.3) for crop in crops])
    assert torch.allclose(ours[:, 3:], expected, rtol=0, atol=1e-6)


def test_every_crop_is_jittered_in_its_own_order() -> None:
    rng = np.random.default_rng(0)
    count = 40
    crops = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    order = np.stack([rng.permutation(4) for _ in range(count)])
    factors = rng.uniform([0.6, 0.6, 0.8, -0.1], [1.4, 1.4, 1.2, 0.1], (count, 4))
    factors[::5] = NEUTRAL
    steps = (v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation, v2.adjust_hue)
    expected = crops.clone()
    for crop in range(count):
        for kind in order[crop] if crop % 5 else ():
            expected[crop] = steps[kind](expected[crop], factors[crop, kind])
    ours = after(lambda c: jitter(c, order, factors, (0, 1, 2)), crops)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)
    assert torch.equal(ours[::5], crops[::5])


def test_without_rgb_only_brightness_and_contrast_change() -> None:
    crops = images(bands=4)
    order = np.tile([2, 0, 3, 1], (len(crops), 1))
    factors = np.tile([1.3, 0.7, 0.1, 0.4], (len(crops), 1))
    expected = v2.adjust_brightness(crops.reshape(-1, 1, 24, 24), 1.3)
    expected = v2.adjust_contrast(expected, 0.7).view_as(crops)
    ours = after(lambda c: jitter(c, order, factors, None), crops)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", [[], [0], [1, 2], [0, 2, 5], [0, 1, 2, 3, 4, 5]])
def test_only_the_crops_asked_for_are_changed(which: list[int]) -> None:
    crops = torch.arange(6.0).view(6, 1).repeat(1, 3)
    mask = np.isin(np.arange(6), which)
    change_some(crops, mask, lambda some, more: some.add_(more[:, None]), np.arange(6) * 10.0)
    factor = torch.ones(6)
    factor[which] = 11
    assert torch.equal(crops[:, 0], torch.arange(6.0) * factor)


@pytest.mark.parametrize(
    ("bands", "rgb"),
    [
        (("B04", "B03", "B02"), (0, 1, 2)),
        (("B02", "B03", "B04", "B08"), (2, 1, 0)),
        (("red", "green", "blue", "nir"), (0, 1, 2)),
        (("nir", "B", "R", "G"), (2, 3, 1)),
        (("VV", "VH"), None),
        (("B04", "B03"), None),
        (("gray",), None),
    ],
)
def test_colours_are_found_by_name_wherever_they_are(
    bands: tuple[str, ...], rgb: RGB | None
) -> None:
    assert find_rgb(bands) == rgb
