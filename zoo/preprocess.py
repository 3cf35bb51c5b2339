"""From pixels to what a network is fed, for a whole batch on its device."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812  (torchvision's own habit)

from tilezoo.space import Contract, Interpolation

_MODES: Mapping[Interpolation, InterpolationMode] = {
    "bicubic": InterpolationMode.BICUBIC,
    "bilinear": InterpolationMode.BILINEAR,
    "nearest": InterpolationMode.NEAREST_EXACT,  # the one that PIL calls nearest
}


def prepare(pixels: Tensor, contract: Contract) -> Tensor:
    """Scale, resize, crop and normalise a batch by its contract.

    With `quantize_uint8` this equals timm's eval transform (PIL: 8-bit bicubic with
    antialias) within a rounding step of 1/255, two at the most where it enlarges.

    Args:
        pixels: Raw values, shape (B, C, H, W), any real dtype.
        contract: Whose bands are the C.

    Returns:
        float32, shape (B, C, size_px, size_px).
    """
    return normalise(fit(pixels, contract), contract)


def fit(pixels: Tensor, contract: Contract) -> Tensor:
    """Scale to 0..1 (or 0..255 in 8 bits) and bring to the contract's size."""
    return _sized(_scaled(pixels, contract), contract)


def normalise(values: Tensor, contract: Contract) -> Tensor:
    """Map fitted values to the network's: (x - mean) / std, in float32."""
    top = 255.0 if values.dtype == torch.uint8 else 1.0
    mean = torch.tensor(contract.mean, device=values.device).view(-1, 1, 1) * top
    std = torch.tensor(contract.std, device=values.device).view(-1, 1, 1) * top
    return values.to(torch.float32, copy=True).sub_(mean).div_(std)


def _scaled(pixels: Tensor, contract: Contract) -> Tensor:
    low, high = contract.value_range
    if contract.quantize_uint8 and pixels.dtype == torch.uint8 and (low, high) == (0, 255):
        return pixels
    unit = pixels.to(torch.float32, copy=True).clamp_(low, high).sub_(low).div_(high - low)
    return unit.mul_(255).round_().to(torch.uint8) if contract.quantize_uint8 else unit


def _sized(values: Tensor, contract: Contract) -> Tensor:
    if contract.resize == "none":
        return values
    side = contract.resize_px
    resized = F.resize(
        values,
        [side, side] if contract.resize == "squash" else [side],
        interpolation=_MODES[contract.interpolation],
        antialias=True,
    )
    cropped: Tensor = F.center_crop(resized, [contract.size_px, contract.size_px])
    return cropped
