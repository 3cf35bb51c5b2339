"""The bands that a file shows, and what its stored values look like.

Grey of less than 8 bits, grey whose 0 is white (MINISWHITE) and palettes of pictures are read as
people and Pillow see them: the whole range, 0 black, colours in place of their numbers. 12 bits in
16, and whatever else has room above its values, stay as they are stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import TileError

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

# Drivers of pictures, whose palettes hold colours; in other formats a palette is that of classes.
PICTURES = frozenset({"PNG", "JPEG", "GIF", "WEBP", "BMP", "JPEGXL"})
_IMAGE = "IMAGE_STRUCTURE"  # GDAL's name space of what a format says of its pixels
_OPAQUE = 255


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a file's stored values are seen.

    Attributes:
        colours: Of each band that is seen, by GDAL's names.
        table: What each stored 8-bit value looks like, shape (256, 1) for grey, (256, 4) for a
            palette's red, green, blue and opacity; None where they are seen as stored.
        white: The stored value that is 0, of wider grey whose 0 is white; None for others.
    """

    colours: tuple[str, ...]
    table: NDArray[np.uint8] | None = None
    white: int | None = None

    @property
    def is_palette(self) -> bool:
        """Whether one stored band is seen as three."""
        return self.table is not None and self.table.shape[1] > 1

    def find_stored(self, indexes: Sequence[int]) -> list[int]:
        """Bands of the file (1-based) in which those that are seen are stored."""
        return [1] if self.is_palette else list(indexes)

    def show(self, stored: NDArray[np.generic], indexes: Sequence[int]) -> NDArray[np.generic]:
        """Turn stored values of `find_stored(indexes)` into what is seen, shape (C, h, w)."""
        if self.white is not None:
            return np.asarray(self.white - np.minimum(stored, self.white), stored.dtype)
        if self.table is None:
            return stored
        if not self.is_palette:
            return np.asarray(self.table[:, 0][stored])
        columns = [self.table[:, index - 1] for index in indexes]
        return np.stack([column[stored[0]] for column in columns])

    def find_opaque(self, stored: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Mark what a palette does not make transparent, of stored values (1, h, w)."""
        if self.table is None or not self.is_palette:
            return np.ones(stored.shape, np.bool_)
        return np.asarray((self.table[:, 3] > 0)[stored])


def read_look(dataset: "DatasetReader") -> Look:
    """Find how a file's values are seen.

    Raises:
        TileError: It has a palette, and is no picture.
    """
    colours = tuple(colour.name for colour in dataset.colorinterp)
    if "palette" in colours:
        return _look_by_palette(dataset)
    dtype = dataset.dtypes[0]
    grey = sum(colour != "alpha" for colour in colours) == 1
    if not dtype.startswith("uint") or dataset.driver in PICTURES - {"PNG"}:
        return Look(colours=colours)
    bits = int(dataset.tags(1, ns=_IMAGE).get("NBITS", 8 * np.dtype(dtype).itemsize))
    if grey and dataset.driver == "GTiff" and dataset.tags(ns=_IMAGE).get("MINISWHITE") == "YES":
        seen = ("gray", *colours[1:])
        if dtype != "uint8":
            return Look(colours=seen, white=2**bits - 1)
        return Look(colours=seen, table=255 - _stretch(bits))
    if bits < 8:
        return Look(colours=colours, table=_stretch(bits))
    return Look(colours=colours)


def _stretch(bits: int) -> NDArray[np.uint8]:
    """Spread values of so many bits over 0..255, shape (256, 1); larger ones are white."""
    white = 2**bits - 1
    values = np.minimum(np.arange(256), white) * 255 / white
    return np.asarray(np.rint(values)[:, None], np.uint8)


def _look_by_palette(dataset: "DatasetReader") -> Look:
    entries = dataset.colormap(1)
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = _OPAQUE
    for value, rgba in entries.items():
        table[value] = rgba
    # PNG has grey of its own, the others have it by such a palette.
    if dataset.driver != "PNG" and _is_grey_scale(table[: len(entries), :3]):
        return Look(colours=("gray",), table=table[:, :1])
    if dataset.driver not in PICTURES:
        raise TileError("contract", "a palette image; expand it with gdal_translate -expand rgb")
    return Look(colours=("red", "green", "blue"), table=table)


def _is_grey_scale(rgb: NDArray[np.uint8]) -> bool:
    """Whether a palette is the plain scale from black to white or back, as that of 1-bit TIFF."""
    scale = np.rint(np.linspace(0, 255, len(rgb))).astype(np.uint8)
    grey = rgb[:, 0]
    same = bool((rgb == grey[:, None]).all())
    return same and (np.array_equal(grey, scale) or np.array_equal(grey, scale[::-1]))
