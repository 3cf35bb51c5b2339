"""A folder made by one run: who may write it, and what else lies in it."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tilezoo.errors import TilezooError

_LOCK = ".lock"


@contextmanager
def one_writer(path: Path, what: str, error: type[TilezooError]) -> Iterator[None]:
    """Hold a folder for one writer; the lock goes with the process.

    Args:
        path: The folder; made if it is not there.
        what: What is made in it ("table").
        error: Raised when another process holds it, or the folder or disk cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path / _LOCK, blocking=False):
            yield
    except Timeout as held:
        raise error(f"{path}: another run is writing this {what}; wait for it") from held
    except (NotADirectoryError, FileExistsError, PermissionError) as wrong:
        raise error(f"{path}: not a folder that can be written; choose another -o") from wrong
    except OSError as full:  # a full disk, say
        fix = "make room, then run the same command to go on"
        raise error(f"{path}: {full.strerror or full}; {fix}") from full


def refuse_foreign(
    path: Path, what: str, error: type[TilezooError], leftovers: Collection[str] = ()
) -> None:
    """Refuse a folder that holds anything but hidden entries and `leftovers`."""
    found = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    others = [name for name in found if name not in leftovers]
    if others:
        raise error(f"{path} holds {others[0]!r} and no {what}; choose another -o")


def differing(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Tell in which options the run that a folder is of differs from the one that is asked for."""
    return [
        f"{key}: {there.get(key)!r} there, {value!r} now"
        for key, value in now.items()
        if there.get(key) != value
    ]
