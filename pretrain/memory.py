"""The process's memory, as training on a CPU wants it."""

import ctypes
import sys

# From glibc's malloc.h; mallopt(3) tells what the values mean.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER, _PAD_BYTES, _NO_MAPS = -1, 64 << 20, 0


def keep_memory() -> None:
    """Have glibc keep for the next step what the last one freed, however large.

    By its defaults it gives large tensors back to the kernel, which clears every page before it
    hands it out again, though a step needs the same memory as the one before. That is 80,000 page
    faults in each step of ViT-S/16 with 8 tiles; without them two cores train on 4.5 tiles/s where
    it was 3.9, and the peak is the same (benchmarks/README.md). Does nothing where there is no
    glibc.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, _NO_MAPS)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_TOP_PAD, _PAD_BYTES)
