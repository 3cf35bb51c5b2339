"""The extra: without it all else works and launching says how to get it; with it all are at peace."""

import subprocess
import sys
import tomllib
from importlib.metadata import version
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
from tilezoo.cli.app import main
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


def test_all_extras_are_at_peace_in_one_environment():
    """This one: CI makes it anew from the extras `demo` and `test`, which hold all others."""
    extras = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(extras) == {"demo", "dev", "docs", "hub", "s3", "sagemaker", "tensorboard", "test"}
    assert "tilezoo[hub,s3,sagemaker,tensorboard]" in extras["test"]
    assert int(version("pyarrow").partition(".")[0]) < 26  # as the SDK's mlflow asks
    assert int(version("s3fs").partition(".")[0]) >= 2025
    assert int(version("sagemaker").partition(".")[0]) == 3
    command = [sys.executable, "-m", "pip", "check"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    names = ("sagemaker", "boto", "s3fs", "aiobotocore", "mlflow", "pyarrow", "moto", "tilezoo")
    assert [line for line in said.splitlines() if line.startswith(names)] == []
