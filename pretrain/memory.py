"""The process's memory, as training on a CPU wants it."""

from tilezoo.malloc import MMAP_MAX, TOP_PAD, TRIM_THRESHOLD, tune_malloc

_NEVER, _PAD_BYTES, _NO_MAPS = -1, 64 << 20, 0


def keep_memory() -> None:
    """Have glibc keep for the next step what the last one freed, however large.

    By its defaults it gives large tensors back to the kernel, which clears every page before it
    hands it out again, though a step needs the same memory as the one before. That is 80,000 page
    faults in each step of ViT-S/16 with 8 tiles; without them two cores train on 4.5 tiles/s where
    it was 3.9, and the peak is the same (benchmarks/README.md).
    """
    tune_malloc({MMAP_MAX: _NO_MAPS, TRIM_THRESHOLD: _NEVER, TOP_PAD: _PAD_BYTES})
