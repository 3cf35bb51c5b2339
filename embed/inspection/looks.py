"""One source by its headers and a few windows: its bands and values, where and when; never all of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from tilezoo.bands import BandRequest, FileBand
from tilezoo.errors import TileError
from tilezoo.geo import Footprint
from tilezoo.image import Image, Layer
from tilezoo.opening import crs_name, gdal
from tilezoo.sources import Source
from tilezoo.tiles import Window

_WHOLE_PX = 512  # an image of at most this side is read whole
_SMALL_IMAGES, _LARGE_IMAGES, _LARGE_WINDOWS = 12, 6, 6  # read of one kind
_WINDOW_PX = 256
_SPOTS = ((0.5, 0.5), (0.1, 0.25), (0.9, 0.75), (0.25, 0.9), (0.75, 0.1), (0.3, 0.4))
_VALUES_KEPT = 1 << 14  # of one band and window


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
    if len(source.endings) < 2:
        with Image(source, request) as image:
            headers = tuple(_read_header(image, layer) for layer in image.layers)
            return _make_look(image, headers)
    found: dict[int, Header] = {}
    looks, errors = [], []
    for place in range(len(source.endings)):
        try:
            with Image(source, replace(request, places=(place,))) as image:
                found[place] = _read_header(image, image.layers[0])
                looks.append(_make_look(image, ()))
        except TileError as error:
            errors.append(error)
    if not looks:
        raise errors[0]
    finest = looks[max(range(len(looks)), key=lambda n: list(found.values())[n].size_px)]
    headers_found = tuple(found.get(place) for place in range(len(source.endings)))
    return replace(finest, headers=headers_found)


def _make_look(image: Image, headers: tuple[Header | None, ...]) -> Look:
    wkt = image.crs_wkt
    return Look(
        source=image.source,
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Values of some windows.

    Attributes:
        values: Of each band, those that are data, shape (N,).
        nodata_share: Share of pixels without data.
        broken_share: Share of values that are NaN or infinite, and are said to be data.
    """

    values: tuple[NDArray[np.float64], ...]
    nodata_share: float | None
    broken_share: float


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Read:
    """Values of some bands in some windows: data of each band; pixels, and those without data."""

    values: Mapping[int, NDArray[np.float64]]
    pixels: int
    empty: int
    broken: int


def read_sample(looks: Sequence[Look], request: Places, pool: ThreadPoolExecutor) -> Sample | None:
    """Read a few windows of some of the images that are alike; None where none can be read."""
    small = max(max(look.size_px) for look in looks) <= _WHOLE_PX
    count = min(len(looks), _SMALL_IMAGES if small else _LARGE_IMAGES)
    chosen = [looks[number * len(looks) // count] for number in range(count)]
    each = max(1, _LARGE_WINDOWS // count)
    jobs = [
        (look, bands, range(number, number + each))
        for number, look in enumerate(chosen)
        for bands in _list_jobs(look)
    ]
    read = [one for one in pool.map(partial(_try_read, request=request), jobs) if one]
    bands = range(len(looks[0].bands))
    values = tuple(
        _join([one.values[band] for one in read if band in one.values]) for band in bands
    )
    pixels = sum(one.pixels for one in read)
    if not pixels:
        return None
    return Sample(
        values=values,
        nodata_share=sum(one.empty for one in read) / pixels,
        broken_share=sum(one.broken for one in read) / pixels,
    )


def _list_jobs(look: Look) -> Iterable[tuple[int, ...] | None]:
    """What is read at once: a file's bands together, a set's each from its file."""
    if len(look.source.endings) < 2:
        return [None]
    return [(place,) for place, header in enumerate(look.headers) if header]


def _try_read(job: tuple[Look, tuple[int, ...] | None, range], request: Places) -> _Read | None:
    look, bands, spots = job
    try:
        with gdal(), Image(look.source, replace(request, places=bands)) as image:
            places = range(len(look.bands)) if bands is None else bands
            parts = [image.read_values(window) for window in _choose_windows(image, spots)]
    except TileError:  # a tile that fails is told by the run
        return None
    return _take_values(parts, places)


def _choose_windows(image: Image, spots: range) -> Iterator[Window]:
    """The whole of a small image; of a large one a few windows, each in one block of its file."""
    width, height = image.size
    if max(width, height) <= _WHOLE_PX:
        yield 0, 0, width, height
        return
    across, down = min(width, _WINDOW_PX), min(height, _WINDOW_PX)
    block_height, block_width = image.layers[0].dataset.block_shapes[0]
    for number in spots:
        x, y = _SPOTS[number % len(_SPOTS)]
        left = _keep_inside(int((width - across) * x), across, block_width)
        top = _keep_inside(int((height - down) * y), down, block_height)
        yield left, top, across, down


def _keep_inside(start: int, length: int, block: int) -> int:
    """Move a stretch back so far that it does not reach into the next block."""
    return start - max(0, start % block + length - block) if block >= length else start


def _take_values(
    parts: Sequence[tuple[NDArray[np.generic], NDArray[np.bool_]]], places: Iterable[int]
) -> _Read:
    kept: dict[int, list[NDArray[np.float64]]] = {place: [] for place in places}
    pixels = empty = broken = 0
    for values, valid in parts:
        pixels += valid[0].size
        empty += int((~valid.any(axis=0)).sum())
        for place, own, good in zip(kept, values, valid, strict=True):
            data = own[good]
            finite = np.isfinite(data)
            broken += int((~finite).sum())
            step = max(1, data.size // _VALUES_KEPT)
            kept[place].append(data[finite][::step].astype(np.float64))
    joined = {place: _join(some) for place, some in kept.items()}
    return _Read(values=joined, pixels=pixels, empty=empty, broken=broken // max(1, len(kept)))


def _join(arrays: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate(arrays) if arrays else np.empty(0)
