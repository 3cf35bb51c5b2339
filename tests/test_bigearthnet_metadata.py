"""`prepare bigearthnet`: what a patch's JSON, its bands, the lists and v2's metadata become."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bigearthnet as ben
import duckdb
import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from rasterio.warp import transform_bounds

from tilezoo.bigearthnet.labels import season, to_19
from tilezoo.bigearthnet.metadata import prepare_bigearthnet
from tilezoo.bigearthnet.rows import SCHEMA
from tilezoo.errors import LabelsError, OptionError, SourceError, TooManyFailedError
from tilezoo.geo import footprint, footprints_of_boxes
from tilezoo.labels import read_labels
from tilezoo.table import ERROR_SCHEMA


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ben.unpack_real(tmp_path_factory.mktemp("v1"))


@pytest.fixture(scope="module")
def made(patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Metadata of the six real patches, with the packaged lists, from a folder above them."""
    out = tmp_path_factory.mktemp("made") / "deep" / "metadata.parquet"
    result = prepare_bigearthnet(patches, out=out)
    assert (result.rows, result.failed, result.recommended, result.snow) == (6, 0, 5, 1)
    return out


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    return ben.write_lists(tmp_path / "lists", train=[ben.SUMMER, ben.FALL], snow=[ben.SNOWY])


def errors_of(out: Path) -> list[dict[str, Any]]:
    table = pq.read_table(out.with_name(f"{out.stem}.errors.parquet"))
    assert table.schema == ERROR_SCHEMA
    return list(table.to_pylist())


def own_json(patches: Path, name: str) -> dict[str, Any]:
    (path,) = patches.rglob(f"{name}_labels_metadata.json")
    return dict(json.loads(path.read_text()))


def test_the_six_patches_have_their_official_splits_countries_seasons_and_flags(made: Path) -> None:
    rows = ben.rows_of(made)
    assert [row["name"] for row in rows] == sorted(ben.SPLITS)
    assert {row["name"]: row["original_split"] for row in rows} == ben.SPLITS
    assert [row["name"] for row in rows if row["snow"]] == [ben.SNOWY]
    assert [row["name"] for row in rows if not row["recommended"]] == [ben.SNOWY]
    assert {row["cloud_or_shadow"] for row in rows} == {False}
    places = [(row["country"], row["season"]) for row in rows]
    assert places == [
        ("Austria", "Summer"),
        ("Ireland", "Summer"),
        ("Ireland", "Summer"),
        ("Portugal", "Winter"),
        ("Finland", "Fall"),
        ("Finland", "Winter"),
    ]


def test_what_their_json_says_stands_in_the_rows(patches: Path, made: Path) -> None:
    for row in ben.rows_of(made):
        stated = own_json(patches, row["name"])
        for key in ("labels", "acquisition_date", "tile_source"):
            assert row[key] == stated[key]
        moment = datetime.fromisoformat(stated["acquisition_date"]).replace(tzinfo=UTC)
        assert row["datetime"] == moment
        assert row["season"] == season(moment)
        assert row["new_labels"] == to_19(stated["labels"])


def test_their_footprints_are_where_rasterio_finds_them(patches: Path, made: Path) -> None:
    for row in ben.rows_of(made):
        (band,) = patches.rglob(f"{row['name']}_B04.tif")
        with rasterio.open(band) as file:
            expected = transform_bounds(file.crs, "OGC:CRS84", *file.bounds)
            same = footprint(file.crs.wkt, file.transform, file.width, file.height)
        assert list(row["bbox"].values()) == pytest.approx(expected, abs=1e-7)
        assert list(row["bbox"].values()) == list(shapely.from_wkb(row["geometry"]).bounds)
        assert same is not None
        assert shapely.equals_exact(
            shapely.from_wkb(row["geometry"]), shapely.from_wkb(same.wkb), 1e-9
        )


def test_many_boxes_at_once_lie_where_each_alone_does() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform((200_000, 4_000_000), (800_000, 7_500_000), (50, 2))
    polygons = footprints_of_boxes(ben.UTM, np.hstack([corners, corners + 1200]))
    for (west, south), polygon in zip(corners, polygons, strict=True):
        grid = rasterio.transform.from_origin(west, south + 1200, 10, 10)
        alone = footprint(ben.UTM, grid, 120, 120)
        assert alone is not None
        assert polygon.hausdorff_distance(shapely.from_wkb(alone.wkb)) < 3e-6  # 0.3 m
    assert footprints_of_boxes("no CRS", np.zeros((2, 4))).tolist() == [None, None]
    assert footprints_of_boxes(ben.UTM, np.full((1, 4), 1e300)).tolist() == [None]


