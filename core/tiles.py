"""Tiles: where each is to be read, and what one is once read."""

from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import OptionError
from tilezoo.geo import Footprint
from tilezoo.sources import Source

Window = tuple[int, int, int, int]  # x, y, width, height in pixels of the source's grid


@dataclass(frozen=True, kw_only=True, slots=True)
class TileRef:
    """A tile before it is read: a source, whole or by a window.

    Attributes:
        source: Where it is.
        window: Which part of that; None for the whole.
        mark: What the source's files were when the tile was listed; None where that is not asked.
    """

    source: Source
    window: Window | None = None
    mark: tuple[int, int] | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """The source's id, plus `#x,y,w,h` for a window."""
        if self.window is None:
            return self.source.id
        return f"{self.source.id}#{','.join(map(str, self.window))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One square of pixels, with all that is known of it.

    Attributes:
        id: See `TileRef.id`.
        pixels: In the asked order of bands, the file's dtype, shape (C, H, W); pixels without
            data hold what the contract maps to 0.
        source_uri: The file, or the folder of band files.
        pixel_bbox: x, y, width, height in the source's grid.
        nodata_fraction: Share of pixels without data, 0..1 (padding beyond the edge included).
        crs: The source's CRS as `EPSG:…` or WKT; None without one.
        footprint: Place on the globe; None when not georeferenced.
        datetime: Acquisition time in UTC; None when unknown.
        fitted: The pixels were scaled and resized by the contract already, to save memory.
    """

    id: str
    pixels: NDArray[np.generic]
    source_uri: str
    pixel_bbox: Window
    nodata_fraction: float
    crs: str | None
    footprint: Footprint | None
    datetime: datetime | None
    fitted: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How a source is cut into windows.

    Attributes:
        tile_px: Side of a window, pixels of the source's finest band.
        stride_px: Step between windows' left (and top) edges, pixels.
    """

    tile_px: int
    stride_px: int

    def __post_init__(self) -> None:
        """Refuse windows that would miss pixels or be empty."""
        if not 0 < self.stride_px <= self.tile_px:
            given = f"--tile-px {self.tile_px} --stride-px {self.stride_px}"
            raise OptionError(f"{given}: the stride must be between 1 and the tile's size")

    def count(self, width: int, height: int) -> int:
        """How many windows cover a grid of `width` by `height` pixels."""
        return self._count_along(width) * self._count_along(height)

    def window(self, number: int, width: int) -> Window:
        """The window of that number (from 0, row by row); at the edge it reaches beyond it."""
        row, column = divmod(number, self._count_along(width))
        return column * self.stride_px, row * self.stride_px, self.tile_px, self.tile_px

    def _count_along(self, length: int) -> int:
        return 1 + max(0, -((self.tile_px - length) // self.stride_px))


def cut_from(tile_px: int | None, stride_px: int | None) -> Cut | None:
    """Take `--tile-px` and `--stride-px`; None where files are tiles."""
    if tile_px is None and stride_px is not None:
        raise OptionError("--stride-px needs --tile-px: files are tiles without it")
    if tile_px is None:
        return None
    return Cut(tile_px=tile_px, stride_px=tile_px if stride_px is None else stride_px)
