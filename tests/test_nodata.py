"""What is data: nodata values, masks, opacity that is none, and `--nodata`."""

from pathlib import Path

import making
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image as Pillow

from tilezoo import progress
from tilezoo.bands import BandRequest
from tilezoo.errors import OptionError, TileError
from tilezoo.image import read_tile
from tilezoo.option_texts import parse_nodata
from tilezoo.sources import source_at
from tilezoo.tiles import Tile, TileRef

FOUR = ("red", "green", "blue", "nir")
VALUES = {
    "uint8": [0, 1, 200, 255],
    "int16": [-9999, 0, 7, 300],
    "float32": [np.nan, -1.5, 0.25, 2],
}


def read(
    path: Path,
    nodata: float | None = None,
    given: tuple[str, ...] | None = None,
    wanted: tuple[str, ...] = making.RGB,
    low: float = 0.0,
) -> Tile:
    asked = BandRequest(wanted=wanted, given=given, values_stated=True, nodata=nodata)
    contract = making.contract(bands=wanted, unit="stated", value_range=(low, 255.0))
    return read_tile(TileRef(source=source_at(str(path))), contract, asked)


def write_masked(folder: Path, pixels: NDArray[np.generic], how: str, nodata: float) -> Path:
    """Write pixels (3, h, w) whose pixels of the nodata value in all bands are no data, somehow."""
    path = folder / "a.tif"
    empty = is_value(pixels, nodata).all(axis=0)
    profile: dict[str, object] = {"photometric": "RGB"}
    if how == "nodata":
        profile["nodata"] = nodata
    if how == "alpha":
        alpha = np.where(empty, 0, np.asarray(255).astype(pixels.dtype))[None]
        pixels = np.concatenate([pixels, alpha.astype(pixels.dtype)])
        profile["alpha"] = "YES"
    tags = {"NODATA_VALUES": " ".join([f"{nodata:g}"] * 3)} if how == "NODATA_VALUES" else {}
    making.write_tiff(path, pixels, tags=tags, **profile)
    if how in {"internal mask", "external mask"}:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=how == "internal mask"),
            rasterio.open(path, "r+") as file,
        ):
            file.write_mask(~empty)
        assert (folder / "a.tif.msk").exists() == (how == "external mask")
    return path


def is_value(pixels: NDArray[np.generic], value: float) -> NDArray[np.bool_]:
    return np.isnan(pixels) if np.isnan(value) else pixels == value


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    how=st.sampled_from(
        ["nodata", "NODATA_VALUES", "alpha", "internal mask", "external mask", "--nodata"]
    ),
)
def test_a_pixel_is_no_data_where_all_bands_are_or_the_mask_says_so(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, how: str
) -> None:
    dtype = data.draw(st.sampled_from(["uint8"] if how == "alpha" else sorted(VALUES)))
    values = [v for v in VALUES[dtype] if not (np.isnan(v) and how not in {"nodata", "--nodata"})]
    nodata = float(data.draw(st.sampled_from(values)))
    pixels = data.draw(arrays(dtype, (3, 5, 5), elements=st.sampled_from(values)))
    if np.isnan(pixels).any() and not np.isnan(nodata):
        pixels = np.nan_to_num(pixels)
    empty = is_value(pixels, nodata).all(axis=0)
    path = write_masked(tmp_path_factory.mktemp("masked"), pixels, how, nodata)
    low = 5.0
    if empty.all():
        with pytest.raises(TileError, match="no pixel holds data"):
            read(path, nodata if how == "--nodata" else None, low=low)
        return
    tile = read(path, nodata if how == "--nodata" else None, low=low)
    assert tile.nodata_fraction == pytest.approx(empty.mean())
    expected = np.where(empty | np.isnan(pixels), np.asarray(low).astype(dtype), pixels)
    assert np.array_equal(tile.pixels, expected)


def test_what_is_stated_goes_before_what_the_file_says(tmp_path: Path) -> None:
    pixels = making.texture(1, low=10, high=250)
    pixels[:, :8], pixels[:, 8:24] = 255, 0
    path = making.write_tiff(tmp_path / "a.tif", pixels, nodata=255, photometric="RGB")
    assert read(path).nodata_fraction == pytest.approx(0.1)
    tile = read(path, nodata=0, low=3)
    assert tile.nodata_fraction == pytest.approx(0.2)
    assert (tile.pixels[:, :8] == 255).all()
    assert (tile.pixels[:, 8:24] == 3).all()


def test_what_is_stated_of_values_leaves_masks_in_force(tmp_path: Path) -> None:
    pixels = making.texture(1, low=10, high=250)
    pixels[:, :8] = 0
    made = write_masked(tmp_path, pixels, "internal mask", nodata=0)
    with rasterio.open(made, "r+") as file:
        inner = pixels.copy()
        inner[:, 40:48] = 77
        file.write(inner)
    assert read(made, nodata=77).nodata_fraction == pytest.approx(0.2)


def test_a_stated_value_reaches_band_files(tmp_path: Path) -> None:
    written = making.write_band_files(tmp_path / "scene", side=60)
    for band in ("B04", "B03", "B02"):
        pixels = written[band].copy()
        pixels[:15] = 0
        making.write_tiff(tmp_path / f"scene/{band}.tif", pixels[None])
    tile = read(tmp_path / "scene", nodata=0, wanted=("B04", "B03", "B02"))
    assert tile.nodata_fraction == pytest.approx(0.25)


