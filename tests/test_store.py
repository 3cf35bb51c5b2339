"""The table being written: whatever was cut short, the same rows in the end."""

import shutil
from dataclasses import replace
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
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from tilezoo.embed.store import Places, TableSegment, lock_table, open_writer
from tilezoo.errors import TableError
from tilezoo.geo import Footprint, footprint
from tilezoo.sources import Source
from tilezoo.space import Space
from tilezoo.table import (
    Failure,
    NamedModel,
    TableManifest,
    TableRequest,
    open_table,
    rows,
    schema,
)
from tilezoo.tiles import Tile, TileRef

TILES, PART_ROWS, SEGMENT_TILES, DIMENSION = 23, 8, 3, 4
FAILING = {0, 5, 6, 7, 22}
SPACE = Space(
    weights_sha256="ab" * 32,
    architecture="vit_tiny_patch16_224",
    contract=making.contract(),
    pooling="cls",
)


def manifest(**changes: Any) -> TableManifest:
    stated = TableManifest(
        tiles=TILES,
        dimension=DIMENSION,
        space=SPACE.state,
        model=NamedModel(name="a", source="/a"),
        request=TableRequest(batch_size=3),
        precision="fp32",
        device="cpu",
        georeferenced=False,
        tiles_sha256="00",
        part_rows=PART_ROWS,
        segment_tiles=SEGMENT_TILES,
    )
    return replace(stated, **changes)


def segments_of(path: Path) -> list[TableSegment]:
    return list(open_writer(path, manifest(), overwrite=False).missing())


def tile(number: int, place: Footprint | None = None) -> Tile:
    return Tile(
        id=f"{number:03d}",
        pixels=np.zeros((3, 4, 4), np.uint8),
        source_uri=f"/{number:03d}",
        pixel_bbox=(0, 0, 4, 4),
        nodata_fraction=0.0,
        crs="EPSG:4326" if place else None,
        footprint=place,
        datetime=None,
    )


def made(segment: TableSegment) -> tuple[pa.Table, list[Failure]]:
    """What a run would make of a segment's tiles."""
    numbers = range(segment.first, segment.last)
    good = [number for number in numbers if number not in FAILING]
    vectors = np.array([[n] * DIMENSION for n in good], np.float32).reshape(-1, DIMENSION)
    refs = [
        TileRef(source=Source(id=f"{n:03d}", path=f"/{n:03d}")) for n in numbers if n in FAILING
    ]
    failures = [Failure(ref=ref, kind="unreadable", message="broken") for ref in refs]
    batches = [rows([tile(n) for n in good], vectors)] if good else []
    return pa.Table.from_batches(batches, schema=schema(DIMENSION, "float32")), failures


def check_finished(path: Path) -> None:
    expected = [f"{n:03d}" for n in range(TILES) if n not in FAILING]
    assert making.rows_of(path)["id"].to_pylist() == expected
    assert making.vectors_of(path)[:, 0].tolist() == [float(name) for name in expected]
    told = [row["source_uri"] for row in making.errors_of(path)]
    assert told == [f"/{n:03d}" for n in sorted(FAILING)]
    assert open_table(path).manifest.failed == len(FAILING)
    left = {entry.name for entry in path.iterdir()}
    parts = {f"part-0000{i}.parquet" for i in range(3)}
    assert left == parts | {"manifest.json", "errors.parquet"}


def test_segments_cover_all_tiles_and_stay_within_their_parts(tmp_path: Path) -> None:
    segments = segments_of(tmp_path)
    covered = [n for s in segments for n in range(s.first, s.last)]
    assert covered == list(range(TILES))
    assert all(s.first // PART_ROWS == (s.last - 1) // PART_ROWS == s.part for s in segments)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(9)), st.integers(0, 9), st.integers(0, 9))
def test_rows_are_the_same_in_whatever_order_and_over_however_many_runs_they_are_made(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], first: int, second: int
) -> None:
    path = tmp_path_factory.mktemp("table")
    segments = segments_of(path)
    assert len(segments) == len(order) == 9
    for begin, end in ((0, first), (first, max(first, second))):
        store = open_writer(path, manifest(), overwrite=False)
        store.begin()
        for place in order[begin:end]:
            store.add(segments[place], *made(segments[place]))
    store = open_writer(path, manifest(), overwrite=False)
    store.begin()
    assert store.done_tiles() == TILES - sum(s.last - s.first for s in store.missing())
    for segment in list(store.missing()):
        store.add(segment, *made(segment))
    store.finish()
    check_finished(path)


