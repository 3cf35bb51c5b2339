"""Crops of a batch: what torchvision and Pillow make of the same draw, however tiles come."""

import subprocess
import sys
from dataclasses import fields, replace

import making
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as v1
from torchvision.transforms.v2 import functional as v2

from tilezoo.errors import OptionError, PretrainError
from tilezoo.pretrain import crops as crops_module
from tilezoo.pretrain.crops import CropMaker
from tilezoo.pretrain.draws import Draw
from tilezoo.pretrain.recipe import find_recipe

RGB = ("B04", "B03", "B02")
TWELVE = (*(f"B{n:02}" for n in range(1, 9)), "B8A", "B09", "B11", "B12")
# Small, and everything happens often.
SMALL = replace(
    find_recipe("dino-vits16-bigearthnet"),
    global_px=48, local_px=20, local_crops=3, vflip=0.3, blur_second=0.5, solarize=0.5, seed=3,
)  # fmt: skip


def maker(bands: tuple[str, ...] = RGB, **changes: object) -> CropMaker:
    count = len(bands)
    mean, std = tuple(np.linspace(0.3, 0.5, count)), tuple(np.linspace(0.1, 0.3, count))
    given = {"recipe": SMALL, "bands": bands, "value_range": (0.0, 255.0), "mean": mean, "std": std}
    return CropMaker(**{**given, **changes})


def plain(bands: tuple[str, ...] = RGB, **changes: object) -> CropMaker:
    """One that leaves values in 0..1."""
    return maker(bands, mean=(0.0,) * len(bands), std=(1.0,) * len(bands), **changes)


def tiles(
    count: int = 6, *, bands: int = 3, side: int = 40, high: float = 255, dtype: str = "uint8"
) -> Tensor:
    made = [making.texture(i, bands=bands, side=side, high=high, dtype=dtype) for i in range(count)]
    return torch.from_numpy(np.stack(made))


def parameters(draw: Draw, tile: int, crop: int) -> dict[str, object]:
    return {f.name: getattr(draw, f.name)[tile, crop] for f in fields(Draw) if f.name != "size_px"}


def by_torchvision(tile: Tensor, px: int, own: dict[str, object]) -> Tensor:
    """One crop of one RGB tile in 0..1, step by step with torchvision's functions."""
    top, left, height, width = own["boxes"]
    crop = tile[None, :, top : top + height, left : left + width].double()
    crop = functional.interpolate(crop, size=(px, px), mode="bicubic", antialias=True)
    crop = crop.clamp(0, 1).float()[0]
    crop = crop.flip([axis for axis, flip in zip((1, 2), own["flips"], strict=True) if flip])
    steps = (v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation, v2.adjust_hue)
    for kind in own["order"]:
        crop = steps[kind](crop, own["factors"][kind])
    if own["grayscale"]:
        crop = v2.rgb_to_grayscale(crop, num_output_channels=3)
    if own["sigmas"] > 0:
        padded = functional.pad(crop[None], (8, 8, 8, 8), mode="replicate")
        crop = v2.gaussian_blur(padded, [17, 17], [own["sigmas"]] * 2)[0, :, 8:-8, 8:-8]
    return v2.solarize(crop, 0.5) if own["solarize"] else crop


def by_pillow(tile: np.ndarray, px: int, own: dict[str, object]) -> np.ndarray:
    """The same in 8 bits, as facebookresearch/dino has it."""
    top, left, height, width = own["boxes"]
    image = Image.fromarray(tile.transpose(1, 2, 0)).crop((left, top, left + width, top + height))
    image = image.resize((px, px), Image.Resampling.BICUBIC)
    image = v1.vflip(image) if own["flips"][0] else image
    image = v1.hflip(image) if own["flips"][1] else image
    steps = (v1.adjust_brightness, v1.adjust_contrast, v1.adjust_saturation, v1.adjust_hue)
    for kind in own["order"]:
        image = steps[kind](image, own["factors"][kind])
    image = v1.to_grayscale(image, 3) if own["grayscale"] else image
    if own["sigmas"] > 0:
        image = image.filter(ImageFilter.GaussianBlur(float(own["sigmas"])))
    image = ImageOps.solarize(image) if own["solarize"] else image
    return np.asarray(image).transpose(2, 0, 1) / 255


