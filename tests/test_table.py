"""The table on disk: open to every Parquet reader, and a valid GeoParquet."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import geopandas as gpd
import making
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds

from tilezoo.embed import embed
from tilezoo.errors import TableError
from tilezoo.table import open_table

NAME = "S2A_MSIL2A_20170613T101031_tile"


@pytest.fixture(scope="module")
def table(vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six georeferenced tiles in two parts; one across the antimeridian, one on a pole."""
    folder = tmp_path_factory.mktemp("tiles")
    places = [
        ("EPSG:32633", from_origin(500_000, 4_500_000, 10, 10)),
        ("EPSG:32733", from_origin(500_000, 8_500_000, 10, 10)),
        ("EPSG:4326", from_origin(-3.5, 50.5, 0.001, 0.001)),
        ("EPSG:32701", from_origin(178_000, 8_000_000, 100, 100)),
        ("EPSG:3413", from_origin(-40_000, 40_000, 1000, 1000)),
        ("EPSG:3857", from_origin(1_000_000, 1_000_000, 30, 30)),
    ]
    for number, (crs, transform) in enumerate(places):
        path = folder / f"{NAME}_{number}.tif"
        pixels = making.texture(number)
        making.write_tiff(path, pixels, crs=crs, transform=transform, photometric="RGB")
    out = tmp_path_factory.mktemp("tables") / "table"
    embed(folder, out=out, model=vit, device="cpu", precision="fp32", part_rows=4)
    return out