def test_geopandas_duckdb_and_pyarrow_open_it(made: Path) -> None:
    frame = geopandas.read_parquet(made)
    assert frame.crs == "OGC:CRS84"
    assert frame.geometry.is_valid.all()
    inside = geopandas.read_parquet(made, bbox=(13, 48, 14, 49))  # by the column `bbox`
    assert inside["name"].tolist() == [ben.SUMMER]
    query = f"select name, new_labels from '{made}' where original_split = 'test'"
    assert duckdb.sql(query).fetchall() == [
        (ben.SUMMER, ben.row_of(made, ben.SUMMER)["new_labels"])
    ]
    assert pq.read_schema(made).remove_metadata().equals(SCHEMA)
    geo = json.loads(pq.read_schema(made).metadata[b"geo"])
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]
    assert geo["columns"]["geometry"]["bbox"] == pytest.approx(frame.total_bounds.tolist())


def test_it_is_a_file_of_labels_for_probes_and_packs(made: Path) -> None:
    labels = read_labels(made)
    assert labels["id"].to_pylist() == sorted(ben.SPLITS)
    assert labels["split"].to_pylist() == [ben.SPLITS[name] for name in sorted(ben.SPLITS)]
    assert labels["labels"].to_pylist() == [row["new_labels"] for row in ben.rows_of(made)]


def test_a_run_leaves_nothing_beside_its_file(made: Path) -> None:
    assert [path.name for path in made.parent.iterdir()] == ["metadata.parquet"]


def test_row_groups_and_order_do_not_depend_on_how_the_patches_lie(
    tmp_path: Path, lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"S2A_MSIL2A_20170613T101031_{i}_{j}" for i in range(5) for j in range(4)]
    for number, name in enumerate(names):
        x = 404_400 + 1200 * number
        box = {"ulx": x, "uly": 5342400, "lrx": x + 1200, "lry": 5341200}
        ben.write_json(tmp_path / f"BigEarthNet-v1.0/part{number % 3}", name, coordinates=box)
    whole = prepare_bigearthnet(tmp_path, out=tmp_path / "whole.parquet", lists=lists, workers=1)
    monkeypatch.setattr("tilezoo.bigearthnet.metadata._ROWS", 7)
    monkeypatch.setattr("tilezoo.bigearthnet.metadata._PER_JOB", 2)
    prepare_bigearthnet(tmp_path, out=tmp_path / "cut.parquet", lists=lists, workers=3)
    assert pq.read_metadata(tmp_path / "cut.parquet").num_row_groups == 3
    cut, plain = pq.read_table(tmp_path / "cut.parquet"), pq.read_table(whole.path)
    assert cut.equals(plain, check_metadata=True)  # the key `geo` is of all row groups
    assert cut["name"].to_pylist() == sorted(names)
    assert whole.unlisted == 20


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an object"),
        ({"labels": None, "projection": None}, "lacks labels, projection"),
        ({"labels": "Pastures"}, "labels is no list"),
        ({"labels": ["Pastures", "Peat"]}, "'Peat' is none of BigEarthNet's 43 labels"),
        ({"labels": [["Pastures"]]}, "is none of BigEarthNet's 43 labels"),
        ({"coordinates": {"ulx": 1}}, "coordinates are no box"),
        ({"coordinates": {"ulx": 9, "uly": 9, "lrx": 8, "lry": 8}}, "coordinates are no box"),
        ({"coordinates": {"ulx": 0, "uly": 9e9, "lrx": 1, "lry": 0}}, "coordinates are no box"),
        ({"coordinates": {"ulx": 1e9, "uly": 9, "lrx": 1e9 + 9, "lry": 0}}, "outside their proj"),
        ({"coordinates": {"ulx": 0, "uly": float("nan"), "lrx": 1, "lry": 0}}, "are no box"),
        ({"projection": "PROJCS[nothing]"}, "the projection is no CRS"),
        ({"acquisition_date": "yesterday"}, "'yesterday' is no date"),
        ({"acquisition_date": "2018-06-13 10:10:31"}, "the patch's name of 2017-06-13"),
    ],
)
def test_a_patch_with_wrong_json_is_an_error_row_and_the_others_are_there(
    text: str | dict[str, Any], told: str, tmp_path: Path, lists: Path
) -> None:
    root, out = tmp_path / "root", tmp_path / "metadata.parquet"
    ben.write_json(root, ben.FALL, acquisition_date="2017-09-24 09:30:20")
    if isinstance(text, str):
        ben.write_text(root, ben.SUMMER, text)
    else:
        ben.write_json(root, ben.SUMMER, **text)
    with pytest.raises(TooManyFailedError, match=r"1 of 2 patches failed.*metadata\.errors\.parq"):
        prepare_bigearthnet(root, out=out, lists=lists)
    assert [row["name"] for row in ben.rows_of(out)] == [ben.FALL]
    (error,) = errors_of(out)
    assert error["source_uri"] == str(root / ben.SUMMER)
    assert (error["kind"], error["pixel_bbox"]) == ("unreadable", None)
    assert told in error["message"]


