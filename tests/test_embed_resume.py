"""Runs that are stopped, killed, repeated or mixed up."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import making
import numpy as np
import pytest
from killing import Program

from tilezoo.embed import embed
from tilezoo.embed.store import lock_table
from tilezoo.errors import TableError, TooManyFailedError
from tilezoo.table import open_table

COUNT = 150
OPTIONS: dict[str, Any] = {"batch_size": 2, "part_rows": 4, "device": "cpu", "precision": "fp32"}

RUN = """
import sys
from tilezoo.embed import embed
from tilezoo.errors import TilezooError
try:
    embed(sys.argv[1], out=sys.argv[2], model=sys.argv[3], max_errors=2,
          batch_size=2, part_rows=4, device="cpu", precision="fp32")
except TilezooError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred and fifty tiles, two of them broken."""
    folder = tmp_path_factory.mktemp("tiles")
    making.write_tiles(folder, COUNT)
    for number in (3, 100):
        (folder / f"tile_{number:04d}.tif").write_text("text")
    return folder


@pytest.fixture(scope="module")
def slow_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deeper network, so that a run lasts long enough to be stopped."""
    folder = tmp_path_factory.mktemp("models") / "deep"
    return making.write_vit(folder, img_size=128, size_px=128, resize_px=128, depth=12)


