"""Preprocessing on tensors: what timm's eval transform makes of the same pixels."""

import making
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import create_transform

from tilezoo.space import Contract
from tilezoo.values import to_8bit, to_8bit_, to_unit, to_unit_
from tilezoo.zoo.network import fit, normalise, prepare

STEP = 1 / 255  # one step of 8 bits, on the 0..1 scale


def by_timm(pixels: np.ndarray, contract: Contract) -> torch.Tensor:
    low, high = contract.value_range
    transform = create_transform(
        input_size=(3, contract.size_px, contract.size_px),
        interpolation=contract.interpolation,
        mean=contract.mean,
        std=contract.std,
        crop_pct=contract.size_px / contract.resize_px,
        crop_mode="squash" if contract.resize == "squash" else "center",
    )
    return transform(making.as_pillow(pixels, low, high))


def steps_apart(pixels: np.ndarray, contract: Contract) -> torch.Tensor:
    """How many 8-bit steps lie between timm's result and ours, value by value."""
    ours = prepare(torch.from_numpy(pixels)[None], contract)[0]
    std = torch.tensor(contract.std).view(3, 1, 1)
    return (ours - by_timm(pixels, contract)).abs() * std / STEP


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shorter_side_then_center_crop", "squash"])
@pytest.mark.parametrize("shape", [(120, 120), (50, 90), (300, 200), (72, 72), (64, 64)])
def test_8_bit_pixels_come_out_as_timm_makes_them(
    shape: tuple[int, int], resize: str, interpolation: str
) -> None:
    pixels = making.texture(0, height=shape[0], side=shape[1])
    resize_px = 64 if resize == "squash" else 72
    contract = making.contract(resize=resize, resize_px=resize_px, interpolation=interpolation)
    apart = steps_apart(pixels, contract)
    enlarged = min(shape) < resize_px
    assert apart.max() <= (2.01 if enlarged else 1.01)
    assert apart.mean() < 0.1


def test_nearest_neighbours_are_the_ones_that_pillow_takes() -> None:
    contract = making.contract(interpolation="nearest")
    assert (steps_apart(making.texture(3, side=120), contract) < 0.01).all()


def test_noise_comes_out_as_timm_makes_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 150, 130), np.uint8)
    assert steps_apart(pixels, making.contract()).max() <= 1.01


def test_16_bit_pixels_come_out_as_timm_makes_their_8_bit_image() -> None:
    pixels = making.texture(1, side=120, high=2600, dtype="uint16")
    apart = steps_apart(pixels, making.contract(unit="dn", value_range=(0.0, 2000.0)))
    assert apart.max() <= 1.01


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["uint8", "uint16", "int16", "int32", "uint32", "float32", "float64"]),
    st.floats(-50, 50),
    st.floats(1, 5000),
)
def test_values_are_clipped_to_the_range_and_mapped_to_0_and_1(
    dtype: str, low: float, width: float
) -> None:
    contract = making.contract(
        value_range=(low, low + width),
        quantize_uint8=False,
        resize="none",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    top = 250 if dtype == "uint8" else 6000
    values = np.linspace(0 if dtype.startswith("u") else -100, top, 3 * 64).astype(dtype)
    out = prepare(torch.from_numpy(values.copy().reshape(1, 3, 8, 8)), contract)
    expected = np.clip((values.astype(float) - low) / width, 0, 1)
    assert out.dtype == torch.float32
    assert np.allclose(out.numpy().ravel(), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(("low", "high"), [(0, 255), (0, 2000), (-20.5, 1333.7), (0.1, 0.7)])
def test_tensors_and_arrays_are_mapped_to_the_same_bits(
    dtype: str, low: float, high: float
) -> None:
    pixels = np.random.default_rng(0).uniform(-50, 3000, 10_000).clip(0).astype(dtype)
    given = torch.from_numpy(pixels.copy()).to(torch.float32, copy=True)
    assert np.array_equal(to_unit(pixels, low, high), to_unit_(given.clone(), low, high).numpy())
    assert np.array_equal(to_8bit(pixels, low, high), to_8bit_(given.clone(), low, high).numpy())


def test_without_8_bit_rounding_fine_differences_remain() -> None:
    pixels = torch.full((1, 3, 64, 64), 1000.0)
    pixels[..., 32:] = 1001.0
    fine = {"resize": "none", "value_range": (0.0, 10_000.0)}
    exact = prepare(pixels, making.contract(quantize_uint8=False, **fine))
    rounded = prepare(pixels, making.contract(quantize_uint8=True, **fine))
    assert exact.std(dim=3).max() > 0
    assert rounded.std(dim=3).max() == 0


def test_fitting_early_and_normalising_later_is_the_same() -> None:
    pixels = torch.from_numpy(making.texture(2, side=200))[None]
    contract = making.contract()
    assert torch.equal(normalise(fit(pixels, contract), contract), prepare(pixels, contract))


def test_a_batch_is_prepared_as_its_tiles_alone_are() -> None:
    pixels = torch.from_numpy(np.stack([making.texture(i, side=100) for i in range(4)]))
    contract = making.contract()
    alone = torch.cat([prepare(pixels[i : i + 1], contract) for i in range(4)])
    assert torch.equal(prepare(pixels, contract), alone)


def test_the_pixels_given_are_not_changed() -> None:
    pixels = torch.rand(1, 3, 64, 64)
    before = pixels.clone()
    prepare(pixels, making.contract(quantize_uint8=False, resize="none", value_range=(0.2, 0.8)))
    assert torch.equal(pixels, before)
