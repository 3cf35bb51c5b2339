"""glibc's malloc, told how to treat the memory that tensors leave."""

import ctypes
import sys
from collections.abc import Mapping

# Parameters of mallopt, from glibc's malloc.h; mallopt(3) tells what their values mean.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4


def tune_malloc(values: Mapping[int, int]) -> None:
    """Set parameters of malloc for this process; does nothing where there is no glibc."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter, value in values.items():
            libc.mallopt(parameter, value)
