"""Answers as values, and as JSON, GeoJSON and a terminal table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilezoo.centres import centre_of_row

if TYPE_CHECKING:
    from rich.table import Table as RichTable

# Characters that rank, score, place, time and the gaps take beside an id.
_OTHER_COLUMNS = 46
# What a hit is made of: all but its vector.
HIT_COLUMNS = (
    "id", "bbox", "geometry", "source_uri", "pixel_bbox", "datetime", "gsd_m", "nodata_fraction",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One tile that was found (or the query itself, if it is a row).

    Attributes:
        row: Its number in the table.
        id: Its id.
        score: Cosine with the query, -1..1.
        source_uri: Where its pixels are.
        pixel_bbox: x, y, width, height there.
        lon: Of its centre, degrees; None without a place.
        lat: Of its centre, degrees; None without a place.
        geometry: Footprint as WKB in CRS84; None without a place.
        datetime: Acquisition time, UTC.
        gsd_m: Metres per pixel.
        nodata_fraction: 0..1.
    """

    row: int
    id: str
    score: float
    source_uri: str
    pixel_bbox: tuple[int, int, int, int]
    lon: float | None
    lat: float | None
    geometry: bytes | None
    datetime: datetime | None
    gsd_m: float | None
    nodata_fraction: float

    def to_json(self) -> dict[str, Any]:
        """Everything but the footprint's bytes."""
        fields = asdict(self)
        del fields["geometry"]
        return {**fields, "datetime": self.datetime and self.datetime.isoformat()}

    @property
    def place(self) -> str:
        """Its centre in words, as `12.40°S 45.60°W`."""
        if self.lon is None or self.lat is None:
            return ""
        south, west = "NS"[self.lat < 0], "EW"[self.lon < 0]
        return f"{abs(self.lat):.2f}°{south} {abs(self.lon):.2f}°{west}"


@dataclass(frozen=True, kw_only=True)
class Took:
    """How long a search took, seconds.

    Attributes:
        whole_s: From opening the table to the answers, the model's loading and all else included.
        index_s: The index alone, once it was open.
    """

    whole_s: float
    index_s: float


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A query and what was found.

    Attributes:
        table: The table's folder.
        space: Fingerprint of the space in which was searched.
        label: What was asked for.
        query: The row that was asked for; None for an image from outside.
        image: The image that was asked for; None for a row.
        vector: The query's unit vector, shape (1, D).
        hits: The best first.
        took: How long it took.
    """

    table: str
    space: str
    label: str
    query: Hit | None
    image: str | None
    vector: NDArray[np.float32] = field(repr=False, compare=False)
    hits: tuple[Hit, ...]
    took: Took = field(compare=False)

    @property
    def query_name(self) -> str:
        """What was asked for in a word: a row's id or a file's name."""
        return self.query.id if self.query else Path(self.image or "").name

    def to_json(self) -> dict[str, Any]:
        """The form that `--json` prints."""
        return {
            "table": self.table,
            "space": self.space,
            "query": {
                "label": self.label,
                "image": self.image,
                "id": self.query and self.query.id,
                "row": self.query and self.query.row,
            },
            "results": [
                {"rank": rank, **hit.to_json()} for rank, hit in enumerate(self.hits, start=1)
            ],
        }

    def to_geojson(self) -> dict[str, Any]:
        """A FeatureCollection (RFC 7946); tiles without a place have a null geometry."""
        features = [
            {
                "type": "Feature",
                "id": hit.id,
                "geometry": _geometry(hit),
                "properties": {"rank": rank, **hit.to_json()},
            }
            for rank, hit in enumerate(self.hits, start=1)
        ]
        return {"type": "FeatureCollection", "features": features}

    def to_terminal(self, width: int) -> "RichTable":
        """A table of at most `width` characters; ids are cut at their alike beginnings."""
        from rich.table import Table as RichTable

        table = RichTable(title=f"nearest to {self.label}", title_justify="left", box=None)
        for name, justify in (("#", "right"), ("score", "right"), ("id", "left")):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        table.add_column("place", no_wrap=True)
        table.add_column("time", no_wrap=True)
        room = max(12, width - _OTHER_COLUMNS)
        for rank, hit in enumerate(self.hits, start=1):
            when = hit.datetime.strftime("%Y-%m-%d") if hit.datetime else ""
            name = hit.id if len(hit.id) <= room else "…" + hit.id[1 - room :]
            table.add_row(str(rank), f"{hit.score:.4f}", name, hit.place, when)
        return table


def hit_from(row: int, score: float, stored: Mapping[str, Any]) -> Hit:
    """Make a hit of a table's row."""
    lon, lat = centre_of_row(stored["bbox"], stored["geometry"])
    return Hit(
        row=row,
        id=stored["id"],
        score=score,
        source_uri=stored["source_uri"],
        pixel_bbox=tuple(stored["pixel_bbox"]),
        lon=lon,
        lat=lat,
        geometry=stored["geometry"],
        datetime=stored["datetime"],
        gsd_m=stored["gsd_m"],
        nodata_fraction=stored["nodata_fraction"],
    )


def _geometry(hit: Hit) -> dict[str, Any] | None:
    if hit.geometry is None:
        return None
    import shapely

    return dict(shapely.from_wkb(hit.geometry).__geo_interface__)
