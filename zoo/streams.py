"""A CPU's cores as streams: threads that each run passes of their own, side by side."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

from tilezoo.malloc import MMAP_THRESHOLD, TOP_PAD, TRIM_THRESHOLD, tune_malloc

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
