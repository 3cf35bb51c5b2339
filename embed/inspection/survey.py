"""What lies under some sources: headers of a spread sample, and values of a few windows of them."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat

import numpy as np

from tilezoo.bands import BandRequest
from tilezoo.decoding import DECODED
from tilezoo.embed.inspection.findings import PERCENTS, BandFound, Kind, ProductFound, Unreadable
from tilezoo.embed.inspection.looks import Look, Places, Sample, read_sample, try_look
from tilezoo.errors import TileError
from tilezoo.formats import suffix_of
from tilezoo.meaning import find_nodata, find_scaling
from tilezoo.products.product import find_product
from tilezoo.sources import Source

_LOOKED_AT = 64  # headers read, spread over all images
_LEAST = 4  # of each class of files
_SAMPLED_KINDS = 12
# What a file that holds several images is refused with.
_ONE_NAMED = re.compile(r"name one: [^;]*:([^:;]+)(?:;|$)")


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

    @property
    def declares_nodata(self) -> bool:
        """Whether files, or their product, say which pixels hold no data."""
        headers = (header for look in self.looks for header in look.headers if header)
        declared = any(header.nodata is not None or header.masked for header in headers)
        return declared or find_nodata(self.looks[0].source) is not None

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

    def list_parts(self) -> list[str]:
        """One image of each file, where all files are refused for holding several."""
        named = {one.example: _ONE_NAMED.search(one.message) for one in self.unreadable}
        parts = [f"{path}:{match[1]}" for path, match in named.items() if match]
        return parts if len(parts) == self.images else []


def survey_sources(sources: Sequence[Source], request: BandRequest, threads: int) -> Survey:
    """Look at a spread sample of headers; `sample_values` reads pixels.

    Args:
        sources: Sorted by id.
        request: How values are read; its bands do not matter.
        threads: That read.
    """
    every = _ask_every(request)
    groups: dict[tuple[object, ...], list[Look]] = {}
    images: Counter[tuple[object, ...]] = Counter()
    failures: dict[tuple[str, str], _Failed] = {}
    failed: list[Source] = []
    with ThreadPoolExecutor(threads) as pool:
        for members in _find_classes(sources):
            chosen = [sources[place] for place in _spread(members, len(sources))]
            found = list(pool.map(partial(try_look, request=every), chosen))
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
    return Survey(
        images=len(sources),
        groups=tuple(sorted(made, key=lambda group: -group.images)),
        unreadable=tuple(one.describe() for one in failures.values()),
        failed=tuple(failed),
    )


def sample_values(survey: Survey, request: BandRequest, threads: int) -> Survey:
    """Read windows of some images of each kind, as they are fed by a request."""
    every, groups = _ask_every(request), list(survey.groups)
    with ThreadPoolExecutor(threads) as pool:
        for place, group in enumerate(groups[:_SAMPLED_KINDS]):
            sample = read_sample(group.looks, every, pool)
            scaling = _tell_scaling(group.looks[0].source, request)
            groups[place] = replace(group, sample=sample, rescaling=scaling)
    DECODED.clear()
    return replace(survey, groups=tuple(groups))


def _ask_every(request: BandRequest) -> Places:
    return Places(
        wanted=(),
        values=request.values,
        values_stated=request.values_stated,
        value_range=request.value_range,
        nodata=request.nodata,
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


def _name_product(key: str) -> ProductFound | None:
    if not key:
        return None
    product = find_product(key)
    return ProductFound(key=key, title=product.title, unit=product.unit, notes=product.notes)


def _tell_scaling(source: Source, request: BandRequest) -> str:
    found = find_scaling(source, request)
    told = found.told.removeprefix(f"{find_product(source.product).title}: ") if found.told else ""
    return f"{told}; --values stored leaves them as they are" if found.scales else told


def _join_boxes(
    boxes: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float] | None:
    if not boxes:
        return None
    west, south, east, north = zip(*boxes, strict=True)
    return min(west), min(south), max(east), max(north)
