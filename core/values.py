"""Pixel values as a contract maps them: clipped to a range, on the 0..1 scale, in 8 bits.

Each step is there for NumPy's arrays and for torch's tensors, all in float32: both give the same
bits, so a pack that was scaled before holds what a backbone would make of the same pixels.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def to_unit(pixels: NDArray[np.generic], low: float, high: float) -> NDArray[np.float32]:
    """Clip pixels of any real dtype to a range and map it to 0..1."""
    unit = np.clip(pixels.astype(np.float32), np.float32(low), np.float32(high))
    unit -= np.float32(low)
    unit /= np.float32(high - low)
    return unit


def to_8bit(pixels: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    """Clip pixels of any real dtype to a range and map it to 0..255, rounded."""
    unit = to_unit(pixels, low, high)
    unit *= np.float32(255)
    return np.rint(unit, out=unit).astype(np.uint8)


def to_unit_(values: "Tensor", low: float, high: float) -> "Tensor":
    """Do as `to_unit` to float32 values, in their place."""
    return values.clamp_(low, high).sub_(low).div_(high - low)


def to_8bit_(values: "Tensor", low: float, high: float) -> "Tensor":
    """Do as `to_8bit` to float32 values, which are lost."""
    return to_unit_(values, low, high).mul_(255).round_().byte()
