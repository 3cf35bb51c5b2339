"""Pictures: pixels as Pillow decodes them, in whole and by windows, each decoded once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import making
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from tilezoo import decoding, progress, raster
from tilezoo.decoding import Decoded, DecodedPictures
from tilezoo.errors import TileError
from tilezoo.image import read_tile
from tilezoo.sources import source_at
from tilezoo.tiles import Cut, Tile, TileRef, Window
from tilezoo.zoo import load

GREY = ("1", "1", "1")


def read(path: Path, *, grey: bool = False, window: Window | None = None, **how: object) -> Tile:
    asked = making.request(given=GREY) if grey else making.request()
    ref = TileRef(source=source_at(str(path)), window=window)
    return read_tile(ref, making.contract(unit="stated", **how), asked)


def as_rgb(path: Path) -> NDArray[np.uint8]:
    """What timm and torchvision are given: shape (3, H, W)."""
    with Pillow.open(path) as picture:
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["RGB", "L", "CMYK"]),
    width=st.integers(4, 70),
    height=st.integers(4, 70),
    quality=st.integers(10, 100),
    subsampling=st.sampled_from([0, 1, 2]),
    progressive=st.booleans(),
    turned=st.integers(1, 8),
)
def test_a_jpeg_has_the_pixels_that_pillow_gives_it(
    tmp_path_factory: pytest.TempPathFactory,
    mode: str,
    width: int,
    height: int,
    quality: int,
    subsampling: int,
    progressive: bool,
    turned: int,
) -> None:
    path = tmp_path_factory.mktemp("jpeg") / "a.jpg"
    rng = np.random.default_rng(width * height)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Pillow.Exif()
    exif[0x0112] = turned  # the orientation, which timm does not apply either
    how = {"quality": quality, "progressive": progressive, "exif": exif}
    Pillow.fromarray(noise).convert(mode).save(path, subsampling=subsampling, **how)
    assert np.array_equal(read(path, grey=mode == "L").pixels, as_rgb(path))


def write_png(folder: Path, kind: str) -> Path:
    """Write a PNG of one kind, 60x48 px."""
    picture = Pillow.fromarray(making.texture(3, side=60, height=48).transpose(1, 2, 0))
    gamma = PngInfo()
    gamma.add(b"gAMA", (30_000).to_bytes(4, "big"))
    made = {
        "rgb": lambda: picture,
        "gamma": lambda: picture,
        "rgba": lambda: picture.convert("RGBA"),
        "grey": lambda: picture.convert("L"),
        "grey and alpha": lambda: picture.convert("LA"),
        "1 bit": lambda: picture.convert("1"),
        "palette": lambda: picture.quantize(200),
        "palette of 4 bits": lambda: picture.quantize(11),
        "palette of 2 bits": lambda: picture.quantize(3),
        "palette of 1 bit": lambda: picture.quantize(2),
    }[kind]()
    path = folder / "a.png"
    made.save(path, **({"pnginfo": gamma} if kind == "gamma" else {}))
    return path


PNGS = ["rgb", "gamma", "rgba", "grey", "grey and alpha", "1 bit", "palette"]
PNGS += [f"palette of {bits}" for bits in ("4 bits", "2 bits", "1 bit")]


@pytest.mark.parametrize("kind", PNGS)
@pytest.mark.parametrize("window", [None, (13, 7, 32, 32), (40, 30, 32, 32)])
def test_a_png_has_the_pixels_that_pillow_gives_it(
    tmp_path: Path, kind: str, window: Window | None
) -> None:
    path = write_png(tmp_path, kind)
    tile = read(path, grey=kind in {"grey", "grey and alpha", "1 bit"}, window=window)
    x, y, width, height = window or (0, 0, 60, 48)
    expected = np.zeros((3, height, width), np.uint8)
    inside = as_rgb(path)[:, y : y + height, x : x + width]
    expected[:, : inside.shape[1], : inside.shape[2]] = inside
    assert np.array_equal(tile.pixels, expected)


@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("window", [None, (5, 6, 20, 20)])
def test_a_png_of_16_bits_keeps_them(tmp_path: Path, bands: int, window: Window | None) -> None:
    pixels = making.texture(5, bands=bands, side=40, high=60_000, dtype="uint16")
    making.write_tiff(tmp_path / "a.tif", pixels)
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.png", driver="PNG")
    tile = read(tmp_path / "a.png", grey=bands == 1, window=window, value_range=(0.0, 60_000.0))
    x, y, width, height = window or (0, 0, 40, 40)
    part = pixels[:, y : y + height, x : x + width]
    assert np.array_equal(tile.pixels, np.broadcast_to(part, (3, height, width)))


@settings(max_examples=25, deadline=None)
@given(
    transparent=st.lists(st.integers(0, 255), min_size=1, max_size=7),
    seed=st.integers(0, 50),
    windowed=st.booleans(),
)
def test_what_a_palette_makes_transparent_is_no_data(
    tmp_path_factory: pytest.TempPathFactory, transparent: list[int], seed: int, windowed: bool
) -> None:
    path = tmp_path_factory.mktemp("palette") / "a.png"
    picture = Pillow.fromarray(making.texture(seed, side=40).transpose(1, 2, 0)).quantize(8)
    picture.save(path, transparency=bytes(transparent))
    numbers = np.asarray(picture)
    opaque = np.array([*transparent, *[255] * 8])[numbers] > 0
    if not opaque[:32, :32].any():
        return
    tile = read(path, window=(0, 0, 32, 32) if windowed else None)
    side = tile.pixels.shape[1]
    part = opaque[:side, :side]
    assert tile.nodata_fraction == pytest.approx(1 - part.mean())
    colours = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(tile.pixels, colours[:, :side, :side] * part)


def test_opacity_of_a_png_is_a_mask_however_many_values_it_has(tmp_path: Path) -> None:
    pixels = np.concatenate([making.texture(3, low=1), making.texture(4, bands=1, low=1)])
    pixels[3, :20] = 0
    Pillow.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.png")
    for window in (None, (0, 0, 64, 64)):
        tile = read(tmp_path / "a.png", window=window)
        assert not tile.pixels[:, :20].any()
        assert np.array_equal(
            tile.pixels[:, 20:], pixels[:3, 20 : 64 if window else 80, : tile.pixels.shape[2]]
        )


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
def test_a_jpeg_that_ends_too_soon_is_an_error_wherever_it_does(
    tmp_path: Path, how: dict[str, object]
) -> None:
    path = tmp_path / "a.jpg"
    Pillow.fromarray(making.texture(2, side=24).transpose(1, 2, 0)).save(path, **how)
    good = path.read_bytes()
    rest = (b"", bytes(len(good)))  # a download that stopped, in a file made long enough before
    for kept in (*range(1, len(good) - 2, 41), len(good) - 2, len(good) - 1):
        for after in rest:
            path.write_bytes(good[:kept] + after)
            with pytest.raises(TileError) as error:
                read(path)
            assert error.value.kind == "unreadable"
    path.write_bytes(good + bytes(100))  # padded, but whole
    assert np.array_equal(read(path).pixels, as_rgb(path))


def test_a_picture_that_claims_what_it_does_not_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Pillow.fromarray(making.texture(2, side=24).transpose(1, 2, 0)).save(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = b"\xff\xdc\xff\xdc"  # 65,500 px squared
    path.write_bytes(content)
    for window in (None, (0, 0, 64, 64)):
        with pytest.raises(TileError) as error:
            read(path, window=window)
        assert error.value.kind in {"too_large", "unreadable"}


def save_like(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.jpg"
    rng = np.random.default_rng(len(kind))
    coarse = rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)
    picture = Pillow.fromarray(coarse).resize((150, 150), Pillow.Resampling.BICUBIC)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    how: dict[str, dict[str, object]] = {
        "4:2:0": {"subsampling": 2},
        "4:4:4": {"subsampling": 0},
        "progressive": {"progressive": True},
        "turned": {"exif": exif},
    }
    mode = {"grey": "L", "cmyk": "CMYK"}.get(kind, "RGB")
    picture.convert(mode).save(path, quality=85, **how.get(kind, {}))
    return path


KINDS = ["4:2:0", "4:4:4", "progressive", "grey", "cmyk", "turned"]


def test_jpegs_have_the_vectors_that_timm_gives_them(tmp_path: Path, vit: Path) -> None:
    backbone = load(vit, device="cpu")
    network, transform = making.timm_transform(vit)
    paths = [save_like(tmp_path, kind) for kind in KINDS]
    tiles = [read(path, grey="grey" in path.name) for path in paths]
    with torch.inference_mode():
        fed = torch.stack([transform(Pillow.open(p).convert("RGB")) for p in paths])  # type: ignore[operator]
        theirs = network(fed).numpy()
    assert making.cosines(backbone.encode(tiles), theirs).min() >= 0.9999


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_windows_of_a_picture_are_its_parts_and_decode_it_once(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{suffix}"
    Pillow.fromarray(making.texture(2, side=90, height=70).transpose(1, 2, 0)).save(path)
    whole, decoded = as_rgb(path), list[str]()
    real = raster.decode

    def counted(dataset: object) -> Decoded:
        decoded.append(suffix)
        return real(dataset)

    monkeypatch.setattr(raster, "decode", counted)
    cut = Cut(tile_px=32, stride_px=20)
    windows = [cut.window(number, 90) for number in range(cut.count(90, 70))]
    with ThreadPoolExecutor(4) as pool:
        tiles = list(pool.map(lambda window: read(path, window=window), windows))
    for (x, y, _, _), tile in zip(windows, tiles, strict=True):
        part = whole[:, y : y + 32, x : x + 32]
        assert np.array_equal(tile.pixels[:, : part.shape[1], : part.shape[2]], part)
    assert decoded == [suffix]


def test_a_picture_that_has_changed_is_decoded_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for seed in (1, 2):
        pixels = making.texture(seed)
        Pillow.fromarray(pixels.transpose(1, 2, 0)).save(path)
        tile = read(path, window=(8, 8, 32, 32))
        assert np.array_equal(tile.pixels, pixels[:, 8:40, 8:40])


def test_a_picture_too_large_to_be_kept_is_read_by_gdal_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decoding.DECODED, "limit", 1000)
    progress.begin_telling()
    path = tmp_path / "a.png"
    Pillow.fromarray(making.texture(2).transpose(1, 2, 0)).save(path)
    for x in (0, 8):
        tile = read(path, window=(x, 0, 32, 32))
        assert np.array_equal(tile.pixels, making.texture(2)[:, :32, x : x + 32])
    told = capsys.readouterr().err
    assert told.count("once decoded") == 1
    assert "make it a tiled TIFF with gdal_translate" in told


def fake(path: Path) -> Path:
    path.write_bytes(b"x")
    return path


class Nothing:
    def read(self, indexes: object, window: object) -> NDArray[np.generic]:
        raise NotImplementedError


def test_decoded_pictures_never_take_more_than_their_room(tmp_path: Path) -> None:
    """Whoever finds no room waits until what others hold is let go."""
    pictures, held, most = DecodedPictures(limit=10), list[int](), list[int]()
    lock = threading.Lock()

    def use(number: int) -> None:
        size = 3 + number % 4
        path = fake(tmp_path / str(number % 7))
        with pictures.hold(str(path), size, Nothing):
            with lock:
                held.append(size)
                most.append(len(held))
            time.sleep(0.001)
            with lock:
                held.remove(size)
        kept = sum(entry.size for entry in pictures._entries.values())
        assert kept <= 10

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(use, range(60)))
    assert 1 < max(most) <= 3
    pictures.clear()
    assert not pictures._entries


def test_a_picture_that_cannot_be_decoded_is_not_kept(tmp_path: Path) -> None:
    pictures = DecodedPictures(limit=10)

    def broken() -> Decoded:
        raise OSError("no")

    for _ in range(2):
        with (
            pytest.raises(OSError, match="no"),
            pictures.hold(str(fake(tmp_path / "a")), 9, broken),
        ):
            pass
    assert not pictures._entries


def test_a_jpeg_inside_a_tiff_is_gdals(tmp_path: Path) -> None:
    pixels = making.texture(2)
    path = making.write_tiff(
        tmp_path / "a.tif", pixels, photometric="YCBCR", compress="JPEG", interleave="pixel"
    )
    with rasterio.open(path) as file:
        assert np.array_equal(read(path).pixels, file.read())


def test_a_jpeg_keeps_the_place_of_its_world_file(tmp_path: Path) -> None:
    buffer = BytesIO()
    Pillow.fromarray(making.texture(2).transpose(1, 2, 0)).save(buffer, "JPEG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    (tmp_path / "a.jgw").write_text("10\n0\n0\n-10\n500005\n4499995\n")
    (tmp_path / "a.jpg.aux.xml").write_text(
        '<PAMDataset><SRS dataAxisToSRSAxisMapping="1,2">EPSG:32633</SRS></PAMDataset>'
    )
    tile = read(tmp_path / "a.jpg")
    assert tile.crs == "EPSG:32633"
    assert tile.footprint is not None
    assert tile.footprint.gsd_m == pytest.approx(10, rel=0.01)


def save_other(folder: Path, kind: str) -> Path:
    """Write a picture of another format that Pillow and GDAL read, 80 px squared."""
    name, suffix = kind.split(".")
    picture = Pillow.fromarray(making.texture(3).transpose(1, 2, 0))
    mode = {"grey": "L", "bit": "1", "opaque": "RGBA"}.get(name, "RGB")
    made = picture.quantize(60) if name == "palette" else picture.convert(mode)
    how = {"lossless": True} if name == "lossless" else {}
    made.save(folder / kind, **how)
    return folder / f"{name}.{suffix}"


@pytest.mark.parametrize(
    "kind",
    [
        *("lossy.webp", "lossless.webp", "opaque.webp"),
        *("colours.bmp", "grey.bmp", "bit.bmp", "palette.bmp", "grey.gif", "palette.gif"),
    ],
)
def test_other_pictures_have_the_pixels_that_pillow_gives_them(tmp_path: Path, kind: str) -> None:
    path = save_other(tmp_path, kind)
    grey = kind.startswith(("grey", "bit"))
    whole = as_rgb(path)
    assert np.array_equal(read(path, grey=grey).pixels, whole)
    part = read(path, grey=grey, window=(7, 9, 40, 40)).pixels
    assert np.array_equal(part, whole[:, 9:49, 7:47])
