"""Folders as they come: each broken file is one clear row, each good tile is there."""

import ctypes
import os
from pathlib import Path

import making
import numpy as np
import pytest
import rasterio.shutil
from PIL import Image as Pillow
from test_raster import claim_a_million, sparse_million

from tilezoo.embed import embed
from tilezoo.errors import ContractError, TooManyFailedError

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24


def good_tiles(folder: Path) -> dict[str, Path]:
    """Tiles that are good in their own ways: name → path."""
    making.write_tiles(folder, 3)
    picture = making.as_pillow(making.texture(5))
    picture.save(folder / "good.png")
    picture.convert("RGBA").save(folder / "good_rgba.png")
    picture.convert("P").save(folder / "good_palette.png")
    picture.save(folder / "good.jpg")
    (folder / "sub").mkdir()
    making.write_tiff(folder / "sub/good.tif", making.texture(6), photometric="RGB", tiled=False)
    (folder / "link.tif").symlink_to(folder / "sub/good.tif")
    holed = making.texture(7, low=1)
    holed[:, :10] = 0
    making.write_tiff(folder / "holed.tif", holed, photometric="RGB", nodata=0)
    return {str(p.relative_to(folder)): p for p in folder.rglob("*.*") if p.is_file()}


def bad_tiles(folder: Path) -> dict[str, tuple[str, str]]:
    """Write broken tiles: name → kind and a part of the message."""
    source = folder / "tile_0000.tif"
    (folder / "cut_end.tif").write_bytes(source.read_bytes()[:-9000])
    rasterio.shutil.copy(source, folder / "cut_pixels.tif", driver="COG", compress="none")
    whole = (folder / "cut_pixels.tif").read_bytes()
    (folder / "cut_pixels.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.tif").write_bytes(b"")
    (folder / "text.tif").write_text("no image at all")
    floats = making.texture(8).astype("float32") / 255
    making.write_tiff(folder / "float.tif", floats, photometric="RGB")
    blank = np.zeros((3, 80, 80), np.uint8)
    making.write_tiff(folder / "blank.tif", blank, photometric="RGB", nodata=0)
    making.write_tiff(folder / "one.tif", blank[:, :1, :1], photometric="RGB")
    making.write_tiff(folder / "two_bands.tif", making.texture(9, bands=2))
    sixteen = making.texture(10, high=3000, dtype="uint16")
    making.write_tiff(folder / "sixteen.tif", sixteen, photometric="RGB")
    claim_a_million(folder / "million.tif")
    sparse_million(folder / "sparse_million.tif")
    making.as_pillow(making.texture(11)).save(folder / "cut.png")
    making.as_pillow(making.texture(11)).save(folder / "cut.jpg")
    for name in ("cut.png", "cut.jpg"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) * 2 // 3])
    making.as_pillow(making.texture(12)).convert("P").save(folder / "palette.tif")
    (folder / "dangling.tif").symlink_to("nowhere.tif")
    (folder / "loop.tif").symlink_to("loop.tif")
    (folder / "sub/up").symlink_to(folder)
    os.mkfifo(folder / "pipe.tif")
    narrow = making.texture(13, side=30_000, height=5)
    making.write_tiff(folder / "narrow.tif", narrow, photometric="RGB")
    return {
        "blank.tif": ("nodata", "no pixel holds data"),
        "cut.jpg": ("unreadable", "truncated: it has no end"),
        "cut.png": ("unreadable", "Read Error"),
        "cut_end.tif": ("unreadable", "Failed to read directory"),
        "cut_pixels.tif": ("unreadable", "cut_pixels.tif"),
        "dangling.tif": ("missing", "a link to a file that is not there"),
        "empty.tif": ("unreadable", "the file is empty"),
        "float.tif": ("contract", "pixels are float32, the model takes uint8"),
        "loop.tif": ("link_loop", ""),
        "million.tif": ("unreadable", "Too many blocks"),
        "narrow.tif": ("too_large", "cut it with --tile-px 64"),
        "one.tif": ("too_small", "1x1 px"),
        "palette.tif": ("contract", "a palette image"),
        "pipe.tif": ("unreadable", "not a regular file"),
        "sixteen.tif": ("contract", "pixels are uint16, .*--value-range"),
        "sparse_million.tif": ("too_large", "1000000x1000000 px"),
        "sub/up": ("link_loop", "a link that leads back to a folder above it"),
        "text.tif": ("unreadable", "not a TIFF, PNG, JPEG"),
        "two_bands.tif": ("contract", "has 2 unnamed bands"),
    }


