"""DINO's crops of a batch of tiles with any bands, made where the network is trained.

What is random is drawn before, on the host (`draws`); how crops are cut (here) and coloured (`colour`)
is the same for every one of them. As in facebookresearch/dino (main_dino.py,
DataAugmentationDINO): crop and resize, flip, jitter, grayscale, blur, solarise, normalise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilezoo.errors import PretrainError
from tilezoo.pretrain.colour import (
    RGB,
    change_some,
    find_rgb,
    grayscale,
    jitter,
    solarize,
    to_device,
)
from tilezoo.pretrain.draws import GLOBAL_CROPS, Draw, draw_crops
from tilezoo.pretrain.recipe import Recipe
from tilezoo.values import to_unit_

_A = -0.5  # the free parameter of Keys' bicubic kernel as Pillow and torch's antialias take it
_REACH_PX = 2  # of that kernel
_BLUR_REACH_PX = 8  # four standard deviations of the strongest blur: all but 6e-5 of the weight
_SMALLEST_SIGMA = 1e-3  # px; leaves an image as it is
# Pixels of crops worked on at a time on a processor, so that they stay in its cache: those of one
# tile at 224 px, of many at small sizes (four times as fast at 64 px as tile by tile).
_PIXELS_ON_CPU = 2 * 224 * 224
_TILES_ON_GPU = 64


@dataclass(frozen=True, kw_only=True)
class CropMaker:
    """Draws and makes the crops that a recipe asks for.

    Attributes:
        recipe: Sizes, ranges, probabilities and the seed.
        bands: Of the tiles; red, green and blue among them (by name, in any place) have their
            saturation and hue changed and may be made gray.
        value_range: Values that map to 0 and 1; what is beyond is clipped.
        mean: Of each band on the 0..1 scale, subtracted at the end.
        std: Of each band on that scale, divided by.
    """

    recipe: Recipe
    bands: tuple[str, ...]
    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what pixels cannot be scaled with.

        Raises:
            PretrainError: Lengths differ, the range is empty, or a band has no spread.
        """
        if not len(self.bands) == len(self.mean) == len(self.std):
            counts = f"{len(self.bands)} bands, {len(self.mean)} means, {len(self.std)} stds"
            raise PretrainError(f"{counts}: there must be one of each for a band")
        low, high = self.value_range
        if not low < high:
            raise PretrainError(f"value range {low:g},{high:g}: the first must be the smaller one")
        for band, std in zip(self.bands, self.std, strict=True):
            if not std > 0:
                raise PretrainError(f"band {band} has a std of {std:g}; leave it out of the pack")

    def draw(self, epoch: int, tiles: NDArray[np.int64], size_px: int) -> Draw:
        """Draw all that is random about the crops of tiles, on the host.

        Args:
            epoch: Passes over the tiles before this one.
            tiles: A number for each tile, shape (B,); the same one gets the same crops.
            size_px: Side of the tiles.
        """
        return draw_crops(self.recipe, epoch, tiles, size_px)

    @torch.no_grad()
    def make(self, pixels: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Make the crops that were drawn, on the device of the pixels, in float32.

        Inside autocast too; where the process lets matrix products use TF32, these do.

        Args:
            pixels: Raw values of square tiles, shape (B, C, size_px, size_px), any real dtype.
            draw: What was drawn for these tiles.

        Returns:
            The global crops, shape (2 * B, C, global_px, global_px): the first of all tiles, then
            the second of all. The local crops, shape (local_crops * B, C, local_px, local_px), in
            the same order.
        """
        self._check(pixels, draw)
        with torch.autocast(pixels.device.type, enabled=False):
            tiles = self._scale(pixels)
            every, first, local = slice(None), slice(GLOBAL_CROPS), slice(GLOBAL_CROPS, None)
            return (
                self._group(tiles, draw.part(every, first), self.recipe.global_px),
                self._group(tiles, draw.part(every, local), self.recipe.local_px),
            )

    @cached_property
    def _rgb(self) -> RGB | None:
        return find_rgb(self.bands)

    def _check(self, pixels: Tensor, draw: Draw) -> None:
        expected = (len(draw), len(self.bands), draw.size_px, draw.size_px)
        if pixels.shape != expected or draw.boxes.shape[1] != self.recipe.crops:
            msg = f"tiles of shape {tuple(pixels.shape)}, crops drawn for {expected}"
            raise ValueError(msg)

    def _scale(self, pixels: Tensor) -> Tensor:
        """Map to 0..1 by the value range: (B, C, H, W) → float32 (B, H, C, W)."""
        low, high = self.value_range
        tiles = pixels.permute(0, 2, 1, 3)
        tiles = tiles.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        return to_unit_(tiles, low, high)

    def _group(self, tiles: Tensor, draw: Draw, px: int) -> Tensor:
        """Make the crops of one size: (B, H, C, W) → (V * B, C, px, px), crop by crop."""
        count, _, bands, _ = tiles.shape
        out = tiles.new_empty(draw.boxes.shape[1], count, bands, px, px)
        for some in _portions(tiles, len(out) * px * px) if len(out) else ():
            crops = self._cut_and_colour(tiles[some], draw.part(some, slice(None)).flat(), px)
            crops = crops.view(-1, len(out), px, bands, px)
            self._normalise(crops, out[:, some].permute(1, 0, 3, 2, 4))
        return out.flatten(0, 1)

    def _cut_and_colour(self, tiles: Tensor, draw: Draw, px: int) -> Tensor:
        """Cut crops and change their colours: (b, H, C, W) → (b * V, px, C, px) in 0..1."""
        crops = _cut(tiles, draw, px)
        jitter(crops, draw.order, draw.factors, self._rgb)
        if self._rgb is not None:
            change_some(crops, draw.grayscale, partial(grayscale, rgb=self._rgb))
        change_some(crops, draw.sigmas > 0, _blur, draw.sigmas)
        change_some(crops, draw.solarize, solarize)
        return crops

    def _normalise(self, crops: Tensor, out: Tensor) -> None:
        """Write (crops - mean) / std to `out`; both (b, V, px, C, px)."""
        mean, std = (
            to_device(np.array(numbers, np.float32), crops.device).view(-1, 1)
            for numbers in (self.mean, self.std)
        )
        torch.div(crops.sub_(mean), std, out=out)


def _portions(tiles: Tensor, pixels: int) -> Iterator[slice]:
    """Divide tiles whose crops have so many pixels each."""
    on_cpu = tiles.device.type == "cpu"
    step = max(1, _PIXELS_ON_CPU // pixels) if on_cpu else _TILES_ON_GPU
    for first in range(0, len(tiles), step):
        yield slice(first, min(first + step, len(tiles)))


def _cut(tiles: Tensor, draw: Draw, px: int) -> Tensor:
    """Crop, resize and flip; overshoots of the bicubic kernel are clipped to 0..1."""
    boxes, flips = (to_device(array, tiles.device) for array in (draw.boxes, draw.flips))
    rows, columns = (
        resize_weights(
            boxes[:, axis], boxes[:, 2 + axis], flips[:, axis], size_px=draw.size_px, out_px=px
        )
        for axis in (0, 1)
    )
    return apply_weights(rows, tiles, columns).clamp_(0, 1)


def _blur(crops: Tensor, sigmas: Tensor) -> None:
    weights = blur_weights(sigmas, crops.shape[1])
    crops.copy_(apply_weights(weights, crops, weights))


def apply_weights(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
    """Apply matrices to the rows and the columns of every band.

    Args:
        rows: How an output's rows mix those of the image, shape (B * V, out, H).
        images: Shape (B, H, C, W); each is used by V matrices in succession.
        columns: The same as `rows` for columns, shape (B * V, out, W).

    Returns:
        Shape (B * V, out, C, out).
    """
    count, height, bands, width = images.shape
    crops, out = rows.shape[:2]
    mixed = rows.reshape(count, -1, height) @ images.reshape(count, height, bands * width)
    done = mixed.view(crops, out * bands, width) @ columns.mT
    return done.view(crops, out, bands, columns.shape[1])


def resize_weights(
    start: Tensor, length: Tensor, flip: Tensor, *, size_px: int, out_px: int
) -> Tensor:
    """Weigh pixels of an axis for bicubic resizing with antialias of a part of it.

    The same as Pillow's `resize` of the cropped image and `torch.nn.functional.interpolate`
    (mode="bicubic", antialias=True): pixels beyond the part are not looked at. Where the part is
    larger than the output, the kernel is stretched to cover what it leaves out.

    Args:
        start: First pixel of each part, int64, shape (N,).
        length: Its pixels.
        flip: Whether to reverse the output, bool, shape (N,).
        size_px: Pixels of the axis.
        out_px: Pixels of the output.

    Returns:
        float32, shape (N, out_px, size_px); each row sums to 1.
    """
    place = torch.arange(out_px, device=start.device)
    place = torch.where(flip[:, None], out_px - 1 - place, place)
    # The centre of output i lies at (i + 1/2) · length / out_px. In whole numbers until the end:
    # float32 would lose digits to the size of the axis.
    whole, rest = _divide((2 * place + 1) * length[:, None], 2 * out_px)
    stretch = (length / out_px).clamp_min(1)[:, None]
    # As many pixels for each as the whole axis would take, so that the batch does not matter.
    taps = min(2 * max(-(-_REACH_PX * size_px // out_px), _REACH_PX) + 1, size_px)
    reach = (-(-_REACH_PX * length // out_px)).clamp_min(_REACH_PX)[:, None]
    first = (start[:, None] + whole - reach).clamp(0, size_px - taps)
    pixel = first[..., None] + torch.arange(taps, device=start.device)  # (N, out_px, taps)
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    distance = (pixel - (start[:, None] + whole)[..., None] + 0.5) - rest[..., None]
    weights = _bicubic(distance / stretch[..., None]) * inside
    weights /= weights.sum(dim=2, keepdim=True)
    return weights.new_zeros(len(start), out_px, size_px).scatter_(2, pixel, weights)


def blur_weights(sigmas: Tensor, px: int) -> Tensor:
    """Weigh pixels of an axis for a Gaussian blur.

    Beyond the border the outermost pixel goes on, as Pillow has it (torchvision reflects): what a
    pixel outside would weigh is added to the outermost one.

    Args:
        sigmas: Standard deviations in pixels, 0..2, shape (N,).
        px: Pixels of the axis.

    Returns:
        float32, shape (N, px, px); each row sums to 1.
    """
    reach = _BLUR_REACH_PX
    offset = torch.arange(px + reach, device=sigmas.device)
    sigmas = sigmas.clamp_min(_SMALLEST_SIGMA)[:, None]
    side = torch.exp(-0.5 * (offset / sigmas) ** 2) * (offset <= reach)
    side /= 2 * side.sum(dim=1, keepdim=True) - 1
    # Row i of the matrix is the kernel moved by i: the rows are windows of one line.
    line = torch.cat([side.flip(1), side[:, 1:]], dim=1)
    wide = line.unfold(1, px + 2 * reach, 1).flip(1)  # (N, px, px + 2 * reach)
    weights = wide[:, :, reach:-reach].contiguous()
    weights[:, :, 0] += wide[:, :, :reach].sum(dim=2)
    weights[:, :, -1] += wide[:, :, -reach:].sum(dim=2)
    return weights


def _divide(numerator: Tensor, denominator: int) -> tuple[Tensor, Tensor]:
    """Whole part (int64) and fraction (float32) of a quotient."""
    whole = numerator // denominator
    return whole, (numerator - whole * denominator) / denominator


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel (1981, doi:10.1109/TASSP.1981.1163711)."""
    x = distance.abs()
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return torch.where(x < 1, near, far * (x < _REACH_PX))
