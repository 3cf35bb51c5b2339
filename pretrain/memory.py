"""The process's memory, as training on a CPU wants it."""

import ctypes
import sys

# From glibc's malloc.h; mallopt(3) tells what the values mean.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER, _PAD_BYTES, _NO_MAPS = -1, 64 << 20, 0


def keep_memory() -> None:
    """Have glibc keep for the next step what the last one freed, however large.

    By its defaults it gives tensors of 32 MB and more back to the kernel, which clears every page
    before it hands it out again: the last layer's weights and gradients are 67 MB each, and at 20
    tiles a batch so are activations. A step needs the same memory as the one before, so nothing is
    saved by that. Kept, a step of ViT-S/16 takes 6 % less at 8 tiles and more with larger batches
    (benchmarks/README.md). Does nothing where there is no glibc.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, _NO_MAPS)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_TOP_PAD, _PAD_BYTES)