def test_failures_may_be_allowed_and_are_forgotten_once_mended(tmp_path: Path, lists: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "metadata.parquet"
    ben.write_text(root, ben.SUMMER, "")
    allowed = prepare_bigearthnet(root, out=out, lists=lists, max_errors=1)
    assert (allowed.rows, allowed.failed) == (0, 1)
    assert allowed.errors == tmp_path / "metadata.errors.parquet"
    assert len(errors_of(out)) == 1
    ben.write_json(root, ben.SUMMER)
    assert prepare_bigearthnet(root, out=out, lists=lists).errors is None
    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == ["metadata.parquet"]


def test_bands_without_json_need_labels_from_elsewhere(tmp_path: Path, lists: Path) -> None:
    root, out = tmp_path / "data_rgb", tmp_path / "metadata.parquet"
    ben.write_bands(root, ben.SUMMER)
    ben.write_json(root, ben.FALL, acquisition_date="2017-09-24 09:30:20")
    with pytest.raises(TooManyFailedError, match="1 of 2"):
        prepare_bigearthnet(root, out=out, lists=lists)
    (error,) = errors_of(out)
    assert error["kind"] == "missing"
    assert f"no {ben.SUMMER}_labels_metadata.json; name a Parquet file" in error["message"]


def test_bands_without_json_take_labels_from_older_metadata_and_places_from_a_band(
    tmp_path: Path, lists: Path
) -> None:
    ben.write_json(tmp_path / "v1.0", ben.SUMMER)
    older = tmp_path / "older.parquet"
    prepare_bigearthnet(tmp_path / "v1.0", out=older, lists=lists)
    for band in ("B02", "B03", "B04"):
        root = tmp_path / f"only_{band}"
        ben.write_bands(root, ben.SUMMER, [band])
        out = tmp_path / f"{band}.parquet"
        prepare_bigearthnet(root, out=out, lists=lists, metadata=[older])
        (before,), (after,) = ben.rows_of(older), ben.rows_of(out)
        assert after["bbox"] == pytest.approx(before["bbox"], abs=1e-9)
        for column in set(SCHEMA.names) - {"bbox", "geometry"}:
            assert after[column] == before[column]


def test_labels_that_two_sources_tell_otherwise_are_an_error(tmp_path: Path, lists: Path) -> None:
    older = tmp_path / "older.parquet"
    ben.write_json(tmp_path / "a", ben.SUMMER, labels=["Peatbogs", "Pastures"])
    prepare_bigearthnet(tmp_path / "a", out=older, lists=lists)
    ben.write_json(tmp_path / "b", ben.SUMMER, labels=["Peatbogs", "Airports"])
    out = tmp_path / "new.parquet"
    with pytest.raises(TooManyFailedError):
        prepare_bigearthnet(tmp_path / "b", out=out, lists=lists, metadata=[older])
    assert "differ in labels: Airports, Pastures" in errors_of(out)[0]["message"]
    prepare_bigearthnet(tmp_path / "a", out=out, lists=lists, metadata=[older])


@pytest.mark.parametrize("broken", ["nothing", "no_place", "no_tiff"])
def test_a_patch_without_json_and_without_a_placed_band_is_an_error(
    broken: str, tmp_path: Path, lists: Path
) -> None:
    root, out = tmp_path / "root", tmp_path / "metadata.parquet"
    (root / ben.SUMMER).mkdir(parents=True)
    if broken == "no_tiff":
        (root / ben.SUMMER / f"{ben.SUMMER}_B04.tif").write_text("no TIFF")
    if broken == "no_place":
        ben.making.write_tiff(
            root / ben.SUMMER / f"{ben.SUMMER}_B04.tif", ben.making.texture(0, bands=1), crs=None
        )
    with pytest.raises(TooManyFailedError):
        prepare_bigearthnet(root, out=out, lists=lists)
    (error,) = errors_of(out)
    assert error["kind"] == ("missing" if broken == "nothing" else "unreadable")
    expected = {
        "nothing": "no labels_metadata.json and no band B04, B03, B02",
        "no_place": "_B04.tif is not georeferenced",
        "no_tiff": "not a TIFF",
    }
    assert expected[broken] in error["message"]


def test_a_patch_may_be_named_itself(tmp_path: Path, lists: Path) -> None:
    folder = ben.write_json(tmp_path, ben.SUMMER)
    made = prepare_bigearthnet(folder, out=tmp_path / "m.parquet", lists=lists)
    assert ben.rows_of(made.path)[0]["name"] == ben.SUMMER


def test_without_lists_splits_and_flags_stay_unknown(tmp_path: Path) -> None:
    ben.write_json(tmp_path / "root", ben.SUMMER)
    made = prepare_bigearthnet(tmp_path / "root", out=tmp_path / "m.parquet", no_lists=True)
    (row,) = ben.rows_of(made.path)
    for column in ("original_split", "country", "snow", "cloud_or_shadow", "recommended"):
        assert row[column] is None
    assert row["season"] == "Summer"
    with pytest.raises(OptionError, match="exclude each other"):
        prepare_bigearthnet(tmp_path, out=tmp_path / "m.parquet", no_lists=True, lists=tmp_path)


def test_a_patch_with_labels_that_the_19_leave_out_is_not_recommended(
    tmp_path: Path, lists: Path
) -> None:
    ben.write_json(tmp_path / "root", ben.SUMMER, labels=["Airports", "Port areas"])
    ben.write_json(
        tmp_path / "root", ben.FALL, labels=[], acquisition_date="2017-09-24T09:30:20.5+00:00"
    )
    made = prepare_bigearthnet(tmp_path / "root", out=tmp_path / "m.parquet", lists=lists)
    assert made.recommended == 0
    for row in ben.rows_of(made.path):
        assert (row["new_labels"], row["recommended"], row["original_split"]) == ([], False, None)
    assert ben.row_of(made.path, ben.FALL)["acquisition_date"] == "2017-09-24 09:30:20"


def test_links_that_lead_back_are_not_followed_for_ever(tmp_path: Path, lists: Path) -> None:
    root = tmp_path / "root"
    ben.write_json(root / "deep", ben.SUMMER)
    (root / "deep" / "back").symlink_to(root, target_is_directory=True)
    assert prepare_bigearthnet(root, out=tmp_path / "m.parquet", lists=lists).rows == 1


def test_a_patch_that_lies_there_twice_is_refused(tmp_path: Path, lists: Path) -> None:
    ben.write_json(tmp_path / "root/a", ben.SUMMER)
    ben.write_json(tmp_path / "root/b", ben.SUMMER)
    with pytest.raises(SourceError, match=rf"{ben.SUMMER} is there twice: .*/a/.* and .*/b/"):
        prepare_bigearthnet(tmp_path / "root", out=tmp_path / "m.parquet", lists=lists)


def test_roots_without_patches_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    with pytest.raises(SourceError, match=r"no patch of BigEarthNet-S2 .* S2A_MSIL2A_"):
        prepare_bigearthnet(tmp_path, out=out)
    with pytest.raises(SourceError, match="no such folder"):
        prepare_bigearthnet(tmp_path / "nowhere", out=out)
    assert not out.exists()


def test_what_is_read_from_is_not_overwritten(tmp_path: Path, lists: Path) -> None:
    ben.write_json(tmp_path / "root", ben.SUMMER)
    older = prepare_bigearthnet(tmp_path / "root", out=tmp_path / "m.parquet", lists=lists).path
    with pytest.raises(OptionError, match="would overwrite"):
        prepare_bigearthnet(tmp_path / "root", out=older, metadata=[older], lists=lists)
    with pytest.raises(OptionError, match="is a folder; name a file"):
        prepare_bigearthnet(tmp_path / "root", out=tmp_path, lists=lists)
    (tmp_path / "file").write_text("")
    with pytest.raises(LabelsError, match="cannot be written"):
        prepare_bigearthnet(tmp_path / "root", out=tmp_path / "file" / "m.parquet", lists=lists)
