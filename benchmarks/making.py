"""What the benchmarks measure on: tiles and models, made on the spot, and this machine."""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import timm
import torch
from numpy.typing import NDArray
from rasterio.transform import from_origin

from tilezoo.space import Contract
from tilezoo.zoo import write_model_dir

BANDS = ("B04", "B03", "B02")
HIGH = 2000  # the value that is white
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EVERY_S = 0.02  # how often a command's memory is looked at
_SIDE = 2048  # of the matrices whose product is the machine's peak


def make_tiles(folder: Path, count: int, side_px: int = 120) -> None:
    """Write uint16 GeoTIFFs of three bands, 10 m pixels side by side in UTM 33N."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    field = _texture(generator, 4 * side_px)
    for number in range(count):
        top, left = generator.integers(0, 3 * side_px, 2)
        pixels = field[:, top : top + side_px, left : left + side_px]
        noise = generator.normal(0, 30, pixels.shape)
        row, column = divmod(number, 100)
        with rasterio.open(
            folder / f"{number:06d}.tif",
            "w",
            driver="GTiff",
            width=side_px,
            height=side_px,
            count=3,
            dtype="uint16",
            crs="EPSG:32633",
            transform=from_origin(4e5 + column * side_px * 10, 5e6 - row * side_px * 10, 10, 10),
        ) as out:
            out.descriptions = BANDS
            out.write((pixels + noise).clip(0, 10_000).astype(np.uint16))


def link_tiles(folder: Path, originals: Path, count: int) -> None:
    """Fill a folder with hard links to some tiles, as if they were many."""
    folder.mkdir(parents=True)
    files = sorted(originals.iterdir())
    for number in range(count):
        os.link(files[number % len(files)], folder / f"{number:06d}.tif")


def make_model(folder: Path, size_px: int, **model_args: int) -> None:
    """Write a ViT-S/16 (or what `model_args` make of it) with random weights."""
    torch.manual_seed(0)
    args = {"img_size": size_px, **model_args}
    network = timm.create_model("vit_small_patch16_224", num_classes=0, **args)
    contract = Contract(
        bands=BANDS,
        unit="dn",
        value_range=(0, HIGH),
        quantize_uint8=True,
        size_px=size_px,
        resize="shorter_side_then_center_crop",
        resize_px=round(size_px * 8 / 7),
        interpolation="bicubic",
        gsd_m=(10.0, 10.0),
        mean=MEAN,
        std=STD,
    )
    config = {"architecture": "vit_small_patch16_224", "num_classes": 0, "model_args": args}
    write_model_dir(folder, network, contract=contract, pooling="cls", config=config)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a command took.

    Attributes:
        peak_mb: Peak resident memory; 0 where there is no /proc.
        own_mb: Peak of the part that is no file's (libraries' code is).
        seconds: From its start to its end.
        cpu_s: Of all its threads; what others do beside it matters less to that.
    """

    peak_mb: float
    own_mb: float
    seconds: float
    cpu_s: float


def run_measured(command: Sequence[str | Path]) -> Measured:
    """Run a command in a process of its own, its answer thrown away."""
    start, peak_kib, own_kib = time.monotonic(), 0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    ended, status = 0, 0
    while not ended:
        peak_kib = max(peak_kib, _read_kib(process.pid, "VmHWM"))
        own_kib = max(own_kib, _read_kib(process.pid, "RssAnon"))
        time.sleep(_EVERY_S)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))} ended with {process.returncode}")
    return Measured(
        peak_mb=peak_kib * 1024 / 1e6,
        own_mb=own_kib * 1024 / 1e6,
        seconds=seconds,
        cpu_s=used.ru_utime + used.ru_stime,
    )


def _read_kib(process: int, line: str) -> int:
    """A line of a process's memory; 0 where that cannot be told.

    Not `ru_maxrss`: what the process was forked from counts there, too.
    """
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return 0
    lines = status.read_text(encoding="utf-8").splitlines()
    return next((int(one.split()[1]) for one in lines if one.startswith(line)), 0)


def machine() -> dict[str, str]:
    """Tell where and with what this was measured."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, check=False, capture_output=True, text=True).stdout.strip()
    chip = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        chip = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), chip)
    gpu = f" + {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "machine": f"{chip}, {os.cpu_count()} cores{gpu}",
        "torch": f"torch {torch.__version__}",
        "commit": commit or "unknown",
        "command": shlex.join(["python", *sys.argv]),
    }


def busy_s() -> tuple[float, float]:
    """Seconds of CPU that all processes and that we (children that ended too) have used so far."""
    times = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    used = sum(map(int, times)) - int(times[3]) - int(times[4])  # idle, waiting for a disk
    ours = os.times()
    return used / os.sysconf("SC_CLK_TCK"), sum(ours[:4])


def wait_for_quiet(most_s: float = 120) -> None:
    """Wait till others leave nine tenths of the cores alone for two seconds, but not for ever."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        before, start = busy_s()[0], time.monotonic()
        time.sleep(2)
        if busy_s()[0] - before < 0.1 * (os.cpu_count() or 1) * (time.monotonic() - start):
            return


def peak_gflops(device: str, dtype: torch.dtype) -> float:
    """Measure the best of twenty matrix products."""
    square = torch.rand(_SIDE, _SIDE, device=device).to(dtype)
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        float((square @ square)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * _SIDE**3 / best / 1e9


def _texture(generator: np.random.Generator, side: int) -> NDArray[np.float64]:
    """Noise of many scales, as fields and forests have it; shape (3, side, side), about 0..3000."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    spectrum = np.fft.rfft2(generator.normal(size=(3, side, side)))
    field = np.fft.irfft2(spectrum / (frequency + 1 / side), s=(side, side))
    field /= field.std(axis=(1, 2), keepdims=True)
    return 1200 + 500 * field
