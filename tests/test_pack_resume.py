"""Packs that are stopped, killed, repeated or mixed up."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import making
import numpy as np
import pyarrow.parquet as pq
import pytest
from killing import Program

from tilezoo.errors import PackError
from tilezoo.folder_writer import one_writer
from tilezoo.pretrain import pack
from tilezoo.pretrain.packs.shards import is_pack, open_pack

ORIGINALS, COUNT, BROKEN = 20, 900, (0, 70, 899)
OPTIONS: dict[str, Any] = {"shard_mb": 1, "max_errors": len(BROKEN)}

RUN = """
import sys
from tilezoo.errors import TilezooError
from tilezoo.pretrain import pack
try:
    pack(sys.argv[1], out=sys.argv[2], shard_mb=1, max_errors=3)
except TilezooError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine hundred tiles, links to twenty, three of them broken: 17 shards of 1 MiB."""
    folder = tmp_path_factory.mktemp("tiles")
    originals = making.write_tiles(folder / "originals", ORIGINALS)
    (folder / "in").mkdir()
    for number in range(COUNT):
        os.link(originals[number % ORIGINALS], folder / f"in/{number:04d}.tif")
    for number in BROKEN:
        (folder / f"in/{number:04d}.tif").unlink()
        (folder / f"in/{number:04d}.tif").write_text("text")
    return folder / "in"


@pytest.fixture(scope="module")
def uninterrupted(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "whole"
    pack(tiles, out=out, **OPTIONS)
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All files of a pack but its lock, and that nothing else is left."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def check_equal(out: Path, expected: Path) -> None:
    ours, theirs = bytes_of(out), bytes_of(expected)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


def done_shards(out: Path) -> int:
    return len(list(out.glob("shard-*.npy")))


def shards_reach(out: Path, count: int) -> Callable[[], bool]:
    return lambda: done_shards(out) >= count


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_an_uninterrupted_runs_bytes(
    tiles: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    out = tmp_path / "p"
    killed = 0
    for _ in range(6):
        run = Program(RUN, tiles, out)
        if run.wait_for(shards_reach(out, done_shards(out) + int(rng.integers(0, 3)))):
            time.sleep(float(rng.uniform(0, 0.05)))
            killed += run.returncode is None
        run.kill()
    assert killed >= 4
    with pytest.raises(PackError, match="an unfinished pack; run its `tilezoo pack` again"):
        open_pack(out)
    last = Program(RUN, tiles, out)
    said = last.finish()
    assert last.returncode == 0, said
    check_equal(out, uninterrupted)


class Died(BaseException):
    """A process that ends at once."""


def dies_at(renaming: int, *, before: bool) -> Callable[[Path, Path], Path]:
    """A `Path.replace` at whose n-th call the process ends, before or after the renaming."""
    left = [renaming]
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0 and before:
            raise Died
        done = real(self, target)
        if left[0] == 0:
            raise Died
        return done

    return replace


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_no_renaming_is_a_bad_moment_to_die(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    how = {**OPTIONS, "limit": 120}  # two full shards and one of ten tiles
    pack(tiles, out=tmp_path / "whole", **how)
    deaths = 0
    while True:
        out = tmp_path / f"p{deaths}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", dies_at(deaths + 1, before=before))
            try:
                pack(tiles, out=out, **how)
            except Died:
                deaths += 1
            else:
                break
        pack(tiles, out=out, **how)
        check_equal(out, tmp_path / "whole")
    # The job, marks of files; four files a segment; rows, errors, what segments are, manifest.
    assert deaths == 2 + 3 * 4 + 4


def test_failures_after_the_last_full_shard_are_told_and_no_shard(tmp_path: Path) -> None:
    making.write_tiles(tmp_path / "in", 54)  # one shard of 1 MiB
    (tmp_path / "in/z.tif").write_text("text")
    pack(tmp_path / "in", out=tmp_path / "p", **OPTIONS)
    assert done_shards(tmp_path / "p") == 1
    assert len(open_pack(tmp_path / "p")) == 54
    assert len(making.errors_of(tmp_path / "p")) == 1


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    tiles: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p"
    run = Program(RUN, tiles, out)
    assert run.wait_for(shards_reach(out, 3)), run.finish()
    run.send_signal(signal.SIGINT)
    said = run.finish()
    assert run.returncode == 130, said
    assert f"of {COUNT} tiles are kept in {out}: run the same command to go on" in said
    assert "Traceback" not in said
    assert is_pack(out)
    before = {shard.name: shard.stat().st_mtime_ns for shard in out.glob("*.npy")}
    assert 2 <= len(before) < 17
    (out / ".shard-00007.npy.1.tmp").write_bytes(b"left by a killed run")
    pack(tiles, out=out, **OPTIONS)
    after = {shard.name: shard.stat().st_mtime_ns for shard in out.glob("*.npy")}
    assert len(before.items() & after.items()) >= len(before) - 1  # the last may not have counted
    check_equal(out, uninterrupted)


FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (900_000, 900_000))
"""


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    tiles: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "p"
    run = Program(FULL + RUN, tiles, out)
    said = run.finish()
    assert run.returncode == 1, said
    assert "File too large; make room, then run the same command to go on" in said
    assert "Traceback" not in said
    pack(tiles, out=out, **OPTIONS)
    check_equal(out, uninterrupted)


