"""The house stands as docs/architecture.md draws it."""

import ast
import inspect
import re
import runpy
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pytest

from tilezoo.options import options_of

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS: dict[str, str] = PROJECT["tool"]["setuptools"]["package-dir"]
FLOORS = {
    "tilezoo": 0,
    "tilezoo.zoo": 1,
    "tilezoo.embed": 2,
    "tilezoo.launch": 2,
    "tilezoo.pretrain": 2,
    "tilezoo.probe": 2,
    "tilezoo.search": 2,
    "tilezoo.compare": 3,
    "tilezoo.cli": 4,
}
MODULES = [
    (package, path) for package, folder in FOLDERS.items() for path in (ROOT / folder).glob("*.py")
]
HEAVY = (
    "torch", "faiss", "rasterio", "geopandas", "boto3", "sagemaker", "timm", "pyarrow", "numpy",
)  # fmt: skip


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name == "tilezoo" or name.startswith("tilezoo.")}


def room(name: str) -> str:
    second = ".".join(name.split(".")[:2])
    return second if second in FLOORS else "tilezoo"


@pytest.mark.parametrize(("package", "path"), MODULES, ids=lambda value: str(value))
def test_imports_point_down(package, path):
    for name in imported(path):
        target = room(name)
        lower = FLOORS[target] < FLOORS[room(package)]
        assert lower or target == room(package), f"{path.name}: {name} is not below {package}"


@pytest.fixture(scope="module")
def house():
    """What benchmarks/house.py counts with."""
    return SimpleNamespace(
        **runpy.run_path(str(ROOT / "benchmarks" / "house.py"), run_name="house")
    )


def test_no_modules_import_each_other_in_a_circle(house):
    assert house.find_circles(house.find_importers(house.find_modules())) == []


def test_every_folder_of_code_ships():
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    folders = {str(Path(name).parent) for name in tracked} - {"tests", "benchmarks", "docs", ".ci"}
    assert folders == set(FOLDERS.values())
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == set(FOLDERS)
    assert {room(package) for package in FOLDERS} == set(FLOORS)
    assert not (ROOT / "tilezoo").exists()


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from tilezoo.cli.app import app\n"
        "for verb in ('embed', 'search', 'pack', 'launch', 'jobs', ''):\n"
        "    words = [verb, '--help'] if verb else ['--help']\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rooms_are_light_until_they_are_used():
    rooms = "import tilezoo.zoo, tilezoo.embed, tilezoo.search, tilezoo.launch"
    code = f"import sys; {rooms}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """Every verb, and those of verbs that have verbs of their own, with its function."""
    from tilezoo.cli.app import app

    left = [("", app)]
    while left:
        path, one = left.pop()
        left += [(f"{path} {group.name}", group.typer_instance) for group in one.registered_groups]
        for verb in one.registered_commands:
            yield f"{path} {verb.name}".strip(), verb.callback


def test_nothing_declares_options_but_what_makes_commands_of_classes():
    declaring = {path.relative_to(ROOT).as_posix() for _package, path in MODULES
                 if re.search(r"typer\.(Option|Argument)\(", path.read_text())}  # fmt: skip
    assert declaring == {"cli/options.py", "cli/app.py"}  # the app's own is --version


def test_every_command_takes_its_parameters_from_classes():
    by_hand = [
        verb
        for verb, function in commands()
        if inspect.signature(function).parameters and not hasattr(function, "options_classes")
    ]
    assert by_hand == []


def test_no_option_is_stated_in_two_classes():
    """Unless one restates what it inherits."""
    asked = {cls for _verb, function in commands()
             for cls in getattr(function, "options_classes", ())}  # fmt: skip
    bases = {base for cls in asked for base in cls.__mro__ if "__own_options__" in vars(base)}
    stating = defaultdict(set)
    for base in bases:
        helps = {one.name: one.help for one in options_of(base)}
        for name in vars(base)["__own_options__"]:
            stating[name, helps[name]].add(base)
    twice = {
        f"{name}: {one.__qualname__}, {other.__qualname__}"
        for (name, _help), classes in stating.items()
        for one, other in combinations(sorted(classes, key=lambda cls: cls.__qualname__), 2)
        if not issubclass(one, other) and not issubclass(other, one)
    }
    assert twice == set()


def test_a_job_is_shipped_every_room():
    from tilezoo.launch.request import PACKAGE, ROOMS

    assert {PACKAGE, *(f"{PACKAGE}.{room}" for room in ROOMS)} == set(FOLDERS)


def test_the_version_is_said_once():
    from tilezoo import __version__

    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert PROJECT["project"]["dynamic"] == ["version"]
