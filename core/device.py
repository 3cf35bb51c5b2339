"""Where networks run: which device, how its cores are shared out, what malloc keeps."""

import ctypes
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

from tilezoo.errors import OptionError

_MOST_STREAMS = 8  # beyond, a batch has too few passes for all, and each takes more cores
# Parameters of mallopt, from glibc's malloc.h; mallopt(3) tells what their values mean.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
# The largest values that have an effect; a thread's heaps are of the padding's size.
_TRIM_BYTES, _PAD_BYTES, _MMAP_BYTES = 512 << 20, 64 << 20, 32 << 20
_NEVER, _NO_MAPS = -1, 0


def choose_device(
    wish: str,
    *,
    best: Sequence[str] = ("cuda", "mps"),
    dtype: torch.dtype = torch.float32,
) -> torch.device:
    """Turn `auto` into a device, and refuse one that is not there.

    Args:
        wish: `--device`: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        best: What `auto` takes, the first that is there; the CPU if none is.
        dtype: In which the device must compute.

    Raises:
        OptionError: No such device, or not for this dtype.
    """
    name = next(filter(_is_there, best), "cpu") if wish == "auto" else wish
    try:
        device = torch.device(name)
        torch.zeros(1, dtype=dtype, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        double = " in 64 bits" if dtype == torch.float64 else ""
        fix = "try --device cpu" if double else "try --device auto"
        raise OptionError(f"--device {name} is not to be had here{double}; {fix}") from error
    return device


def _is_there(name: str) -> bool:
    if name == "mps":
        return torch.backends.mps.is_available()
    return name.startswith("cuda") and torch.cuda.is_available()


def start_streams(device: torch.device) -> ThreadPoolExecutor:
    """Start threads that each run passes of their own: one per core of a CPU, one for a GPU.

    A layer that is spread over all cores ends when its last part does, so whatever else runs,
    reading tiles say, holds up all of them. Streams do not wait for each other. Where cores are
    many, each stream has some.
    """
    if device.type != "cpu":
        return ThreadPoolExecutor(1, thread_name_prefix="network")
    cores = torch.get_num_threads()
    count = min(cores, _MOST_STREAMS)
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


def keep_freed_layers() -> None:
    """Have glibc keep for the next layer what the last one freed.

    By its defaults it returns large buffers to the kernel and gets them back cleared, page by
    page: up to a quarter of a ViT-S's time at 224 px, 40 % of a CNN's (benchmarks/README.md).
    """
    _tune_malloc({_TRIM_THRESHOLD: _TRIM_BYTES, _MMAP_THRESHOLD: _MMAP_BYTES, _TOP_PAD: _PAD_BYTES})


def keep_freed_steps() -> None:
    """Have glibc keep for the next training step what the last one freed, however large.

    By its defaults it gives large tensors back to the kernel, which clears every page before it
    hands it out again, though a step needs the same memory as the one before. That is 80,000 page
    faults in each step of ViT-S/16 with 8 tiles; without them two cores train on 4.5 tiles/s where
    it was 3.9, and the peak is the same (benchmarks/README.md).
    """
    _tune_malloc({_MMAP_MAX: _NO_MAPS, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: _PAD_BYTES})


def _tune_malloc(values: Mapping[int, int]) -> None:
    """Set parameters of malloc for this process; does nothing where there is no glibc."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter, value in values.items():
            libc.mallopt(parameter, value)
