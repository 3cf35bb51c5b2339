"""Files that change: what was made of them is made again, all else is kept, and it is told."""

import os
from pathlib import Path
from typing import Any

import making
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_zips import zip_scene

from tilezoo.changes import Marks, mark_source
from tilezoo.embed import embed
from tilezoo.embed.store import open_writer
from tilezoo.errors import TableError, TooManyFailedError
from tilezoo.reading import Reader, TilePlan, make_plan, read_ahead
from tilezoo.sources import discover, source_at
from tilezoo.table import Failure, read_table_manifest
from tilezoo.tiles import Cut

COUNT = 11
OPTIONS: dict[str, Any] = {"batch_size": 2, "part_rows": 4, "device": "cpu", "precision": "fp32"}
MARKS = ".files.npz"


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments a part, where a run has a thousand tiles in each."""
    monkeypatch.setattr("tilezoo.embed.run._SEGMENT_TILES", 2)


def rewrite(folder: Path, number: int, seed: int, *, broken: bool = False) -> None:
    """Write a tile anew, of the same size unless it is broken."""
    path = folder / f"tile_{number:04d}.tif"
    before = path.stat()
    if broken:
        path.write_text("text")
    else:
        making.write_tiff(path, making.texture(seed), photometric="RGB")
    if path.stat().st_mtime_ns == before.st_mtime_ns:  # a clock that ticks in milliseconds
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def run(folder: Path, out: Path, model: Path, **options: Any) -> None:
    embed(folder, out=out, model=model, max_errors=99, **{**OPTIONS, **options})


def check_equal(out: Path, expected: Path) -> None:
    assert making.rows_of(out).equals(making.rows_of(expected))
    assert making.errors_of(out) == making.errors_of(expected)
    found, wanted = read_table_manifest(out), read_table_manifest(expected)
    assert found is not None
    assert wanted is not None
    for key in ("complete", "rows", "failed", "tiles_sha256", "part_rows", "georeferenced"):
        assert getattr(found, key) == getattr(wanted, key), key
    assert not (out / ".segments").exists()


def plan_of(folder: Path, cut: Cut | None = None) -> TilePlan:
    how: dict[str, Any] = {"limit": None, "shard": (0, 1), "workers": 1}
    return make_plan(discover([folder]), request=making.request(), cut=cut, **how)


CHANGES = st.dictionaries(
    st.integers(0, COUNT - 1), st.sampled_from(["other", "broken", "touched"]), max_size=5
)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sets(st.integers(0, COUNT - 1), max_size=3), CHANGES, st.sampled_from([None, 40]))
def test_a_finished_table_becomes_what_a_fresh_run_makes(
    vit: Path,
    tmp_path_factory: pytest.TempPathFactory,
    broken: set[int],
    changes: dict[int, str],
    tile_px: int | None,
) -> None:
    folder = tmp_path_factory.mktemp("changes")
    making.write_tiles(folder / "in", COUNT)
    if tile_px is None:  # of windows, a file that breaks is another number of tiles
        for number in broken:
            rewrite(folder / "in", number, 0, broken=True)
    run(folder / "in", folder / "t", vit, tile_px=tile_px)
    for number, kind in changes.items():
        if kind == "touched":
            os.utime(folder / "in" / f"tile_{number:04d}.tif", ns=(5, 10**18 + number))
        else:
            rewrite(folder / "in", number, 50 + number, broken=kind == "broken" and not tile_px)
    run(folder / "in", folder / "t", vit, tile_px=tile_px)
    run(folder / "in", folder / "fresh", vit, tile_px=tile_px)
    check_equal(folder / "t", folder / "fresh")


@pytest.fixture
def finished(vit: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Eleven tiles, one of them broken, and their table in parts of four."""
    making.write_tiles(tmp_path / "in", COUNT)
    rewrite(tmp_path / "in", 9, 0, broken=True)
    run(tmp_path / "in", tmp_path / "t", vit)
    return tmp_path / "in", tmp_path / "t"


