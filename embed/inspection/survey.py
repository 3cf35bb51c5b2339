"""What lies under some sources: headers of a spread sample, and values of a few windows of them."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from tilezoo.bands import BandRequest, FileBand
from tilezoo.decoding import DECODED
from tilezoo.embed.inspection.findings import (
    PERCENTS,
    BandFound,
    Kind,
    ProductFound,
    Unreadable,
)
from tilezoo.errors import TileError
from tilezoo.formats import suffix_of
from tilezoo.geo import Footprint
from tilezoo.image import Image, Layer
from tilezoo.meaning import find_nodata, find_scaling
from tilezoo.opening import crs_name, gdal
from tilezoo.products.product import find_product
from tilezoo.sources import Source
from tilezoo.tiles import Window

_LOOKED_AT = 64  # headers read, spread over all images
_LEAST = 4  # of each class of files
_SAMPLED_KINDS = 12
_WHOLE_PX = 512  # an image of at most this side is read whole
_SMALL_IMAGES, _LARGE_IMAGES, _LARGE_WINDOWS = 12, 6, 6  # read of one kind
_WINDOW_PX = 256
_SPOTS = ((0.5, 0.5), (0.25, 0.25), (0.75, 0.75), (0.25, 0.75), (0.75, 0.25), (0.5, 0.25))
_VALUES_KEPT = 1 << 14  # of one band and window


@dataclass(frozen=True, kw_only=True)
class _Places(BandRequest):
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


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Images that are alike.

    Attributes:
        images: How many, estimated where not all were looked at.
        looks: Those looked at.
        sample: Of their values; None where none was read.
        rescaling: What is done to values before they are fed, in words; empty for nothing.
    """

    images: int
    looks: tuple[Look, ...]
    sample: Sample | None = None
    rescaling: str = ""

    @property
    def example(self) -> Look:
        """The largest of them."""
        return max(self.looks, key=lambda look: math.prod(look.size_px))

    def describe(self) -> Kind:
        """Say what they are."""
        example, headers = self.looks[0], [h for look in self.looks for h in look.headers if h]
        sizes = sorted((look.size_px for look in self.looks), key=math.prod)
        gsds = [look.footprint.gsd_m for look in self.looks if look.footprint]
        times = [look.acquired for look in self.looks if look.acquired]
        crs = Counter(look.crs for look in self.looks if look.crs)
        return Kind(
            images=self.images,
            looked_at=len(self.looks),
            example=example.source.uri,
            files=len(example.source.endings) or 1,
            product=_name_product(example.source.product),
            bands=tuple(self._describe_bands()),
            smallest_px=sizes[0],
            largest_px=sizes[-1],
            crs=tuple(name for name, _ in crs.most_common()),
            gsd_m=(min(gsds), max(gsds)) if gsds else None,
            bbox=_join_boxes([look.footprint.bbox for look in self.looks if look.footprint]),
            times=(min(times), max(times)) if times else None,
            nodata=tuple(dict.fromkeys(f"{h.nodata:g}" for h in headers if h.nodata is not None)),
            usual_nodata=find_nodata(example.source),
            approximate=any(look.footprint.approximate for look in self.looks if look.footprint),
            masked=any(header.masked for header in headers),
            nodata_share=self.sample.nodata_share if self.sample else None,
            broken_share=self.sample.broken_share if self.sample else 0.0,
            rescaling=self.rescaling,
        )

    def _describe_bands(self) -> Iterator[BandFound]:
        look = self.looks[0]
        values = self.sample.values if self.sample else repeat(np.empty(0))
        for band, header, own in zip(look.bands, look.headers, values, strict=False):
            yield BandFound(
                name=band.name,
                common=band.common,
                number=band.number,
                dtype=header.stored if header else "unreadable",
                gsd_m=header.gsd_m if header else None,
                percentiles=tuple(np.percentile(own, PERCENTS).tolist()) if own.size else (),
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """What lies under the sources.

    Attributes:
        images: How many there are.
        groups: Images that are alike, most frequent first.
        unreadable: Those that cannot be opened, by reason.
        failed: All of them that were looked at.
    """

    images: int
    groups: tuple[Group, ...]
    unreadable: tuple[Unreadable, ...]
    failed: tuple[Source, ...]

    @property
    def looks(self) -> list[Look]:
        """All that were looked at, by id."""
        looks = (look for group in self.groups for look in group.looks)
        return sorted(looks, key=lambda look: look.source.id)

    @property
    def looked_at(self) -> list[Source]:
        """All sources that were looked at, by id."""
        sources = [*self.failed, *(look.source for look in self.looks)]
        return sorted(sources, key=lambda source: source.id)


def survey_sources(sources: Sequence[Source], request: BandRequest, threads: int) -> Survey:
    """Look at a spread sample of headers, and read windows of some of them.

    Args:
        sources: Sorted by id.
        request: How values are read; its bands do not matter.
        threads: That read.
    """
    every = _Places(
        wanted=(),
        values=request.values,
        value_range=request.value_range,
        nodata=request.nodata,
    )
    groups: dict[tuple[object, ...], list[Look]] = {}
    images: Counter[tuple[object, ...]] = Counter()
    failures: dict[tuple[str, str], _Failed] = {}
    failed: list[Source] = []
    with ThreadPoolExecutor(threads) as pool:
        for members in _find_classes(sources):
            chosen = [sources[place] for place in _spread(members, len(sources))]
            found = list(pool.map(partial(_try_look, request=every), chosen))
            share = len(members) / len(chosen)
            counted = Counter[tuple[object, ...]]()
            for source, one in zip(chosen, found, strict=True):
                if isinstance(one, TileError):
                    own = failures.setdefault((one.kind, str(one)), _Failed(one, source.uri))
                    own.images += share
                    failed.append(source)
                else:
                    groups.setdefault(one.key, []).append(one)
                    counted[one.key] += 1
            images.update({key: max(1, round(count * share)) for key, count in counted.items()})
        made = [Group(images=images[key], looks=tuple(looks)) for key, looks in groups.items()]
        made.sort(key=lambda group: -group.images)
        for place, group in enumerate(made[:_SAMPLED_KINDS]):
            sample = _sample(group, every, pool)
            scaling = find_scaling(group.looks[0].source, request).told
            made[place] = replace(group, sample=sample, rescaling=scaling)
    DECODED.clear()
    return Survey(
        images=len(sources),
        groups=tuple(made),
        unreadable=tuple(one.describe() for one in failures.values()),
        failed=tuple(failed),
    )


@dataclass
class _Failed:
    """Images that cannot be opened for one reason; how many, by the share that was looked at."""

    error: TileError
    example: str
    images: float = 0.0

    def describe(self) -> Unreadable:
        count = max(1, round(self.images))
        return Unreadable(
            kind=self.error.kind, message=str(self.error), images=count, example=self.example
        )


def _find_classes(sources: Sequence[Source]) -> list[list[int]]:
    """Places of sources that look alike by their names alone."""
    found: dict[tuple[object, ...], list[int]] = {}
    for place, source in enumerate(sources):
        suffix = suffix_of(source.endings[0] if source.endings else source.path)
        problem = source.problem and source.problem[0]
        key = (source.product, bool(source.endings), suffix, problem)
        found.setdefault(key, []).append(place)
    return list(found.values())


def _spread(members: Sequence[int], total: int) -> list[int]:
    """Choose some of a class, evenly."""
    count = min(len(members), max(_LEAST, _LOOKED_AT * len(members) // total))
    return [members[number * len(members) // count] for number in range(count)]


def _try_look(source: Source, request: _Places) -> Look | TileError:
    try:
        with gdal():
            return _look_at(source, request)
    except TileError as error:
        return error


def _look_at(source: Source, request: _Places) -> Look:
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


def _name_product(key: str) -> ProductFound | None:
    if not key:
        return None
    product = find_product(key)
    return ProductFound(key=key, title=product.title, unit=product.unit, notes=product.notes)


def _join_boxes(
    boxes: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float] | None:
    if not boxes:
        return None
    west, south, east, north = zip(*boxes, strict=True)
    return min(west), min(south), max(east), max(north)


# Values


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class _Read:
    """Values of some bands in some windows: data of each band; pixels, and those without data."""

    values: Mapping[int, NDArray[np.float64]]
    pixels: int
    empty: int
    broken: int


def _sample(group: Group, request: _Places, pool: ThreadPoolExecutor) -> Sample | None:
    """Read a few windows of some of a group's images."""
    small = max(group.example.size_px) <= _WHOLE_PX
    count = min(len(group.looks), _SMALL_IMAGES if small else _LARGE_IMAGES)
    chosen = [group.looks[number * len(group.looks) // count] for number in range(count)]
    each = max(1, _LARGE_WINDOWS // count)
    jobs = [
        (look, bands, range(number, number + each))
        for number, look in enumerate(chosen)
        for bands in _list_jobs(look)
    ]
    read = [one for one in pool.map(partial(_try_read, request=request), jobs) if one]
    bands = range(len(group.looks[0].bands))
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
    if not look.source.endings:
        return [None]
    return [(place,) for place, header in enumerate(look.headers) if header]


def _try_read(job: tuple[Look, tuple[int, ...] | None, range], request: _Places) -> _Read | None:
    look, bands, spots = job
    try:
        with gdal(), Image(look.source, replace(request, places=bands)) as image:
            places = range(len(look.bands)) if bands is None else bands
            parts = [image.read_values(window) for window in _choose_windows(image.size, spots)]
    except TileError:  # a tile that fails is told by the run
        return None
    return _take_values(parts, places)


def _choose_windows(size: tuple[int, int], spots: range) -> list[Window]:
    width, height = size
    if max(size) <= _WHOLE_PX:
        return [(0, 0, width, height)]
    found = []
    for number in spots:
        x, y = _SPOTS[number % len(_SPOTS)]
        side_x, side_y = min(width, _WINDOW_PX), min(height, _WINDOW_PX)
        found.append((int((width - side_x) * x), int((height - side_y) * y), side_x, side_y))
    return found


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
