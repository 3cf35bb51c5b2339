"""What a source's bands and values mean: by its product and metadata, else by what the file says."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tilezoo.bands import ALPHA, BandRequest, FileBand, name_bands
from tilezoo.products.facts import Facts, read_facts
from tilezoo.products.product import Product, find_product
from tilezoo.products.scenes import to_file_band
from tilezoo.progress import count_of
from tilezoo.raster import Raster
from tilezoo.sources import Source

_COLOURS = ("red", "green", "blue", "nir", "gray")
_LARGEST = 65_535.0  # of what a product stores: 16 bits
_AS_STORED = (1.0, 0.0)
_STORED = "values as stored"
_8_BITS = (0.0, 255.0)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What is done to the values of one source.

    Attributes:
        scales: Band → scale and offset: stored value × scale + offset is what is fed. Bands that
            are not there stay as they are stored.
        told: That in words, for people; empty where nothing is done and nothing is to be said.
    """

    scales: Mapping[str, tuple[float, float]]
    told: str = ""


_NOTHING = Scaling(scales={})


def find_facts(source: Source) -> Facts:
    """Read what lies beside a source of a known product; empty for others."""
    if not source.product or _says_all(find_product(source.product)):
        return Facts()
    folder = os.path.dirname(source.path)
    changed_ns = os.stat(folder).st_mtime_ns if os.path.isdir(folder) else 0
    return _cached_facts(source.product, source.path, source.endings, changed_ns)


def _says_all(product: Product) -> bool:
    """Whether nothing beside a scene tells more of it: so for each patch of BigEarthNet."""
    return product.metadata is None and (product.scale or 1, product.offset or 0) == _AS_STORED


@lru_cache(maxsize=256)  # the windows of a scene ask again and again
def _cached_facts(product: str, path: str, endings: tuple[str, ...], _changed_ns: int) -> Facts:
    source = Source(id="", path=path, endings=endings, product=product)
    return read_facts(find_product(product), path, source.files or {"": path})


def describe_bands(raster: Raster, source: Source) -> tuple[FileBand, ...]:
    """What is known of an open file's bands: from its product, descriptions, or colours."""
    stack = find_stack(raster.dataset.count, source)
    if stack is not None:
        return stack
    return _name_by_file(raster.band_count, raster.colours, tuple(raster.dataset.descriptions))


@lru_cache(maxsize=256)  # files of one run are called alike
def _name_by_file(
    count: int, colours: tuple[str, ...], descriptions: tuple[str | None, ...]
) -> tuple[FileBand, ...]:
    written = [*descriptions, *[""] * len(colours)]  # a palette's three are one
    described = name_bands([text or "" for text in written[:count]])
    if any(band.common or band.telling for band in described):
        return described
    shown = name_bands([colour if colour in _COLOURS else "" for colour in colours[:count]])
    named = [band for band, colour in zip(shown, colours, strict=False) if colour != "alpha"]
    if not named or not all(band.common for band in named):
        return described
    return tuple(
        replace(a, name=b.name or a.name or ALPHA, common=a.common, telling=a.common is not None)
        for a, b in zip(shown, described, strict=True)
    )


def find_stack(count: int, source: Source) -> tuple[FileBand, ...] | None:
    """The bands of a product's file that holds all of them: as metadata say, else as is usual."""
    if not source.product:
        return None
    product, said = find_product(source.product), find_facts(source).stack
    if said is not None and len(said) == count:
        bands = [product.find_band(name) for name in said]
        return tuple(
            FileBand(number=n) if band is None else to_file_band(band, n)
            for n, band in enumerate(bands, start=1)
        )
    usual = product.stack(count)
    if usual is None:
        return None
    return tuple(to_file_band(band, n) for n, band in enumerate(usual, start=1))


def find_nodata(source: Source) -> float | None:
    """The value without data that a source's product has, where its files do not declare one."""
    return find_product(source.product).nodata if source.product else None


def find_scaling(source: Source, request: BandRequest) -> Scaling:
    """What is done to a source's values: its product's own scale and offset, unless asked not to.

    What is fed is reflectance × 10,000, so that scenes of one product are on one scale whatever
    its version. A value range that no such reflectance reaches is one of stored values, and so
    these stay as they are. So do they for a model of 8-bit images, unless a range is stated.
    """
    of_8_bits = request.value_range == _8_BITS and not request.values_stated
    if not source.product or request.values == "stored" or of_8_bits:
        return _NOTHING
    product, facts = find_product(source.product), find_facts(source)
    scales = {name: scale for name, scale in facts.scales.items() if scale != _AS_STORED}
    if not scales:
        return Scaling(scales={}, told=f"{product.title}: {facts.told}") if facts.told else _NOTHING
    top = max(_LARGEST * scale + offset for scale, offset in scales.values())
    high = None if request.value_range is None else request.value_range[1]
    if high is not None and high > top:
        return Scaling(scales={}, told=_tell_stored(product, high, top))
    return Scaling(scales=scales, told=f"{product.title}: {facts.told}")


def _tell_stored(product: Product, high: float, top: float) -> str:
    most = f"reflectance × 10,000 is {top:,.0f} at most"
    return f"{product.title}: {_STORED}, for the value range ends at {high:g} and {most}"


def rescale(
    pixels: NDArray[np.generic], scales: Sequence[tuple[float, float] | None]
) -> NDArray[np.generic]:
    """Apply scale and offset to bands of integers, shape (C, H, W); below 0 is 0.

    Args:
        pixels: As stored.
        scales: Of each band; None for one that stays as it is.
    """
    if not any(scales):
        return pixels
    return np.stack([_rescale_band(b, s) for b, s in zip(pixels, scales, strict=True)])


def _rescale_band(
    band: NDArray[np.generic], scale: tuple[float, float] | None
) -> NDArray[np.generic]:
    if scale is None:
        return band
    values = band.astype(np.float32) * np.float32(scale[0]) + np.float32(scale[1])
    return np.asarray(np.clip(np.rint(values, out=values), 0, _LARGEST), np.uint16)


def tell_scalings(sources: Iterable[Source], request: BandRequest) -> tuple[str, ...]:
    """Say what is done to the values of a run's sources, and to how many of them."""
    told = Counter(s.told for source in sources if (s := find_scaling(source, request)).told)
    return tuple(f"{what} ({count_of(count, 'image')})" for what, count in sorted(told.items()))


def tell_way_out(scaling: str) -> str:
    """Add to what `tell_scalings` says how it is switched off."""
    return (
        scaling if _STORED in scaling else f"{scaling}; --values stored leaves values as they are"
    )