def test_what_changed_is_told_and_only_its_segments_are_made_again(
    finished: tuple[Path, Path], vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles, out = finished
    before = {part.name: part.stat().st_mtime_ns for part in out.glob("part-*.parquet")}
    rewrite(tiles, 5, 99)
    run(tiles, out, vit)
    told = "files of 1 image changed since, tile_0005.tif first; 2 of 11 tiles are made again"
    assert f"{out}: {told}" in capsys.readouterr().err
    after = {part.name: part.stat().st_mtime_ns for part in out.glob("part-*.parquet")}
    assert [name for name in before if before[name] != after[name]] == ["part-00001.parquet"]
    run(tiles, out, vit)
    assert "finished already, nothing to do" in capsys.readouterr().err


def test_a_run_that_is_stopped_while_it_drops_segments_goes_on(
    finished: tuple[Path, Path], vit: Path, tmp_path: Path
) -> None:
    tiles, out = finished
    for number in (0, 5, 9):
        rewrite(tiles, number, 60 + number)
    plan = plan_of(tiles)
    for _ in range(2):  # dropped, and killed before the run begins
        stated = read_table_manifest(out)
        assert stated is not None
        writer = open_writer(out, stated, overwrite=False, plan=plan)
        assert not writer.manifest.complete
        assert [(s.part, s.number) for s in writer.missing()] == [(0, 0), (1, 0), (2, 0)]
    with pytest.raises(TableError, match="the table is unfinished"):
        making.rows_of(out)
    rewrite(tiles, 2, 70)
    run(tiles, out, vit)
    run(tiles, tmp_path / "fresh", vit)
    check_equal(out, tmp_path / "fresh")


def test_a_file_that_changes_between_a_stop_and_going_on_is_read_again(
    finished: tuple[Path, Path], vit: Path, tmp_path: Path
) -> None:
    tiles, out = finished
    rewrite(tiles, 0, 61)
    stated = read_table_manifest(out)
    assert stated is not None
    writer = open_writer(out, stated, overwrite=False, plan=plan_of(tiles))
    writer.begin()  # knows the new file, and is killed before it is embedded
    rewrite(tiles, 0, 62)
    rewrite(tiles, 10, 63)
    run(tiles, out, vit)
    run(tiles, tmp_path / "fresh", vit)
    check_equal(out, tmp_path / "fresh")


def test_a_table_that_does_not_know_its_files_goes_on_by_their_sizes(
    finished: tuple[Path, Path], vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles, out = finished
    for damage in (b"", b"PK", None):
        (out / MARKS).unlink() if damage is None else (out / MARKS).write_bytes(damage)
        os.utime(tiles / "tile_0003.tif", ns=(5, 6))
        run(tiles, out, vit)
        assert "finished already" in capsys.readouterr().err
    with (tiles / "tile_0003.tif").open("ab") as file:
        file.write(b"more")
    with pytest.raises(TableError, match="tiles: 11 there, 11 now, or files have changed"):
        run(tiles, out, vit)


def test_another_option_is_refused_though_files_changed(
    finished: tuple[Path, Path], vit: Path
) -> None:
    tiles, out = finished
    before = making.rows_of(out)
    rewrite(tiles, 1, 77)
    with pytest.raises(TableError, match="dtype: 'float32' there, 'float16' now"):
        run(tiles, out, vit, dtype="float16")
    assert making.rows_of(out).equals(before)


def test_overwriting_removes_what_is_known_of_files(finished: tuple[Path, Path], vit: Path) -> None:
    tiles, out = finished
    stated = read_table_manifest(out)
    assert stated is not None
    open_writer(out, stated, overwrite=True)
    assert not (out / MARKS).exists()
    run(tiles, out, vit)


@pytest.mark.parametrize("cut", [None, Cut(tile_px=40, stride_px=40)])
def test_a_file_that_changes_during_a_run_gives_errors_and_no_tiles(
    tmp_path: Path, cut: Cut | None
) -> None:
    making.write_tiles(tmp_path, 3)
    plan = plan_of(tmp_path, cut)
    rewrite(tmp_path, 1, 9)
    reader = Reader(making.contract(), making.request(), lambda tile: tile)
    found = list(read_ahead(plan.tiles(0, len(plan)), reader, workers=2, ahead=4))
    failed = [o for o in found if isinstance(o, Failure)]
    assert {(f.ref.source.id, f.kind) for f in failed} == {("tile_0001.tif", "changed")}
    assert "run the same command again" in failed[0].message
    assert len(failed) == len(found) // 3


def test_what_changed_during_a_run_is_embedded_by_the_next(vit: Path, tmp_path: Path) -> None:
    making.write_tiles(tmp_path / "in", 4)
    plan = plan_of(tmp_path / "in")
    rewrite(tmp_path / "in", 2, 9)
    marks = Marks(plan=plan.digest(of_sizes=False), of_sources=plan.marks)
    run(tmp_path / "in", tmp_path / "fresh", vit)
    run(tmp_path / "in", tmp_path / "t", vit)
    marks.save(tmp_path / "t" / MARKS)  # as if it had been listed before
    run(tmp_path / "in", tmp_path / "t", vit)
    check_equal(tmp_path / "t", tmp_path / "fresh")
    kept = Marks.load(tmp_path / "t" / MARKS)
    assert kept is not None
    assert np.array_equal(kept.of_sources, plan_of(tmp_path / "in").marks)


def test_each_file_of_a_set_counts(tmp_path: Path) -> None:
    making.write_band_files(tmp_path / "s1", side=60)
    (source,) = discover([tmp_path])
    seen = {mark_source(source)}
    for band in ("B02", "B8A"):
        path = tmp_path / f"s1/{band}.tif"
        os.utime(path, ns=(5, path.stat().st_mtime_ns + 1))
        seen.add(mark_source(source))
    a, b = tmp_path / "s1/B02.tif", tmp_path / "s1/B03.tif"
    a.rename(tmp_path / "x")
    b.rename(a)
    (tmp_path / "x").rename(b)  # the same files, exchanged
    seen.add(mark_source(source))
    assert len(seen) == 4


def test_a_file_behind_a_mosaic_counts(tmp_path: Path) -> None:
    import rasterio.shutil

    path = making.write_tiff(tmp_path / "a.tif", making.texture(0))
    rasterio.shutil.copy(path, tmp_path / "x.vrt", driver="VRT")
    source = source_at(str(tmp_path / "x.vrt"))
    before = mark_source(source)
    os.utime(path, ns=(5, 6))
    assert mark_source(source) != before


def test_too_many_changed_files_fail_a_run_as_others_do(vit: Path, tmp_path: Path) -> None:
    making.write_tiles(tmp_path / "in", 2)
    run(tmp_path / "in", tmp_path / "t", vit)
    rewrite(tmp_path / "in", 1, 0, broken=True)
    with pytest.raises(TooManyFailedError, match=r"1 of 2 .* the first: .*tile_0001.tif: not a T"):
        embed(tmp_path / "in", out=tmp_path / "t", model=vit, **OPTIONS)


def test_a_header_of_plain_numbers_counts(tmp_path: Path) -> None:
    import rasterio.shutil

    path = making.write_tiff(tmp_path / "a.tif", making.texture(0))
    rasterio.shutil.copy(path, tmp_path / "x.dat", driver="ENVI")
    source = source_at(str(tmp_path / "x.dat"))
    before = mark_source(source)
    os.utime(tmp_path / "x.hdr", ns=(5, 6))
    assert mark_source(source) != before


def test_a_zip_file_counts_for_the_scene_in_it(tmp_path: Path) -> None:
    path = zip_scene("sentinel-2-l2a", tmp_path / "z")
    (source,) = discover([tmp_path / "z"])
    before = mark_source(source)
    assert before[0] == path.stat().st_size
    os.utime(path, ns=(5, 6))
    assert mark_source(source) != before
