"""One open file: its bands as they are seen, and which of their values are data."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilezoo.colours import Look, read_look
from tilezoo.decoding import (
    DECODED,
    Decoded,
    count_decoded_bytes,
    decode,
    is_by_pillow,
    is_from_start,
    tell_size,
)
from tilezoo.errors import TileError
from tilezoo.nodata import alpha_is_data, count_bands, differ, find_alpha, mark_data
from tilezoo.opening import one_line
from tilezoo.progress import say_once
from tilezoo.tiles import Window

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

# Where a window of the grid lies in a file, as rasterio's reading takes it.
_Area = Mapping[str, object]


class Raster:
    """Reads windows of one open file.

    Args:
        dataset: The file.
        nodata: `--nodata`: the value of pixels without data; None for what the file says.
        stack: Holds what is held for the file until it is closed.
        whole: Its bands are known to be all data, whichever is tagged alpha.

    Raises:
        TileError: On reading, for anything wrong with the file.
    """

    def __init__(
        self,
        dataset: "DatasetReader",
        nodata: float | None,
        stack: ExitStack,
        *,
        whole: bool = False,
    ) -> None:
        self.dataset, self._nodata, self._stack, self._whole = dataset, nodata, stack, whole
        self._shared: Decoded | None = None

    @property
    def colours(self) -> tuple[str, ...]:
        """The colour of each band that is seen, by GDAL's names: `gray`, `red`, `undefined` …."""
        return self._look.colours

    @cached_property
    def band_count(self) -> int:
        """How many bands may be asked for: an alpha band that is a mask is none."""
        if self._whole:
            return int(self.dataset.count)
        with _telling():
            return count_bands(self.dataset, self.colours)

    def read(
        self, indexes: Sequence[int], inside: Window, grid: tuple[int, int]
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Read bands of a window that lies inside, and which values hold data, both (C, h, w).

        Args:
            indexes: Of the bands that are seen, from 1.
            inside: The window, in pixels of the grid.
            grid: Width and height of the grid; the file is resampled to it, bilinear.
        """
        self._tell_alpha(indexes)
        bands = self._look.find_stored(indexes)
        with _telling():
            area = _find_area(self.dataset, inside, grid)
            picture = self._decode(inside, grid)
            stored = picture.read(bands, inside) if picture else self._read(bands, inside, area)
            seen = self._look.show(stored, indexes)
            if self._look.is_palette:
                opaque = np.broadcast_to(self._look.find_opaque(stored), seen.shape)
                return seen, opaque & differ(seen, self._nodata)
            read_mask = partial(self._read_mask, picture, inside, area)
            return seen, mark_data(self.dataset, bands, stored, self._nodata, read_mask)

    @cached_property
    def _look(self) -> Look:
        with _telling():
            return read_look(self.dataset)

    def _read(self, bands: Sequence[int], inside: Window, area: _Area) -> NDArray[np.generic]:
        shape = (len(bands), inside[3], inside[2])
        values: NDArray[np.generic] = self.dataset.read(bands, **{**area, "out_shape": shape})
        return values

    def _read_mask(
        self, picture: Decoded | None, inside: Window, area: _Area, band: int
    ) -> NDArray[np.generic]:
        """Read a band's mask, from what is decoded already if it is there; shape (h, w)."""
        if self._whole and find_alpha(self.colours) is not None:
            return np.ones(inside[:1:-1], np.uint8)
        alpha = find_alpha(self.colours)
        if picture is not None and alpha is not None:
            return np.asarray(picture.read([alpha], inside)[0])
        return np.asarray(self.dataset.read_masks(band, **area))

    def _decode(self, inside: Window, grid: tuple[int, int]) -> Decoded | None:
        """Decode a file that is no better read in parts; None where GDAL is to read the part."""
        size = (self.dataset.width, self.dataset.height)
        if grid != size or not is_from_start(self.dataset):
            return None
        if inside[2:] == size:
            return decode(self.dataset) if is_by_pillow(self.dataset) else None
        if self._shared is None:
            self._shared = self._share()
        return self._shared

    def _share(self) -> Decoded | None:
        """Take a picture that is decoded once for all its windows; None if it is too large."""
        path, needed = self.dataset.name, count_decoded_bytes(self.dataset)
        if needed > DECODED.limit:
            say_once("too large to be decoded whole", tell_size(path, needed))
            return None
        make = partial(decode, self.dataset)
        return self._stack.enter_context(DECODED.hold(path, needed, make))

    def _tell_alpha(self, indexes: Sequence[int]) -> None:
        """Tell once a run that an alpha band is no mask."""
        alpha = find_alpha(self.colours)
        if self._whole or alpha is None or not alpha_is_data(self.dataset, alpha):
            return
        fed = "and is fed" if alpha in indexes else f"and is fed where --bands says {alpha}"
        what = f"band {alpha} is tagged alpha, but holds more than a mask's two values"
        say_once("alpha is data", f"{self.dataset.name}: {what}: it is no mask, {fed}")


def _find_area(dataset: "DatasetReader", inside: Window, grid: tuple[int, int]) -> _Area:
    from rasterio import windows
    from rasterio.enums import Resampling

    x, y, width, height = inside
    fx, fy = dataset.width / grid[0], dataset.height / grid[1]
    return {
        "window": windows.Window(x * fx, y * fy, width * fx, height * fy),
        "out_shape": (height, width),
        "resampling": Resampling.bilinear,
    }


@contextmanager
def _telling() -> Iterator[None]:
    """Tell what goes wrong on reading in one line."""
    from rasterio.errors import RasterioError

    try:
        yield
    except (RasterioError, OSError, MemoryError) as error:
        raise TileError("unreadable", one_line(error)) from error