@pytest.fixture(scope="module")
def uninterrupted(tiles: Path, slow_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tables") / "whole"
    embed(tiles, out=out, model=slow_vit, max_errors=2, **OPTIONS)
    return out


def done_parts(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


def parts_reach(out: Path, count: int) -> Callable[[], bool]:
    return lambda: done_parts(out) >= count


def check_equal(out: Path, expected: Path) -> None:
    assert making.rows_of(out).equals(making.rows_of(expected))
    assert making.errors_of(out) == making.errors_of(expected)
    assert not list(out.glob(".*.tmp"))
    assert not (out / ".segments").exists()


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_an_uninterrupted_runs_rows(
    tiles: Path, slow_vit: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    out = tmp_path / "t"
    killed = 0
    for _ in range(6):
        run = Program(RUN, tiles, out, slow_vit)
        if run.wait_for(parts_reach(out, done_parts(out) + int(rng.integers(0, 6)))):
            time.sleep(float(rng.uniform(0, 0.05)))
            killed += run.returncode is None
        run.kill()
    assert killed >= 4
    last = Program(RUN, tiles, out, slow_vit)
    said = last.finish()
    assert last.returncode == 0, said
    check_equal(out, uninterrupted)


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    tiles: Path, slow_vit: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "t"
    run = Program(RUN, tiles, out, slow_vit)
    assert run.wait_for(parts_reach(out, 3)), run.finish()
    run.send_signal(signal.SIGINT)
    said = run.finish()
    assert run.returncode == 130, said
    assert f"of {COUNT} tiles are kept in {out}: run the same command to go on" in said
    assert "Traceback" not in said
    with pytest.raises(TableError, match="the table is unfinished"):
        open_table(out)
    before = {part.name: part.stat().st_mtime_ns for part in out.glob("part-*.parquet")}
    assert 3 <= len(before) < 38
    embed(tiles, out=out, model=slow_vit, max_errors=2, **OPTIONS)
    after = {part.name: part.stat().st_mtime_ns for part in out.glob("part-*.parquet")}
    assert before.items() <= after.items()
    check_equal(out, uninterrupted)


FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
"""


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    vit: Path, tmp_path: Path
) -> None:
    making.write_tiles(tmp_path / "in", 10)
    out = tmp_path / "t"
    run = Program(FULL + RUN, tmp_path / "in", out, vit)
    said = run.finish()
    assert run.returncode == 1, said
    assert "File too large" in said
    assert "make room, then run the same command to go on" in said
    assert "Traceback" not in said
    embed(tmp_path / "in", out=out, model=vit, max_errors=2, **OPTIONS)
    embed(tmp_path / "in", out=tmp_path / "whole", model=vit, **OPTIONS)
    check_equal(out, tmp_path / "whole")


def test_a_second_run_on_a_table_that_is_being_written_is_refused(
    tiles: Path, vit: Path, tmp_path: Path
) -> None:
    with lock_table(tmp_path / "t"), pytest.raises(TableError, match="another run is writing this"):
        embed(tiles, out=tmp_path / "t", model=vit, **OPTIONS)


@pytest.fixture
def finished(vit: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Six tiles and their table."""
    making.write_tiles(tmp_path / "in", 6)
    embed(tmp_path / "in", out=tmp_path / "t", model=vit, **OPTIONS)
    return tmp_path / "in", tmp_path / "t"


def test_a_finished_table_is_not_made_again(
    finished: tuple[Path, Path], vit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles, out = finished
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    found = embed(tiles, out=out, model=vit, **OPTIONS)
    assert (found.rows, found.failed) == (6, 0)
    assert "finished already, nothing to do (--overwrite makes it anew)" in capsys.readouterr().err
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {k: v for k, v in after.items() if k != ".lock"} == {
        k: v for k, v in before.items() if k != ".lock"
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pooling": "mean"}, "another space"),
        ({"value_range": "0,200"}, "value_range: None there, '0,200' now"),
        ({"bands": "3,2,1"}, "bands: None there, '3,2,1' now"),
        ({"tile_px": 64}, "tile_px: None there, 64 now"),
        ({"dtype": "float16"}, "dtype: 'float32' there, 'float16' now"),
        ({"shard": "0/2"}, "shard: None there, '0/2' now"),
        ({"limit": 3}, "limit: None there, 3 now"),
        ({"batch_size": 3}, "batch_size: 2 there, 3 now"),
        ({"precision": "bf16"}, "precision: 'fp32' there, 'bf16' now"),
        ({"part_rows": 5}, "part_rows: 4 there, 5 now"),
    ],
    ids=str,
)
def test_another_option_on_the_same_table_is_refused_with_the_fix(
    finished: tuple[Path, Path], vit: Path, options: dict[str, Any], told: str
) -> None:
    tiles, out = finished
    before = making.rows_of(out)
    with pytest.raises(TableError, match=r"another run .*; choose another -o, or --over") as error:
        embed(tiles, out=out, model=vit, **{**OPTIONS, **options})
    assert told in str(error.value)
    assert making.rows_of(out).equals(before)


def test_another_model_on_the_same_table_is_refused(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    tiles, out = finished
    other = making.write_vit(tmp_path / "other", seed=1)
    with pytest.raises(TableError, match=r"model: .* there, .*other now \(another space\)"):
        embed(tiles, out=out, model=other, **OPTIONS)


def test_more_tiles_are_refused(finished: tuple[Path, Path], vit: Path) -> None:
    tiles, out = finished
    making.write_tiles(tiles, 7)
    with pytest.raises(TableError, match="tiles: 6 there, 7 now"):
        embed(tiles, out=out, model=vit, **OPTIONS)


def test_the_same_model_moved_elsewhere_goes_on(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    tiles, out = finished
    same = making.write_vit(tmp_path / "moved")
    assert embed(tiles, out=out, model=same, **OPTIONS).rows == 6


def test_overwriting_makes_the_table_anew(
    finished: tuple[Path, Path], vit: Path, tmp_path: Path
) -> None:
    tiles, out = finished
    (out / "index").mkdir()
    options = {**OPTIONS, "pooling": "mean"}
    embed(tiles, out=out, model=vit, overwrite=True, **options)
    embed(tiles, out=tmp_path / "fresh", model=vit, **options)
    assert making.rows_of(out).equals(making.rows_of(tmp_path / "fresh"))
    assert not (out / "index").exists()


def test_errors_of_finished_parts_survive_a_stop(
    tiles: Path, slow_vit: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "t"
    run = Program(RUN, tiles, out, slow_vit)
    assert run.wait_for(parts_reach(out, 2)), run.finish()
    run.kill()
    with pytest.raises(TooManyFailedError, match="2 of 150 tiles failed"):
        embed(tiles, out=out, model=slow_vit, **OPTIONS)
    assert making.errors_of(out) == making.errors_of(uninterrupted)
