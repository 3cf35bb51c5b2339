"""Reading tiles: right pixels, right place, and an error of its own for each broken file."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import making
import numpy as np
import pytest
import rasterio
import rasterio.warp
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from tilezoo.bands import BandRequest
from tilezoo.errors import TileError
from tilezoo.image import Image, read_tile
from tilezoo.opening import gdal
from tilezoo.sources import discover, source_at
from tilezoo.space import Contract
from tilezoo.tiles import Cut, Tile, TileRef

SENTINEL = ("B04", "B03", "B02")


def read(
    path: Path,
    request: BandRequest | None = None,
    window: tuple[int, int, int, int] | None = None,
    **contract: object,
) -> Tile:
    asked = request or making.request()
    ref = TileRef(source=source_at(str(path)), window=window)
    given = {"unit": "stated", "bands": asked.effective, **contract}
    return read_tile(ref, making.contract(**given), asked)


def test_pixels_come_as_the_file_has_them_in_the_models_order(tmp_path: Path) -> None:
    pixels = making.texture(0, bands=5, high=4000, dtype="uint16")
    names = ("B02", "B03", "B04", "B08", "B11")
    path = making.write_tiff(tmp_path / "a.tif", pixels, names=names)
    tile = read(path, making.request(*SENTINEL))
    assert tile.pixels.dtype == np.uint16
    assert np.array_equal(tile.pixels, pixels[[2, 1, 0]])
    assert (tile.pixel_bbox, tile.nodata_fraction) == ((0, 0, 80, 80), 0.0)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]
)
def test_every_real_dtype_is_read(tmp_path: Path, dtype: str) -> None:
    pixels = making.texture(1, high=100, dtype=dtype)
    tile = read(making.write_tiff(tmp_path / "a.tif", pixels, photometric="RGB"))
    assert tile.pixels.dtype == np.dtype(dtype)
    assert np.array_equal(tile.pixels, pixels)


@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
def test_complex_pixels_are_refused(tmp_path: Path, dtype: str) -> None:
    profile = {"driver": "GTiff", "width": 8, "height": 8, "count": 3, "crs": making.UTM}
    place = from_origin(500_000, 4_500_000, 10, 10)
    with rasterio.open(tmp_path / "a.tif", "w", dtype=dtype, transform=place, **profile):
        pass
    asked = making.request(given=("1", "2", "3"), stated=True)
    with pytest.raises(TileError, match="complex numbers; write their magnitude"):
        read(tmp_path / "a.tif", asked)


@pytest.mark.parametrize(
    ("suffix", "mode"), [("png", "RGB"), ("png", "RGBA"), ("jpg", "RGB"), ("jp2", "RGB")]
)
def test_pictures_without_a_place_are_tiles_without_geometry(
    tmp_path: Path, suffix: str, mode: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    picture = Pillow.fromarray(making.texture(2).transpose(1, 2, 0)).convert(mode)
    picture.save(path, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {}))
    tile = read(path)
    assert tile.pixels.shape == (3, 80, 80)
    close = 5 if suffix == "jpg" else 0
    difference = np.abs(tile.pixels.astype(int) - making.texture(2).astype(int))
    assert difference.max() <= close
    assert (tile.crs, tile.footprint) == (None, None)


def test_transparent_pixels_hold_no_data(tmp_path: Path) -> None:
    pixels = np.concatenate([making.texture(3), np.full((1, 80, 80), 255, np.uint8)])
    pixels[3, :, :20] = 0
    Pillow.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.png")
    tile = read(tmp_path / "a.png")
    assert tile.nodata_fraction == pytest.approx(0.25)
    assert (tile.pixels[:, :, :20] == 0).all()


def test_nodata_pixels_hold_what_the_contract_maps_to_black(tmp_path: Path) -> None:
    pixels = making.texture(5, low=1000, high=3000, dtype="uint16")
    pixels[:, :40] = 0
    path = making.write_tiff(tmp_path / "a.tif", pixels, nodata=0, photometric="RGB")
    tile = read(path, value_range=(1000.5, 3000.0))
    assert tile.nodata_fraction == pytest.approx(0.5)
    assert (tile.pixels[:, :40] == 1001).all()
    assert np.array_equal(tile.pixels[:, 40:], pixels[:, 40:])


@pytest.mark.parametrize("bands", [[0, 1, 2], [1]])
def test_nan_that_is_declared_as_nodata_is_no_data(tmp_path: Path, bands: list[int]) -> None:
    pixels = making.texture(7).astype("float32") / 255
    pixels[bands, :8] = np.nan
    path = making.write_tiff(tmp_path / "a.tif", pixels, nodata=np.nan, photometric="RGB")
    tile = read(path, value_range=(0.0, 1.0))
    assert (tile.pixels[bands, :8] == 0).all()
    assert tile.nodata_fraction == pytest.approx(0.1 if len(bands) == 3 else 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_that_nothing_excuses_are_refused(tmp_path: Path, value: float) -> None:
    pixels = making.texture(8).astype("float32")
    pixels[1, 3, 4:7] = value
    path = making.write_tiff(tmp_path / "a.tif", pixels, photometric="RGB")
    with pytest.raises(TileError, match="3 pixels are NaN or infinite; if they mean no") as error:
        read(path)
    assert error.value.kind == "invalid_pixels"


def test_a_tile_of_nodata_alone_is_refused(tmp_path: Path) -> None:
    blank = np.zeros((3, 16, 16), np.uint8)
    path = making.write_tiff(tmp_path / "a.tif", blank, nodata=0, photometric="RGB")
    with pytest.raises(TileError, match="no pixel holds data") as error:
        read(path)
    assert error.value.kind == "nodata"


def test_a_window_is_that_part_of_the_whole_with_its_own_footprint(tmp_path: Path) -> None:
    pixels = making.texture(9, side=100)
    path = making.write_tiff(tmp_path / "a.tif", pixels, photometric="RGB", tiled=False)
    part = read(path, window=(20, 50, 32, 32))
    assert part.id == "a.tif#20,50,32,32"
    assert np.array_equal(part.pixels, pixels[:, 50:82, 20:52])
    alone = making.write_tiff(
        tmp_path / "b.tif",
        part.pixels,
        transform=from_origin(500_200, 4_499_500, 10, 10),
        photometric="RGB",
    )
    assert part.footprint == read(alone).footprint


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 50), st.data())
def test_windows_put_together_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, tile_px: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("scene")
    pixels = making.texture(10, side=61, height=47, low=1)
    path = making.write_tiff(folder / "a.tif", pixels, photometric="RGB")
    cut = Cut(tile_px=tile_px, stride_px=data.draw(st.integers(max(1, tile_px // 3), tile_px)))
    again = np.zeros((3, 200, 200), np.uint8)
    valid = 0.0
    for number in range(cut.count(61, 47)):
        x, y, w, h = cut.window(number, 61)
        tile = read(path, window=(x, y, w, h))
        again[:, y : y + h, x : x + w] = np.maximum(again[:, y : y + h, x : x + w], tile.pixels)
        valid += (1 - tile.nodata_fraction) * w * h
    assert np.array_equal(again[:, :47, :61], pixels)
    assert not again[:, 47:].any()
    assert not again[:, :, 61:].any()
    if cut.stride_px == tile_px:
        assert valid == pytest.approx(61 * 47)


def test_an_edge_window_tells_how_much_of_it_lies_beyond(tmp_path: Path) -> None:
    path = making.write_tiff(tmp_path / "a.tif", making.texture(11, side=40), photometric="RGB")
    tile = read(path, window=(32, 32, 32, 32), value_range=(7.0, 255.0))
    assert tile.nodata_fraction == pytest.approx(1 - 8 * 8 / 32**2)
    assert (tile.pixels[:, 8:] == 7).all()


def test_band_files_are_read_on_the_grid_of_the_finest(tmp_path: Path) -> None:
    written = making.write_band_files(tmp_path / "scene", side=240)
    tile = read(tmp_path / "scene", making.request("B04", "B05", "B01"))
    assert tile.pixels.shape == (3, 240, 240)
    assert tile.footprint is not None
    assert tile.footprint.gsd_m == pytest.approx(10, rel=0.01)
    assert np.array_equal(tile.pixels[0], written["B04"])
    for place, band in enumerate(["B05", "B01"], 1):
        step = 240 // len(written[band])
        blocks = tile.pixels[place].reshape(240 // step, step, 240 // step, step).mean((1, 3))
        spread = float(np.ptp(written[band].astype(float)))
        assert np.abs(blocks - written[band]).mean() < 0.05 * spread


def test_bands_of_one_coarse_resolution_are_read_as_they_are(tmp_path: Path) -> None:
    written = making.write_band_files(tmp_path / "scene", side=60)
    tile = read(tmp_path / "scene", making.request("B05", "B06", "B11"))
    assert np.array_equal(tile.pixels, np.stack([written[b] for b in ("B05", "B06", "B11")]))


def test_windows_of_coarse_bands_fit_together_without_seams(tmp_path: Path) -> None:
    making.write_band_files(tmp_path / "scene", side=120)
    asked = making.request("B04", "B05", "B01")
    whole = read(tmp_path / "scene", asked).pixels.astype(int)
    for x, y in ((0, 0), (48, 0), (24, 72), (30, 35), (72, 72)):
        part = read(tmp_path / "scene", asked, (x, y, 48, 48)).pixels.astype(int)
        assert np.abs(part - whole[:, y : y + 48, x : x + 48]).max() <= 1


def test_one_numbered_band_may_be_fed_in_every_place(tmp_path: Path) -> None:
    grey = making.texture(12, bands=1)
    path = making.write_tiff(tmp_path / "a.tif", grey)
    tile = read(path, making.request(given=("1", "1", "1")))
    assert np.array_equal(tile.pixels, np.repeat(grey, 3, axis=0))


def test_a_file_called_a_band_that_has_three_is_an_image_of_its_own(tmp_path: Path) -> None:
    pixels = making.texture(13)
    making.write_tiff(tmp_path / "s/s_B02.tif", pixels)
    assert np.array_equal(read(tmp_path / "s/s_B02.tif", making.request()).pixels, pixels)


def test_a_band_file_that_holds_three_bands_is_refused_by_name(tmp_path: Path) -> None:
    for band in ("B02", "B03", "B04"):
        making.write_tiff(tmp_path / f"s/{band}.tif", making.texture(13)[: 1 + 2 * (band == "B03")])
    with pytest.raises(TileError, match=r"B03.tif is called a single band but has 3"):
        read(tmp_path / "s", making.request())


def test_place_and_time_come_from_the_file(tmp_path: Path) -> None:
    transform = from_origin(600_000, 5_000_000, 10, 10)
    path = making.write_tiff(
        tmp_path / "S2A_MSIL2A_20170613T101031_x.tif",
        making.texture(14),
        transform=transform,
        photometric="RGB",
        tags={"TIFFTAG_DATETIME": "2024:01:02 03:04:05"},
    )
    tile = read(path)
    assert tile.crs == "EPSG:32633"
    assert tile.datetime == datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)
    assert tile.footprint is not None
    assert tile.footprint.gsd_m == pytest.approx(10, rel=0.001)
    with rasterio.open(path) as file:
        expected = rasterio.warp.transform_bounds(file.crs, "OGC:CRS84", *file.bounds)
    assert shapely.from_wkb(tile.footprint.wkb).bounds == pytest.approx(expected, abs=1e-5)


def test_a_file_with_control_points_alone_has_an_approximate_place(tmp_path: Path) -> None:
    points = [
        GroundControlPoint(row=r, col=c, x=10 + c / 100, y=50 - r / 100)
        for r, c in ((0, 0), (0, 80), (80, 0), (80, 80))
    ]
    path = tmp_path / "a.tif"
    shape = {"width": 80, "height": 80, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(path, "w", driver="GTiff", gcps=points, crs="EPSG:4326", **shape) as file:
        file.write(making.texture(15))
    found = read(path).footprint
    assert found is not None
    assert found.approximate
    assert found.bbox == pytest.approx((10, 49.2, 10.8, 50), abs=2e-3)


def test_text_in_tags_that_is_not_utf8_breaks_nothing(tmp_path: Path) -> None:
    path = making.write_tiff(
        tmp_path / "a.tif",
        making.texture(16),
        photometric="RGB",
        tags={"TIFFTAG_SOFTWARE": "Zurich XYZ", "place": "Zurich XYZ"},
    )
    path.write_bytes(path.read_bytes().replace(b"Zurich", b"Z\xfcrich"))
    assert read(path).pixels.shape == (3, 80, 80)


def broken_files(folder: Path) -> Mapping[str, tuple[Path, str, str]]:
    """Broken file → its error's kind and message."""
    good = making.write_tiff(folder / "good.tif", making.texture(17), photometric="RGB")
    Pillow.fromarray(making.texture(17).transpose(1, 2, 0)).save(folder / "good.png")
    Pillow.fromarray(making.texture(17).transpose(1, 2, 0)).save(folder / "good.jpg")
    files = {
        "cut.tif": (good.read_bytes()[:-9000], "unreadable", ""),
        "header.tif": (good.read_bytes()[:6], "unreadable", ""),
        "cut.png": ((folder / "good.png").read_bytes()[:-3000], "unreadable", ""),
        "cut.jpg": ((folder / "good.jpg").read_bytes()[:-600], "unreadable", ""),
        "empty.tif": (b"", "unreadable", "the file is empty"),
        "text.tif": (b"hello, I am text\n", "unreadable", "not a TIFF, PNG, JPEG"),
        "map.vrt.tif": (b"<VRTDataset/>", "unreadable", "not a TIFF, PNG, JPEG"),
    }
    for name, (content, _, _) in files.items():
        (folder / name).write_bytes(content)
    return {name: (folder / name, kind, text) for name, (_, kind, text) in files.items()}