def test_a_nodata_value_that_the_dtype_cannot_hold_is_in_no_pixel(tmp_path: Path) -> None:
    path = making.write_tiff(tmp_path / "a.tif", making.texture(1), photometric="RGB")
    for value in (-9999.0, 0.5, 1e300, float("nan"), float("inf")):
        assert read(path, nodata=value).nodata_fraction == 0
    floats = making.texture(1).astype("float32")
    path = making.write_tiff(tmp_path / "f.tif", floats, photometric="RGB")
    assert read(path, nodata=1e300).nodata_fraction == 0


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("-9999", -9999), ("1e-3", 0.001), (None, None), (" 255 ", 255)]
)
def test_a_nodata_value_is_a_number(text: str | None, value: float | None) -> None:
    assert parse_nodata(text) == value


def test_a_nodata_value_may_be_nan_and_no_other_word() -> None:
    assert np.isnan(parse_nodata("NaN"))  # type: ignore[arg-type]
    for text in ("", "none", "0,0"):
        with pytest.raises(OptionError, match=r"--nodata .*should be a number or nan"):
            parse_nodata(text)


def write_four(
    path: Path, fourth: NDArray[np.generic], dtype: str = "uint8", **how: object
) -> NDArray[np.generic]:
    """Write red, green, blue and a fourth band tagged alpha, as rasterio does by itself."""
    pixels = np.concatenate([making.texture(1, low=1), fourth[None]]).astype(dtype)
    making.write_tiff(path, pixels, **{"photometric": "RGB", "alpha": "YES", **how})
    with rasterio.open(path) as file:
        assert file.colorinterp[3].name == "alpha"
    return pixels


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=6, unique=True),
    dtype=st.sampled_from(["uint8", "uint16"]),
    seed=st.integers(0, 99),
)
def test_alpha_masks_while_it_has_two_values_at_most(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], dtype: str, seed: int
) -> None:
    path = tmp_path_factory.mktemp("alpha") / "a.tif"
    fourth = np.random.default_rng(seed).choice(values, (80, 80))
    fourth.ravel()[: len(values)] = values
    step = 257 if dtype == "uint16" else 1
    pixels = write_four(path, fourth * step, dtype)
    if len(values) > 2:
        tile = read(path)
        assert tile.nodata_fraction == 0
        assert np.array_equal(tile.pixels, pixels[:3])
        assert np.array_equal(read(path, given=("4", "1", "2")).pixels, pixels[[3, 0, 1]])
        assert np.array_equal(read(path, given=FOUR, wanted=FOUR).pixels, pixels)
    else:
        opaque = fourth > 0
        if opaque.any():
            tile = read(path)
            assert tile.nodata_fraction == pytest.approx(1 - opaque.mean())
            assert np.array_equal(tile.pixels, pixels[:3] * opaque)
        with pytest.raises(TileError, match="counts beyond the file's 3 bands"):
            read(path, given=("4", "1", "2"))


def test_alpha_that_is_data_is_told_once_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_four(tmp_path / f"{number}.tif", making.texture(9, bands=1)[0])
    progress.begin_telling()
    for number in range(3):
        read(tmp_path / f"{number}.tif")
    told = capsys.readouterr().err
    assert told.count("tagged alpha") == 1
    assert "it is no mask, and is fed where --bands says 4" in told


def test_alpha_of_a_large_file_is_judged_by_what_it_stores_not_by_overviews(
    tmp_path: Path,
) -> None:
    side = 1200
    ragged = np.full((side, side), 255, np.uint8)
    ragged[::3, ::5] = 0  # an average of it has values of its own
    pixels = np.concatenate([making.texture(1, side=side, low=1), ragged[None]])
    making.write_tiff(tmp_path / "a.tif", pixels, photometric="RGB", alpha="YES", tiled=True)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    tile = read(tmp_path / "a.tif")
    assert tile.nodata_fraction == pytest.approx((ragged == 0).mean())


def test_a_window_of_a_near_infrared_alpha_that_is_0_keeps_its_colours(tmp_path: Path) -> None:
    """Water reflects no near infrared."""
    fourth = making.texture(9, bands=1, side=80, low=1)[0]
    fourth[:, :40] = 0
    pixels = write_four(tmp_path / "a.tif", fourth)
    asked = making.request()
    ref = TileRef(source=source_at(str(tmp_path / "a.tif")), window=(0, 0, 32, 32))
    tile = read_tile(ref, making.contract(), asked)
    assert tile.nodata_fraction == 0
    assert np.array_equal(tile.pixels, pixels[:3, :32, :32])


def test_a_transparent_colour_of_a_png_is_that_colour_alone(tmp_path: Path) -> None:
    pixels = making.texture(3, low=1, high=254)
    pixels[:, :10] = 255
    pixels[0, 20:30] = 255  # a bright roof
    picture = Pillow.fromarray(pixels.transpose(1, 2, 0))
    picture.save(tmp_path / "a.png", transparency=(255, 255, 255))
    tile = read(tmp_path / "a.png")
    assert tile.nodata_fraction == pytest.approx(1 / 8)
    assert not tile.pixels[:, :10].any()
    assert np.array_equal(tile.pixels[:, 10:], pixels[:, 10:])
