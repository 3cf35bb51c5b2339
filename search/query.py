"""What is asked for, a row, a place or an image, as a vector of the table's space."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from heapq import nlargest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tilezoo.centres import measure_km
from tilezoo.errors import OptionError, SourceError, SpaceError, TileError, TilezooError
from tilezoo.geoparquet import read_boxes
from tilezoo.option_texts import parse_nodata
from tilezoo.options import options_of
from tilezoo.search.options import SearchOptions
from tilezoo.search.vectors import rows_at, unit
from tilezoo.table import Table, refuse_other_space

if TYPE_CHECKING:
    import shapely

    from tilezoo.zoo.backbone import Backbone

_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
_CLOSELY = 50  # ids that are compared letter by letter
_FLAG = re.compile(r"--[a-z][a-z-]*")


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


def resolve_query(table: Table, options: SearchOptions) -> Query:
    """Turn what is asked for into a vector of the table's space.

    Raises:
        TilezooError: It is neither a row nor an image, lies in no tile, or the image cannot
            be embedded as the table was.
    """
    if options.place is not None:
        return _take_row(table, _find_row_at(table, *options.place), f"the tile at {options.at}")
    wanted = str(options.query)
    row = _find_row(table, wanted)
    if row is not None:
        return _take_row(table, row, wanted)
    if Path(wanted).exists():
        return _embed_image(table, Path(wanted), options.device)
    near = _find_near(table, wanted)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; name a row's id or an image file"
    raise SourceError(f"{wanted}: no such row in {table.path} and no such file{hint}")


def _find_row(table: Table, wanted: str) -> int | None:
    """Find a row by its id; one that only looks the same (NFC, NFD, blanks around) does, too."""
    alike = (unicodedata.normalize(form, wanted.strip()) for form in _FORMS)
    forms = dict.fromkeys([wanted, wanted.strip(), *alike])
    rows = (table.row_of(form) for form in forms)
    return next((row for row in rows if row is not None), None)


def _find_near(table: Table, wanted: str) -> list[str]:
    """Find the two ids that are most like a wrong one, among those that begin and end most alike.

    Looking at each closely would take a minute for 600,000.
    """
    best: list[tuple[int, str]] = []
    for chunk in table.column("id").chunks:
        names = chunk.to_pylist()
        alike = _count_alike(names, wanted) + _count_alike([n[::-1] for n in names], wanted[::-1])
        best = nlargest(_CLOSELY, [*best, *zip(alike.tolist(), names, strict=True)])
    return get_close_matches(wanted, [name for _, name in best], n=2)


def _count_alike(names: Sequence[str], wanted: str) -> NDArray[np.int64]:
    """Count the characters with which each name begins as `wanted` does, shape (N,)."""
    letters = np.array(names, np.str_)
    width = letters.dtype.itemsize // 4
    codes = letters.view(np.uint32).reshape(len(names), width)
    other = np.array([ord(letter) for letter in wanted[:width]], np.uint32)
    same = codes[:, : len(other)] == other
    return np.asarray(np.logical_and.accumulate(same, axis=1).sum(axis=1))


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
    tile = table.take([nearest], ["id"])[0]["id"]
    raise SourceError(
        f"--at {lon:g},{lat:g} lies in no tile; the nearest is {tile}, "
        f"{distance[nearest]:.0f} km off"
    )


def _rows_that_hold(table: Table, lon: float, lat: float) -> list[int]:
    """Rows whose footprint covers a place; only those whose box does are looked at closely."""
    import shapely

    place = _draw_place(lon, lat)
    west, south, east, north = read_boxes(table.column("bbox")).T
    near = np.zeros(len(west), np.bool_)
    for left, bottom, right, top in shapely.bounds(shapely.get_parts(place)).tolist():
        near |= (west <= right) & (left <= east) & (south <= top) & (bottom <= north)
    candidates = np.flatnonzero(near).tolist()
    stored = table.take(candidates, ["geometry"])
    return [
        row
        for row, tile in zip(candidates, stored, strict=True)
        if shapely.from_wkb(tile["geometry"]).intersects(place)
    ]


def _draw_place(lon: float, lat: float) -> "shapely.Geometry":
    """Draw a place as maps have it: a pole is all longitudes, the antimeridian is both edges."""
    import shapely

    if abs(lat) == 90:
        return shapely.LineString([(-180, lat), (180, lat)])
    if abs(lon) == 180:
        return shapely.MultiPoint([(-180, lat), (180, lat)])
    return shapely.Point(lon, lat)


def _take_row(table: Table, row: int, label: str) -> Query:
    return Query(vector=rows_at(table, np.array([row])), label=label, row=row)


def _embed_image(table: Table, path: Path, device: str) -> Query:
    """Embed an image as the table's tiles were.

    Raises:
        TilezooError: It is no such image, or the table's model is not to be had.
    """
    from tilezoo.image import read_tile
    from tilezoo.sources import discover
    from tilezoo.tiles import TileRef

    sources = discover([path])
    if len(sources) != 1:
        raise SourceError(f"{path} holds {len(sources)} images; a query is one")
    backbone = _load_backbone(table, device)
    request = replace(backbone.request, nodata=parse_nodata(table.manifest.request.nodata))
    try:
        tile = read_tile(TileRef(source=sources[0]), backbone.space.contract, request)
    except TileError as error:
        told = f"{path}: {_tell(error)}"
        raise TileError(
            error.kind, f"{told}; a query has to be an image like the table's tiles"
        ) from error
    return Query(vector=unit(backbone.encode([tile])), label=str(path), image=path)


def _load_backbone(table: Table, device: str) -> "Backbone":
    """Find the table's own model again and load it as the table was made.

    Raises:
        OptionError: There is no such device.
        SpaceError: The model is gone, or is not the same any more.
    """
    from tilezoo.zoo.downloader import load

    model, request = table.manifest.model, table.manifest.request
    name = model.source if Path(model.source).is_dir() else model.name
    try:
        backbone = load(
            name,
            device=device,
            pooling=table.space.pooling,
            bands=request.bands,
            value_range=request.value_range,
            values=request.values,
        )
    except OptionError:
        raise
    except TilezooError as error:
        told = f"{table.path}: its model {model.name} cannot be loaded: {_tell(error)}"
        raise SpaceError(f"{told}; a row's id needs no model") from error
    refuse_other_space(
        table.space, backbone.space, f"{model.name} is not the model of {table.path}"
    )
    return backbone


def _tell(error: TilezooError) -> str:
    """What is wrong, without the options that `search` has not: those of the table are in force."""
    own = {one.flag for one in options_of(SearchOptions)}
    said, *advice = str(error).split("; ")
    kept = [one for one in advice if set(_FLAG.findall(one)) <= own]
    plain = _FLAG.sub(lambda found: _in_words(found[0], own), said)
    return "; ".join([plain, *kept])


def _in_words(flag: str, own: Collection[str]) -> str:
    return flag if flag in own else f"the table's {flag[2:].replace('-', ' ')}"
