"""The extra: without it all else works and launching says how to get it; with it all resolves."""

import json
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
# As where the extra is not installed: its packages cannot be found.
_WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("boto3", "botocore", "sagemaker", "s3fs"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import importlib.util
known = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name.partition(".")[0] in ("boto3", "botocore", "sagemaker") else known(name, package)
)
from tilezoo.cli.main import main
main()
"""


def _without(*words):
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT, *words], capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("launch", "--dry-run", "--", "pretrain", "s3://b-b/t", "-o", "run"),
        ("jobs", "list"),
        ("jobs", "fetch", "name", "-o", "run"),
    ],
)
def test_without_the_extra_launching_says_in_a_line_how_to_install_it(words):
    done = _without(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: launching needs boto3 and sagemaker: pip install 'tilezoo[sagemaker]'\n"
    )


@pytest.mark.parametrize("words", [("models", "--json"), ("launch", "--help"), ("jobs", "--help")])
def test_without_the_extra_all_else_works(words):
    assert _without(*words).returncode == 0


@pytest.mark.slow
def test_all_extras_resolve_together_in_a_fresh_environment(tmp_path):
    venv.create(tmp_path / "fresh", with_pip=True)
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    wanted = f"{_ROOT}[{','.join(extras['optional-dependencies'])}]"
    report = tmp_path / "report.json"
    pip = (tmp_path / "fresh/bin/python", "-m", "pip", "install", "--quiet")
    command = (*pip, "--dry-run", "--ignore-installed", "--report", report, wanted)
    subprocess.run([str(word) for word in command], check=True, cwd=tmp_path)
    found = {
        one["metadata"]["name"].lower(): one["metadata"]["version"]
        for one in json.loads(report.read_text())["install"]
    }
    assert int(found["pyarrow"].partition(".")[0]) < 26
    assert int(found["s3fs"].partition(".")[0]) >= 2025
    assert int(found["sagemaker"].partition(".")[0]) == 3
