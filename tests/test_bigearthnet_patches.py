"""Real BigEarthNet patches, and a Sentinel-2 scene folder by windows."""

import json
import tarfile
from datetime import UTC, datetime
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import making
import numpy as np
import pytest
import rasterio
import torch
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from tilezoo.embed import embed
from tilezoo.errors import ContractError
from tilezoo.pretrain import pack
from tilezoo.pretrain.packs.shards import open_pack
from tilezoo.table import open_table

# The six patches' names; two have lost the hour's leading zero, one of these has 61 seconds.
PATCHES = [
    "S2A_MSIL2A_20170613T101031_87_48",
    "S2A_MSIL2A_20170617T113321_36_85",
    "S2A_MSIL2A_20170617T113321_4_55",
    "S2A_MSIL2A_20171221T112501_56_35",
    "S2B_MSIL2A_20170924T93020_69_24",
    "S2B_MSIL2A_20180204T94161_57_38",
]
SENTINEL: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Installed without its dependencies: its data are read, its code is not imported.
    if find_spec("bigearthnet_common") is None:
        pytest.skip("pip install --no-deps bigearthnet-common brings the six patches")
    folder = tmp_path_factory.mktemp("bigearthnet")
    archive = files("bigearthnet_common").joinpath("BigEarthNet-S2-Example.tar.bz2")
    with archive.open("rb") as packed, tarfile.open(fileobj=packed, mode="r:bz2") as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def table(patches: Path, vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tables") / "patches"
    embed(patches, out=out, model=vit, bands="B04,B03,B02", value_range="0,2000", **SENTINEL)
    return out


def metadata(patches: Path, name: str) -> dict[str, Any]:
    """What BigEarthNet itself says of a patch."""
    (path,) = patches.rglob(f"{name}/*_labels_metadata.json")
    return dict(json.loads(path.read_text()))


def test_the_six_patches_are_six_rows_called_by_their_names(patches: Path, table: Path) -> None:
    assert making.rows_of(table)["id"].to_pylist() == PATCHES
    assert making.errors_of(table) == []
    uris = making.rows_of(table)["source_uri"].to_pylist()
    assert uris == [str(next(patches.rglob(name))) for name in PATCHES]


def test_their_times_are_the_ones_of_their_metadata(patches: Path, table: Path) -> None:
    for row in making.rows_of(table).to_pylist():
        stated = datetime.fromisoformat(metadata(patches, row["id"])["acquisition_date"])
        apart = abs((row["datetime"] - stated.replace(tzinfo=UTC)).total_seconds())
        assert apart <= (3 if "T94161" in row["id"] else 0)


def test_their_footprints_are_the_ones_of_their_metadata(patches: Path, table: Path) -> None:
    for row in making.rows_of(table).to_pylist():
        stated = metadata(patches, row["id"])
        corners = [stated["coordinates"][side] for side in ("ulx", "lry", "lrx", "uly")]
        expected = transform_bounds(stated["projection"], "OGC:CRS84", *corners)
        assert list(row["bbox"].values()) == pytest.approx(expected, abs=2e-6)
        assert row["gsd_m"] == pytest.approx(10, rel=0.002)
        assert row["pixel_bbox"] == [0, 0, 120, 120]
        assert row["crs"].startswith("EPSG:326")


def test_their_vectors_are_of_the_bands_that_were_asked_for(
    patches: Path, table: Path, vit: Path
) -> None:
    network, transform = making.timm_transform(vit)
    expected = []
    for name in PATCHES:
        folder = next(patches.rglob(name))
        bands = [rasterio.open(folder / f"{name}_{band}.tif") for band in ("B04", "B03", "B02")]
        pixels = np.stack([file.read(1) for file in bands])
        for file in bands:
            file.close()
        with torch.inference_mode():
            expected.append(network(transform(making.as_pillow(pixels, 0, 2000))[None])[0].numpy())
    vectors = making.vectors_of(table)
    assert making.cosines(vectors, np.stack(expected)).min() >= 0.9999
    assert making.cosines(vectors, np.roll(np.stack(expected), 1, axis=0)).max() < 0.999


def test_a_model_of_sentinel_2_needs_no_options(
    patches: Path, sentinel_vit: Path, tmp_path: Path
) -> None:
    embed(patches, out=tmp_path / "t", model=sentinel_vit, **SENTINEL)
    assert making.rows_of(tmp_path / "t")["id"].to_pylist() == PATCHES


def test_all_twelve_bands_go_in_with_the_coarse_ones_resampled(
    patches: Path, tmp_path: Path
) -> None:
    bands = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    how = {"unit": "dn", "value_range": (0.0, 10_000.0), "quantize_uint8": False}
    model = making.write_vit(tmp_path / "twelve", bands=bands, **how)
    embed(patches, out=tmp_path / "t", model=model, **SENTINEL)
    assert making.rows_of(tmp_path / "t").num_rows == 6


def test_without_a_value_range_the_patches_are_refused_by_an_8_bit_model(
    patches: Path, vit: Path, tmp_path: Path
) -> None:
    with pytest.raises(ContractError, match=r"pixels are uint16.* --value-range LOW,HIGH"):
        embed(patches, out=tmp_path / "t", model=vit, bands="B04,B03,B02", **SENTINEL)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Sentinel-2 scene folder: 534 px at 10 m, twelve bands at 10, 20 and 60 m."""
    folder = tmp_path_factory.mktemp("scenes") / "S2A_MSIL2A_20170613T101031_N0205_R022_T33UUP"
    making.write_band_files(folder, side=534, prefix="T33UUP_20170613T101031_")
    return folder


def test_a_scene_folder_is_embedded_by_windows_with_padded_edges(
    scene: Path, sentinel_vit: Path, tmp_path: Path
) -> None:
    embed(scene, out=tmp_path / "t", model=sentinel_vit, tile_px=128, **SENTINEL)
    rows = making.rows_of(tmp_path / "t").to_pylist()
    corners = [(x, y) for y in range(0, 534, 128) for x in range(0, 534, 128)]
    assert [row["id"] for row in rows] == [f"{scene.name}#{x},{y},128,128" for x, y in corners]
    for row, (x, y) in zip(rows, corners, strict=True):
        inside = min(128, 534 - x) * min(128, 534 - y)
        assert row["nodata_fraction"] == pytest.approx(1 - inside / 128**2)
        assert row["pixel_bbox"] == [x, y, 128, 128]
        west, north = 500_000 + 10 * x, 4_500_000 - 10 * y
        box = (west, north - 1280, west + 1280, north)
        expected = transform_bounds(making.UTM, "OGC:CRS84", *box)
        assert list(row["bbox"].values()) == pytest.approx(expected, abs=2e-6)
        assert row["datetime"] == datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)
        assert row["source_uri"] == str(scene)


def test_a_window_of_a_scene_has_the_vector_of_its_pixels(
    scene: Path, sentinel_vit: Path, tmp_path: Path
) -> None:
    how = {"model": sentinel_vit, **SENTINEL}
    embed(scene, out=tmp_path / "t", tile_px=128, limit=8, **how)
    for number, (x, y) in enumerate([(0, 0), (128, 0), (256, 128)]):
        pixels = []
        for band in ("B04", "B03", "B02"):
            with rasterio.open(next(scene.glob(f"*_{band}.tif"))) as file:
                pixels.append(file.read(1, window=Window(x, y, 128, 128)))
        names = ("B04", "B03", "B02")
        making.write_tiff(tmp_path / f"cut/{number}.tif", np.stack(pixels), names=names)
    embed(tmp_path / "cut", out=tmp_path / "alone", **how)
    windows = making.vectors_of(tmp_path / "t")[[0, 1, 7]]
    assert np.allclose(windows, making.vectors_of(tmp_path / "alone"), atol=1e-5)


def test_twelve_bands_of_a_scene_go_in_by_windows(scene: Path, tmp_path: Path) -> None:
    bands = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    how = {"unit": "dn", "value_range": (0.0, 10_000.0), "quantize_uint8": False}
    model = making.write_vit(tmp_path / "twelve", bands=bands, **how)
    embed(scene, out=tmp_path / "t", model=model, tile_px=64, stride_px=60, **SENTINEL)
    rows = making.rows_of(tmp_path / "t")
    assert rows.num_rows == 9 * 9
    assert making.errors_of(tmp_path / "t") == []
    assert open_table(tmp_path / "t").space.contract.bands == bands


def test_coarse_bands_alone_are_cut_on_their_own_grid(scene: Path, tmp_path: Path) -> None:
    how = {"unit": "dn", "value_range": (0.0, 10_000.0)}
    model = making.write_vit(tmp_path / "coarse", bands=("B05", "B06", "B07"), **how)
    embed(scene, out=tmp_path / "t", model=model, tile_px=89, **SENTINEL)
    rows = making.rows_of(tmp_path / "t")
    assert rows.num_rows == 3 * 3
    assert rows["nodata_fraction"].to_pylist() == [0.0] * 9
    assert rows["gsd_m"].to_pylist() == pytest.approx([20.0] * 9, rel=0.001)


def test_the_six_patches_are_packed_as_the_usual_true_colour(patches: Path, tmp_path: Path) -> None:
    found = pack(patches, out=tmp_path / "p", bands="B04,B03,B02", value_range="0,2000")
    assert (found.tiles, found.failed) == (6, 0)
    shards = open_pack(tmp_path / "p")
    assert shards.column("id").to_pylist() == PATCHES
    for name, pixels in zip(PATCHES, shards.read(np.arange(6)), strict=True):
        for band, values in zip(("B04", "B03", "B02"), pixels, strict=True):
            with rasterio.open(next(patches.rglob(f"{name}_{band}.tif"))) as file:
                dn = file.read(1)
            assert np.array_equal(values, np.round(np.clip(dn, 0, 2000) / 2000 * 255))
    assert shards.manifest.unit == "dn"
    assert shards.manifest.gsd_m == pytest.approx([10, 10], rel=0.002)


def test_all_twelve_bands_of_the_patches_are_packed_at_the_finest_ones_size(
    patches: Path, tmp_path: Path
) -> None:
    bands = "B01,B02,B03,B04,B05,B06,B07,B08,B8A,B09,B11,B12"
    pack(patches, out=tmp_path / "p", bands=bands, value_range="0,10000", dtype="uint16")
    shards = open_pack(tmp_path / "p")
    assert (shards.size_px, shards.bands) == (120, tuple(bands.split(",")))
    with rasterio.open(next(patches.rglob(f"{PATCHES[3]}_B08.tif"))) as file:
        assert np.array_equal(shards.read(np.array([3]))[0, 7], file.read(1))


def test_patches_without_bands_named_are_no_rgb_images(patches: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"has bands B01,.*, no RGB image; choose with --bands"):
        pack(patches, out=tmp_path / "p", value_range="0,2000")
