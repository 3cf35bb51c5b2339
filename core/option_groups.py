"""Options that several verbs share, each stated here alone; a verb's class inherits its groups.

Those about models (registry, device, precision, pixels, pooling) are in `tilezoo.zoo.options`.

Texts are parsed by cached properties, so that one that makes no sense is refused when the options
are made. What they need is imported then: `--help` loads none of it.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tilezoo.bands import Values
from tilezoo.option_texts import parse_nodata, parse_shard
from tilezoo.options import argument, option, options

if TYPE_CHECKING:
    from tilezoo.tiles import Cut


@options
class Sources:
    """What is read."""

    sources: Sequence[str | Path] | str | Path = argument(
        "SOURCE...",
        kw_only=False,
        read_as=list[str],
        help="GeoTIFFs, PNGs, JPEGs; scenes of Sentinel, Landsat, NAIP, Planet and other products as "
        "they are delivered, zipped ones too; folders with a file per band; folders of any of these, "
        "globs, or a list of paths (Parquet, CSV, text).",
        recorded=False,
    )

    @property
    def source_list(self) -> list[str | Path]:
        """The sources, be there one or several."""
        if isinstance(self.sources, str | Path):
            return [self.sources]
        return list(self.sources)


@options
class Windows:
    """How sources are cut into tiles."""

    tile_px: int | None = option(
        default=None, min=4, help="Cut into windows of this side; else a file is a tile."
    )
    stride_px: int | None = option(
        default=None, unset="tile-px", min=1, help="Step between windows."
    )

    @cached_property
    def cut(self) -> "Cut | None":
        """The grid of windows; None where files are tiles."""
        from tilezoo.tiles import cut_from

        return cut_from(self.tile_px, self.stride_px)


@options
class StatedNodata:
    """Which pixels hold no data, where files do not say it or say it wrong."""

    nodata: str | None = option(
        default=None,
        unset="as files say",
        help="V or nan: the stored value of pixels without data, if files do not say it or say it "
        "wrong; a pixel is one of these where all bands are.",
    )

    @cached_property
    def nodata_value(self) -> float | None:
        """The value as a number; None for what files say."""
        return parse_nodata(self.nodata)


@options
class AllowedNodata:
    """How much of a tile may be without data."""

    max_nodata: float = option(
        default=1.0, min=0, max=1, help="Leave out tiles with a larger share without data."
    )


@options
class ProductValues:
    """What is done to the values of products with a scale or offset of their own."""

    values: Values | None = option(
        default=None,
        unset="model's",
        help="harmonized: products' own scales and offsets are applied, so that Sentinel-2 scenes "
        "before and after baseline 04.00 are alike and Landsat's Collection 2 is reflectance × "
        "10,000; stored: pixels stay as the files hold them.",
    )


@options
class Workers:
    """How many threads read."""

    workers: int | None = option(
        default=None, unset="by cores", min=1, help="Threads that read.", recorded=False
    )

    @property
    def threads(self) -> int:
        """Threads that read: as asked, else one a core, eight at the most."""
        from tilezoo.reading import count_threads

        return count_threads(self.workers)


@options
class AllowedErrors:
    """How many tiles may fail."""

    max_errors: int = option(
        default=0,
        min=0,
        help="Tiles that may fail; more end the finished run with exit 3.",
        recorded=False,
    )


@options
class Limit:
    """How many tiles a run takes at most."""

    limit: int | None = option(default=None, min=1, help="Only the first so many tiles.")


@options
class Share(Limit):
    """Which of all tiles a run takes."""

    shard: str | None = option(default=None, help="I/N: only this of N equal shares, I from 0.")

    @cached_property
    def share(self) -> tuple[int, int]:
        """This share's number and how many there are; (0, 1) for the whole."""
        return parse_shard(self.shard)
