"""What the system refuses is one line, whatever verb meets it: full disks, files where folders should be."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import making
import pytest
from typer.testing import CliRunner

from tilezoo.cli import app as front
from tilezoo.errors import TilezooError

REFUSED = ("ENOSPC", "EDQUOT", "EFBIG", "ENOTDIR", "EISDIR", "EACCES", "EROFS", "EIO", "EMFILE")
STATED = ("--bands", "red,green,blue", "--unit", "uint8", "--value-range", "0,255", "--heads", "3")
STATED += ("--mean", "0,0,0", "--std", "1,1,1", "--size-px", "64")


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_system_refuses_is_told_with_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    number = getattr(errno, name)

    def refuse() -> None:
        raise OSError(number, os.strerror(number), "out/.table.json.77.tmp")

    monkeypatch.setattr(front, "app", refuse)
    with pytest.raises(SystemExit) as stopped:
        front.main()
    assert stopped.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: out/table.json: {os.strerror(number)}; ")
    assert told.count("\n") == 1
    monkeypatch.setenv("TILEZOO_DEBUG", "1")
    with pytest.raises(OSError, match="table"):
        front.main()


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x"), OSError("x"), KeyError(1)])
def test_what_may_be_our_own_mistake_stays_a_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(front, "app", fail)
    with pytest.raises(type(error)):
        front.main()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    tiles = making.write_tiles(folder / "tiles", 4)
    rows = [f"{path.name},{'ab'[number % 2]}\n" for number, path in enumerate(tiles)]
    (folder / "labels.csv").write_text("".join(["id,label\n", *rows]))
    making.write_vit(folder / "model")
    (folder / "file").write_text("in the way")
    return folder


@pytest.mark.parametrize("below", ["", "/inside"])
@pytest.mark.parametrize(
    "words",
    [
        f"export model/model.safetensors {' '.join(STATED)} -o",
        "embed tiles -m model -o",
        "pack tiles -o",
        "pretrain tiles -o",
        "compare tiles -m model --labels labels.csv -o",
        "download dino-vitt16-overhead --to",
        "demo -o",
    ],
)
def test_a_file_where_a_folder_is_written_is_refused(
    world: Path, monkeypatch: pytest.MonkeyPatch, words: str, below: str
) -> None:
    monkeypatch.chdir(world)
    done = CliRunner().invoke(front.app, [*words.split(), f"file{below}"])
    error = done.exception
    assert isinstance(error, TilezooError | OSError)
    told = str(error) if isinstance(error, TilezooError) else front.explain_refusal(error)
    assert told is not None
    assert "file" in told
    assert "\n" not in told
    assert (world / "file").read_text() == "in the way"


def test_a_full_disk_leaves_no_half_model_and_is_one_line(world: Path, tmp_path: Path) -> None:
    """A limit on files' sizes stands for the disk: both end a write in the middle."""
    weights = world / "model" / "model.safetensors"
    code = "from tilezoo.cli.app import main; main()"
    command = [sys.executable, "-c", code, "export", weights, "-o", tmp_path / "m", *STATED]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "make room, then run the same command again" in last
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert json.loads((world / "model" / "config.json").read_text())
