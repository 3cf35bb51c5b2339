"""Matrix products by the faster of a CPU's two libraries, where it is as exact."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

CHUNK = 1 << 14


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Cut `count` rows into slices of `size`; the last may be shorter."""
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


_AGREEMENT = 1e-5  # of inner products of unit vectors, which float32 has to some 3e-7
_ROWS, _COLUMNS = 256, 8192
_MANY = 1 << 22  # values: 10,000 vectors of 384


@contextmanager
def fast_products(x: Tensor) -> Iterator[None]:
    """Let oneDNN multiply while the block runs, if that changes nothing here.

    PyTorch multiplies float32 matrices by MKL, which is slow on AMD: 79 against oneDNN's 177
    GFLOP/s of one Zen 4 core. It takes oneDNN at the precision "medium", which allows bfloat16
    inside; CPUs with AMX then use it, and those keep MKL.

    Args:
        x: Rows to be multiplied, on the device where that will be.
    """
    before = torch.get_float32_matmul_precision()
    if x.device.type == "cpu" and _as_exact(x):
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def one_thread_for_few(x: Tensor) -> Iterator[None]:
    """Use one thread while the block runs, where a pass over the rows is over in milliseconds.

    Threads that wait for each other thousands of times gain nothing there, and on a busy machine
    they lose: four times the seconds were measured with two threads.
    """
    before = torch.get_num_threads()
    if x.numel() < _MANY:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_exact(x: Tensor) -> bool:
    rows = torch.nn.functional.normalize(x[:_COLUMNS], dim=1)
    before = torch.get_float32_matmul_precision()
    products = []
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        products.append(rows[:_ROWS] @ rows.T)
    torch.set_float32_matmul_precision(before)
    return bool((products[0] - products[1]).abs().max() <= _AGREEMENT)
