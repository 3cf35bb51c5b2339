"""Which precision to embed in: the fast one only where it is faster here and right."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from tilezoo.progress import say
from tilezoo.space import Precision
from tilezoo.tiles import Tile
from tilezoo.zoo.backbone import Backbone

_WORTH_IT = 1.3  # times faster a bf16 matrix product must be than an fp32 one
_AGREEMENT = 0.999  # cosine of every vector in bf16 with the same in fp32
_SIDE = 1024


def choose_precision(backbone: Backbone, tiles: Sequence[Tile]) -> Precision:
    """Take bf16 if this machine is faster with it and these tiles come out the same.

    Args:
        backbone: In fp32; it is left in the precision that is chosen.
        tiles: A few of the run's first.
    """
    gain = _measure_gain(backbone.device)
    if gain < _WORTH_IT:
        say(f"precision fp32: bf16 is {gain:.1f} times as fast here")
        return "fp32"
    exact = backbone.encode(tiles)
    backbone.use("bf16")
    agreement = float(_compare(exact, backbone.encode(tiles)).min())
    if agreement >= _AGREEMENT:
        say(f"precision bf16: {gain:.1f} times as fast here, cosine with fp32 ≥ {agreement:.5f}")
        return "bf16"
    backbone.use("fp32")
    say(f"precision fp32: bf16 agrees with it to a cosine of {agreement:.5f} only")
    return "fp32"


def _compare(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    dots = (first * second).sum(axis=1)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.where(lengths > 0, dots / np.where(lengths > 0, lengths, 1), 1.0)


def _measure_gain(device: torch.device) -> float:
    return _time_pass(device, torch.float32) / _time_pass(device, torch.bfloat16)


def _time_pass(device: torch.device, dtype: torch.dtype) -> float:
    """Best of five matrix products, after one that warms up."""
    square = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        float((square @ square)[0, 0])  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times[1:])
