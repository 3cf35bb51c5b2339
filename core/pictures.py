"""Small pictures of tiles, as the backbone's contract maps their values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilezoo.bands import BandRequest, parse_bands, same
from tilezoo.errors import SourceError, TileError
from tilezoo.image import read_tile
from tilezoo.option_texts import parse_nodata
from tilezoo.sources import discover, source_at
from tilezoo.table import Table
from tilezoo.tiles import Tile, TileRef, Window
from tilezoo.values import to_8bit

_COLOURS = ("red", "green", "blue")


class Thumbnailer:
    """Reads tiles of one table again and makes pictures of them."""

    def __init__(self, table: Table, side_px: int) -> None:
        request = table.manifest.request
        self._contract = table.space.contract
        self._windowed = request.tile_px is not None
        self._request = BandRequest(
            wanted=self._contract.bands,
            given=parse_bands(request.bands),
            values_stated=request.value_range is not None,
            nodata=parse_nodata(request.nodata),
            values=self._contract.values or "harmonized",
            value_range=self._contract.value_range,
        )
        self._side = side_px

    def of_row(self, source_uri: str, pixel_bbox: Window) -> Image.Image | None:
        """Make the picture of a row; None when its pixels cannot be read any more."""
        try:
            source = source_at(source_uri)
        except SourceError:
            return None
        return self._make_picture(
            TileRef(source=source, window=pixel_bbox if self._windowed else None)
        )

    def of_file(self, path: str | Path) -> Image.Image | None:
        """Make the picture of an image file; None when it cannot be read."""
        return self._make_picture(TileRef(source=discover([path])[0]))

    def _make_picture(self, ref: TileRef) -> Image.Image | None:
        try:
            tile = read_tile(ref, self._contract, self._request)
        except TileError:
            return None
        picture = Image.fromarray(self._to_rgb(tile))
        picture.thumbnail((self._side, self._side), Image.Resampling.LANCZOS)
        grown = self._side / max(picture.size)
        size = (round(picture.width * grown), round(picture.height * grown))
        return picture.resize(size, Image.Resampling.BICUBIC) if grown > 1 else picture

    def _to_rgb(self, tile: Tile) -> NDArray[np.uint8]:
        """Map values to 8 bits by the contract; shape (H, W, 3)."""
        shown = tile.pixels[find_colours(self._contract.bands)]
        values = to_8bit(shown, *self._contract.value_range)
        return np.ascontiguousarray(values.transpose(1, 2, 0))


def find_colours(bands: Sequence[str]) -> list[int]:
    """Find what of a contract's bands is shown: places of red, green and blue; else the first three bands, or the first in grey."""
    places = [next((i for i, band in enumerate(bands) if same(band, c)), None) for c in _COLOURS]
    known = [place for place in places if place is not None]
    if len(known) == 3:
        return known
    return [0, 1, 2] if len(bands) >= 3 else [0, 0, 0]
