"""Tiny real rasters and models, written by the tests that read them."""

import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine, from_origin

from tilezoo.bands import BandRequest
from tilezoo.space import Contract
from tilezoo.table import open_table

UTM = "EPSG:32633"
RGB = ("red", "green", "blue")


def texture(
    seed: int,
    *,
    bands: int = 3,
    side: int = 80,
    height: int | None = None,
    low: float = 0,
    high: float = 255,
    dtype: str = "uint8",
) -> NDArray[np.generic]:
    """Smooth random fields, another for each seed, shape (bands, height or side, side)."""
    coarse = torch.rand(1, bands, 7, 7, generator=torch.Generator().manual_seed(seed))
    size = (height or side, side)
    fine = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")[0].clamp(0, 1)
    return (low + fine.numpy() * (high - low)).round().astype(dtype)


def write_tiff(
    path: Path,
    pixels: NDArray[np.generic],
    *,
    crs: str | None = UTM,
    transform: Affine | None = None,
    names: tuple[str, ...] = (),
    tags: dict[str, str] | None = None,
    **profile: object,
) -> Path:
    """Write pixels (bands, height, width); by default 10 m pixels in the UTM zone of 15° E."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    place = {"crs": crs, "transform": transform or from_origin(500_000, 4_500_000, 10, 10)}
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", **shape, **(place if crs else {}), **profile
        ) as file:
            file.write(pixels)
            for index, name in enumerate(names, 1):
                file.set_band_description(index, name)
            file.update_tags(**(tags or {}))
    return path


def write_tiles(
    folder: Path, count: int, *, side: int = 80, photometric: str | None = "RGB", **how: object
) -> list[Path]:
    """Write `count` RGB tiles side by side along a row, each 10 m a pixel."""
    made = []
    for number in range(count):
        transform = from_origin(500_000 + number * side * 10, 4_500_000, 10, 10)
        path = folder / f"tile_{number:04d}.tif"
        colours = {"photometric": photometric} if photometric else {}
        pixels = texture(number, side=side, **how)
        made.append(write_tiff(path, pixels, transform=transform, **colours))
    return made


def write_band_files(
    folder: Path, *, side: int, prefix: str = "", origin: tuple[float, float] = (500_000, 4_500_000)
) -> dict[str, NDArray[np.generic]]:
    """Write Sentinel-2's twelve L2A bands, `side` pixels at 10 m, as one uint16 file each."""
    steps = dict.fromkeys(("B02", "B03", "B04", "B08"), 1)
    steps |= dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 2)
    steps |= dict.fromkeys(("B01", "B09"), 6)
    written = {}
    for seed, (band, step) in enumerate(sorted(steps.items())):
        pixels = texture(seed, bands=1, side=side // step, low=1, high=3000, dtype="uint16")
        transform = from_origin(*origin, 10 * step, 10 * step)
        write_tiff(folder / f"{prefix}{band}.tif", pixels, transform=transform, compress="deflate")
        written[band] = pixels[0]
    return written


def contract(**changes: object) -> Contract:
    """A contract for 8-bit RGB at 64 px, with some of its fields changed."""
    fields: dict[str, object] = {
        "bands": RGB,
        "unit": "uint8",
        "value_range": (0.0, 255.0),
        "quantize_uint8": True,
        "size_px": 64,
        "resize": "shorter_side_then_center_crop",
        "resize_px": 72,
        "interpolation": "bicubic",
        "gsd_m": None,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    fields |= changes
    count = len(fields["bands"])  # type: ignore[arg-type]
    if count != 3 and "mean" not in changes:
        fields |= {"mean": (0.4,) * count, "std": (0.2,) * count}
    return Contract(**fields)  # type: ignore[arg-type]


SENTINEL2 = {"bands": ("B04", "B03", "B02"), "unit": "dn", "value_range": (0.0, 2000.0)}


def write_vit(
    path: Path,
    *,
    pooling: str = "cls",
    seed: int = 0,
    img_size: int = 64,
    depth: int = 2,
    **changes: object,
) -> Path:
    """Write a model directory that holds a small vision transformer with random weights."""
    import timm

    from tilezoo.zoo import write_model_dir

    own = contract(**changes)
    args = {"img_size": img_size, "depth": depth, "in_chans": len(own.bands)}
    torch.manual_seed(seed)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **args)
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": args}
    write_model_dir(path, network, contract=own, pooling=pooling, config=config)
    return path


def request(
    *wanted: str, given: tuple[str, ...] | None = None, stated: bool = False
) -> BandRequest:
    """Which bands to ask a file for; red, green and blue unless said otherwise."""
    return BandRequest(wanted=wanted or RGB, given=given, values_stated=stated)


def rows_of(table: Path) -> pa.Table:
    """All rows of a finished table, in order, without file keys."""
    parts = [table / part.file for part in open_table(table).manifest.parts]
    tables = [pq.read_table(part).replace_schema_metadata(None) for part in parts]
    return pa.concat_tables(tables).combine_chunks()


def vectors_of(table: Path) -> NDArray[np.float32]:
    """All vectors of a finished table, shape (N, D)."""
    return np.concatenate(list(open_table(table).vectors()))


def errors_of(table: Path) -> list[dict[str, object]]:
    """What errors.parquet says, row by row; nothing where there is none."""
    path = table / "errors.parquet"
    return pq.read_table(path).to_pylist() if path.exists() else []


def cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each row of one with the same row of the other, in double precision."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def timm_transform(model_dir: Path) -> tuple[torch.nn.Module, object]:
    """What any timm user does with a model directory: network and eval transform."""
    import timm
    from timm.data import create_transform, resolve_data_config

    network = timm.create_model(f"local-dir:{model_dir}", pretrained=True).eval()
    config = resolve_data_config(pretrained_cfg=network.pretrained_cfg)
    return network, create_transform(**config, is_training=False)


def as_pillow(pixels: NDArray[np.generic], low: float = 0, high: float = 255) -> Pillow.Image:
    """The 8-bit RGB image that a user makes of pixels (3, h, w) with `low` black, `high` white."""
    unit = np.clip((pixels.astype(np.float64) - low) / (high - low), 0, 1)
    return Pillow.fromarray((unit * 255).round().astype(np.uint8).transpose(1, 2, 0))


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def python(code: str, *args: object, **how: object) -> "subprocess.Popen[str]":
    """Start Python on some code; its stdout and stderr come together."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=env, **pipes, **how)  # type: ignore[call-overload,no-any-return]


def found(pattern: str, text: str) -> bool:
    """Tell whether a regular expression occurs in a text."""
    return re.search(pattern, text) is not None
