"""`tilezoo prepare bigearthnet` on the command line."""

import json
import subprocess
import sys
from pathlib import Path

import bigearthnet as ben
import pytest
from typer.testing import CliRunner

from tilezoo.cli.app import app

COMMAND = str(Path(sys.executable).with_name("tilezoo"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    ben.write_lists(tmp_path / "lists", train=[ben.SUMMER], val=[ben.FALL], cloud=[ben.SNOWY])
    ben.write_json(tmp_path / "root", ben.SUMMER)
    ben.write_json(tmp_path / "root", ben.FALL, acquisition_date="2017-09-24 09:30:20")
    ben.write_json(tmp_path / "root", ben.SNOWY, acquisition_date="2018-02-04 09:41:56")
    return tmp_path / "root"


def prepare(root: Path, *words: object) -> list[str]:
    where = ["-o", root.parent / "m.parquet", "--lists", root.parent / "lists"]
    return [str(word) for word in ("prepare", "bigearthnet", root, *where, *words)]


def test_the_counts_are_a_small_table_on_stdout(root: Path) -> None:
    done = CliRunner().invoke(app, prepare(root), env={"COLUMNS": "60"})
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == f"{root.parent / 'm.parquet'}: 3 patches"
    assert lines[1] == "2 recommended, 0 under snow, 1 under cloud or shadow"
    assert lines[2] == "train validation no split all"
    assert lines[3:] == ["all 1 1 1 3", "Austria 1 1 1 3", "Summer 1 1 1 3"]
    assert max(map(len, done.stdout.splitlines()[2:])) <= 60


def test_the_counts_are_json_for_programs(root: Path) -> None:
    done = subprocess.run(
        [COMMAND, *prepare(root, "--json")], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told.pop("seconds") >= 0
    assert told == {
        "metadata": str(root.parent / "m.parquet"),
        "errors": None,
        "rows": 3,
        "failed": 0,
        "recommended": 2,
        "snow": 0,
        "cloud_or_shadow": 1,
        "unlisted": 0,
        "splits": {"train": 1, "validation": 1, "none": 1},
        "countries": {"Austria": 3},
        "seasons": {"Summer": 3},
    }


def test_failed_patches_end_a_complete_file_with_exit_3_unless_they_are_allowed(root: Path) -> None:
    ben.write_text(root, ben.FALL, "{}")
    words = [COMMAND, *prepare(root)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "1 of 3 patches failed, --max-errors is 0: see" in done.stderr
    assert len(ben.rows_of(root.parent / "m.parquet")) == 2
    allowed = CliRunner().invoke(app, prepare(root, "--max-errors", 1, "--json"))
    assert allowed.exit_code == 0
    assert json.loads(allowed.stdout)["errors"] == str(root.parent / "m.errors.parquet")
    plain = CliRunner().invoke(app, prepare(root, "--max-errors", 1))
    assert f"2 patches; 1 failed, see {root.parent / 'm.errors.parquet'}" in plain.stdout


def test_its_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tilezoo.cli.app import app\n"
        "assert CliRunner().invoke(app, ['prepare', 'bigearthnet', '--help']).exit_code == 0\n"
        "import tilezoo.bigearthnet.labels\n"
        "print([m for m in ('torch', 'rasterio', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
