"""What `tilezoo index` and `tilezoo search` can be asked."""

from functools import cached_property
from pathlib import Path
from typing import Literal

from tilezoo.errors import OptionError
from tilezoo.option_texts import parse_numbers
from tilezoo.options import Progress, argument, option, options
from tilezoo.zoo.options import OnDevice

Kind = Literal["auto", "flat", "ivf", "hnsw"]


@options
class OneTable:
    """The table that is indexed or searched."""

    table: str | Path = argument("TABLE", kw_only=False, help="A folder made by `embed`.")


@options
class IndexOptions(OneTable, Progress):
    """How an index is built over a table."""

    kind: Kind = option(default="auto", help="auto: flat (exact) up to 100,000 rows, ivf above.")
    recall: float = option(default=0.99, help="Share of true neighbours ivf and hnsw must find.")

    def check(self) -> None:
        """Refuse a recall that is no share."""
        if not 0 < self.recall <= 1:
            raise OptionError(
                f"--recall {self.recall} should be above 0 and at most 1, for example 0.99"
            )


@options
class SearchOptions(OneTable, OnDevice):
    """What is searched for, and where."""

    query: str | None = argument(
        "QUERY", kw_only=False, default=None, help="A row's id, or an image file."
    )
    at: str | None = option(default=None, help="LON,LAT: search for the tile there.")
    k: int = option("-k", default=10, min=1, help="How many answers.")
    device: str = option(
        default="auto", help="Where an image is embedded: auto, cpu, cuda, cuda:1, mps."
    )

    @cached_property
    def place(self) -> tuple[float, float] | None:
        """`at` as longitude and latitude in degrees."""
        if self.at is None:
            return None
        example = "12.5,41.9 (longitude, latitude)"
        lon, lat = parse_numbers(self.at, "--at", count=2, example=example)
        if not (-180 <= lon <= 180 and -90 <= lat <= 90):
            raise OptionError(
                f"--at {self.at}: longitude first (-180..180), then latitude (-90..90)"
            )
        return lon, lat

    def check(self) -> None:
        """Refuse two queries at once, or none."""
        if (self.query is None) == (self.at is None):
            raise OptionError("give one QUERY (an image file or a row's id), or --at LON,LAT")
