"""Measure reading JPEG and PNG: as GDAL decodes them against as they are read here.

python benchmarks/decoding.py [--picture FILE] [--tiles 200] [--rounds 5] [--side 6000]

Without a picture, fields that look like one are made up. Times are CPU seconds of this process.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from making import machine
from numpy.typing import NDArray
from PIL import Image as Pillow

from tilezoo.bands import BandRequest
from tilezoo.decoding import DECODED, MAX_DECODED_BYTES
from tilezoo.image import Image
from tilezoo.opening import gdal, open_dataset
from tilezoo.reading import Reader, make_plan, read_ahead
from tilezoo.sources import Source, discover
from tilezoo.space import Contract
from tilezoo.tiles import Cut, Tile, TileRef
from tilezoo.zoo.downloader import load

RGB = ("red", "green", "blue")
REQUEST = BandRequest(wanted=RGB)
FORMATS = ("jpg", "png")
GDALS_WINDOWS = 64  # of a large picture, read as GDAL does: all of them take minutes


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--tiles", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=6000)
    args = parser.parse_args()
    Pillow.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as temporary:
        picture = open_picture(args.picture, args.side)
        measure_tiles(Path(temporary), picture, args.tiles, args.rounds)
        measure_vectors(Path(temporary) / "150")
        measure_windows(Path(temporary), picture)
    print("\n" + " · ".join(machine().values()))


def open_picture(path: Path | None, side: int) -> Pillow.Image:
    """Open the picture that tiles are cut from, of `side` pixels each way."""
    if path is None:
        rng = np.random.default_rng(0)
        coarse = Pillow.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8))
        fine = np.asarray(coarse.resize((side, side), Pillow.Resampling.BICUBIC), np.int16)
        noisy = fine + rng.integers(-6, 7, fine.shape, np.int16)
        return Pillow.fromarray(noisy.clip(0, 255).astype(np.uint8))
    with Pillow.open(path) as picture:
        whole = picture.convert("RGB")
    return whole.resize((side, side), Pillow.Resampling.LANCZOS)


def cut_tiles(folder: Path, picture: Pillow.Image, side: int, count: int) -> None:
    """Write tiles from all over a picture: JPEG as most programs write it, and PNG."""
    rng = np.random.default_rng(side)
    for number in range(count):
        x, y = rng.integers(0, picture.width - side, 2).tolist()
        tile = picture.crop((x, y, x + side, y + side))
        for name, how in (("jpg", {"quality": 85}), ("png", {})):
            path = folder / f"{side}/{name}/{number:04d}.{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            tile.save(path, **how)


def read_by_gdal(path: str) -> NDArray[np.generic]:
    """Read a picture with GDAL alone: no place, no time, no mask."""
    with open_dataset(path) as dataset:
        pixels: NDArray[np.generic] = dataset.read([1, 2, 3])
        return pixels


def read_here(path: str) -> NDArray[np.generic]:
    """Read a picture as `embed` does."""
    source = Source(id=path, path=path)
    with Image(source, REQUEST) as image:
        return image.read(TileRef(source=source), contract()).pixels


def measure_tiles(folder: Path, picture: Pillow.Image, count: int, rounds: int) -> None:
    """Read tiles both ways in turn, and print milliseconds of the fastest round and their ratio."""
    print("| tiles | GDAL, ms a tile | here, ms a tile | GDAL / here |\n|---|---|---|---|")
    for side in (150, 256, 1024):
        cut_tiles(folder, picture, side, max(10, count * 150 // side))
        for name in FORMATS:
            paths = [str(path) for path in sorted((folder / f"{side}/{name}").iterdir())]
            theirs, ours = measure_in_turn(paths, rounds)
            how = f"{name}, {side} px"
            print(f"| {how} | {theirs:.3f} | {ours:.3f} | {theirs / ours:.2f} |", flush=True)


def measure_in_turn(paths: Sequence[str], rounds: int) -> tuple[float, float]:
    """Milliseconds a tile of each way, in the fastest round."""
    found: list[list[float]] = [[], []]
    ways: tuple[Callable[[str], NDArray[np.generic]], ...] = (read_by_gdal, read_here)
    with gdal():
        for _ in range(rounds):
            for times, way in zip(found, ways, strict=True):
                start = time.process_time()
                for path in paths:
                    way(path)
                times.append((time.process_time() - start) / len(paths) * 1e3)
    return min(found[0]), min(found[1])


def measure_vectors(folder: Path) -> None:
    """Print the cosine of JPEG tiles' vectors with those of the pixels that Pillow reads."""
    backbone = load("dino-vitt16-overhead", device="cpu")
    paths = [str(path) for path in sorted((folder / "jpg").iterdir())]
    with gdal():
        tiles = [make_tile(read_here(path)) for path in paths]
        by_gdal = [make_tile(read_by_gdal(path)) for path in paths]
    right = backbone.encode([make_tile(read_by_pillow(path)) for path in paths])
    for name, each in (("GDAL", by_gdal), ("here", tiles)):
        cosines = measure_cosines(backbone.encode(each), right)
        middle = np.median(cosines)
        print(
            f"\ncosine with Pillow's pixels, {name}: worst {cosines.min():.4f}, median {middle:.4f}"
        )


