"""What is searched for: a row, an image file, or the tile at a place."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from tilezoo.errors import OptionError, SourceError, SpaceError, TilezooError
from tilezoo.geoparquet import read_boxes
from tilezoo.image import read_tile
from tilezoo.options import parse_numbers
from tilezoo.search.index import rows_at, unit
from tilezoo.sources import discover
from tilezoo.table import Table, same_space
from tilezoo.tiles import TileRef
from tilezoo.zoo.downloader import load

if TYPE_CHECKING:
    from tilezoo.zoo.backbone import Backbone

_EARTH_KM = 6371.0


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query, resolved.

    Attributes:
        vector: Unit vector, shape (1, D).
        label: What the user asked for, in words.
        row: The table's row it is, or None for an image from outside.
        image: The image file it is, or None for a row.
    """

    vector: NDArray[np.float32]
    label: str
    row: int | None = None
    image: Path | None = None


def resolve(table: Table, query: str | None, at: str | None, device: str) -> Query:
    """Turn QUERY or `--at` into a vector of the table's space.

    Raises:
        TilezooError: It is neither a row nor an image, lies in no tile, or the image cannot
            be embedded as the table was.
    """
    if (query is None) == (at is None):
        raise OptionError("give one QUERY (an image file or a row's id), or --at LON,LAT")
    if at is not None:
        return _of_row(table, row_at(table, at), f"the tile at {at}")
    wanted = str(query)
    row = table.row_of(wanted)
    if row is not None:
        return _of_row(table, row, wanted)
    if Path(wanted).exists():
        return _of_image(table, Path(wanted), device)
    near = get_close_matches(wanted, map(str, table.column("id").to_pylist()), n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; name a row's id or an image file"
    raise SourceError(f"{wanted}: no such row in {table.path} and no such file{hint}")


def row_at(table: Table, at: str) -> int:
    """Find the row whose footprint holds `LON,LAT`, the one with the nearest centre if several.

    Raises:
        SourceError: None does; the nearest is told.
    """
    lon, lat = parse_numbers(at, "--at", count=2, example="12.5,41.9 (longitude, latitude)")
    if not (-180 <= lon <= 180 and -90 <= lat <= 90):
        raise OptionError(f"--at {at}: longitude first (-180..180), then latitude (-90..90)")
    boxes = read_boxes(table.column("bbox"))
    if not np.isfinite(boxes).any():
        raise SourceError(f"{table.path}: no tile has a place; --at needs georeferenced imagery")
    distance = _distance_km(boxes, lon, lat)
    inside = (
        (boxes[:, 0] <= lon) & (lon <= boxes[:, 2]) & (boxes[:, 1] <= lat) & (lat <= boxes[:, 3])
    )
    candidates = np.flatnonzero(inside)
    shapes = table.take(list(candidates)) if len(candidates) else []
    point = shapely.Point(lon, lat)
    holding = [
        row
        for row, found in zip(candidates, shapes, strict=True)
        if shapely.from_wkb(found["geometry"]).covers(point)
    ]
    if holding:
        return int(min(holding, key=lambda row: distance[row]))
    nearest = int(np.nanargmin(distance))
    tile = table.take([nearest])[0]["id"]
    raise SourceError(
        f"--at {at} lies in no tile; the nearest is {tile}, {distance[nearest]:.0f} km off"
    )


def _of_row(table: Table, row: int, label: str) -> Query:
    return Query(vector=rows_at(table, np.array([row])), label=label, row=row)


def _of_image(table: Table, path: Path, device: str) -> Query:
    sources = discover([path])
    if len(sources) != 1:
        raise SourceError(f"{path} holds {len(sources)} images; a query is one")
    backbone = backbone_of(table, device)
    tile = read_tile(TileRef(source=sources[0]), backbone.space.contract, backbone.request)
    return Query(vector=unit(backbone.encode([tile])), label=str(path), image=path)


def backbone_of(table: Table, device: str) -> "Backbone":
    """Find the table's own model again and load it as the table was made.

    Raises:
        SpaceError: The model is gone, or is not the same any more.
    """
    model, request = table.manifest["model"], table.manifest["request"]
    name = model["source"] if Path(model["source"]).is_dir() else model["name"]
    try:
        backbone = load(
            name,
            device=device,
            pooling=table.space.pooling,
            bands=request["bands"],
            value_range=request["value_range"],
        )
    except TilezooError as error:
        raise SpaceError(
            f"{table.path}: its model {model['name']} cannot be loaded: {error}"
        ) from error
    same_space(table.space, backbone.space, f"{model['name']} is not the model of {table.path}")
    return backbone


def _distance_km(boxes: NDArray[np.float64], lon: float, lat: float) -> NDArray[np.float64]:
    """Great-circle distance of each box's centre from a point, kilometres (haversine)."""
    centre_lon, centre_lat = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    p, q = np.radians(centre_lat), np.radians(lat)
    half = np.sin((p - q) / 2) ** 2
    half = half + np.cos(p) * np.cos(q) * np.sin(np.radians(centre_lon - lon) / 2) ** 2
    return np.asarray(2 * _EARTH_KM * np.arcsin(np.sqrt(half)))