def test_broken_files_are_told_in_one_line_each(tmp_path: Path) -> None:
    for path, kind, text in broken_files(tmp_path).values():
        with pytest.raises(TileError) as error:
            read(path)
        assert error.value.kind == kind
        assert text in str(error.value)
        assert 0 < len(str(error.value)) <= 200
        assert "\n" not in str(error.value)


def test_a_tile_that_is_too_small_is_refused(tmp_path: Path) -> None:
    path = making.write_tiff(tmp_path / "a.tif", np.ones((3, 1, 1), np.uint8), photometric="RGB")
    with pytest.raises(TileError, match="1x1 px; a tile needs 4 px a side") as error:
        read(path)
    assert error.value.kind == "too_small"


def claim_a_million(path: Path) -> Path:
    """Patch a small TIFF's header so that it claims 10⁶ × 10⁶ pixels."""
    pixels = np.ones((3, 16, 16), np.uint8)
    making.write_tiff(path, pixels, photometric="RGB", tiled=True, blockxsize=16, blockysize=16)
    content = bytearray(path.read_bytes())
    start = int.from_bytes(content[4:8], "little")
    for entry in range(int.from_bytes(content[start : start + 2], "little")):
        at = start + 2 + 12 * entry
        if int.from_bytes(content[at : at + 2], "little") in {256, 257}:  # width and length
            content[at + 2 : at + 4] = (4).to_bytes(2, "little")
            content[at + 8 : at + 12] = (10**6).to_bytes(4, "little")
    path.write_bytes(content)
    return path


