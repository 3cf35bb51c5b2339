"""The command line: data on stdout, the rest on stderr, known errors in one line."""

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import making
import pytest
from typer.testing import CliRunner

from tilezoo.cli.app import app, main
from tilezoo.table import open_table

COMMAND = str(Path(sys.executable).with_name("tilezoo"))


def test_the_installed_command_runs_what_these_tests_run():
    shown = subprocess.run(
        [COMMAND, "show", "no-such"], capture_output=True, text=True, check=False
    )
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith("error: ")
    assert len(shown.stderr.splitlines()) == 1
    (entry,) = entry_points(group="console_scripts", name="tilezoo")
    assert entry.load() is main


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "tiles"
    making.write_tiles(folder, 6)
    return folder


def test_a_first_session_from_tiles_to_answers(run, tiles, vit, tmp_path):
    table = tmp_path / "table"
    made = run("embed", tiles, "-m", vit, "-o", table)
    assert (made.returncode, made.stderr.count("error")) == (0, 0)
    assert made.stdout.startswith(f"{table}: 6 tiles embedded in ")
    assert "recall@10 1.000" in run("index", table).stdout
    found = run("search", table, "tile_0002.tif", "-k", 2, "--json", "--html", tmp_path / "a.html")
    assert [hit["rank"] for hit in json.loads(found.stdout)["results"]] == [1, 2]
    assert (tmp_path / "a.html").stat().st_size > 1000


def test_a_known_error_is_one_line_and_exit_1(run, tiles, tmp_path):
    done = run("embed", tiles, "-m", "efficientnet-lite", "-o", tmp_path / "t")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [done.stderr.strip()]
    assert "Did you mean 'efficientnet-lite0-imagenet'?" in done.stderr


def test_too_many_failures_end_a_complete_table_with_exit_3(run, vit, tmp_path):
    folder = tmp_path / "mixed"
    making.write_tiles(folder, 3)
    (folder / "broken.tif").write_text("no image")
    done = run("embed", folder, "-m", vit, "-o", tmp_path / "t")
    assert done.returncode == 3
    assert "1 of 4 tiles failed, --max-errors is 0: see" in done.stderr
    assert open_table(tmp_path / "t").row_count == 3
    allowed = run("embed", folder, "-m", vit, "-o", tmp_path / "t", "--max-errors", 1, "--json")
    assert allowed.returncode == 0
    assert json.loads(allowed.stdout)["failed"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["embed"], "SOURCE"),
        (["embed", "x", "-o", "t", "--precision", "fp8"], "fp8"),
        (["embed", "x", "-o", "t", "--value-range", "5"], "--value-range"),
        (["embed", "x", "-o", "t", "--value-range", "5,1"], "smaller"),
        (["embed", "x", "-o", "t", "--shard", "2/2"], "--shard"),
        (["embed", "x", "-o", "t", "--stride-px", "5"], "--tile-px"),
    ],
)
def test_wrong_usage_is_exit_2(run, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "t").exists()


def test_models_and_show_say_the_contract(vit):
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert "efficientnet-lite0-imagenet" in [model["name"] for model in listed]
    shown = json.loads(CliRunner().invoke(app, ["show", str(vit), "--json"]).stdout)
    assert shown["contract"]["size_px"] == 64
    plain = CliRunner().invoke(app, ["show", "efficientnet-lite0-imagenet"])
    assert "value_range: 0.0, 255.0" in plain.stdout


def test_the_version_is_printed():
    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == "0.1.0"


def test_a_models_table_fits_a_narrow_terminal():
    listed = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"})
    assert max(map(len, listed.stdout.splitlines())) <= 80
