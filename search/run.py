"""The main path: table + query → answers."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from tilezoo.centres import measure_km
from tilezoo.errors import SourceError, SpaceError, TilezooError, VectorIndexError
from tilezoo.geoparquet import read_boxes
from tilezoo.image import read_tile
from tilezoo.options import verb
from tilezoo.progress import say
from tilezoo.search.answers import Answers, hit_from
from tilezoo.search.index import FLAT_ROWS, VectorIndex, open_index, rows_at, scan, unit
from tilezoo.search.options import SearchOptions
from tilezoo.sources import discover
from tilezoo.table import Table, open_table, refuse_other_space
from tilezoo.tiles import TileRef
from tilezoo.zoo.downloader import load

if TYPE_CHECKING:
    from tilezoo.zoo.backbone import Backbone


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


@verb(SearchOptions)
def search(options: SearchOptions) -> Answers:
    """Find the tiles that look most like a query.

    An image is embedded by the table's own model; a row that is the query is not among its answers.

    Raises:
        TilezooError: The query leads to no vector, or the index cannot be trusted.
    """
    table = open_table(options.table)
    index = _find_index(table)
    query = _resolve(table, options)
    return _answer(table, index, query, options.k)


def _find_index(table: Table) -> VectorIndex:
    index = open_index(table)
    if index is not None:
        return index
    make = f"`tilezoo index {table.path}`"
    if table.row_count > FLAT_ROWS:
        raise VectorIndexError(
            f"{table.path} has {table.row_count} rows and no index; make it: {make}"
        )
    say(f"no index, so every row is read; {make} keeps one")
    return scan(table)


def _answer(table: Table, index: VectorIndex, query: Query, k: int) -> Answers:
    scores, rows = index.nearest(query.vector, min(k + 1, table.row_count))
    found = [(int(r), float(s)) for r, s in zip(rows[0], scores[0], strict=True) if r >= 0]
    best = [(row, score) for row, score in found if row != query.row][:k]
    stored = table.take([row for row, _ in best])
    itself = query.row is not None and hit_from(query.row, 1.0, table.take([query.row])[0])
    return Answers(
        table=str(table.path),
        space=table.space.fingerprint,
        label=query.label,
        query=itself or None,
        image=str(query.image) if query.image else None,
        vector=query.vector,
        hits=tuple(hit_from(r, s, row) for (r, s), row in zip(best, stored, strict=True)),
    )


def _resolve(table: Table, options: SearchOptions) -> Query:
    """Turn what is asked for into a vector of the table's space.

    Raises:
        TilezooError: It is neither a row nor an image, lies in no tile, or the image cannot
            be embedded as the table was.
    """
    if options.place is not None:
        return _take_row(table, _find_row_at(table, *options.place), f"the tile at {options.at}")
    wanted = str(options.query)
    row = table.row_of(wanted)
    if row is not None:
        return _take_row(table, row, wanted)
    if Path(wanted).exists():
        return _embed_image(table, Path(wanted), options.device)
    near = get_close_matches(wanted, map(str, table.column("id").to_pylist()), n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; name a row's id or an image file"
    raise SourceError(f"{wanted}: no such row in {table.path} and no such file{hint}")


def _find_row_at(table: Table, lon: float, lat: float) -> int:
    """Find the row whose footprint holds a place, the one with the nearest centre if several.

    Raises:
        SourceError: None does; the message names the nearest.
    """
    holding = _rows_that_hold(table, lon, lat)
    if len(holding) == 1:
        return holding[0]
    distance = measure_km(table.find_centres(), lon, lat)
    if not np.isfinite(distance).any():
        raise SourceError(f"{table.path}: no tile has a place; --at needs georeferenced imagery")
    if holding:
        return min(holding, key=lambda row: float(distance[row]))
    nearest = int(np.nanargmin(distance))
    tile = table.take([nearest])[0]["id"]
    raise SourceError(
        f"--at {lon:g},{lat:g} lies in no tile; the nearest is {tile}, "
        f"{distance[nearest]:.0f} km off"
    )


def _rows_that_hold(table: Table, lon: float, lat: float) -> list[int]:
    """Rows whose footprint covers a place; only those whose box does are looked at closely."""
    place = _draw_place(lon, lat)
    west, south, east, north = read_boxes(table.column("bbox")).T
    near = np.zeros(len(west), np.bool_)
    for left, bottom, right, top in shapely.bounds(shapely.get_parts(place)).tolist():
        near |= (west <= right) & (left <= east) & (south <= top) & (bottom <= north)
    candidates = np.flatnonzero(near).tolist()
    stored = table.take(candidates) if candidates else []
    return [
        row
        for row, tile in zip(candidates, stored, strict=True)
        if shapely.from_wkb(tile["geometry"]).intersects(place)
    ]


def _draw_place(lon: float, lat: float) -> shapely.Geometry:
    """Draw a place as maps have it: a pole is all longitudes, the antimeridian is both edges."""
    if abs(lat) == 90:
        return shapely.LineString([(-180, lat), (180, lat)])
    if abs(lon) == 180:
        return shapely.MultiPoint([(-180, lat), (180, lat)])
    return shapely.Point(lon, lat)


def _take_row(table: Table, row: int, label: str) -> Query:
    return Query(vector=rows_at(table, np.array([row])), label=label, row=row)


def _embed_image(table: Table, path: Path, device: str) -> Query:
    sources = discover([path])
    if len(sources) != 1:
        raise SourceError(f"{path} holds {len(sources)} images; a query is one")
    backbone = _load_backbone(table, device)
    tile = read_tile(TileRef(source=sources[0]), backbone.space.contract, backbone.request)
    return Query(vector=unit(backbone.encode([tile])), label=str(path), image=path)


def _load_backbone(table: Table, device: str) -> "Backbone":
    """Find the table's own model again and load it as the table was made.

    Raises:
        SpaceError: The model is gone, or is not the same any more.
    """
    model, request = table.manifest.model, table.manifest.request
    name = model.source if Path(model.source).is_dir() else model.name
    try:
        backbone = load(
            name,
            device=device,
            pooling=table.space.pooling,
            bands=request.bands,
            value_range=request.value_range,
        )
    except TilezooError as error:
        raise SpaceError(
            f"{table.path}: its model {model.name} cannot be loaded: {error}"
        ) from error
    refuse_other_space(
        table.space, backbone.space, f"{model.name} is not the model of {table.path}"
    )
    return backbone
