"""Matrices that resize and blur: what torch, torchvision and Pillow make of the same crop."""

import making
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as F  # noqa: N812  (torchvision's own habit)

from tilezoo.pretrain.crops import apply_weights, blur_weights, resize_weights

STEP = 1 / 255  # one step of 8 bits, on the 0..1 scale


def resized(
    image: Tensor, box: tuple[int, int, int, int], out_px: int, flips: tuple[bool, bool]
) -> Tensor:
    """Cut and resize one image (C, size, size) by our matrices."""
    rows, columns = (
        resize_weights(
            torch.tensor([box[axis]]),
            torch.tensor([box[2 + axis]]),
            torch.tensor([flips[axis]]),
            size_px=image.shape[1],
            out_px=out_px,
        )
        for axis in (0, 1)
    )
    return apply_weights(rows, image.permute(1, 0, 2)[None], columns)[0].permute(1, 0, 2)


def by_torch(image: Tensor, box: tuple[int, int, int, int], out_px: int) -> Tensor:
    top, left, height, width = box
    part = image[None, :, top : top + height, left : left + width].double()
    size = (out_px, out_px)
    return functional.interpolate(part, size=size, mode="bicubic", antialias=True)[0].float()


def blurred(image: Tensor, sigma: float) -> Tensor:
    weights = blur_weights(torch.tensor([sigma]), image.shape[1])
    return apply_weights(weights, image.permute(1, 0, 2)[None], weights)[0].permute(1, 0, 2)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, tuple[int, int, int, int], int]:
    size = draw(st.integers(1, 130))
    height, width = draw(st.integers(1, size)), draw(st.integers(1, size))
    top, left = draw(st.integers(0, size - height)), draw(st.integers(0, size - width))
    return size, (top, left, height, width), draw(st.integers(1, 100))


@settings(max_examples=150, deadline=None)
@given(boxes(), st.booleans(), st.booleans())
def test_a_crop_comes_out_as_torch_resizes_it(
    case: tuple[int, tuple[int, int, int, int], int], upside_down: bool, mirrored: bool
) -> None:
    size, box, out_px = case
    image = torch.rand(2, size, size, generator=torch.Generator().manual_seed(size))
    expected = by_torch(image, box, out_px)
    expected = expected.flip(1) if upside_down else expected
    expected = expected.flip(2) if mirrored else expected
    ours = resized(image, box, out_px, (upside_down, mirrored))
    assert torch.allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [120, 264, 1000])
@pytest.mark.parametrize("box_share", [0.2, 0.6, 1.0])
@pytest.mark.parametrize("out_px", [96, 224])
def test_a_crop_comes_out_as_pillow_resizes_it(size: int, box_share: float, out_px: int) -> None:
    # Between 50 and 205, as Pillow clips what overshoots in between its two passes too.
    noise = np.random.default_rng(0).integers(0, 50, (3, size, size), np.uint8)
    pixels = making.texture(size, side=size, low=50, high=155) + noise
    side = round(box_share * size)
    corner = (size - side) // 3
    crop = Image.fromarray(pixels.transpose(1, 2, 0)).crop(
        (corner, corner, corner + side, corner + side)
    )
    expected = np.asarray(crop.resize((out_px, out_px), Image.Resampling.BICUBIC)) / 255
    image = torch.from_numpy(pixels).float() / 255
    ours = resized(image, (corner, corner, side, side), out_px, (False, False)).clamp(0, 1)
    apart = np.abs(ours.permute(1, 2, 0).numpy() - expected)
    assert apart.max() <= 2 * STEP
    assert apart.mean() < 0.4 * STEP


def test_crops_of_other_crops_in_the_batch_have_no_influence() -> None:
    start, length = torch.tensor([0, 30, 119, 7]), torch.tensor([120, 40, 1, 99])
    flip = torch.tensor([False, True, True, False])
    together = resize_weights(start, length, flip, size_px=120, out_px=32)
    for i in range(4):
        row = slice(i, i + 1)
        alone = resize_weights(start[row], length[row], flip[row], size_px=120, out_px=32)
        assert torch.equal(together[row], alone)
    assert torch.allclose(together.sum(2), torch.ones(4, 32), atol=1e-6)


def test_images_are_each_used_by_their_own_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 7, 2, 7, generator=generator)
    rows, columns = torch.rand(2, 12, 5, 7, generator=generator)
    out = apply_weights(rows, images, columns)
    assert out.shape == (12, 5, 2, 5)
    for crop in range(12):
        for band in range(2):
            expected = rows[crop] @ images[crop // 4, :, band] @ columns[crop].T
            assert torch.allclose(out[crop, :, band], expected, atol=1e-5)


@pytest.mark.parametrize("px", [1, 5, 9, 32, 96])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.3, 2.0])
def test_blur_is_torchvisions_with_the_outermost_pixels_repeated(px: int, sigma: float) -> None:
    image = torch.rand(3, px, px, generator=torch.Generator().manual_seed(px))
    padded = functional.pad(image[None], (8, 8, 8, 8), mode="replicate")
    expected = F.gaussian_blur(padded, [17, 17], [sigma, sigma])[0, :, 8:-8, 8:-8]
    assert torch.allclose(blurred(image, sigma), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.4, 0.8, 1.5, 2.0])
def test_blur_is_pillows_up_to_its_rounding(sigma: float) -> None:
    # Pillow puts three boxes in the place of a Gaussian: that is the third step.
    pixels = making.texture(4, side=96)
    image = Image.fromarray(pixels.transpose(1, 2, 0)).filter(ImageFilter.GaussianBlur(sigma))
    ours = blurred(torch.from_numpy(pixels).float() / 255, sigma).permute(1, 2, 0).numpy()
    assert np.abs(ours - np.asarray(image) / 255).max() <= 3 * STEP


def test_blurs_of_no_width_leave_the_image() -> None:
    image = torch.rand(2, 20, 20)
    assert torch.equal(blurred(image, 0.0), image)
