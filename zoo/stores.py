"""Where a registry's files lie: what any place for them does, and a folder as one.

Files appear whole or not at all. In a folder writers take turns by a lock; elsewhere `replace`
sees to it that none undoes what another did.
"""

import hashlib
import os
import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from tilezoo.errors import (
    OptionError,
    RegistryError,
    RegistryOvertakenError,
    RegistryUnreachableError,
)

T = TypeVar("T")
_CHUNK = 1 << 20
_PATIENCE_S = 60.0
_LONGEST_PAUSE_S = 0.5
# Beside the organisations, none of which may begin with a dot.
_OWN = ".tilezoo"


class Store(Protocol):
    """Named files. A name is relative, with '/'; a missing one raises FileNotFoundError."""

    def read(self, name: str) -> bytes:
        """Read a small file."""

    def open(self, name: str) -> BinaryIO:
        """Open a file to read, seekable."""

    def exists(self, name: str) -> bool:
        """Tell whether there is a file of this name."""

    def children(self, name: str) -> list[str]:
        """List what lies in a folder, sorted; nothing where there is none."""

    def files_below(self, name: str) -> list[str]:
        """List every file in a folder and in those in it, by whole names, sorted."""

    def last_change(self, name: str) -> datetime:
        """When a file was written, UTC."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""

    def replace(self, name: str, data: bytes, before: bytes | None) -> None:
        """Write a small text where it still is `before`, spaces around it aside; None: not there.

        Raises:
            RegistryOvertakenError: Another writer was faster.
        """

    def put(self, source: Path, name: str, sha256: str) -> None:
        """Copy a local file in, if its bytes have this hash."""

    def adopt(self, source: Path, name: str) -> None:
        """Take a local file in that nobody will change, by a link where one can be had."""

    def copy(self, source: str, name: str) -> None:
        """Copy a file of the store that nobody will change."""

    def delete(self, name: str) -> None:
        """Delete a file."""

    def delete_folder(self, name: str) -> None:
        """Delete a folder with all that is in it."""

    def lock(self, name: str) -> AbstractContextManager[object]:
        """Keep other writers of a folder out."""

    def scratch(self) -> Path | None:
        """A local folder from where files can be adopted by a link, if there is one."""


class FolderStore:
    """A folder. Files are written beside it all, then renamed; unchanged ones are hard links."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().resolve()
        if self._root.exists() and not self._root.is_dir():
            raise OptionError(f"{root}: a file; a registry is a folder, or a URL such as s3://…")

    def read(self, name: str) -> bytes:
        with explain_failures():
            return self._at(name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        with explain_failures():
            return self._at(name).open("rb")

    def exists(self, name: str) -> bool:
        return self._at(name).is_file()

    def children(self, name: str) -> list[str]:
        with explain_failures():
            try:
                return sorted(os.listdir(self._at(name)))  # noqa: PTH208  (names, not paths)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def files_below(self, name: str) -> list[str]:
        with explain_failures():
            found = (path for path in self._at(name).rglob("*") if path.is_file())
            return sorted(path.relative_to(self._root).as_posix() for path in found)

    def last_change(self, name: str) -> datetime:
        with explain_failures():
            return datetime.fromtimestamp(self._at(name).stat().st_mtime, UTC)

    def write(self, name: str, data: bytes) -> None:
        with self._whole(name) as temporary:
            temporary.write_bytes(data)

    def replace(self, name: str, data: bytes, before: bytes | None) -> None:
        check_unchanged(self, name, before)  # whoever writes refs holds the lock
        self.write(name, data)

    def put(self, source: Path, name: str, sha256: str) -> None:
        with self._whole(name) as temporary:
            _copy_local(source, temporary, sha256)

    def adopt(self, source: Path, name: str) -> None:
        with self._whole(name) as temporary:
            _link_or_copy(source, temporary)

    def copy(self, source: str, name: str) -> None:
        self.adopt(self._at(source), name)

    def delete(self, name: str) -> None:
        with explain_failures():
            self._at(name).unlink()

    def delete_folder(self, name: str) -> None:
        doomed = self._own("tmp") / secrets.token_hex(8)
        with explain_failures():
            self._at(name).rename(doomed)
            shutil.rmtree(doomed)

    def lock(self, name: str) -> AbstractContextManager[object]:
        from filelock import FileLock

        return FileLock(self._own("locks") / f"{name.replace('/', '--')}.lock")

    def scratch(self) -> Path | None:
        try:
            return self._own("tmp")
        except RegistryUnreachableError:  # a folder that may be read only
            return None

    def _at(self, name: str) -> Path:
        path = self._root / name
        if not path.is_relative_to(self._root) or ".." in path.parts:
            raise RegistryError(f"{name!r} leads out of {self._root}")
        return path

    def _own(self, name: str) -> Path:
        folder = self._root / _OWN / name
        with explain_failures():
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def _whole(self, name: str) -> Iterator[Path]:
        temporary = self._own("tmp") / secrets.token_hex(8)
        target = self._at(name)
        with explain_failures(passed=()):
            try:
                yield temporary
                _sync(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)


@contextmanager
def explain_failures(
    failures: tuple[type[BaseException], ...] = (OSError,),
    passed: tuple[type[BaseException], ...] = (FileNotFoundError,),
) -> Iterator[None]:
    """Make a failure of the storage an error that says where.

    Args:
        failures: What the storage raises.
        passed: Those of them that the caller explains; a missing file is the reader's.
    """
    try:
        yield
    except failures as error:
        if isinstance(error, passed):
            raise
        if isinstance(error, NotADirectoryError) and FileNotFoundError in passed:
            raise FileNotFoundError(str(error)) from error  # a stray file where a folder could be
        why = str(error).partition("\n\nDebug source:")[0]  # obstore's
        raise RegistryUnreachableError(f"the registry's storage failed: {why}") from error


def conflict(name: str) -> RegistryOvertakenError:
    """The error of a writer who was slower than another."""
    return RegistryOvertakenError(f"{name} was just changed by another writer: look and try again")


def retry_overtaken(change: Callable[[], T]) -> T:
    """Make a change anew for as long as others are faster, up to a minute.

    `change` begins with where things are now. Pauses are random, so that two writers part.
    """
    deadline, pause_s = time.monotonic() + _PATIENCE_S, 0.01
    while True:
        try:
            return change()
        except RegistryOvertakenError:
            if time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0, pause_s))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def check_unchanged(store: Store, name: str, before: bytes | None) -> None:
    """Refuse to go on where a file is not what it was `before`; None where it was not there.

    Raises:
        RegistryOvertakenError: It is another.
    """
    try:
        found: bytes | None = store.read(name).strip()
    except FileNotFoundError:
        found = None
    if found != (None if before is None else before.strip()):
        raise conflict(name)


def check_inside(name: str, root: str) -> str:
    """Return a name if it stays below the root.

    Raises:
        RegistryError: It does not.
    """
    if ".." in name.split("/"):
        raise RegistryError(f"{name!r} leads out of {root}")
    return name


def copy_checked(source: BinaryIO, target: BinaryIO, sha256: str, path: Path) -> None:
    """Copy a file's bytes; its end is an error where its hash is another."""
    target.writelines(read_checked(source, sha256, path))


def read_checked(source: BinaryIO, sha256: str, path: Path) -> Iterator[bytes]:
    """Read a file piece by piece; its end is an error where its hash is another."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != sha256:
        raise RegistryError(f"{path} changed while it was being stored; publish again")


def _copy_local(source: Path, target: Path, sha256: str) -> None:
    with source.open("rb") as file, target.open("wb") as written:
        copy_checked(file, written, sha256, source)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