def test_a_kill_between_any_two_file_operations_loses_nothing(tmp_path: Path) -> None:
    """Take every state the folder goes through as the one that a kill left behind."""
    path, states = tmp_path / "t", tmp_path / "states"
    path.mkdir()
    store = open_writer(path, manifest(), overwrite=False)
    store.begin()
    kept = []
    for segment in list(store.missing()):
        table, failures = made(segment)
        kept.append(shutil.copytree(path, states / f"{len(kept)}"))
        store.add(segment, table, failures)
        # as if the kill came after the part was there and before its segments were gone
        with_segments = shutil.copytree(path, states / f"{len(kept)}")
        shutil.copytree(kept[-1] / ".segments", with_segments / ".segments", dirs_exist_ok=True)
        (with_segments / f".part-00000.parquet.{len(kept)}.tmp").write_bytes(b"half")
        kept.append(with_segments)
    for state in kept:
        again = open_writer(Path(state), manifest(), overwrite=False)
        again.begin()
        for segment in list(again.missing()):
            again.add(segment, *made(segment))
        again.finish()
        check_finished(Path(state))


def test_failures_of_an_earlier_try_do_not_outlive_it(tmp_path: Path) -> None:
    store = open_writer(tmp_path, manifest(tiles=3), overwrite=False)
    store.begin()
    (segment,) = store.missing()
    store.add(segment, *made(segment))
    (tmp_path / "part-00000.parquet").unlink()  # and its segments are gone
    good = rows([tile(n) for n in range(3)], np.zeros((3, DIMENSION), np.float32))
    store.add(segment, pa.Table.from_batches([good]), [])
    store.finish()
    assert making.errors_of(tmp_path) == []


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(TableError, match=r"holds 'photo.jpg' and no table; choose another -o"):
            open_writer(tmp_path, manifest(), overwrite=overwrite)
    (tmp_path / "photo.jpg").rename(tmp_path / "part-00000-4f5a.snappy.parquet")  # Spark's
    (tmp_path / "index").mkdir()
    (tmp_path / "index/mine.txt").write_text("mine")
    (tmp_path / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(TableError, match="and no table; choose another -o"):
        open_writer(tmp_path, manifest(), overwrite=True)
    left = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert left == {"part-00000-4f5a.snappy.parquet", "index/mine.txt", "manifest.json"}


def test_overwriting_removes_a_table_with_its_index_and_nothing_else(tmp_path: Path) -> None:
    store = open_writer(tmp_path, manifest(), overwrite=False)
    store.begin()
    for segment in list(store.missing()):
        store.add(segment, *made(segment))
    store.finish()
    (tmp_path / "index").mkdir()
    (tmp_path / "index/index.faiss").write_bytes(b"")
    (tmp_path / "notes.md").write_text("mine")
    assert open_writer(tmp_path, manifest(), overwrite=True).manifest.complete is False
    assert [file.name for file in tmp_path.iterdir()] == ["notes.md"]


def test_an_overwriting_that_was_cut_short_can_be_done_again(tmp_path: Path) -> None:
    (tmp_path / "part-00000.parquet").write_bytes(b"old")
    with pytest.raises(TableError, match=r"holds 'part-00000.parquet' and no table"):
        open_writer(tmp_path, manifest(), overwrite=False)
    open_writer(tmp_path, manifest(), overwrite=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"request": TableRequest(dtype="float16", batch_size=3)},
            "dtype: 'float32' there, 'float16' now",
        ),
        (
            {"space": replace(SPACE.state, fingerprint="other")},
            r"model: a there, a now \(another space\)",
        ),
        ({"tiles_sha256": "11"}, "tiles: 23 there, 23 now, or files have changed"),
    ],
    ids=str,
)
def test_another_run_on_the_same_folder_is_refused_with_the_fix(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    open_writer(tmp_path, manifest(), overwrite=False).begin()
    with pytest.raises(TableError, match=rf"{message}.*choose another -o, or --overwrite"):
        open_writer(tmp_path, manifest(**changes), overwrite=False)


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    told = pytest.raises(TableError, match="another run is writing this table")
    with lock_table(tmp_path / "t"), told, lock_table(tmp_path / "t"):
        pytest.fail("two writers at once")
    with lock_table(tmp_path / "t"):
        assert (tmp_path / "t").is_dir()


def test_a_table_cannot_be_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(TableError, match="not a folder that can be written"), lock_table(path):
            pytest.fail("locked a file")


def test_a_part_is_put_together_some_megabytes_at_a_time(tmp_path: Path) -> None:
    wide, count, step = 4096, 2000, 100
    stated = manifest(tiles=count, part_rows=count, segment_tiles=step, dimension=wide)
    store = open_writer(tmp_path, stated, overwrite=False)
    store.begin()
    before = pa.default_memory_pool().max_memory()
    for segment in store.missing():
        numbers = range(segment.first, segment.last)
        vectors = np.random.default_rng(segment.first).normal(size=(step, wide)).astype("float32")
        batch = rows([tile(n) for n in numbers], vectors)
        store.add(segment, pa.Table.from_batches([batch]), [])
    store.finish()
    assert pa.default_memory_pool().max_memory() - before < 20 << 20
    assert making.vectors_of(tmp_path).shape == (count, wide)
    (part,) = tmp_path.glob("part-*.parquet")
    metadata = pq.read_metadata(part)
    sizes = [metadata.row_group(i).num_rows * wide * 4 for i in range(metadata.num_row_groups)]
    assert max(sizes) <= 6 << 20
    assert part.stat().st_size > 25 << 20


PLACE = footprint("OGC:CRS84", from_origin(12, 42, 0.01, 0.01), 10, 10)
KINDS = st.sampled_from(["none", "exact", "approximate"])


@settings(max_examples=10, deadline=None)
@given(st.lists(KINDS, min_size=9, max_size=9), st.permutations(range(3)), st.integers(0, 3))
def test_parts_have_one_schema_and_open_in_readers_whatever_is_in_them(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], order: list[int], stopped: int
) -> None:
    path = tmp_path_factory.mktemp("mixed")
    wanted = manifest(tiles=9, part_rows=3, georeferenced=kinds[0] != "none")
    assert PLACE is not None
    places = {"none": None, "exact": PLACE, "approximate": replace(PLACE, approximate=True)}
    tiles = [tile(number, places[kind]) for number, kind in enumerate(kinds)]
    for numbers in (order[:stopped], order[stopped:]):
        writer = open_writer(path, wanted, overwrite=False)
        writer.begin()
        missing = {segment.number + segment.part: segment for segment in writer.missing()}
        for number in numbers:
            segment = missing[number]
            batch = tiles[segment.first : segment.last]
            batches = [rows(batch, np.ones((len(batch), DIMENSION), np.float32))]
            writer.add(segment, pa.Table.from_batches(batches), [])
    writer.finish()
    found = open_table(path).manifest
    files = [path / part.file for part in found.parts]
    schemas = [pq.read_schema(file) for file in files]
    placed = 9 - kinds.count("none")
    assert {b"geo" in schema.metadata for schema in schemas} == {placed > 0}
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert found.georeferenced == (placed > 0)
    assert (found.approximate_places or 0) == kinds.count("approximate")
    assert writer.places == Places(missing=9 - placed, approximate=kinds.count("approximate"))
    assert pl.read_parquet(files)["geometry"].null_count() == 9 - placed
    for listed in (files, files[::-1]):
        query = f"select count(geometry) from read_parquet({[str(file) for file in listed]})"
        assert duckdb.sql(query).fetchall() == [(placed,)]
    if placed:
        assert [len(gpd.read_parquet(file)) for file in files] == [3, 3, 3]
        assert gpd.read_parquet(files).geometry.notna().sum() == placed


def test_a_part_made_before_the_first_place_is_the_same_but_for_its_key(tmp_path: Path) -> None:
    wanted = manifest(tiles=6, part_rows=3)
    writer = open_writer(tmp_path, wanted, overwrite=False)
    writer.begin()
    first, second = writer.missing()
    vectors = np.random.default_rng(0).normal(size=(3, DIMENSION)).astype(np.float32)
    none = pa.Table.from_batches([rows([tile(n) for n in range(3)], vectors)])
    writer.add(first, none, [])
    before = pq.ParquetFile(tmp_path / "part-00000.parquet")
    writer.add(
        second, pa.Table.from_batches([rows([tile(n, PLACE) for n in range(3)], vectors)]), []
    )
    writer.finish()
    after = pq.ParquetFile(tmp_path / "part-00000.parquet")
    assert after.read().equals(before.read())
    ours, theirs = after.metadata.row_group(0), before.metadata.row_group(0)
    for column in range(ours.num_columns):
        assert ours.column(column).encodings == theirs.column(column).encodings
    assert set(after.schema_arrow.metadata) - set(before.schema_arrow.metadata) == {b"geo"}
