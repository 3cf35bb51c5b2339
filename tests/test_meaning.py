"""What values mean: products' own scales and offsets, applied, told, kept, and switched off."""

import shutil
from pathlib import Path

import making
import numpy as np
import pytest
from scenes import SIDE, ground, write_scene

from tilezoo.bands import BandRequest
from tilezoo.embed import embed
from tilezoo.errors import TableError
from tilezoo.image import read_tile
from tilezoo.meaning import find_scaling, tell_scalings
from tilezoo.sources import discover
from tilezoo.table import open_table
from tilezoo.tiles import TileRef

RGB = ("red", "green", "blue")


def request(low: float = 0, high: float = 3000, **changes: object) -> BandRequest:
    stated = {"values_stated": True, "value_range": (low, high)}
    return BandRequest(wanted=RGB, **{**stated, **changes})  # type: ignore[arg-type]


def read(folder: Path, asked: BandRequest) -> np.ndarray:
    (source,) = discover([folder])
    contract = making.contract(value_range=asked.value_range or (0.0, 3000.0), unit="stated")
    return read_tile(TileRef(source=source), contract, asked).pixels


@pytest.mark.parametrize(
    ("scene", "told"),
    [
        ("sentinel-2-l2a", "1,000 subtracted (BOA_ADD_OFFSET)"),
        ("sentinel-2-l1c", "1,000 subtracted (RADIO_ADD_OFFSET)"),
        ("sentinel-2-l2a: baseline 02.14", ""),
        ("landsat-8-9-c2-l2", "value × 0.275 − 2,000"),
    ],
)
def test_values_are_reflectance_times_10000_and_that_is_told(
    tmp_path: Path, scene: str, told: str
) -> None:
    written = write_scene(scene, tmp_path, given=ground())
    pixels = read(tmp_path, request())
    right = np.stack([ground()[colour] for colour in RGB])
    side = pixels.shape[1]
    assert np.abs(pixels - right).max() <= 1 if side == SIDE else written
    assert told in "".join(tell_scalings(discover([tmp_path]), request()))


def test_values_stay_as_stored_where_that_is_asked(tmp_path: Path) -> None:
    write_scene("sentinel-2-l2a", tmp_path, given=ground())
    stored = read(tmp_path, request(values="stored"))
    assert np.array_equal(stored, read(tmp_path, request()) + 1000)
    assert tell_scalings(discover([tmp_path]), request(values="stored")) == ()


def test_a_range_that_no_reflectance_reaches_is_one_of_stored_values(tmp_path: Path) -> None:
    write_scene("landsat-8-9-c2-l2", tmp_path, given=ground())
    (source,) = discover([tmp_path])
    in_dn, in_reflectance = request(7273, 43636), request(0, 3000)
    assert find_scaling(source, in_dn).scales == {}
    assert "values as stored, for the value range ends at 43636" in find_scaling(source, in_dn).told
    shown = read(tmp_path, in_dn).astype(float)
    assert np.abs(shown * 0.275 - 2000 - read(tmp_path, in_reflectance)).max() <= 1


def test_old_and_new_scenes_have_one_vector_and_the_manifest_says_why(tmp_path: Path) -> None:
    model = making.write_vit(tmp_path / "model", depth=1, img_size=32, size_px=32, resize_px=32)
    for scene in ("sentinel-2-l2a", "sentinel-2-l2a: baseline 02.14"):
        write_scene(scene, tmp_path / "s", given=ground())
    embed(tmp_path / "s", out=tmp_path / "t", model=model, value_range="0,3000", precision="fp32")
    vectors = making.vectors_of(tmp_path / "t")
    first, second = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert first @ second > 0.9999
    (scaling,) = open_table(tmp_path / "t").manifest.scalings or ()
    assert "1,000 subtracted (BOA_ADD_OFFSET) (1 image)" in scaling


def test_stored_values_are_another_space_and_another_run(tmp_path: Path) -> None:
    model = making.write_vit(tmp_path / "model", depth=1, img_size=32, size_px=32, resize_px=32)
    write_scene("sentinel-2-l2a", tmp_path / "s", given=ground())
    asked = {"model": model, "value_range": "0,3000", "precision": "fp32"}
    embed(tmp_path / "s", out=tmp_path / "a", **asked)  # type: ignore[arg-type]
    embed(tmp_path / "s", out=tmp_path / "b", values="stored", **asked)  # type: ignore[arg-type]
    spaces = [open_table(tmp_path / name).space.fingerprint for name in "ab"]
    assert spaces[0] != spaces[1]
    with pytest.raises(TableError, match="values"):
        embed(tmp_path / "s", out=tmp_path / "a", values="stored", **asked)  # type: ignore[arg-type]


def test_metadata_that_come_later_do_not_mix_two_scales_in_one_table(tmp_path: Path) -> None:
    model = making.write_vit(tmp_path / "model", depth=1, img_size=32, size_px=32, resize_px=32)
    written = write_scene("landsat-8-9-l1", tmp_path / "s", given=ground())
    (mtl,) = written.path.glob("*_MTL.*")
    shutil.move(mtl, tmp_path / mtl.name)
    asked = {"out": tmp_path / "t", "model": model, "value_range": "0,3000"}
    embed(tmp_path / "s", **asked)  # type: ignore[arg-type]
    shutil.move(tmp_path / mtl.name, mtl)
    with pytest.raises(TableError, match="values: as stored there, Landsat 8 and 9"):
        embed(tmp_path / "s", **asked)  # type: ignore[arg-type]