def test_crops_are_those_that_torchvision_makes_of_the_same_draw() -> None:
    pixels, make = tiles(8), maker()
    draw = make.draw(1, np.arange(8), 40)
    globals_, locals_ = make.make(pixels, draw)
    mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (make.mean, make.std))
    for tile in range(8):
        for crop in range(5):
            got = (globals_ if crop < 2 else locals_)[(crop if crop < 2 else crop - 2) * 8 + tile]
            own = parameters(draw, tile, crop)
            expected = by_torchvision(pixels[tile] / 255, got.shape[1], own)
            assert torch.allclose(got * std + mean, expected, rtol=0, atol=1e-5)


def test_crops_are_those_that_pillow_makes_of_the_same_draw() -> None:
    # Pillow cuts to 8 bits after every step, up to seven times, and its hue has 256 levels.
    pixels, make = tiles(12, side=120), plain()
    draw = make.draw(0, np.arange(12), 120)
    globals_, locals_ = make.make(pixels, draw)
    for tile in range(12):
        for crop in range(5):
            got = (globals_ if crop < 2 else locals_)[(crop if crop < 2 else crop - 2) * 12 + tile]
            expected = by_pillow(pixels[tile].numpy(), got.shape[1], parameters(draw, tile, crop))
            apart = np.abs(got.numpy() - expected)
            assert apart.mean() < 3 / 255
            assert np.quantile(apart, 0.99) < 15 / 255


@pytest.mark.parametrize(
    ("bands", "dtype", "high"),
    [
        (("gray",), "uint8", 255),
        (RGB, "uint8", 255),
        ((*RGB, "B08"), "uint16", 2600),
        (("nir", "blue", "red", "green"), "int32", 2600),
        (TWELVE, "uint16", 2600),
        (("VV", "VH"), "float32", 1.0),
    ],
)
def test_any_bands_of_any_type_give_crops(bands: tuple[str, ...], dtype: str, high: float) -> None:
    make = maker(bands, value_range=(0.0, high * 0.8))
    pixels = tiles(3, bands=len(bands), high=high, dtype=dtype if high > 1 else "uint8")
    pixels = pixels if high > 1 else tiles(3, bands=len(bands)).float() / 255
    before = pixels.clone()
    globals_, locals_ = make.make(pixels, make.draw(0, np.arange(3), 40))
    assert globals_.shape == (6, len(bands), 48, 48)
    assert locals_.shape == (9, len(bands), 20, 20)
    assert globals_.dtype == locals_.dtype == torch.float32
    assert globals_.is_contiguous()
    assert globals_.isfinite().all()
    assert locals_.isfinite().all()
    assert torch.equal(pixels, before)


def test_16_bit_values_are_mapped_by_the_range() -> None:
    make = plain(value_range=(100.0, 2100.0))
    draw = make.draw(0, np.arange(4), 40)
    pixels = tiles(4, high=2600, dtype="uint16")
    unit = ((pixels.to(torch.int32) - 100) / 2000).clamp(0, 1)
    expected = plain(value_range=(0.0, 1.0)).make(unit, draw)
    for got, want in zip(make.make(pixels, draw), expected, strict=True):
        assert torch.allclose(got, want, rtol=0, atol=1e-6)
        assert got.min() >= -1e-6
        assert got.max() <= 1 + 1e-6


def test_colours_among_other_bands_come_out_as_they_do_alone() -> None:
    pixels = tiles(4, bands=12)
    rgb = [3, 2, 1]  # B04, B03, B02 of twelve
    among = plain(TWELVE)
    alone = plain()
    draw = among.draw(0, np.arange(4), 40)
    for got, want in zip(among.make(pixels, draw), alone.make(pixels[:, rgb], draw), strict=True):
        assert torch.allclose(got[:, rgb], want, rtol=0, atol=1e-6)


def test_bands_that_are_no_colours_keep_to_themselves() -> None:
    pixels = tiles(4, bands=2)
    both = plain(("VV", "VH"))
    draw = both.draw(0, np.arange(4), 40)
    each = [plain((band,)).make(pixels[:, [i]], draw) for i, band in enumerate(both.bands)]
    for got, *want in zip(both.make(pixels, draw), *each, strict=True):
        assert torch.allclose(got, torch.cat(want, dim=1), rtol=0, atol=1e-6)


