"""Changes of colour, in place, on crops with any number of bands.

Crops are float32 in 0..1, shape (N, height, C, width), as `crops` cuts them. `rgb` says
which bands are red, green and blue. On these, every change equals torchvision's of that name; what
the other bands undergo, each function says. Factors have shape (N,).
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilezoo.bands import same
from tilezoo.pretrain.draws import BRIGHTNESS, CONTRAST, HUE, NEUTRAL, SATURATION

RGB = tuple[int, int, int]
Change = Callable[..., None]  # of crops, and an amount for each

_LUMA = (0.2989, 0.587, 0.114)  # of ITU-R BT.601, with torchvision's digits
_TINY = 1e-30  # keeps 0 / 0 away from pixels that have no hue


def find_rgb(bands: Sequence[str]) -> RGB | None:
    """Find by their names which bands are red, green and blue; None if one is missing."""
    red, green, blue = (
        next((place for place, name in enumerate(bands) if same(name, colour)), None)
        for colour in ("red", "green", "blue")
    )
    return None if red is None or green is None or blue is None else (red, green, blue)


def change_some(
    crops: Tensor, which: NDArray[np.bool_], change: Change, *amounts: NDArray[np.float64]
) -> None:
    """Make an in-place change to some of the crops.

    Args:
        crops: Shape (N, …).
        which: Those to change, shape (N,); on the host, so that a GPU need not be waited for.
        change: It is given these crops alone, and what `amounts` hold for them in float32.
        amounts: Each with a number for every crop, shape (N,).
    """
    rows = np.flatnonzero(which)
    if len(rows) == 0:
        return
    own = [to_device(numbers[rows].astype(np.float32), crops.device) for numbers in amounts]
    if rows[-1] - rows[0] == len(rows) - 1:  # neighbours need no copy
        change(crops[rows[0] : rows[-1] + 1], *own)
        return
    index = to_device(rows, crops.device)
    some = crops[index]
    change(some, *own)
    crops.index_copy_(0, index, some)


def to_device(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """Send an array to the device, without waiting for a GPU."""
    return torch.from_numpy(values).to(device, non_blocking=device.type == "cuda")


def jitter(
    crops: Tensor, order: NDArray[np.int64], factors: NDArray[np.float64], rgb: RGB | None
) -> None:
    """Change brightness, contrast, saturation and hue of every crop, in its own order.

    A crop's factor is the same for all bands: it stands for light and haze, and the ratios between
    bands, by which water differs from leaves, should outlast it.

    Args:
        crops: Shape (N, height, C, width).
        order: Which of the four comes first, second, … (`draws.Draw`), shape (N, 4).
        factors: By which each is changed (`draws.Draw`), shape (N, 4).
        rgb: Without it there is no saturation and no hue to change.
    """
    changes: dict[int, Change] = {
        BRIGHTNESS: brighten,
        CONTRAST: partial(change_contrast, rgb=rgb),
    }
    if rgb is not None:
        changes[SATURATION] = partial(saturate, rgb=rgb)
        changes[HUE] = partial(turn_hue, rgb=rgb)
    drawn = factors != NEUTRAL
    for now in order.T:  # (N,): each crop's first change, then each one's second, …
        for kind, change in changes.items():
            change_some(crops, (now == kind) & drawn[:, kind], change, factors[:, kind])


def brighten(crops: Tensor, factors: Tensor) -> None:
    """Multiply every band."""
    crops.mul_(factors.view(-1, 1, 1, 1)).clamp_(0, 1)


def change_contrast(crops: Tensor, factors: Tensor, rgb: RGB | None) -> None:
    """Scale about the mean: that of the gray image for red, green and blue, else the band's own."""
    middle = crops.mean(dim=(1, 3), keepdim=True)  # (N, 1, C, 1)
    if rgb is not None:
        luma = sum(weight * middle[:, :, band] for weight, band in zip(_LUMA, rgb, strict=True))
        for band in rgb:
            middle[:, :, band] = luma
    factors = factors.view(-1, 1, 1, 1)
    crops.mul_(factors).add_(middle * (1 - factors)).clamp_(0, 1)


def saturate(crops: Tensor, factors: Tensor, rgb: RGB) -> None:
    """Move red, green and blue from (or to) their gray; other bands stay."""
    gray = _gray(crops, rgb)
    share = (1 - factors).view(-1, 1, 1)
    for band in rgb:
        crops[:, :, band].lerp_(gray, share).clamp_(0, 1)


def turn_hue(crops: Tensor, turns: Tensor, rgb: RGB) -> None:
    """Turn red, green and blue along the circle of HSV's hue; other bands stay.

    Lowest and highest value of a pixel stay. Over the circle each colour is a trapezoid between
    them, so sectors need no cases of their own: on processors, branches by pixel are slow.

    Args:
        crops: Shape (N, height, C, width).
        turns: How far, in turns of the circle, -0.5..0.5, shape (N,).
        rgb: Which bands.
    """
    red, green, blue = (crops[:, :, band] for band in rgb)  # (N, height, width)
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - low
    six = chroma * 6
    hue = _hue_times(six, red, green, blue, high).div_(six.clamp_min(_TINY))
    hue.add_((turns + 1).view(-1, 1, 1)).frac_()  # + 1: of a negative number frac is negative
    below, above = low - chroma, high + chroma
    torch.addcmul(below, six, _distance(hue, 1 / 2), out=red)
    torch.addcmul(above, six, _distance(hue, 1 / 3), value=-1, out=green)
    torch.addcmul(above, six, _distance(hue, 2 / 3), value=-1, out=blue)


def grayscale(crops: Tensor, rgb: RGB) -> None:
    """Make red, green and blue their gray; other bands stay."""
    gray = _gray(crops, rgb)
    for band in rgb:
        crops[:, :, band] = gray


def solarize(crops: Tensor) -> None:
    """Invert the upper half of the values, in every band."""
    torch.minimum(crops, 1 - crops, out=crops)


def _gray(crops: Tensor, rgb: RGB) -> Tensor:
    """Luma, shape (N, height, width)."""
    red, green, blue = (crops[:, :, band] for band in rgb)
    return (red * _LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _hue_times(six: Tensor, red: Tensor, green: Tensor, blue: Tensor, high: Tensor) -> Tensor:
    """Hue (in turns, above -1/6) times six times chroma; the highest colour says which formula."""
    is_red, is_green = (red - high).eq_(0), (green - high).eq_(0)  # 1 or 0
    hue = (red - green).add_(six, alpha=2 / 3)
    hue.lerp_((blue - red).add_(six, alpha=1 / 3), is_green)
    return hue.lerp_(green - blue, is_red)


def _distance(hue: Tensor, place: float) -> Tensor:
    """Distance from a place on the circle, kept within 1/6..1/3 turn."""
    return (hue - place).abs_().clamp_(1 / 6, 1 / 3)