def test_a_second_run_on_a_pack_that_is_being_written_is_refused(
    tiles: Path, tmp_path: Path
) -> None:
    held = one_writer(tmp_path / "p", "pack", PackError)
    with held, pytest.raises(PackError, match="another run is writing this pack; wait for it"):
        pack(tiles, out=tmp_path / "p", **OPTIONS)


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Path]:
    """Six tiles and their pack."""
    making.write_tiles(tmp_path / "in", 6)
    pack(tmp_path / "in", out=tmp_path / "p")
    return tmp_path / "in", tmp_path / "p"


def test_a_finished_pack_is_not_made_again(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tiles, out = finished
    (out / ".packing").mkdir()  # killed between the manifest and clearing up
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*")}
    found = pack(tiles, out=out)
    assert (found.tiles, found.failed, found.seconds) == (6, 0, 0.0)
    assert "finished already, nothing to do (--overwrite makes it anew)" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*")} == before
    assert not (out / ".packing").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"value_range": "0,200"}, "value_range: None there, '0,200' now"),
        ({"bands": "red,green"}, "bands: None there, 'red,green' now"),
        ({"tile_px": 64}, "tile_px: None there, 64 now"),
        ({"size_px": 64}, "size_px: None there, 64 now"),
        ({"max_nodata": 0.5}, "max_nodata: 1.0 there, 0.5 now"),
        ({"dtype": "uint16", "value_range": "0,255"}, "dtype: 'uint8' there, 'uint16' now"),
        ({"limit": 3}, "limit: None there, 3 now"),
        ({"shard_mb": 2}, "shard_mb: 1024 there, 2 now"),
    ],
    ids=str,
)
def test_another_option_on_the_same_pack_is_refused_with_the_fix(
    finished: tuple[Path, Path], options: dict[str, Any], told: str
) -> None:
    tiles, out = finished
    before = bytes_of(out)
    with pytest.raises(PackError, match=r"another run .*; choose another -o, or --over") as error:
        pack(tiles, out=out, **options)
    assert told in str(error.value)
    assert bytes_of(out) == before


def test_other_labels_on_the_same_pack_are_refused(finished: tuple[Path, Path]) -> None:
    tiles, out = finished
    labels = tiles.parent / "labels.csv"
    labels.write_text("id,label\ntile_0000.tif,water\n")
    with pytest.raises(PackError, match="labels: None there, 'sha256:"):
        pack(tiles, out=out, labels=labels)
    pack(tiles, out=out, labels=labels, overwrite=True)
    labels.write_text("id,label\ntile_0000.tif,forest\n")
    with pytest.raises(PackError, match="labels: 'sha256:"):
        pack(tiles, out=out, labels=labels)


def test_more_tiles_are_refused(finished: tuple[Path, Path]) -> None:
    tiles, out = finished
    making.write_tiles(tiles, 7)
    with pytest.raises(PackError, match=r"another run \(other tiles, or files have changed\)"):
        pack(tiles, out=out)