@pytest.mark.parametrize("tile_px", [None, 80])
def test_each_broken_file_is_one_clear_row_and_each_good_tile_is_there(
    vit: Path, tmp_path: Path, tile_px: int | None
) -> None:
    folder = tmp_path / "in"
    good = good_tiles(folder)
    bad = bad_tiles(folder)
    if tile_px is not None:  # in windows, a narrow file is no trouble
        del bad["narrow.tif"]
        (folder / "narrow.tif").unlink()
    counted = len(bad) - (tile_px is not None)  # a window without data is no fault
    options = {"device": "cpu", "precision": "fp32", "tile_px": tile_px}
    with pytest.raises(TooManyFailedError, match=rf"^{counted} of \d+ tiles failed"):
        embed(folder, out=tmp_path / "t", model=vit, **options)
    ids = [name.split("#")[0] for name in making.rows_of(tmp_path / "t")["id"].to_pylist()]
    assert ids == sorted(good)
    told = making.errors_of(tmp_path / "t")
    assert [str(Path(row["source_uri"]).relative_to(folder)) for row in told] == sorted(bad)
    for row in told:
        name = str(Path(row["source_uri"]).relative_to(folder))
        kind, message = bad[name]
        assert row["kind"] == kind, name
        assert making.found(message, row["message"]), (name, row["message"])
        assert "\n" not in row["message"]
        assert len(row["message"]) < 250


def test_good_tiles_among_broken_ones_have_the_vectors_they_have_alone(
    vit: Path, tmp_path: Path
) -> None:
    good = good_tiles(tmp_path / "in")
    options = {"model": vit, "device": "cpu", "precision": "fp32"}
    embed(tmp_path / "in", out=tmp_path / "alone", **options)
    bad = bad_tiles(tmp_path / "in")
    embed(tmp_path / "in", out=tmp_path / "mixed", max_errors=len(bad), **options)
    alone, mixed = making.rows_of(tmp_path / "alone"), making.rows_of(tmp_path / "mixed")
    assert alone["id"].to_pylist() == mixed["id"].to_pylist() == sorted(good)
    assert np.allclose(
        making.vectors_of(tmp_path / "alone"), making.vectors_of(tmp_path / "mixed"), atol=1e-5
    )


def test_floats_with_nan_are_told_apart_from_floats_without(vit: Path, tmp_path: Path) -> None:
    good = making.texture(0).astype("float32") / 255
    broken = good.copy()
    broken[0, 3, 3] = np.nan
    making.write_tiff(tmp_path / "in/a.tif", good, photometric="RGB")
    making.write_tiff(tmp_path / "in/b.tif", broken, photometric="RGB")
    out, options = tmp_path / "t", {"device": "cpu", "value_range": "0,1"}
    with pytest.raises(TooManyFailedError, match="1 of 2 tiles failed"):
        embed(tmp_path / "in", out=out, model=vit, **options)
    (row,) = making.errors_of(out)
    assert (row["kind"], row["source_uri"]) == ("invalid_pixels", str(tmp_path / "in/b.tif"))
    assert making.rows_of(out)["id"].to_pylist() == ["a.tif"]


def test_a_folder_of_nothing_but_broken_files_is_an_empty_table(vit: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "b.tif"):
        (tmp_path / "in" / name).write_text("text")
    first = r"the other 0 are embedded; the first: .*in/a.tif: not a TIFF"
    with pytest.raises(TooManyFailedError, match=rf"2 of 2 tiles failed.* {first}"):
        embed(tmp_path / "in", out=tmp_path / "t", model=vit, device="cpu")
    assert making.rows_of(tmp_path / "t").num_rows == 0
    assert len(making.errors_of(tmp_path / "t")) == 2


