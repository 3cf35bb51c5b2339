"""Older metadata, the helper packages' and our own, and lists of names, as what is prepared."""

import json
from pathlib import Path
from typing import Any

import bigearthnet as ben
import geopandas
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from pyproj import CRS

from tilezoo.bigearthnet.listings import METADATA_SCHEMA, read_metadata
from tilezoo.bigearthnet.metadata import prepare_bigearthnet
from tilezoo.bigearthnet.rows import SCHEMA
from tilezoo.errors import LabelsError, SourceError, TooManyFailedError

FIVE = "S2A_MSIL2A_20180413T95032_72_9"  # a real name, its hour without the zero


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    return ben.write_lists(tmp_path / "lists", train=[ben.SUMMER, FIVE], snow=[ben.SNOWY])


def write_old(path: Path, **changes: Any) -> Path:
    """Write metadata as bigearthnet-gdf-builder did: footprints in EPSG:3035, by geopandas."""
    corners = shapely.box(404400, 5341200, 405600, 5342400)
    columns = {
        "name": [ben.SUMMER, ben.SNOWY],
        "acquisition_date": ["2017-06-13 10:10:31", "2018-02-04 09:41:56"],
        "labels": [["Pastures", "Peatbogs"], ["Airports"]],
        "tile_source": ["S2A.SAFE", "S2B.SAFE"],
        "new_labels": [["Inland wetlands"], None],  # without Pastures, as some listings have it
        "snow": [False, True],
        "cloud_or_shadow": [False, False],
        "original_split": ["train", None],
        "country": ["Austria", "Finland"],
        "season": ["Summer", "Winter"],
        **changes,
    }
    frame = geopandas.GeoDataFrame(columns, geometry=[corners, corners], crs="EPSG:32633")
    frame.to_crs("EPSG:3035").to_parquet(path)
    return path


def as_of_2022(path: Path) -> Path:
    """Put the CRS down as WKT, as geopandas did before GeoParquet 0.4."""
    table = pq.read_table(path)
    geo = json.loads(table.schema.metadata[b"geo"])
    geo["schema_version"] = "0.1.0"
    geo["columns"]["geometry"]["crs"] = CRS("EPSG:3035").to_wkt()
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


@pytest.mark.parametrize("written", ["now", "2022"])
def test_the_old_tools_table_becomes_ours(written: str, tmp_path: Path, lists: Path) -> None:
    old = write_old(tmp_path / "old.parquet")
    if written == "2022":
        as_of_2022(old)
    made = prepare_bigearthnet(old, out=tmp_path / "m.parquet", lists=lists)
    summer, snowy = (ben.row_of(made.path, name) for name in (ben.SUMMER, ben.SNOWY))
    ben.write_json(tmp_path / "v1", ben.SUMMER)
    fresh = prepare_bigearthnet(tmp_path / "v1", out=tmp_path / "fresh.parquet", lists=lists)
    (expected,) = ben.rows_of(fresh.path)
    assert list(summer["bbox"].values()) == pytest.approx(list(expected["bbox"].values()), abs=1e-6)
    for column in set(SCHEMA.names) - {"bbox", "geometry", "tile_source"}:
        assert summer[column] == expected[column]
    assert summer["new_labels"] == ["Pastures", "Inland wetlands"]
    assert (snowy["snow"], snowy["new_labels"], snowy["recommended"]) == (True, [], False)
    assert snowy["acquisition_date"] == "2018-02-04 09:41:56"
    assert geopandas.read_parquet(made.path).crs == "OGC:CRS84"


def test_without_lists_the_old_tables_splits_and_flags_hold(tmp_path: Path) -> None:
    old = write_old(tmp_path / "old.parquet")
    made = prepare_bigearthnet(old, out=tmp_path / "m.parquet", no_lists=True)
    for row in ben.rows_of(made.path):
        before = ben.row_of(old, row["name"])
        for column in ("snow", "cloud_or_shadow", "original_split", "country", "season"):
            assert row[column] == before[column]


def test_dates_as_timestamps_and_columns_that_are_missing_are_read(tmp_path: Path) -> None:
    moments = pd.to_datetime(["2017-06-13 10:10:31", "2018-02-04 09:41:56"])
    write_old(tmp_path / "old.parquet", acquisition_date=moments)
    table = read_metadata([tmp_path / "old.parquet"])
    assert table.schema == METADATA_SCHEMA
    assert table["acquisition_date"].to_pylist() == ["2017-06-13 10:10:31", "2018-02-04 09:41:56"]
    assert table["geometry"].null_count == 2
    pq.write_table(pa.table({"name": [ben.SUMMER]}), tmp_path / "bare.parquet")
    assert read_metadata([tmp_path / "bare.parquet"])["labels"].to_pylist() == [None]