def sparse_million(path: Path) -> Path:
    """Write a valid TIFF of 10⁶ × 10⁶ pixels, none of which is stored."""
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "photometric": "RGB"}
    blocks = {"tiled": True, "blockxsize": 16384, "blockysize": 16384, "interleave": "pixel"}
    place = {"crs": "EPSG:4326", "transform": from_origin(0, 10, 1e-6, 1e-6)}
    size = {"width": 10**6, "height": 10**6, "sparse_ok": True}
    with rasterio.open(path, "w", **profile, **blocks, **place, **size):
        pass
    return path


@pytest.mark.parametrize("make", [claim_a_million, sparse_million])
def test_a_header_that_claims_a_million_squared_is_refused(tmp_path: Path, make: object) -> None:
    path = make(tmp_path / "a.tif")  # type: ignore[operator]
    with pytest.raises(TileError) as error:
        read(path)
    assert error.value.kind in {"too_large", "unreadable"}


def test_a_scene_too_large_for_one_tile_is_told_how_to_cut_it(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "photometric": "RGB"}
    place = {"crs": making.UTM, "transform": from_origin(500_000, 4_500_000, 10, 10)}
    path = tmp_path / "a.tif"
    size = {"width": 8000, "height": 8000, "sparse_ok": True, "tiled": True}
    with rasterio.open(path, "w", **profile, **place, **size):
        pass
    with pytest.raises(TileError, match=r"8000x8000 px, 183 MiB .*; cut it with --tile-px 64"):
        read(path)


