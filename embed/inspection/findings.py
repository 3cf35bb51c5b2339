"""What an inspection finds, as programs read it."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tilezoo.space import Resize, Unit

PERCENTS = (0, 2, 50, 98, 100)


@dataclass(frozen=True, kw_only=True)
class BandFound:
    """One band of a kind of image.

    Attributes:
        name: Its own; empty where it has none.
        common: What it is by STAC's common names; None where nothing says it.
        number: What `--bands` calls it; None where it has a name alone.
        dtype: Of its values, by NumPy's name.
        gsd_m: Ground sampling distance of its file, metres; None where it has no place.
        percentiles: Of sampled values that are data, at 0, 2, 50, 98 and 100 %, as a network is
            fed them; empty where no pixel was read.
    """

    name: str
    common: str | None
    number: int | None
    dtype: str
    gsd_m: float | None
    percentiles: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ProductFound:
    """The product that images are of."""

    key: str
    title: str
    unit: str
    notes: str


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Images that are alike: of one product, with the same bands and dtypes.

    Attributes:
        images: How many; an estimate from those looked at where `looked_at` is less.
        looked_at: Of how many the headers were read.
        example: One of them, as `source_uri` has it.
        files: How many files one image has.
        product: None where they are of no known product.
        bands: In the file's order, or the product's.
        smallest_px: Width and height of the smallest, on the grid of its finest band.
        largest_px: And of the largest.
        crs: As `EPSG:…` or WKT, most frequent first; empty where they have no place.
        gsd_m: Smallest and largest of the finest band, metres.
        bbox: West, south, east, north of those looked at, degrees.
        approximate: Places are known by control points or RPCs alone.
        times: First and last acquisition of those looked at, UTC.
        nodata: Values that files declare as no data, as text; empty for none.
        usual_nodata: The product's, for files that do not declare one; None for none.
        masked: Files have a mask or an alpha band.
        nodata_share: Share of sampled pixels without data, 0..1; None where none was read.
        broken_share: Share of sampled values that are NaN or infinite and not declared as no data.
        rescaling: What is done to values before they are fed, and why; empty for nothing.
    """

    images: int
    looked_at: int
    example: str
    files: int
    product: ProductFound | None
    bands: tuple[BandFound, ...]
    smallest_px: tuple[int, int]
    largest_px: tuple[int, int]
    crs: tuple[str, ...]
    gsd_m: tuple[float, float] | None
    bbox: tuple[float, float, float, float] | None
    approximate: bool
    times: tuple[datetime, datetime] | None
    nodata: tuple[str, ...]
    usual_nodata: float | None
    masked: bool
    nodata_share: float | None
    broken_share: float
    rescaling: str


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """Images that cannot be opened for one reason."""

    kind: str
    message: str
    images: int
    example: str


@dataclass(frozen=True, kw_only=True)
class Passed:
    """Files that are passed over: of a suffix, or beside the imagery of a product."""

    what: str
    files: int


@dataclass(frozen=True, kw_only=True)
class ModelAsked:
    """What the model takes, with the options in force."""

    name: str
    bands: tuple[str, ...]
    unit: Unit
    value_range: tuple[float, float]
    size_px: int
    resize: Resize
    resize_px: int
    gsd_m: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class BandFed:
    """Which band goes where.

    Attributes:
        model: The model's band.
        source: The source's band, by name or number.
        below: Share of sampled values at or below the range, which become black.
        above: Share at or above it, which become white.
    """

    model: str
    source: str
    below: float | None
    above: float | None


@dataclass(frozen=True, kw_only=True)
class Fed:
    """What the model is fed of one kind.

    Attributes:
        kind: Which of the inspection's kinds, from 0.
        failing: How many of the kind's images are refused, by those looked at.
        refusal: Why the first of these is; None where none is.
        bands: In the model's order; empty where all are refused.
    """

    kind: int
    failing: int
    refusal: str | None
    bands: tuple[BandFed, ...]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `tilezoo embed` does with some options.

    Attributes:
        command: As a shell takes it.
        refusal: What it says before it reads anything; None where it begins.
        model: What is fed with these options.
        fed: For each kind.
        tiles: How many it makes; an estimate where not all headers were read.
        notes: What is proposed and why, and what is to be known, a sentence each.
    """

    command: str
    refusal: str | None
    model: ModelAsked
    fed: tuple[Fed, ...]
    tiles: int
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What would be read, and what a model would be fed.

    Attributes:
        sources: What was named.
        images: How many are found.
        looked_at: Of how many the headers were read.
        kinds: Images that are alike, most frequent first.
        unreadable: Images that cannot be opened, by reason.
        passed_over: Files that are no images, or none of imagery.
        notes: What else is told of how they were found.
        asked: What a run does as it is asked for.
        advised: What a run does with the command that works.
        png: The picture that was written; None for none.
    """

    sources: tuple[str, ...]
    images: int
    looked_at: int
    kinds: tuple[Kind, ...]
    unreadable: tuple[Unreadable, ...]
    passed_over: tuple[Passed, ...]
    notes: tuple[str, ...]
    asked: Run
    advised: Run
    png: Path | None = None