def test_crops_do_not_depend_on_the_batch() -> None:
    pixels, make, numbers = tiles(7), maker(), np.array([90, 3, 17, 4, 55, 1, 2])
    whole = make.make(pixels, make.draw(2, numbers, 40))
    for rows in ([0], [6], [3, 1], [5, 4, 2, 0]):
        part = make.make(pixels[rows], make.draw(2, numbers[rows], 40))
        for crops, own in zip(whole, part, strict=True):
            by_crop = crops.view(-1, 7, *crops.shape[1:])[:, rows].flatten(0, 1)
            assert torch.equal(own, by_crop)  # on a processor, to the last bit


def test_tiles_worked_on_together_come_out_as_they_do_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels, make = tiles(7), plain()
    draw = make.draw(2, np.arange(7), 40)
    together = make.make(pixels, draw)
    for most in (1, 10_000):
        monkeypatch.setattr(crops_module, "_PIXELS_ON_CPU", most)
        for got, want in zip(make.make(pixels, draw), together, strict=True):
            assert torch.allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_makes_the_same_crops_without_being_waited_for() -> None:
    pixels, make = tiles(7), plain()
    draw = make.draw(2, np.arange(7), 40)
    on_gpu = pixels.cuda()
    make.make(on_gpu, draw)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = make.make(on_gpu, draw)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for own, want in zip(got, make.make(pixels, draw), strict=True):
        assert torch.allclose(own.cpu(), want, rtol=0, atol=1e-5)


def test_without_local_crops_their_tensor_is_empty() -> None:
    make = maker(recipe=replace(SMALL, local_crops=0))
    globals_, locals_ = make.make(tiles(2), make.draw(0, np.arange(2), 40))
    assert globals_.shape == (4, 3, 48, 48)
    assert locals_.shape == (0, 3, 20, 20)


@pytest.mark.parametrize("level", [0, 7, 255])
def test_tiles_of_one_value_give_finite_crops(level: int) -> None:
    make = plain(recipe=replace(SMALL, jitter=1.0))
    pixels = torch.full((4, 3, 40, 40), level, dtype=torch.uint8)
    for crops in make.make(pixels, make.draw(0, np.arange(4), 40)):
        assert crops.isfinite().all()
        assert (crops.std(dim=(2, 3)) < 1e-5).all()


def test_crops_are_the_same_inside_autocast_and_carry_no_gradient() -> None:
    pixels, make = tiles(2).float().requires_grad_(), maker()
    draw = make.draw(0, np.arange(2), 40)
    outside = make.make(pixels, draw)
    with torch.autocast("cpu", torch.bfloat16):
        inside = make.make(pixels, draw)
    for first, second in zip(outside, inside, strict=True):
        assert torch.equal(first, second)
        assert not first.requires_grad


def test_tiles_may_be_smaller_or_larger_than_crops() -> None:
    make = maker()
    for side in (1, 5, 300):
        pixels = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
        for crops in make.make(pixels, make.draw(0, np.arange(1), side)):
            assert crops.isfinite().all()


def test_tiles_other_than_those_drawn_for_are_refused() -> None:
    make = maker()
    draw = make.draw(0, np.arange(2), 40)
    for pixels in (tiles(3), tiles(2, bands=4), tiles(2, side=41)):
        with pytest.raises(ValueError, match="crops drawn for"):
            make.make(pixels, draw)
    with pytest.raises(ValueError, match="crops drawn for"):
        maker(recipe=replace(SMALL, local_crops=1)).make(tiles(2), draw)


def test_what_pixels_cannot_be_scaled_with_is_refused() -> None:
    with pytest.raises(PretrainError, match="3 bands, 2 means, 3 stds"):
        maker(mean=(0.1, 0.2))
    with pytest.raises(PretrainError, match="value range 5,5"):
        maker(value_range=(5.0, 5.0))
    with pytest.raises(PretrainError, match="band B03 has a std of 0"):
        maker(std=(1.0, 0.0, 1.0))


@pytest.mark.parametrize(("name", "value"), [("hue", 0.6), ("hue", -0.1), ("contrast", -1.0)])
def test_a_jitter_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"{name}={value}: must be"):
        maker(recipe=replace(SMALL, **{name: value}))


def test_crops_need_torch_and_numpy_alone() -> None:
    heavy = ("rasterio", "torchvision", "timm", "pyarrow", "faiss", "PIL", "pyproj", "shapely")
    code = f"import sys, tilezoo.pretrain.crops; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
