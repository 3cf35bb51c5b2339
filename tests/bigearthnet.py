"""Patches, lists and older metadata of BigEarthNet, for the tests that read them."""

import json
import shutil
import tarfile
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import making
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.transform import from_origin

# Two of the six real patches that bigearthnet-common ships; the second has lost its hour's zero.
SUMMER = "S2A_MSIL2A_20170613T101031_87_48"
FALL = "S2B_MSIL2A_20170924T93020_69_24"
SNOWY = "S2B_MSIL2A_20180204T94161_57_38"  # 61 seconds: its JSON says 09:41:56
SPLITS = {
    SUMMER: "test",
    FALL: "train",
    "S2A_MSIL2A_20171221T112501_56_35": "train",
    "S2A_MSIL2A_20170617T113321_4_55": "train",
    "S2A_MSIL2A_20170617T113321_36_85": "train",
    SNOWY: None,
}
V2 = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43"
V2_SNOWY = "S2B_MSIL2A_20180204T094161_N9999_R036_T35VPK_1_2"
V2_FILE = "metadata.parquet"
V2_SNOW_FILE = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"
UTM = rasterio.CRS.from_epsg(32633).to_wkt()


def need_package() -> None:
    """Skip where bigearthnet-common is not installed: its data are read, its code is not."""
    if find_spec("bigearthnet_common") is None:
        pytest.skip("pip install --no-deps bigearthnet-common brings patches and lists")


def unpack_real(folder: Path) -> Path:
    """Unpack the six real patches of v1."""
    need_package()
    archive = files("bigearthnet_common").joinpath("BigEarthNet-S2-Example.tar.bz2")
    with archive.open("rb") as packed, tarfile.open(fileobj=packed, mode="r:bz2") as tar:
        tar.extractall(folder, filter="data")
    return folder


def copy_under(patch: Path, other: Path) -> None:
    """Copy a real patch's true-colour bands and JSON to a folder of another patch's name."""
    other.mkdir(parents=True)
    for path in patch.iterdir():
        if path.stem.endswith(("B02", "B03", "B04", "labels_metadata")):
            shutil.copyfile(path, other / path.name.replace(patch.name, other.name))


def write_json(root: Path, name: str, **changes: Any) -> Path:
    """Write a v1 patch's folder with its JSON alone; None as a change leaves the key out."""
    data = {
        "labels": ["Pastures", "Peatbogs"],
        "coordinates": {"ulx": 404400, "uly": 5342400, "lrx": 405600, "lry": 5341200},
        "projection": UTM,
        "tile_source": "S2A_MSIL1C_20170613T101031_N0205_R022_T33UUP_20170613T101608.SAFE",
        "acquisition_date": "2017-06-13 10:10:31",
    } | changes
    kept = {key: value for key, value in data.items() if value is not None}
    return write_text(root, name, json.dumps(kept))


def write_text(root: Path, name: str, text: str) -> Path:
    """Write a v1 patch's folder with any text in place of its JSON."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_labels_metadata.json").write_text(text)
    return folder


def write_bands(root: Path, name: str, bands: Sequence[str] = ("B02", "B03", "B04")) -> Path:
    """Write a patch's folder with bands alone, 12 px at 100 m where `write_json` puts it."""
    for band in bands:
        path = root / name / f"{name}_{band}.tif"
        transform = from_origin(404400, 5342400, 100, 100)
        pixels = making.texture(0, bands=1, side=12, dtype="uint16")
        making.write_tiff(path, pixels, crs="EPSG:32633", transform=transform)
    return root / name


def write_lists(folder: Path, **members: Sequence[str]) -> Path:
    """Write official lists: `train`, `val`, `test`, `snow`, `cloud`, `unlabelled`, `others`."""
    folder.mkdir(parents=True)
    stems = {
        "train": "train",
        "val": "val",
        "test": "test",
        "snow": "patches_with_seasonal_snow",
        "cloud": "patches_with_cloud_and_shadow",
        "unlabelled": "patches_with_no_19_class_targets",
    }
    # No list is ever empty: each has a patch that is nowhere else.
    own = {member: f"S2A_MSIL2A_20170101T101031_0_{n}" for n, member in enumerate(stems)}
    listed = {member: [own[member], *members.get(member, ())] for member in stems}
    for member, stem in stems.items():
        (folder / f"{stem}.csv").write_text("".join(f"{name}\r\n" for name in listed[member]))
    names = {name for list_ in listed.values() for name in list_} | set(members.get("others", ()))
    rows = [f"S1_of_{name},{name},Austria,Summer" for name in sorted(names)]
    head = "s1_name,s2_name,country,season"
    (folder / "s1_s2_name_country_season.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def write_v2_metadata(path: Path, *rows: dict[str, Any]) -> Path:
    """Write v2's own metadata: a row of usual values for each, changed as asked."""
    usual = {
        "patch_id": V2,
        "labels": ["Arable land", "Broad-leaved forest"],
        "split": "test",
        "country": "Austria",
        "s1_name": "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_75_43",
        "s2v1_name": "S2A_MSIL2A_20170613T101031_75_43",
        "contains_seasonal_snow": False,
        "contains_cloud_or_shadow": False,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([usual | row for row in rows]), path)
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    """All rows of a metadata file."""
    return list(pq.read_table(path).to_pylist())


def row_of(path: Path, name: str) -> dict[str, Any]:
    """The one row of a patch."""
    (row,) = [row for row in rows_of(path) if row["name"] == name]
    return row