def test_wrong_tiles_beside_unreadable_ones_are_refused_at_once(vit: Path, tmp_path: Path) -> None:
    making.write_tiff(tmp_path / "in/two.tif", making.texture(0, bands=2))
    (tmp_path / "in/text.tif").write_text("text")
    with pytest.raises(ContractError, match=r"two.tif: has 2 unnamed bands"):
        embed(tmp_path / "in", out=tmp_path / "t", model=vit, device="cpu")
    assert not (tmp_path / "t").exists()


def test_names_that_are_strange_come_through(vit: Path, tmp_path: Path) -> None:
    names = ["ü n i.tif", "a'b.tif", 'q"q.tif', "#1,2,3,4.tif", "ça/là.tif", "日本.tif", "a;b$.tif"]
    for number, name in enumerate(names):
        making.write_tiff(tmp_path / "in" / name, making.texture(number), photometric="RGB")
    embed(tmp_path / "in", out=tmp_path / "t", model=vit, device="cpu", precision="fp32")
    assert making.rows_of(tmp_path / "t")["id"].to_pylist() == sorted(names)


def test_a_name_that_is_no_utf8_is_told_and_stops_nothing(vit: Path, tmp_path: Path) -> None:
    making.write_tiles(tmp_path / "in", 2)
    name = os.fsencode(tmp_path / "in") + b"/b\xff.tif"
    with open(name, "wb") as file:  # noqa: PTH123  (bytes are no Path)
        file.write((tmp_path / "in/tile_0000.tif").read_bytes())
    embed(tmp_path / "in", out=tmp_path / "t", model=vit, device="cpu", max_errors=1)
    assert making.rows_of(tmp_path / "t").num_rows == 2
    (told,) = making.errors_of(tmp_path / "t")
    assert told["message"] == "a name that is not UTF-8; rename it"


WITHOUT_PERMISSION = """
import sys
from pathlib import Path
from tilezoo.embed import embed
from tilezoo.errors import TilezooError
for source in sys.argv[3:]:
    try:
        embed(source, out=Path(sys.argv[2]) / Path(source).name, model=sys.argv[1], device="cpu")
    except TilezooError as error:
        print(type(error).__name__, error)
"""


def drop_roots_rights() -> None:
    """Let permissions hold for root too, from the next exec on."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            os._exit(77)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_files_and_folders_without_permission_are_told(vit: Path, tmp_path: Path) -> None:
    making.write_tiles(tmp_path / "in", 3)
    making.write_tiles(tmp_path / "in/locked", 1)
    (tmp_path / "in/tile_0001.tif").chmod(0)
    (tmp_path / "in/locked").chmod(0)
    making.write_tiles(tmp_path / "shut", 1)
    (tmp_path / "shut").chmod(0)
    dropping = {"preexec_fn": drop_roots_rights} if os.geteuid() == 0 else {}
    sources = [tmp_path / "in", tmp_path / "shut", tmp_path / "shut/tile_0000.tif"]
    done = making.python(WITHOUT_PERMISSION, vit, tmp_path / "out", *sources, **dropping)
    said = done.communicate(timeout=120)[0]
    for folder in (tmp_path / "in/locked", tmp_path / "shut"):
        folder.chmod(0o755)
    if done.returncode == 77:
        pytest.skip("root may read everything here and cannot give that up")
    assert done.returncode == 0, said
    told = {Path(row["source_uri"]).name: row for row in making.errors_of(tmp_path / "out/in")}
    assert set(told) == {"locked", "tile_0001.tif"}
    assert {row["kind"] for row in told.values()} == {"unreadable"}
    assert "Permission denied" in told["tile_0001.tif"]["message"]
    assert "folder cannot be read: Permission denied" in told["locked"]["message"]
    ids = making.rows_of(tmp_path / "out/in")["id"].to_pylist()
    assert ids == ["tile_0000.tif", "tile_0002.tif"]
    assert "2 of 4 tiles failed" in said
    assert "1 of 1 tiles failed" in said
    assert f"{sources[2]}: no such file" in said


def test_pillow_reads_the_truncated_pictures_of_these_tests_with_an_error_too(
    vit: Path, tmp_path: Path
) -> None:
    good_tiles(tmp_path / "in")
    bad_tiles(tmp_path / "in")
    assert vit.is_dir()
    for name in ("cut.png", "cut.jpg"):
        with Pillow.open(tmp_path / "in" / name) as picture, pytest.raises(OSError, match="trunc"):
            picture.load()
