"""Lay the folders out as the package `tilezoo`, by symlinks, for tools that read without importing.

pyproject.toml maps core/ to `tilezoo`, zoo/ to `tilezoo.zoo` and so on. mypy, editors and the docs
cannot follow such a mapping: they read this tree, which is the working tree itself, live.

    python .ci/link_package.py build/types
"""

import os
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def link_package(tree: Path, root: Path = ROOT) -> None:
    """Make `tree` hold the package of the project in `root`, and nothing else.

    Raises:
        ValueError: A sub-package lies elsewhere than in its parent's folder under its own name.
    """
    folders = read_folders(root)
    top, *others = sorted(folders, key=lambda name: name.count("."))
    shutil.rmtree(tree, ignore_errors=True)
    (tree / top).mkdir(parents=True)
    for entry in (root / folders[top]).iterdir():
        if entry.name != "__pycache__":
            link(tree / top / entry.name, entry)
    for package in others:
        place, folder = tree.joinpath(*package.split(".")), root / folders[package]
        if not place.exists():
            link(place, folder)
        if place.resolve() != folder:
            raise ValueError(f"{package} should lie in its parent's folder, not in {folder}")


def read_folders(root: Path) -> dict[str, str]:
    """Read which folder each package lies in."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    folders: dict[str, str] = project["tool"]["setuptools"]["package-dir"]
    return folders


def link(place: Path, target: Path) -> None:
    """Link to `target` by a relative path, so that the whole folder can be moved."""
    place.symlink_to(os.path.relpath(target, place.parent))


if __name__ == "__main__":
    link_package(Path(sys.argv[1]).resolve())
