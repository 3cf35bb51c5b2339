"""Products in zip files: one scene each, read where they are."""

import shutil
import zipfile
from pathlib import Path

import making
import numpy as np
import pytest
from scenes import SIDE, ground, write_scene

from tilezoo.embed import embed
from tilezoo.errors import SourceError, TooManyFailedError
from tilezoo.pictures import Thumbnailer
from tilezoo.sources import discover, source_at
from tilezoo.table import open_table


def zip_scene(scene: str, folder: Path, *, name: str = "") -> Path:
    """Write a scene as the zip file that it is delivered in; no folder is left beside it."""
    written = write_scene(scene, folder / "plain", given=ground())
    path = folder / (name or f"{written.path.name.removesuffix('.SAFE')}.zip")
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(written.path.rglob("*")):
            archive.write(file, Path(written.path.name, file.relative_to(written.path)))
    shutil.rmtree(folder / "plain")
    return path


@pytest.mark.parametrize("scene", ["sentinel-2-l2a", "sentinel-2-l1c", "sentinel-1-grd"])
def test_a_zipped_product_is_one_scene_with_its_time_and_values(tmp_path: Path, scene: str) -> None:
    plain = write_scene(scene, tmp_path / "plain", given=ground())
    bands = ("VV", "VH", "VV") if scene == "sentinel-1-grd" else ("red", "green", "blue")
    model = making.write_vit(tmp_path / "m", depth=1, bands=bands, img_size=32, size_px=32, resize_px=32)  # fmt: skip
    path = zip_scene(scene, tmp_path / "zips")
    asked = {"model": model, "value_range": "0,3000", "precision": "fp32"}
    embed(tmp_path / "zips", out=tmp_path / "a", **asked)  # type: ignore[arg-type]
    embed(plain.path, out=tmp_path / "b", **asked)  # type: ignore[arg-type]
    (zipped,), (right,) = (making.rows_of(tmp_path / t).to_pylist() for t in "ab")
    assert zipped["id"] == path.name
    assert np.array_equal(zipped["embedding"], right["embedding"])
    same = ("datetime", "geometry", "crs", "gsd_m", "pixel_bbox", "nodata_fraction")
    assert [zipped[name] for name in same] == [right[name] for name in same]
    assert (
        source_at(zipped["source_uri"]).files.keys() == source_at(right["source_uri"]).files.keys()
    )


def test_a_row_of_a_zipped_product_has_its_picture(tmp_path: Path) -> None:
    model = making.write_vit(tmp_path / "m", depth=1, img_size=32, size_px=32, resize_px=32)
    zip_scene("sentinel-2-l2a", tmp_path / "z")
    embed(tmp_path / "z", out=tmp_path / "t", model=model, value_range="0,3000")
    (row,) = making.rows_of(tmp_path / "t").to_pylist()
    shown = Thumbnailer(open_table(tmp_path / "t"), 40).of_row(
        row["source_uri"], (0, 0, SIDE, SIDE)
    )
    assert shown is not None
    assert np.asarray(shown).std() > 5


def test_a_zip_file_named_itself_may_be_called_anything(tmp_path: Path) -> None:
    path = zip_scene("sentinel-2-l2a", tmp_path, name="download (1).zip")
    assert [source.id for source in discover([path])] == ["download (1).zip"]
    with pytest.raises(SourceError, match="No image"):  # in a folder it says nothing
        discover([tmp_path])


def test_what_is_wrong_with_a_zip_file_is_told(tmp_path: Path) -> None:
    path = zip_scene("sentinel-2-l2a", tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    (broken,) = discover([tmp_path])
    assert broken.problem is not None
    assert broken.problem[0] == "unreadable"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../escape.tif", b"II*\0")
        archive.writestr("a.tif", b"II*\0")
    (foreign,) = discover([tmp_path])
    assert foreign.problem == ("unreadable", "holds no folder of a known product; unpack it")


def test_bytes_damaged_within_a_zip_file_are_an_error_row_and_no_crash(tmp_path: Path) -> None:
    model = making.write_vit(tmp_path / "m", depth=1, img_size=32, size_px=32, resize_px=32)
    path = zip_scene("sentinel-2-l2a", tmp_path / "z")
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [i.header_offset for i in archive.infolist() if "_B04" in i.filename]
    for offset in starts:
        body = offset + 30 + int.from_bytes(whole[offset + 26 : offset + 28], "little")
        whole = whole[:body] + b"\xff" * 40 + whole[body + 40 :]
    path.write_bytes(whole)
    with pytest.raises(TooManyFailedError, match="1 of 1 tiles failed"):
        embed(tmp_path / "z", out=tmp_path / "t", model=model, value_range="0,3000")
    (error,) = making.errors_of(tmp_path / "t")
    assert error["kind"] == "unreadable"
