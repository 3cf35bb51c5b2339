"""What of a file's pixels is data, and what stands in for the rest.

A pixel holds no data where all bands that are asked for have their nodata value, or where the file's
mask says so: NODATA_VALUES, an internal or external mask, transparency. One band alone at its
nodata value is an ordinary value: 255 is also the red of a bright roof (GDAL RFC 15).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilezoo.colours import PICTURES
from tilezoo.errors import TileError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

ReadMask = Callable[[int], NDArray[Any]]  # a band's mask in the window, shape (h, w)
_PROBES = 5  # windows along each side of a large file, in which a band is looked at
_PROBE_PX = 64


def mark_data(
    dataset: "DatasetReader",
    indexes: Sequence[int],
    stored: NDArray[np.generic],
    stated: float | None,
    read_mask: ReadMask,
) -> NDArray[np.bool_]:
    """Mark the values of bands that hold data, shape (C, h, w).

    Args:
        dataset: Whose masks and nodata values these are.
        indexes: Of the bands (1-based) that were read.
        stored: Their values, shape (C, h, w).
        stated: `--nodata`, which goes before the file's own values, not before its masks.
        read_mask: Reads a mask, 0 where there is no data.
    """
    from rasterio.enums import MaskFlags

    flags_of = dataset.mask_flag_enums
    flags = {flag for index in indexes for flag in flags_of[index - 1]}
    valid = np.ones(stored.shape, np.bool_)
    if stated is None and flags == {MaskFlags.all_valid}:
        return valid
    if stated is not None:
        valid &= differ(stored, stated)
    elif flags >= {MaskFlags.nodata, MaskFlags.per_dataset}:
        valid &= _differ_from_colour(dataset, indexes, stored, read_mask)
    elif MaskFlags.nodata in flags:
        for place, index in enumerate(indexes):
            valid[place] = differ(stored[place], dataset.nodatavals[index - 1])
    if MaskFlags.nodata not in flags and _has_mask(dataset, flags):
        valid &= read_mask(indexes[0]) > 0
    return valid


def differ(values: NDArray[np.generic], nodata: float | None) -> NDArray[np.bool_]:
    """Mark the values that are not the nodata value, which may be NaN."""
    if nodata is None:
        return np.ones(values.shape, np.bool_)
    if values.dtype.kind != "f":
        return np.asarray(values != nodata)
    if math.isnan(nodata):
        return np.asarray(~np.isnan(values))
    with np.errstate(over="ignore"):  # a nodata value that the dtype cannot hold
        return np.asarray(values != values.dtype.type(nodata))


def count_bands(dataset: "DatasetReader", colours: Sequence[str]) -> int:
    """Count the bands that may be asked for: all but an alpha band that is a mask."""
    alpha = find_alpha(colours)
    masks = alpha is not None and not alpha_is_data(dataset, alpha)
    return len(colours) - masks


def find_alpha(colours: Sequence[str]) -> int | None:
    """Find the alpha band (1-based); None without one."""
    return colours.index("alpha") + 1 if "alpha" in colours else None


def alpha_is_data(dataset: "DatasetReader", index: int) -> bool:
    """Tell whether a band is called alpha and holds more than a mask's two values.

    GDAL and rasterio call the fourth of four 8-bit bands alpha unless they are told otherwise, so
    in many files it is near infrared. In pictures such as PNG it is what it says.
    """
    if dataset.driver in PICTURES:
        return False
    path = Path(dataset.name)
    changed_ns = path.stat().st_mtime_ns if path.exists() else 0
    probed = _Probed(path=dataset.name, changed_ns=changed_ns, index=index, dataset=dataset)
    return _holds_many_values(probed)


def refuse_unexplained(pixels: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
    """Refuse NaN and infinity in values that are said to be data.

    Raises:
        TileError: With what to do if they mean that there is none.
    """
    if pixels.dtype.kind != "f":
        return
    broken = int((~np.isfinite(pixels) & valid).any(axis=0).sum())
    if broken:
        fix = "if they mean no data, say --nodata nan"
        raise TileError("invalid_pixels", f"{broken} pixels are NaN or infinite; {fix}")


def refuse_sparse(nodata_fraction: float, most: float) -> None:
    """Refuse a tile of which more than `--max-nodata` holds no data.

    Raises:
        TileError: Of the kind `nodata`, which is no failure.
    """
    if nodata_fraction > most:
        share = f"{nodata_fraction:.3g} of it holds no data"
        raise TileError("nodata", f"{share}, --max-nodata is {most:g}")


def fill(pixels: NDArray[np.generic], valid: NDArray[np.bool_], low: float) -> NDArray[np.generic]:
    """Put what a contract maps to 0 where no band holds data, and where a band has no number."""
    if valid.all():
        return pixels
    empty = np.broadcast_to(~valid.any(axis=0), pixels.shape)
    if pixels.dtype.kind in "iu":
        limits = np.iinfo(pixels.dtype.name)
        low = float(np.clip(np.ceil(low), limits.min, limits.max))
    else:
        empty = empty | (~valid & ~np.isfinite(pixels))
    pixels[empty] = np.asarray(low).astype(pixels.dtype)
    return pixels


def _has_mask(dataset: "DatasetReader", flags: "set[object]") -> bool:
    from rasterio.enums import MaskFlags

    if MaskFlags.alpha not in flags:
        return MaskFlags.per_dataset in flags
    alpha = find_alpha([colour.name for colour in dataset.colorinterp])
    return alpha is None or not alpha_is_data(dataset, alpha)


def _differ_from_colour(
    dataset: "DatasetReader",
    indexes: Sequence[int],
    stored: NDArray[np.generic],
    read_mask: ReadMask,
) -> NDArray[np.bool_]:
    """Mark pixels that are not of the colour NODATA_VALUES (of all bands, asked for or not)."""
    try:
        colour = [float(text) for text in dataset.tags().get("NODATA_VALUES", "").split()]
    except ValueError:
        colour = []
    if len(colour) != dataset.count or {*indexes} != {*range(1, dataset.count + 1)}:
        return np.asarray(read_mask(indexes[0]) > 0)
    bands = zip(stored, indexes, strict=True)
    marks = [differ(band, colour[index - 1]) for band, index in bands]
    return np.asarray(np.any(marks, axis=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Probed:
    """A band of a file as it was when last changed."""

    path: str
    changed_ns: int
    index: int
    dataset: "DatasetReader" = field(compare=False)


@lru_cache(maxsize=4096)
def _holds_many_values(band: _Probed) -> bool:
    from rasterio.windows import Window

    found: set[int | float] = set()
    for x, y, width, height in _probe_windows(band.dataset.width, band.dataset.height):
        values = band.dataset.read(band.index, window=Window(x, y, width, height))
        found.update(np.unique(values).tolist())
        if len(found) > 2:
            return True
    return False


def _probe_windows(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Spread windows over a file; all of a small one. Overviews may be averages, and are no help."""
    if max(width, height) <= _PROBES * _PROBE_PX:
        return [(0, 0, width, height)]
    across, down = min(_PROBE_PX, width), min(_PROBE_PX, height)
    xs = {round(x) for x in np.linspace(0, width - across, _PROBES)}
    ys = {round(y) for y in np.linspace(0, height - down, _PROBES)}
    return [(x, y, across, down) for y in sorted(ys) for x in sorted(xs)]