def test_our_own_file_comes_back_as_it_is(tmp_path: Path, lists: Path) -> None:
    ben.write_json(tmp_path / "v1", ben.SUMMER)
    ben.write_json(tmp_path / "v1", FIVE, acquisition_date="2018-04-13 09:50:32")
    first = prepare_bigearthnet(tmp_path / "v1", out=tmp_path / "1.parquet", lists=lists).path
    second = prepare_bigearthnet(first, out=tmp_path / "2.parquet", lists=lists).path
    assert pq.read_table(second).equals(pq.read_table(first), check_metadata=True)


@pytest.mark.parametrize("kind", ["txt", "csv", "headed.csv", "parquet", "v2.parquet"])
def test_a_list_of_names_is_joined_without_any_patch_on_disk(
    kind: str, tmp_path: Path, lists: Path
) -> None:
    names = [ben.SNOWY, FIVE, ben.SUMMER]
    path = tmp_path / f"names.{kind}"
    if kind.endswith("parquet"):
        column = "patch_id" if kind.startswith("v2") else "name"
        pq.write_table(pa.table({column: names}), path)
    elif kind == "headed.csv":
        path.write_text("s1_name,s2_name\n" + "".join(f"x,{name}\n" for name in names))
    else:
        path.write_text("".join(f"{name}\r\n" for name in names))
    made = prepare_bigearthnet(path, out=tmp_path / "m.parquet", lists=lists)
    rows = ben.rows_of(made.path)
    assert [row["name"] for row in rows] == sorted(names)
    assert [row["original_split"] for row in rows] == ["train", "train", None]
    assert [row["recommended"] for row in rows] == [True, True, False]
    five = ben.row_of(made.path, FIVE)
    assert five["acquisition_date"] == "2018-04-13 09:50:32"
    assert (five["labels"], five["geometry"], five["bbox"]) == (None, None, None)
    assert b"geo" not in (pq.read_schema(made.path).metadata or {})


def test_a_name_that_is_no_patchs_is_an_error_row(tmp_path: Path, lists: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text(f"{ben.SUMMER}\nS1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48\n")
    with pytest.raises(TooManyFailedError, match="not the name of a BigEarthNet-S2 patch"):
        prepare_bigearthnet(path, out=tmp_path / "m.parquet", lists=lists)
    assert len(ben.rows_of(tmp_path / "m.parquet")) == 1


def test_a_listed_patch_without_labels_in_the_metadata_that_are_named_is_an_error_row(
    tmp_path: Path, lists: Path
) -> None:
    path, old = tmp_path / "names.txt", write_old(tmp_path / "old.parquet")
    path.write_text(f"{ben.SUMMER}\n{FIVE}\n")
    with pytest.raises(TooManyFailedError, match=r"old\.parquet names no such patch"):
        prepare_bigearthnet(path, out=tmp_path / "m.parquet", lists=lists, metadata=[old])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not a readable list"),
        ("a,b\n1,2\n", "no column of patches' names; call it one of name"),
        (f"{ben.SUMMER}\n{ben.SUMMER}\n", f"{ben.SUMMER} is there twice; leave"),
        ("name\n", "lists no patch"),
    ],
)
def test_lists_that_are_none_are_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=told):
        prepare_bigearthnet(path, out=tmp_path / "m.parquet", no_lists=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"labels": [["Pastures"], ["Fields"]]}, "'Fields' is none of BigEarthNet's 43"),
        ({"name": [ben.SUMMER, ben.SUMMER]}, "comes more than once"),
        ({"name": [ben.SUMMER, None]}, "a row has no name"),
        ({"snow": ["perhaps", "not"]}, "damaged or of another kind"),
    ],
)
def test_older_metadata_of_another_kind_are_refused(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(LabelsError, match=rf"old\.parquet: .*{told}"):
        read_metadata([write_old(tmp_path / "old.parquet", **change)])


def test_files_that_are_no_metadata_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no Parquet")
    with pytest.raises(LabelsError, match=r"a\.parquet: not a Parquet file of patches"):
        read_metadata([tmp_path / "a.parquet"])
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "b.parquet")
    with pytest.raises(LabelsError, match="no column `name` or `patch_id`"):
        read_metadata([tmp_path / "b.parquet"])
    without_crs = pq.read_table(write_old(tmp_path / "c.parquet")).replace_schema_metadata(None)
    pq.write_table(without_crs, tmp_path / "c.parquet")
    with pytest.raises(LabelsError, match="nothing says in which CRS"):
        read_metadata([tmp_path / "c.parquet"], geometry=True)
