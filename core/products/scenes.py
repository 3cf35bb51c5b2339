"""Which files are of which product, and which of them make one scene."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from tilezoo.bands import FileBand, canonical
from tilezoo.products.product import Layout, Product, ProductBand, find_product, products

_MOST_ABOVE = 8  # folders above a file whose names are looked at
_GROUP_NAMES = re.compile(r"\(\?P<\w+>")


@dataclass(frozen=True, eq=False, slots=True)
class _Place:
    """A layout that files of a folder may have: those that need no folder, or one that is there."""

    product: Product
    layout: Layout


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Files of one scene of a product.

    Attributes:
        product: Its key.
        token: What the files' names have in common; empty where their folder alone says it.
        files: Band name → file, the finest of each, in the product's order; for a file that holds
            all bands, that file by an empty name.
        twice: Two files of one band and resolution, where there are such.
    """

    product: str
    token: str
    files: Mapping[str, str]
    twice: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Sorting:
    """What a folder's image files are.

    Attributes:
        scenes: Of known products.
        beside: Files of these scenes that are no imagery.
        others: All other files.
    """

    scenes: tuple[Scene, ...] = ()
    beside: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass
class _Group:
    """The files of a scene while they are gathered: band → (resolution, name), the finest."""

    product: Product
    files: dict[str, tuple[float, str]] = field(default_factory=dict)
    twice: tuple[str, str] | None = None

    def add(self, band: str, gsd_m: float, name: str) -> None:
        known = self.files.get(band)
        if known is not None and known[0] == gsd_m:
            self.twice = self.twice or (known[1], name)
        if known is None or gsd_m < known[0]:
            self.files[band] = (gsd_m, name)


def sort_files(folder: str, names: Sequence[str]) -> Sorting:
    """Find the scenes of known products among the image files of a folder.

    Args:
        folder: Its absolute path: folders' names may say what the files in them are.
        names: Paths of files, relative to it.
    """
    groups: dict[tuple[str, str], _Group] = {}
    others: list[str] = []
    for name, found in _match_all(_find_places(folder), names):
        if found is None:
            others.append(name)
        else:
            token = found.token or ("" if found.band else os.path.basename(name))
            group = groups.setdefault((found.product.key, token), _Group(found.product))
            group.add(found.band, found.gsd_m, name)
    if not groups:
        return Sorting(others=tuple(others))
    scenes = tuple(_make_scene(key, group) for key, group in groups.items())
    beside = [name for name in others if _lies_beside(os.path.basename(name), groups)]
    return Sorting(
        scenes=scenes,
        beside=tuple(beside),
        others=tuple(name for name in others if name not in set(beside)),
    )


def is_container(folder: str) -> bool:
    """Tell whether all that lies below a folder is one product (`.SAFE`), by its path."""
    return any(place.layout.container for place in _find_places(folder))


def file_bands(key: str, files: Mapping[str, str]) -> tuple[FileBand, ...]:
    """The bands of a scene that has a file for each."""
    product = find_product(key)
    found = (product.find_band(name) for name in files)
    numbered = any(band.number is not None for band in product.bands)
    return tuple(
        to_file_band(band, band.number if numbered else place)
        for place, band in enumerate(filter(None, found), start=1)
    )


def to_file_band(band: ProductBand, number: int | None) -> FileBand:
    """Take a product's band as one of a file; numbers in its name mean what the product says."""
    own = canonical(band.name)
    return FileBand(
        name=own,
        common=band.common,
        number=number,
        telling=own[1:2].isalpha(),
        aliases=tuple(map(canonical, band.aliases)),
    )


def _find_places(folder: str) -> tuple[_Place, ...]:
    """The layouts that files in a folder may have, by the names of that and of those above it."""
    above = folder.split(os.sep)[-_MOST_ABOVE:]
    by_folder = (place for name in reversed(above) for place in _places_of(name))
    return (*dict.fromkeys(by_folder), *_without_folder())


@lru_cache(maxsize=4096)
def _places_of(name: str) -> tuple[_Place, ...]:
    return tuple(place for place in _with_folder() if _fits_folder(place.layout, name))


def _fits_folder(layout: Layout, name: str) -> bool:
    pattern = layout.folder_pattern
    return pattern is not None and pattern.fullmatch(name) is not None


@lru_cache(maxsize=1)
def _with_folder() -> tuple[_Place, ...]:
    return tuple(p for p in _all_places() if p.layout.folder is not None)


@lru_cache(maxsize=1)
def _without_folder() -> tuple[_Place, ...]:
    return tuple(p for p in _all_places() if p.layout.folder is None)


def _all_places() -> Iterable[_Place]:
    return (_Place(product, layout) for product in products() for layout in product.layouts)


@lru_cache(maxsize=256)
def _combine(places: tuple[_Place, ...]) -> re.Pattern[str]:
    """One pattern for all layouts: most files of a million have none of them."""
    plain = (_GROUP_NAMES.sub("(?:", place.layout.file) for place in places)
    return re.compile("|".join(f"(?:{pattern})" for pattern in plain) or r"(?!)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Match:
    """What a file's name says: empty and 0 where it says nothing."""

    product: Product
    token: str
    band: str
    gsd_m: float


def _match_all(
    places: tuple[_Place, ...], names: Iterable[str]
) -> Iterator[tuple[str, _Match | None]]:
    """Say of each file what its name says: files of one folder are mostly alike, and of no product."""
    any_file, last = _combine(places), None
    for name in names:
        base = os.path.basename(name)
        found = None if last is None else _match(last, base)
        if found is None and any_file.fullmatch(base):
            hits = ((place, match) for place in places if (match := _match(place, base)))
            last, found = next(hits, (last, None))
        yield name, found


def _match(place: _Place, name: str) -> _Match | None:
    match = place.layout.file_pattern.fullmatch(name)
    if match is None:
        return None
    said = match.groupdict("")
    token = said.get("band", "")
    band = place.product.find_band(token) if token else None
    if token and band is None:
        return None
    return _Match(
        product=place.product,
        token="_".join(filter(None, (said.get("scene"), said.get("more")))),
        band="" if band is None else band.name,
        gsd_m=float(said.get("gsd") or 0),
    )


def _make_scene(key: tuple[str, str], group: _Group) -> Scene:
    order = {band.name: place for place, band in enumerate(group.product.bands)}
    bands = sorted(group.files, key=lambda name: order.get(name, -1))
    files = {band: group.files[band][1] for band in bands}
    return Scene(product=key[0], token=key[1], files=files, twice=group.twice)


def _lies_beside(name: str, groups: Mapping[tuple[str, str], _Group]) -> bool:
    """Tell whether a file is one of those that these products have beside their imagery."""
    patterns = {group.product.key: group.product.beside_pattern for group in groups.values()}
    return any(pattern.fullmatch(name) for pattern in patterns.values())
