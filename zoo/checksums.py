"""Hashes of a model directory's files, in the form that `sha256sum --check` reads."""

from pathlib import Path

from tilezoo.errors import ModelError
from tilezoo.io import sha256_file, write_text

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """Write the hash of every file in the folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    lines = [f"{sha256_file(folder / name)}  {name}" for name in names]
    write_text(folder / SUMS, "\n".join(lines) + "\n")


def renew_sum(folder: Path, name: str) -> None:
    """Write the hash of one file anew, and leave the others as they were stated.

    A directory without such hashes stays without.
    """
    path = folder / SUMS
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    others = [line for line in lines if line.partition("  ")[2] != name]
    renewed = [*others, f"{sha256_file(folder / name)}  {name}"]
    by_name = sorted(renewed, key=lambda line: line.partition("  ")[2])
    write_text(path, "\n".join(by_name) + "\n")


def check_sums(folder: Path) -> str:
    """Compare every file that is listed with its hash.

    Raises:
        ModelError: Naming the first that is missing or differs.
    """
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        stated, _, name = line.partition("  ")
        path = folder / Path(name).name
        if not path.is_file() or sha256_file(path) != stated:
            fix = "download or export the model again"
            raise ModelError(f"{name} is missing or not as it was written; {fix}")
    return f"every file as {SUMS} states"
