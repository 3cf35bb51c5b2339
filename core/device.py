"""A CPU's cores as streams: threads that each run passes of their own, side by side."""

import ctypes
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

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


_MOST = 8  # streams; beyond, a batch has too few passes for all, and each takes more cores
# The largest values that have an effect (mallopt(3)); a thread's heaps are of the padding's size.
_TRIM_BYTES, _PAD_BYTES, _MMAP_BYTES = 512 << 20, 64 << 20, 32 << 20


def start_streams(device: torch.device) -> ThreadPoolExecutor:
    """Start threads for passes: one per core of a CPU (or per few), one for a GPU.

    A layer that is spread over all cores ends when its last part does, so whatever else runs,
    reading tiles say, holds up all of them. Streams do not wait for each other.
    """
    if device.type != "cpu":
        return ThreadPoolExecutor(1, thread_name_prefix="network")
    cores = torch.get_num_threads()
    count = min(cores, _MOST)
    started = Barrier(count + 1)

    def take_cores() -> None:
        torch.set_num_threads(cores // count)
        torch.get_num_threads()  # settles it for this thread, whatever is set elsewhere later
        started.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="network", initializer=take_cores)
    for _ in range(count):
        pool.submit(bool)
    started.wait()
    torch.set_num_threads(cores)
    return pool


def keep_freed_memory() -> None:
    """Have glibc keep for the next layer what the last one freed.

    By its defaults it returns large buffers to the kernel and gets them back cleared, page by
    page: up to a quarter of a ViT-S's time at 224 px, 40 % of a CNN's (benchmarks/README.md).
    """
    tune_malloc({TRIM_THRESHOLD: _TRIM_BYTES, MMAP_THRESHOLD: _MMAP_BYTES, TOP_PAD: _PAD_BYTES})


_NEVER, _PAD_BYTES_memory, _NO_MAPS = -1, 64 << 20, 0


def keep_memory() -> None:
    """Have glibc keep for the next step what the last one freed, however large.

    By its defaults it gives large tensors back to the kernel, which clears every page before it
    hands it out again, though a step needs the same memory as the one before. That is 80,000 page
    faults in each step of ViT-S/16 with 8 tiles; without them two cores train on 4.5 tiles/s where
    it was 3.9, and the peak is the same (benchmarks/README.md).
    """
    tune_malloc({MMAP_MAX: _NO_MAPS, TRIM_THRESHOLD: _NEVER, TOP_PAD: _PAD_BYTES_memory})