def make_tile(pixels: NDArray[np.generic]) -> Tile:
    """Make a tile without a place."""
    box = (0, 0, *pixels.shape[:0:-1])
    return Tile(
        id="", pixels=pixels, source_uri="", pixel_bbox=box, nodata_fraction=0.0, crs=None,
        footprint=None, datetime=None,
    )  # fmt: skip


def read_by_pillow(path: str) -> NDArray[np.generic]:
    """Read a picture as timm and torchvision do."""
    with Pillow.open(path) as picture:
        return np.ascontiguousarray(np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


def measure_cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each row of one with the same row of the other."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def measure_windows(folder: Path, picture: Pillow.Image) -> None:
    """Read all windows of one large picture, and print seconds and their ratio to a tiled TIFF."""
    large = folder / "large"
    large.mkdir()
    picture.save(large / "a.jpg", quality=90)
    picture.save(large / "a.png", compress_level=3)
    tiled = {"driver": "GTiff", "TILED": "YES", "COMPRESS": "DEFLATE"}
    rasterio.shutil.copy(large / "a.png", large / "a.tif", **tiled)
    side, every = picture.width, cut_of().count(picture.width, picture.height)
    print(f"\n| {side} px squared, {every} windows of 224 px | CPU s | to TIFF |\n|---|---|---|")
    base = 0.0
    for name in ("tif", "jpg", "png"):
        seconds = read_windows(large / f"a.{name}", every)
        base = base or seconds
        print(f"| {name}, here | {seconds:.2f} | {seconds / base:.2f} |", flush=True)
    for name in FORMATS:
        DECODED.limit = 0
        first = min(GDALS_WINDOWS, every)
        middle = (every - first) // 2
        seconds = read_windows(large / f"a.{name}", first, middle) / first * every
        DECODED.limit = MAX_DECODED_BYTES
        what = f"{name}, GDAL (by {first} windows in the middle)"
        print(f"| {what} | {seconds:.2f} | {seconds / base:.2f} |", flush=True)


def cut_of() -> Cut:
    """How large pictures are cut."""
    return Cut(tile_px=224, stride_px=224)


def read_windows(path: Path, count: int, first: int = 0) -> float:
    """CPU seconds of reading some windows as `embed` does, with two threads."""
    plan = make_plan(
        discover([path]), request=REQUEST, cut=cut_of(), limit=None, shard=(0, 1), workers=2
    )
    reader = Reader(contract(), REQUEST, lambda tile: tile)
    refs: list[TileRef] = list(plan.tiles(first, first + count))
    start = time.process_time()
    with closing(read_ahead(refs, reader, workers=2, ahead=128)) as outcomes:
        made = sum(isinstance(outcome, Tile) for outcome in outcomes)
    seconds = time.process_time() - start
    DECODED.clear()
    if made != count:
        raise SystemExit(f"{made} of {count} windows of {path} were read")
    return seconds


def contract() -> Contract:
    """8-bit RGB at 224 px."""
    return Contract(
        bands=RGB, unit="uint8", value_range=(0.0, 255.0), quantize_uint8=True, size_px=224,
        resize="squash", resize_px=224, interpolation="bicubic", gsd_m=None, mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )  # fmt: skip


if __name__ == "__main__":
    main()