@pytest.fixture(scope="module")
def plain_table(vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three PNGs without a place."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        making.as_pillow(making.texture(number)).save(folder / f"{number}.png")
    out = tmp_path_factory.mktemp("tables") / "plain"
    embed(folder, out=out, model=vit, device="cpu", precision="fp32")
    return out


def parts(table: Path) -> list[Path]:
    return [table / part.file for part in open_table(table).manifest.parts]


def key(part: Path, name: str) -> Any:
    return json.loads(pq.read_schema(part).metadata[name.encode()])


def test_columns_are_the_ones_of_the_contract(table: Path) -> None:
    found = {field.name: str(field.type) for field in pq.read_schema(parts(table)[0])}
    box = "struct<xmin: double, ymin: double, xmax: double, ymax: double>"
    assert found == {
        "id": "string",
        "embedding": "fixed_size_list<element: float>[192]",
        "geometry": "binary",
        "bbox": box,
        "datetime": "timestamp[us, tz=UTC]",
        "source_uri": "string",
        "pixel_bbox": "fixed_size_list<element: int32>[4]",
        "crs": "string",
        "gsd_m": "float",
        "nodata_fraction": "float",
    }


def test_parts_are_compressed_with_zstandard(table: Path) -> None:
    metadata = pq.read_metadata(parts(table)[0])
    column = metadata.row_group(0).column(1)
    assert column.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in column.encodings


def test_pyarrow_polars_duckdb_and_geopandas_read_the_same_rows(table: Path) -> None:
    vectors = making.vectors_of(table)
    glob = f"{table}/part-*.parquet"
    framed = pl.read_parquet(glob)
    assert framed["id"].to_list() == [f"{NAME}_{i}.tif" for i in range(6)]
    assert np.array_equal(np.array(framed["embedding"].to_list(), np.float32), vectors)
    with duckdb.connect() as database:
        query = f"select id, embedding, datetime at time zone 'UTC' from '{glob}' order by id"
        found = database.sql(query).fetchall()
    assert [row[0] for row in found] == framed["id"].to_list()
    assert np.array_equal(np.array([row[1] for row in found], np.float32), vectors)
    assert found[0][2] == datetime(2017, 6, 13, 10, 10, 31)  # noqa: DTZ001  (DuckDB's, in UTC)
    geo = gpd.pd.concat([gpd.read_parquet(part) for part in parts(table)])
    assert geo.crs == "OGC:CRS84"
    assert geo["id"].tolist() == framed["id"].to_list()
    assert geo.geometry.is_valid.all()


def test_geopandas_finds_tiles_by_the_bbox_covering(table: Path) -> None:
    found = gpd.read_parquet(parts(table)[0], bbox=(-4, 50, -3, 51))
    assert found["id"].tolist() == [f"{NAME}_2.tif"]


def check_geoparquet(part: Path) -> None:
    """Hold a file to GeoParquet 1.1's schema.json and the rules of its text."""
    schema, geo = pq.read_schema(part), key(part, "geo")
    assert geo["version"] == "1.1.0"
    assert set(geo) == {"version", "primary_column", "columns"}
    assert set(geo["columns"]) == {geo["primary_column"]} == {"geometry"}
    column = geo["columns"]["geometry"]
    allowed = {"encoding", "geometry_types", "crs", "edges", "orientation", "bbox", "epoch"}
    assert set(column) <= allowed | {"covering"}
    assert column["encoding"] == "WKB"
    assert schema.field("geometry").type in {pa.binary(), pa.large_binary()}
    assert len(set(column["geometry_types"])) == len(column["geometry_types"])
    table = pq.read_table(part)
    shapes = shapely.from_wkb(table["geometry"].drop_null().to_numpy().astype(object))
    assert {shape.geom_type for shape in shapes} == set(column["geometry_types"])
    assert shapely.is_valid(shapes).all()
    assert column["bbox"] == pytest.approx(shapely.total_bounds(shapes).tolist())
    xmin, ymin, xmax, ymax = column["bbox"]
    assert -180 <= xmin <= xmax <= 180
    assert -90 <= ymin <= ymax <= 90
    covering = column["covering"]["bbox"]
    sides = {"xmin", "ymin", "xmax", "ymax"}
    assert set(covering) == sides
    struct = schema.field("bbox").type
    assert {struct.field(side).type for side in sides} <= {pa.float32(), pa.float64()}
    for side, (name, field) in covering.items():
        assert (name, field) == ("bbox", side)
    for shape, box in zip(shapes, table["bbox"].drop_null().to_pylist(), strict=True):
        assert tuple(box[side] for side in ("xmin", "ymin", "xmax", "ymax")) == shape.bounds


def test_every_part_is_a_valid_geoparquet(table: Path) -> None:
    for part in parts(table):
        check_geoparquet(part)


def test_polygons_that_the_antimeridian_cuts_are_multipolygons(table: Path) -> None:
    assert key(parts(table)[0], "geo")["columns"]["geometry"]["geometry_types"] == [
        "MultiPolygon",
        "Polygon",
    ]


def test_footprints_land_where_rasterio_puts_the_tiles(table: Path) -> None:
    for row in making.rows_of(table).to_pylist():
        with rasterio.open(row["source_uri"]) as file:
            expected = transform_bounds(file.crs, "OGC:CRS84", *file.bounds)
        assert row["crs"] == file.crs.to_string()
        if expected[2] < expected[0] or expected[3] == 90:  # rasterio's way with the antimeridian
            assert (row["bbox"]["xmin"], row["bbox"]["xmax"]) == (-180, 180)
            continue
        tolerance = 1e-3 * math.hypot(expected[2] - expected[0], expected[3] - expected[1])
        assert list(row["bbox"].values()) == pytest.approx(expected, abs=tolerance)


def test_pictures_without_a_place_give_a_plain_parquet_without_geo_key(plain_table: Path) -> None:
    (part,) = parts(plain_table)
    assert b"geo" not in pq.read_schema(part).metadata
    rows = making.rows_of(plain_table).to_pylist()
    places = {(row["geometry"], row["bbox"], row["crs"], row["gsd_m"]) for row in rows}
    assert places == {(None, None, None, None)}
    assert pl.read_parquet(part).height == 3


def test_a_part_without_geometries_in_a_table_with_them_is_still_geoparquet(
    vit: Path, tmp_path: Path
) -> None:
    making.write_tiles(tmp_path / "tiles/a", 3)
    making.as_pillow(making.texture(0)).save(tmp_path / "tiles/b.png")
    out = tmp_path / "table"
    embed(tmp_path / "tiles", out=out, model=vit, device="cpu", precision="fp32", part_rows=3)
    first, last = parts(out)
    check_geoparquet(first)
    column = key(last, "geo")["columns"]["geometry"]
    assert (column["geometry_types"], "bbox" in column) == ([], False)
    assert gpd.read_parquet(last)["id"].tolist() == ["b.png"]


def test_the_file_tells_its_space_and_its_vectors(table: Path) -> None:
    own, emb = key(parts(table)[0], "tilezoo"), key(parts(table)[0], "emb")
    opened = open_table(table)
    assert own["space"]["fingerprint"] == opened.space.fingerprint
    assert own["precision"] == "fp32"
    assert set(own["versions"]) >= {"tilezoo", "torch", "timm", "rasterio"}
    assert (emb["dimensions"], emb["data_type"]) == (192, "float32")
    assert emb["model"]["weights_sha256"] == opened.space.weights_sha256


def test_half_precision_vectors_are_stored_and_read_back(vit: Path, tmp_path: Path) -> None:
    making.write_tiles(tmp_path / "tiles", 3)
    how = {"model": vit, "device": "cpu", "precision": "fp32"}
    embed(tmp_path / "tiles", out=tmp_path / "full", **how)
    embed(tmp_path / "tiles", out=tmp_path / "half", dtype="float16", **how)
    (part,) = parts(tmp_path / "half")
    assert str(pq.read_schema(part).field("embedding").type) == (
        "fixed_size_list<element: halffloat>[192]"
    )
    full, half = making.vectors_of(tmp_path / "full"), making.vectors_of(tmp_path / "half")
    assert half.dtype == np.float32
    assert np.allclose(half, full, rtol=1e-3, atol=1e-4)
    with duckdb.connect() as database:
        assert len(database.sql(f"select * from '{part}'").fetchall()) == 3
    assert pl.read_parquet(part).height == gpd.read_parquet(part).shape[0] == 3


def test_rows_are_taken_by_number_and_found_by_id(table: Path) -> None:
    opened = open_table(table)
    assert (opened.row_count, opened.dimension) == (6, 192)
    assert [row["id"] for row in opened.take([5, 0, 4])] == [f"{NAME}_{i}.tif" for i in (5, 0, 4)]
    assert opened.row_of(f"{NAME}_4.tif") == 4
    assert opened.row_of("nowhere.tif") is None
    assert opened.column("id").to_pylist() == [f"{NAME}_{i}.tif" for i in range(6)]


def test_a_tables_fingerprint_changes_with_its_rows(table: Path, plain_table: Path) -> None:
    assert open_table(table).fingerprint == open_table(table).fingerprint
    assert open_table(table).fingerprint != open_table(plain_table).fingerprint


def copied(table: Path, to: Path) -> Path:
    to.mkdir()
    for file in table.glob("*.*"):
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_no_table_an_unfinished_one_and_a_damaged_one_are_told_apart(
    table: Path, tmp_path: Path
) -> None:
    with pytest.raises(TableError, match=r"no table here; make one with `tilezoo embed"):
        open_table(tmp_path)
    copy = copied(table, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    with pytest.raises(TableError, match="the table is unfinished; run its `tilezoo embed` again"):
        open_table(copy)
    (copy / "manifest.json").write_text(json.dumps(manifest | {"tilezoo_table": 99}))
    with pytest.raises(TableError, match="version 99 of the format"):
        open_table(copy)
    (copy / "manifest.json").write_text("{}")
    with pytest.raises(TableError, match="not a table's manifest"):
        open_table(copy)


def test_a_missing_or_damaged_part_is_told(table: Path, tmp_path: Path) -> None:
    copy = copied(table, tmp_path / "copy")
    part = copy / "part-00001.parquet"
    (copy / "part-00000.parquet").replace(part)
    with pytest.raises(TableError, match=r"part-00000.parquet: missing or damaged"):
        open_table(copy)
    (copy / "part-00000.parquet").write_bytes(part.read_bytes())
    with pytest.raises(TableError, match=r"part-00001.parquet: 4 rows, the manifest says 2"):
        open_table(copy)
    part.write_bytes(part.read_bytes()[:500])
    with pytest.raises(TableError, match=r"part-00001.parquet: missing or damaged"):
        open_table(copy)


@pytest.mark.parametrize("name", ["../part-00000.parquet", "/part-00000.parquet", "errors.parquet"])
def test_a_manifest_leads_to_no_file_but_its_tables_parts(table, tmp_path, name):
    stated = json.loads((table / "manifest.json").read_text())
    stated["parts"][0]["file"] = name
    (tmp_path / "manifest.json").write_text(json.dumps(stated))
    with pytest.raises(TableError, match="is no part's name"):
        open_table(tmp_path)