def test_an_unfinished_pack_is_that_of_its_request_too(tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    run = Program(RUN, tiles, out)
    assert run.wait_for(shards_reach(out, 2)), run.finish()
    run.kill()
    with pytest.raises(PackError, match="shard_mb: 1 there, 2 now"):
        pack(tiles, out=out, shard_mb=2, max_errors=3)
    pack(tiles, out=out, limit=10, max_errors=3, overwrite=True)
    assert len(open_pack(out)) == 9


def test_overwriting_makes_the_pack_anew_and_leaves_no_old_shard(
    tiles: Path, tmp_path: Path
) -> None:
    pack(tiles, out=tmp_path / "p", **OPTIONS)
    pack(tiles, out=tmp_path / "p", limit=80, overwrite=True, **OPTIONS)
    pack(tiles, out=tmp_path / "fresh", limit=80, **OPTIONS)
    check_equal(tmp_path / "p", tmp_path / "fresh")


def test_overwriting_goes_on_where_a_killed_one_left_shards(tiles: Path, tmp_path: Path) -> None:
    pack(tiles, out=tmp_path / "p", **OPTIONS)
    (tmp_path / "p/pack.json").unlink()
    how = {**OPTIONS, "limit": 80}
    with pytest.raises(PackError, match=r"holds 'errors.parquet' and no pack; choose another -o"):
        pack(tiles, out=tmp_path / "p", **how)
    pack(tiles, out=tmp_path / "p", overwrite=True, **how)
    assert len(open_pack(tmp_path / "p")) == 78


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_other_files_is_left_alone(
    tiles: Path, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/thesis.txt").write_text("years of work")
    (tmp_path / "p/pack.json").write_text("{}")
    with pytest.raises(PackError, match=r"pack.json.* (no pack|not a pack)"):
        pack(tiles, out=tmp_path / "p", overwrite=overwrite, **OPTIONS)
    assert (tmp_path / "p/thesis.txt").read_text() == "years of work"
    assert (tmp_path / "p/pack.json").read_text() == "{}"


def test_a_file_is_no_folder_to_pack_into(tiles: Path, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("a file")
    with pytest.raises(PackError, match="not a folder that can be written; choose another -o"):
        pack(tiles, out=tmp_path / "p", **OPTIONS)


def test_threads_and_shards_change_no_pixel(
    tiles: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    pack(tiles, out=tmp_path / "one", workers=1, **OPTIONS)
    check_equal(tmp_path / "one", uninterrupted)
    pack(tiles, out=tmp_path / "large", max_errors=3)
    large, small = open_pack(tmp_path / "large"), open_pack(uninterrupted)
    rows = np.arange(COUNT - len(BROKEN))
    assert np.array_equal(large.read(rows), small.read(rows))
    columns = ["id", "geometry", "gsd_m"]
    ours = pq.read_table(large.path / "tiles.parquet", columns=columns)
    assert ours.equals(pq.read_table(small.path / "tiles.parquet", columns=columns))
    sums = [[shards.mean, shards.std] for shards in (large, small)]
    assert sums[0] == sums[1]


# VmHWM, because ru_maxrss is inherited from the process that starts this one.
MEMORY = """
import json, sys
from pathlib import Path
from tilezoo.pretrain import pack
pack(sys.argv[1], out=sys.argv[2], bands="a,b,c", limit=int(sys.argv[3]))
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_ten_times_as_many_tiles_take_no_more_memory(tmp_path: Path) -> None:
    pixels = making.texture(0, side=256)
    (tmp_path / "in").mkdir()
    making.write_tiff(tmp_path / "a.tif", pixels, photometric="MINISBLACK", names=("a", "b", "c"))
    for number in range(1500):
        os.link(tmp_path / "a.tif", tmp_path / f"in/{number:04d}.tif")
    peaks = []
    for count in (150, 1500):
        run = making.python(MEMORY, tmp_path / "in", tmp_path / f"p{count}", count)
        said = run.communicate(timeout=200)[0]
        assert run.returncode == 0, said
        peaks.append(int(said.splitlines()[-1]) / 1024)
    # 1,350 tiles more hold 265 MB of pixels.
    assert peaks[1] < peaks[0] + 60


def test_a_job_that_cannot_be_read_is_told(tiles: Path, tmp_path: Path) -> None:
    (tmp_path / "p/.packing").mkdir(parents=True)
    (tmp_path / "p/.packing/job.json").write_text(json.dumps({"request": {}}))
    with pytest.raises(PackError, match="another run"):
        pack(tiles, out=tmp_path / "p", **OPTIONS)
    (tmp_path / "p/.packing/job.json").write_text("{")
    with pytest.raises(PackError, match=r"job.json is damaged; --overwrite starts anew"):
        pack(tiles, out=tmp_path / "p", **OPTIONS)
    pack(tiles, out=tmp_path / "p", limit=5, max_errors=1, overwrite=True)


def rewrite(folder: Path, number: int, seed: int, *, broken: bool = False) -> None:
    """Write a tile anew: other pixels, or none that can be read."""
    path = folder / f"{number:04d}.tif"
    before = path.stat().st_mtime_ns
    path.unlink()
    if broken:
        path.write_text("text")
    else:
        making.write_tiff(path, making.texture(seed), photometric="RGB")
    if path.stat().st_mtime_ns == before:  # a clock that ticks in milliseconds
        os.utime(path, ns=(before, before + 1))


def few_tiles(folder: Path, count: int = 300) -> Path:
    """Tiles of which 54 fill a shard of 1 MiB: links to twenty."""
    originals = making.write_tiles(folder / "originals", ORIGINALS)
    (folder / "in").mkdir()
    for number in range(count):
        os.link(originals[number % ORIGINALS], folder / f"in/{number:04d}.tif")
    return folder / "in"


MANY: dict[str, Any] = {"shard_mb": 1, "max_errors": 99}


@pytest.mark.parametrize(
    ("broken", "changes", "kept"),
    [
        ({}, {60: "other"}, {0, 2, 3, 4, 5}),
        ({}, {0: "other", 299: "other"}, {1, 2, 3, 4}),
        ({}, {120: "broken"}, {0, 1}),  # all after it are moved by one
        ({120: "broken"}, {120: "other"}, {0, 1}),
        ({10: "broken", 299: "broken"}, {70: "other"}, {0, 2, 3, 4, 5}),
        ({10: "broken"}, {10: "still broken"}, {1, 2, 3, 4, 5}),
        ({}, {299: "broken"}, {0, 1, 2, 3, 4}),
    ],
    ids=str,
)
def test_a_finished_pack_becomes_what_a_fresh_run_makes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    broken: dict[int, str],
    changes: dict[int, str],
    kept: set[int],
) -> None:
    tiles = few_tiles(tmp_path)
    for number in broken:
        rewrite(tiles, number, 0, broken=True)
    out = tmp_path / "p"
    pack(tiles, out=out, **MANY)
    before = {int(p.stem[-5:]): p.stat().st_mtime_ns for p in out.glob("shard-*.npy")}
    for number, kind in changes.items():
        rewrite(tiles, number, 50 + number, broken="broken" in kind)
    pack(tiles, out=out, **MANY)
    first = min(changes)
    images = "1 image" if len(changes) == 1 else f"{len(changes)} images"
    told = f"files of {images} changed since, {first:04d}.tif first"
    assert f"{out}: {told}" in capsys.readouterr().err
    after = {int(p.stem[-5:]): p.stat().st_mtime_ns for p in out.glob("shard-*.npy")}
    assert {number for number in before if before[number] == after.get(number)} == kept
    pack(tiles, out=tmp_path / "fresh", **MANY)
    check_equal(out, tmp_path / "fresh")
    assert is_pack(out)
    pack(tiles, out=out, **MANY)
    assert "finished already, nothing to do" in capsys.readouterr().err


def test_a_chosen_part_of_the_tiles_is_looked_at_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles = few_tiles(tmp_path, 60)
    pack(tiles, out=tmp_path / "p", limit=20, **MANY)
    rewrite(tiles, 40, 9)
    pack(tiles, out=tmp_path / "p", limit=20, **MANY)
    assert "finished already" in capsys.readouterr().err
    rewrite(tiles, 4, 9)
    pack(tiles, out=tmp_path / "p", limit=20, **MANY)
    assert "0004.tif first; 20 of 20 tiles are made again" in capsys.readouterr().err


@pytest.mark.parametrize("renaming", range(1, 24, 2))
def test_a_pack_whose_making_again_is_cut_short_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renaming: int
) -> None:
    tiles = few_tiles(tmp_path, 120)
    rewrite(tiles, 50, 0, broken=True)
    out = tmp_path / "p"
    pack(tiles, out=out, **MANY)
    rewrite(tiles, 60, 99)
    with monkeypatch.context() as patch, suppress(Died):  # it may have fewer files to rename
        patch.setattr(Path, "replace", dies_at(renaming, before=renaming % 4 == 1))
        pack(tiles, out=out, **MANY)
    rewrite(tiles, 61, 98)
    pack(tiles, out=out, **MANY)
    pack(tiles, out=tmp_path / "fresh", **MANY)
    check_equal(out, tmp_path / "fresh")


def test_a_first_tile_of_another_size_starts_anew(tmp_path: Path) -> None:
    tiles = few_tiles(tmp_path, 5)
    pack(tiles, out=tmp_path / "p", **MANY)
    (tiles / "0000.tif").unlink()
    making.write_tiff(tiles / "0000.tif", making.texture(0, side=40), photometric="RGB")
    with pytest.raises(PackError, match=r"the first tile has another size .*--overwrite"):
        pack(tiles, out=tmp_path / "p", **MANY)


def test_a_pack_that_does_not_know_its_files_goes_on_by_their_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiles = few_tiles(tmp_path, 5)
    pack(tiles, out=tmp_path / "p", **MANY)
    (tmp_path / "p/.files.npz").unlink()
    os.utime(tiles / "0001.tif", ns=(5, 6))
    pack(tiles, out=tmp_path / "p", **MANY)
    assert "finished already" in capsys.readouterr().err
    with (tiles / "0001.tif").open("ab") as file:
        file.write(b"more")
    with pytest.raises(PackError, match="other tiles, or files have changed"):
        pack(tiles, out=tmp_path / "p", **MANY)
