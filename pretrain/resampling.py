"""Cropping with resizing, and blurring, of whole batches: each as two matrix products.

A filter that works along rows and columns apart is `rows @ image @ columnsᵀ`. Its matrices differ
from crop to crop, so a batch of crops is two batched products, whatever its boxes are. Images
are kept as (N, height, bands, width): in this order both products take them as they lie.
"""

import torch
from torch import Tensor

_A = -0.5  # the free parameter of Keys' bicubic kernel as Pillow and torch's antialias take it
_REACH_PX = 2  # of that kernel
_BLUR_REACH_PX = 8  # four standard deviations of the strongest blur: all but 6e-5 of the weight
_SMALLEST_SIGMA = 1e-3  # px; leaves an image as it is


def filtered(rows: Tensor, images: Tensor, columns: Tensor) -> Tensor:
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
    whole, rest = _divided((2 * place + 1) * length[:, None], 2 * out_px)
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


def _divided(numerator: Tensor, denominator: int) -> tuple[Tensor, Tensor]:
    """Whole part (int64) and fraction (float32) of a quotient."""
    whole = numerator // denominator
    return whole, (numerator - whole * denominator) / denominator


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel (1981, doi:10.1109/TASSP.1981.1163711)."""
    x = distance.abs()
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return torch.where(x < 1, near, far * (x < _REACH_PX))
