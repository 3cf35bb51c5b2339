"""A folder that one run makes piece by piece, and that the same run goes on with after a kill.

Tables and packs are such folders. Pieces are made under a hidden folder or under their own names,
each whole or not there at all; the manifest tells what the run was asked for. One process writes
at a time, what belongs to others is left alone, and another run on the same folder is refused.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from tilezoo.errors import TilezooError
from tilezoo.io import whole_file

_LOCK = ".lock"


@dataclass(frozen=True, kw_only=True)
class FolderKind:
    """What a kind of folder is called, and what in it is its own.

    Attributes:
        what: In messages: `table`.
        error: What is raised.
        manifest: Its file that tells of the others.
        mark: A key that stands in this manifest and in no other program's.
        files: Patterns of its other files.
        derived: Folders in it that are made from it, and go when it goes.
        unfinished: Its hidden folder, there until it is complete.
    """

    what: str
    error: type[TilezooError]
    manifest: str
    mark: str
    files: tuple[str, ...]
    derived: tuple[str, ...] = ()
    unfinished: str


@dataclass(frozen=True)
class RunFolder:
    """One folder of a kind, held by one run.

    Attributes:
        path: Where it is.
        kind: What it is to hold.
    """

    path: Path
    kind: FolderKind

    def lock(self) -> AbstractContextManager[None]:
        """Make the folder and hold it for one writer.

        Raises:
            TilezooError: Of the kind: another process holds it, or the folder or disk cannot be
                written.
        """
        return one_writer(self.path, self.kind.what, self.kind.error)

    def clear(self) -> None:
        """Remove what is the kind's own and nothing else, in an order that may be cut short.

        Raises:
            TilezooError: Of the kind: the folder holds something else.
        """
        own = [file for pattern in self.kind.files for file in self.path.glob(pattern)]
        if self._is_own():
            for folder in self.kind.derived:
                shutil.rmtree(self.path / folder, ignore_errors=True)
            own.insert(0, self.path / self.kind.manifest)
        else:
            self._refuse_foreign(leftovers=[file.name for file in own])
        for file in own:
            file.unlink(missing_ok=True)
        self.finish()

    def start(self) -> None:
        """Take a folder in which no run has begun.

        Raises:
            TilezooError: Of the kind: the folder holds something.
        """
        self._refuse_foreign()
        self.finish()  # of a clearing that was cut short

    def refuse_other_run(self, differences: Sequence[str]) -> None:
        """Refuse to go on with a folder of a run that differs from the one that is asked for.

        Raises:
            TilezooError: Of the kind, with the differences, if there are any.
        """
        if differences:
            held = f"{self.path} is the {self.kind.what} of another run ({'; '.join(differences)})"
            raise self.kind.error(f"{held}; choose another -o, or --overwrite to start anew")

    @property
    def unfinished(self) -> Path:
        """The hidden folder of what is needed until all is complete."""
        return self.path / self.kind.unfinished

    def begin(self) -> None:
        """Make the hidden folder, and remove half-written files of a killed run."""
        self.unfinished.mkdir(exist_ok=True)
        for folder in (self.path, self.unfinished):
            for stale in folder.glob(".*.tmp"):  # no other run's: this one holds the lock
                stale.unlink()

    def finish(self) -> None:
        """Remove the hidden folder: all is complete, or nothing is there."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    def _is_own(self) -> bool:
        manifest = self.path / self.kind.manifest
        marked = manifest.is_file() and f'"{self.kind.mark}"'.encode() in manifest.read_bytes()
        return marked or self.unfinished.is_dir()

    def _refuse_foreign(self, leftovers: Sequence[str] = ()) -> None:
        found = sorted(entry.name for entry in self.path.iterdir())
        others = [name for name in found if not name.startswith(".") and name not in leftovers]
        if others:
            held = f"{self.path} holds {others[0]!r} and no {self.kind.what}"
            raise self.kind.error(f"{held}; choose another -o")


@contextmanager
def one_writer(path: Path, what: str, error: type[TilezooError]) -> Iterator[None]:
    """Make a folder and hold it for one writer; the lock goes with the process.

    Args:
        path: The folder.
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


def tell_differences(there: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Tell in which options the run that a folder is of differs from the one that is asked for."""
    return [
        f"{key}: {there.get(key)!r} there, {value!r} now"
        for key, value in now.items()
        if there.get(key) != value
    ]


def write_parquet(
    path: Path, columns: pa.Schema, parts: Iterable[pa.Table], **layout: object
) -> None:
    """Write a Parquet file from parts, each a row group, whole or not at all.

    Args:
        path: Where to.
        columns: Of the file, with its keys.
        parts: Rows; only one part is held at a time.
        layout: How values are laid out; see `pyarrow.parquet.ParquetWriter`.
    """
    with whole_file(path) as made, pq.ParquetWriter(made, columns, **layout) as writer:
        for rows in parts:
            writer.write_table(rows.cast(columns), row_group_size=len(rows) or 1)
