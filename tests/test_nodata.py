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
from tilezoo.compare.options import CompareOptions
from tilezoo.embed import embed
from tilezoo.embed.options import EmbedOptions
from tilezoo.errors import OptionError, PackError, TableError, TileError, TooManyFailedError
from tilezoo.image import read_tile
from tilezoo.option_texts import parse_nodata
from tilezoo.options import options_of
from tilezoo.pictures import Thumbnailer
from tilezoo.pretrain import pack
from tilezoo.pretrain.options import PackOptions
from tilezoo.search import search
from tilezoo.sources import source_at
from tilezoo.table import open_table
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


def write_scene(folder: Path) -> NDArray[np.generic]:
    """Write a scene whose right half lies outside the swath, as 0 that no tag declares."""
    pixels = making.texture(5, side=160, low=20, high=250)
    pixels[:, :, 90:] = 0
    making.write_tiff(folder / "scene.tif", pixels, photometric="RGB")
    return pixels


CUT = {"tile_px": 40, "device": "cpu", "precision": "fp32"}


def test_embed_takes_the_nodata_value_it_is_told(vit: Path, tmp_path: Path) -> None:
    """Empty windows are told, and are no failures."""
    write_scene(tmp_path / "in")
    plain = embed(tmp_path / "in", out=tmp_path / "plain", model=vit, **CUT)
    assert (plain.rows, plain.failed) == (16, 0)
    told = embed(tmp_path / "in", out=tmp_path / "told", model=vit, nodata="0", **CUT)
    assert (told.rows, told.failed) == (12, 4)
    rows = making.rows_of(tmp_path / "told")
    assert rows["nodata_fraction"].to_pylist() == pytest.approx([0, 0, 0.75] * 4)
    assert {row["kind"] for row in making.errors_of(tmp_path / "told")} == {"nodata"}


def test_tiles_with_too_little_data_are_rows_of_errors_and_no_failures(
    vit: Path, tmp_path: Path
) -> None:
    write_scene(tmp_path / "in")
    making.write_tiff(tmp_path / "in/void.tif", np.zeros((3, 40, 40), np.uint8), photometric="RGB")
    how = {"nodata": "0", "max_nodata": 0.5, "model": vit, **CUT}
    made = embed(tmp_path / "in", out=tmp_path / "t", **how)
    assert (made.rows, made.failed) == (8, 9)
    messages = {row["message"] for row in making.errors_of(tmp_path / "t")}
    assert messages == {"0.75 of it holds no data, --max-nodata is 0.5", "no pixel holds data"}
    request = open_table(tmp_path / "t").manifest.request
    assert (request.nodata, request.max_nodata) == ("0", 0.5)
    again = embed(tmp_path / "in", out=tmp_path / "t", **how)
    assert (again.rows, again.seconds < 0.1) == (8, True)
    with pytest.raises(TableError, match=r"max_nodata: 0\.5 there, 0.9 now"):
        embed(tmp_path / "in", out=tmp_path / "t", **{**how, "max_nodata": 0.9})
    whole = {**how, "tile_px": None}
    files = embed(tmp_path / "in", out=tmp_path / "files", **whole)
    assert (files.rows, files.failed) == (1, 1)


def test_a_file_without_data_is_a_failure_unless_a_share_is_asked_for(
    vit: Path, tmp_path: Path
) -> None:
    making.write_tiles(tmp_path / "in", 1)
    blank = np.zeros((3, 40, 40), np.uint8)
    making.write_tiff(tmp_path / "in/void.tif", blank, nodata=0, photometric="RGB")
    with pytest.raises(TooManyFailedError, match="1 of 2 tiles failed"):
        embed(tmp_path / "in", out=tmp_path / "t", model=vit, device="cpu")
    assert embed(tmp_path / "in", out=tmp_path / "u", model=vit, max_nodata=0.99).failed == 1


def test_slivers_at_the_edges_of_a_scene_can_be_left_out(vit: Path, tmp_path: Path) -> None:
    """A scene that is four pixels wider than whole windows."""
    pixels = making.texture(6, side=84)
    making.write_tiff(tmp_path / "in/scene.tif", pixels, photometric="RGB")
    assert embed(tmp_path / "in", out=tmp_path / "t", model=vit, **CUT).rows == 9
    made = embed(tmp_path / "in", out=tmp_path / "u", model=vit, max_nodata=0.5, **CUT)
    assert (made.rows, made.failed) == (4, 5)


def test_pack_takes_the_nodata_value_it_is_told(tmp_path: Path) -> None:
    write_scene(tmp_path / "in")
    how = {"tile_px": 40, "nodata": "0", "max_nodata": 0.5}
    made = pack(tmp_path / "in", out=tmp_path / "p", **how)
    assert (made.tiles, made.failed) == (8, 8)
    assert pack(tmp_path / "in", out=tmp_path / "p", **how).seconds == 0
    with pytest.raises(PackError, match="nodata: '0' there, None now"):
        pack(tmp_path / "in", out=tmp_path / "p", **{**how, "nodata": None})


def test_an_image_that_is_searched_with_is_read_as_the_table_was(vit: Path, tmp_path: Path) -> None:
    """And so is its picture."""
    for number in range(3):
        pixels = making.texture(number, low=20)
        pixels[:, :30] = 255
        making.write_tiff(tmp_path / f"in/{number}.tif", pixels, photometric="RGB")
    embed(tmp_path / "in", out=tmp_path / "t", model=vit, nodata="255", device="cpu")
    found = search(tmp_path / "t", str(tmp_path / "in/1.tif"), k=1, device="cpu")
    assert found.hits[0].id == "1.tif"
    assert found.hits[0].score == pytest.approx(1, abs=1e-3)
    picture = Thumbnailer(open_table(tmp_path / "t"), 80).of_file(tmp_path / "in/1.tif")
    assert picture is not None
    assert not np.asarray(picture)[:30].any()


def test_what_stands_for_no_data_is_said_in_one_group_of_options() -> None:
    for verb in (EmbedOptions, PackOptions, CompareOptions):
        options = {one.name: one for one in options_of(verb)}
        assert options["nodata"].flag == "--nodata"
        assert options["max_nodata"].default == 1
    with pytest.raises(OptionError, match="--nodata 'x' should be a number or nan"):
        EmbedOptions("in", out="t", nodata="x")
