"""Hints about pixels, from tiles spread over a run: what to look at before hours go by.

They are about what no file says and no rule settles: a range that makes much of the values black or
white, pixels that look like no data, files of another unit. Nothing is refused and nothing changed.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilezoo.bands import BandRequest
from tilezoo.progress import say
from tilezoo.reading import Reader, read_ahead
from tilezoo.space import Contract
from tilezoo.tiles import Tile, TileRef

_TILES = 8
_SIDE_PX = 64  # of what is kept of a tile, about
_MANY = 0.1  # share of values or pixels that deserves a hint
_END = 0.5 / 255  # of the range: what 8 bits round to its ends
_UNIT_TOP, _COUNTS_MIDDLE = (
    2.0,
    10.0,
)  # reflectance stays below the one; digital numbers are above the other


def spread(count: int) -> list[int]:
    """Choose some of so many tiles, evenly spread, the first among them."""
    return list(range(0, count, max(1, count // _TILES)))[:_TILES]


def give_hints(
    refs: Sequence[TileRef], contract: Contract, request: BandRequest, *, workers: int
) -> None:
    """Read tiles and say what is striking about their values, on stderr."""
    for hint in read_hints(refs, contract, request, workers=workers):
        say(f"hint: {hint}")


def read_hints(
    refs: Sequence[TileRef], contract: Contract, request: BandRequest, *, workers: int
) -> list[str]:
    """Read tiles and find what is striking about their values."""
    reader = Reader(contract, request, thin_out)
    with closing(read_ahead(refs, reader, workers=workers, ahead=_TILES)) as outcomes:
        tiles = [outcome for outcome in outcomes if isinstance(outcome, Tile)]
    return find_hints(tiles, contract.value_range, stated=request.nodata is not None)


def thin_out(tile: Tile) -> Tile:
    """Keep every so many pixels of a tile."""
    step = max(1, min(tile.pixels.shape[1:]) // _SIDE_PX)
    return replace(tile, pixels=tile.pixels[:, ::step, ::step].copy())


def find_hints(
    tiles: Sequence[Tile], value_range: tuple[float, float], *, stated: bool
) -> list[str]:
    """Find what is striking about tiles' values.

    Args:
        tiles: With their pixels as they were read.
        value_range: Values that become black and white.
        stated: `--nodata` is said, so pixels that look like no data are none.
    """
    found = [_tell_mixed_units(tiles), _tell_saturation(tiles, value_range)]
    if not stated:
        found.append(_tell_undeclared_nodata(tiles))
    return [hint for hint in found if hint]


def _tell_mixed_units(tiles: Sequence[Tile]) -> str | None:
    fractions = [tile for tile in tiles if _is_fraction(tile.pixels)]
    counts = [tile for tile in tiles if _is_count(tile.pixels)]
    if not fractions or not counts:
        return None
    ends = [f"{tile.id} reaches {tile.pixels.max():.3g}" for tile in (fractions[0], counts[0])]
    return (
        f"units are mixed: {ends[0]} ({fractions[0].pixels.dtype}), {ends[1]} "
        f"({counts[0].pixels.dtype}); no one --value-range serves both, so take them apart"
    )


def _is_fraction(pixels: NDArray[Any]) -> bool:
    return pixels.dtype.kind == "f" and float(np.quantile(pixels, 0.99)) <= _UNIT_TOP


def _is_count(pixels: NDArray[Any]) -> bool:
    return float(np.median(pixels)) >= _COUNTS_MIDDLE


def _tell_saturation(tiles: Sequence[Tile], value_range: tuple[float, float]) -> str | None:
    """Tell the share of values that a range makes black or white, whichever is the larger one."""
    low, high = value_range
    kept = [_drop_flat(tile) for tile in tiles if not _fills_dtype(tile.pixels.dtype, low, high)]
    values = np.concatenate(kept) if kept else np.empty(0)
    if not values.size:
        return None
    unit = (values - low) / (high - low)
    black, white = float((unit <= _END).mean()), float((unit >= 1 - _END).mean())
    if max(black, white) <= _MANY:
        return None
    share, what = (black, "black") if black >= white else (white, "white")
    first, last = np.quantile(values, [0.02, 0.98])
    return (
        f"{share:.0%} of the first tiles' values are {what} in the range {low:g},{high:g}; "
        f"most of them lie in {first:.3g},{last:.3g}: see --value-range"
    )


def _fills_dtype(dtype: np.dtype[np.generic], low: float, high: float) -> bool:
    """Whether a range is all that a dtype can hold, so that nothing is lost at its ends."""
    if dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype.name)
    return low <= limits.min and high >= limits.max


def _drop_flat(tile: Tile) -> NDArray[np.float64]:
    """The values of the pixels that are not at an end of the dtype, or filled, in all bands."""
    pixels = tile.pixels.reshape(len(tile.pixels), -1)  # (C, H*W)
    if tile.nodata_fraction:  # filled with one value, which is no measurement
        pixels = pixels[:, (pixels != pixels.min()).any(axis=0)]
    for end in _find_ends(pixels.dtype):
        pixels = pixels[:, (pixels != end).any(axis=0)]
    return pixels.astype(np.float64).ravel()


def _find_ends(dtype: np.dtype[np.generic]) -> tuple[int, ...]:
    """Values that often stand for no data: 0, and the largest of few bits."""
    return (0, np.iinfo(dtype.name).max) if dtype.kind in "iu" else (0,)


def _tell_undeclared_nodata(tiles: Sequence[Tile]) -> str | None:
    """Tell the share of pixels at 0, or at the largest value, in all bands of files that declare none."""
    plain = [tile.pixels for tile in tiles if not tile.nodata_fraction]
    plain = [pixels for pixels in plain if pixels.min() < pixels.max() and not _is_binary(pixels)]
    for end in dict.fromkeys(end for pixels in plain for end in _find_ends(pixels.dtype)):
        flat = [(pixels == end).all(axis=0).ravel() for pixels in plain]
        share = float(np.concatenate(flat).mean())
        if share > _MANY:
            return (
                f"{share:.0%} of the first tiles' pixels are {end} in all bands; "
                f"if that means no data, say --nodata {end}"
            )
    return None


def _is_binary(pixels: NDArray[np.generic]) -> bool:
    return len(np.unique(pixels)) <= 2
