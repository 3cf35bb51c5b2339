"""One source by its headers: which bands it has, in what, where and when."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tilezoo.bands import BandRequest, FileBand
from tilezoo.errors import TileError
from tilezoo.geo import Footprint
from tilezoo.image import Image, Layer
from tilezoo.opening import crs_name, gdal
from tilezoo.sources import Source


@dataclass(frozen=True, kw_only=True)
class Places(BandRequest):
    """Bands by their places, whatever they are; all of them where `places` is None."""

    places: tuple[int, ...] | None = None

    def choose(self, bands: Sequence[FileBand]) -> tuple[int, ...]:
        """Take what is at the places."""
        return tuple(range(len(bands))) if self.places is None else self.places


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """One band's file: size in pixels, and what it says of values and place.

    `dtype` is that of values as they are fed, `stored` as they are in the file.
    """

    dtype: str
    stored: str
    size_px: tuple[int, int]
    gsd_m: float | None
    nodata: float | None
    masked: bool


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Look:
    """One source by its headers.

    Attributes:
        source: The source.
        bands: All it has.
        headers: Of each band; None where its file cannot be opened.
        crs: As `EPSG:…` or WKT; None without one.
        footprint: Of the whole; None where it has no place.
        acquired: When; None where nothing says it.
    """

    source: Source
    bands: tuple[FileBand, ...]
    headers: tuple[Header | None, ...]
    crs: str | None
    footprint: Footprint | None
    acquired: datetime | None

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the finest band."""
        return max(header.size_px for header in self.headers if header)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for images that are alike."""
        dtypes = tuple(header.dtype if header else "" for header in self.headers)
        return self.source.product, bool(self.source.endings), self.bands, dtypes


def try_look(source: Source, request: Places) -> Look | TileError:
    """Look at a source, all its bands; the error where it cannot be opened."""
    try:
        with gdal():
            return _look_at(source, request)
    except TileError as error:
        return error


def _look_at(source: Source, request: Places) -> Look:
    """Open a source for its headers; of a set, each file by itself: they need not fit together."""
    if not source.endings:
        with Image(source, request) as image:
            headers = tuple(_read_header(image, layer) for layer in image.layers)
            return _make_look(source, image, headers)
    found: dict[int, Header] = {}
    looks, errors = [], []
    for place in range(len(source.endings)):
        try:
            with Image(source, replace(request, places=(place,))) as image:
                found[place] = _read_header(image, image.layers[0])
                looks.append(_make_look(source, image, ()))
        except TileError as error:
            errors.append(error)
    if not looks:
        raise errors[0]
    finest = looks[max(range(len(looks)), key=lambda n: list(found.values())[n].size_px)]
    headers_found = tuple(found.get(place) for place in range(len(source.endings)))
    return replace(finest, headers=headers_found)


def _make_look(source: Source, image: Image, headers: tuple[Header | None, ...]) -> Look:
    wkt = image.crs_wkt
    return Look(
        source=source,
        bands=image.bands,
        headers=headers,
        crs=wkt and crs_name(wkt),
        footprint=image.find_footprint((0, 0, *image.size)),
        acquired=image.acquired,
    )


def _read_header(image: Image, layer: Layer) -> Header:
    from rasterio.enums import MaskFlags

    stored = min(layer.index, layer.dataset.count) - 1  # a palette's three bands are one
    place = image.find_footprint((0, 0, *image.size))
    flags = set(layer.dataset.mask_flag_enums[stored])
    return Header(
        dtype=layer.dtype,
        stored=layer.stored_dtype,
        size_px=(layer.dataset.width, layer.dataset.height),
        gsd_m=place.gsd_m if place else None,
        nodata=layer.dataset.nodatavals[stored],
        masked=bool(flags & {MaskFlags.alpha, MaskFlags.per_dataset}),
    )
