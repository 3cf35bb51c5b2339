"""Check what `python -m build` has made: the contents, the metadata, and that it runs elsewhere.

The wheel is installed alone into a new environment that finds its dependencies in this one, whose
tilezoo it does not see. The small demo runs there.

    python .ci/check_wheel.py dist
"""

import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent


def check_wheel(dist: Path) -> None:
    """Raise an error unless the one wheel in `dist` is complete, tidy and runs."""
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    check_contents(wheel)
    check_metadata(wheel)
    with tempfile.TemporaryDirectory() as folder:
        run_demo(wheel, Path(folder))
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {sdist.name}: as it should be")


def check_contents(wheel: Path) -> None:
    """Hold the wheel's files to the package's folders: all of these, and nothing else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    folders, data = (project["setuptools"][key] for key in ("package-dir", "package-data"))
    expected = {
        f"{package.replace('.', '/')}/{file.relative_to(ROOT / folder)}"
        for package, folder in folders.items()
        for pattern in ("*.py", *data.get(package, ()))
        for file in (ROOT / folder).glob(pattern)
    }
    with ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    if found != expected:
        lacks, has = sorted(expected - found), sorted(found - expected)
        raise SystemExit(f"{wheel.name} lacks {lacks} and should not have {has}")


def check_metadata(wheel: Path) -> None:
    """Hold the metadata to the specification, and have a description to show."""
    with ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
        facts = Metadata.from_email(archive.read(name), validate=True)
    if not facts.description or facts.description_content_type != "text/markdown":
        raise SystemExit(f"{wheel.name}: README.md is not its description")


def run_demo(wheel: Path, folder: Path) -> None:
    """Install the wheel alone and run the small demo from outside the working tree."""
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel.resolve()], folder)
    (site,) = (folder / "venv" / "lib").glob("*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(others), encoding="utf-8")
    place = [python, "-c", "import tilezoo; print(tilezoo.__file__)"]
    if str(folder) not in run(place, folder):
        raise SystemExit("the demo would run from the working tree, not from the wheel")
    run([python.parent / "tilezoo", "demo", "--small"], folder)
    for page in ("search.html", "search.png", "table/index/index.json"):
        if not (folder / "tilezoo-demo" / page).exists():
            raise SystemExit(f"the demo wrote no {page}")


def run(command: list[str | Path], folder: Path) -> str:
    """Run a command in a folder; return what it printed."""
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    check_wheel(Path(sys.argv[1]))