def test_a_long_and_narrow_tile_is_not_blown_up(tmp_path: Path) -> None:
    pixels = making.texture(18, side=30_000, height=4)
    path = making.write_tiff(tmp_path / "a.tif", pixels, photometric="RGB")
    with pytest.raises(TileError, match=r"30000x4 px.* cut it with --tile-px 64"):
        read(path)


def test_a_model_that_resizes_nothing_refuses_other_sizes(tmp_path: Path) -> None:
    path = making.write_tiff(tmp_path / "a.tif", making.texture(19), photometric="RGB")
    with pytest.raises(TileError, match=r"80x80 px, the model takes 64x64; --tile-px 64"):
        read(path, resize="none")
    assert read(path, window=(0, 0, 64, 64), resize="none").pixels.shape == (3, 64, 64)


def outcome(path: Path, contract: Contract) -> Tile | TileError:
    (source,) = discover([path])
    try:
        with gdal(), Image(source, making.request()) as image:
            return image.read(TileRef(source=source), contract)
    except TileError as error:
        return error


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg"])
def test_random_damage_gives_a_tile_or_an_error_in_one_line(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tags = {"DATETIME": "2020-01-01", "AREA": "x"}
        how = {"photometric": "RGB", "compress": "deflate", "tags": tags, "nodata": 0}
        making.write_tiff(path, making.texture(20, side=24), names=("R", "G", "B"), **how)
    else:
        Pillow.fromarray(making.texture(20, side=24).transpose(1, 2, 0)).save(path)
    good = path.read_bytes()
    contract = making.contract(unit="stated")
    told = 0
    for _ in range(400):
        content = bytearray(good)
        for place in rng.integers(0, min(len(good), 900), rng.integers(1, 4)):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        found = outcome(path, contract)
        if isinstance(found, TileError):
            told += 1
            assert "\n" not in str(found)
        else:
            assert found.pixels.shape[0] == 3
    assert told > 20
