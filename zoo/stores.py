"""Where a registry's files lie: a folder, a bucket of S3, or what fsspec opens.

Files appear whole or not at all. In a folder writers take turns by a lock; in a bucket conditional
requests see to it that none undoes what another did.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Protocol, cast

from tilezoo.errors import (
    OptionError,
    RegistryConflictError,
    RegistryError,
    RegistryUnreachableError,
)

_CHUNK = 1 << 20
PART_BYTES = 8 << 20  # of an upload to an object store; 10,000 parts make 80 GB
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

    def last_change(self, name: str) -> datetime:
        """When a file was written, UTC."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""

    def replace(self, name: str, data: bytes, before: bytes | None) -> None:
        """Write a small text where it still is `before`, spaces around it aside; None: not there.

        Raises:
            RegistryConflictError: Another writer was faster.
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


def open_store(root: str | Path) -> Store:
    """Open a folder, or the place that a URL such as `s3://bucket/prefix` names."""
    text = str(root)
    if text.startswith("file://"):
        return FolderStore(Path(text.removeprefix("file://")))
    if text.startswith("s3://"):
        from tilezoo.zoo.bucket import BucketStore

        return BucketStore(text)
    return FsspecStore(text) if "://" in text else FolderStore(Path(text))


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

    def last_change(self, name: str) -> datetime:
        with explain_failures():
            return datetime.fromtimestamp(self._at(name).stat().st_mtime, UTC)

    def write(self, name: str, data: bytes) -> None:
        with self._whole(name) as temporary:
            temporary.write_bytes(data)

    def replace(self, name: str, data: bytes, before: bytes | None) -> None:
        _check_unchanged(self, name, before)  # whoever writes refs holds the lock
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


class FsspecStore:
    """What fsspec opens: `gs://…`, `memory://…`. Writers are kept apart within one process only."""

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise OptionError(f"{url}: {error}; a registry is a folder, or s3://…") from error
        self._fs: Any = fs
        self._root = str(root).rstrip("/")
        self._locks: dict[str, Lock] = {}
        self._guard = Lock()

    def read(self, name: str) -> bytes:
        with explain_failures():
            # what fsspec remembers of a folder may be older than what others wrote
            return bytes(self._fs.cat_file(self._at(name)))

    def open(self, name: str) -> BinaryIO:
        with explain_failures():
            self._fs.invalidate_cache(self._parent(name))
            return cast("BinaryIO", self._fs.open(self._at(name), "rb", block_size=PART_BYTES))

    def exists(self, name: str) -> bool:
        with explain_failures():
            self._fs.invalidate_cache(self._parent(name))
            return bool(self._fs.isfile(self._at(name)))

    def children(self, name: str) -> list[str]:
        with explain_failures():
            folder = self._at(name) if name else self._root
            self._fs.invalidate_cache(folder)
            try:
                found = self._fs.ls(folder, detail=False, refresh=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
        paths = {str(path).rstrip("/") for path in found} - {folder}
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def last_change(self, name: str) -> datetime:
        with explain_failures():
            self._fs.invalidate_cache(self._parent(name))
            return cast("datetime", self._fs.modified(self._at(name)))

    def write(self, name: str, data: bytes) -> None:
        with explain_failures(passed=()):
            self._fs.pipe_file(self._at(name), data)

    def replace(self, name: str, data: bytes, before: bytes | None) -> None:
        _check_unchanged(self, name, before)
        self.write(name, data)

    def put(self, source: Path, name: str, sha256: str) -> None:
        with explain_failures(passed=()), source.open("rb") as file:
            target = self._fs.open(self._at(name), "wb", block_size=PART_BYTES)
            try:
                _copy_checked(file, target, sha256, source)
            except BaseException:
                target.discard()
                target.closed = True  # else it completes the upload when it is collected
                raise
            target.close()

    def adopt(self, source: Path, name: str) -> None:
        with explain_failures(passed=()):
            self._fs.put_file(str(source), self._at(name))

    def copy(self, source: str, name: str) -> None:
        with explain_failures(passed=()):
            self._fs.cp_file(self._at(source), self._at(name))

    def delete(self, name: str) -> None:
        with explain_failures():
            self._fs.rm_file(self._at(name))

    def delete_folder(self, name: str) -> None:
        with explain_failures():
            self._fs.invalidate_cache()
            self._fs.rm(self._at(name), recursive=True)

    def lock(self, name: str) -> AbstractContextManager[object]:
        with self._guard:
            return self._locks.setdefault(name, Lock())

    def scratch(self) -> None:
        return None

    def _at(self, name: str) -> str:
        return f"{self._root}/{check_inside(name, self._root)}"

    def _parent(self, name: str) -> str:
        return self._at(name).rsplit("/", 1)[0]


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
        why = str(error).partition("\n\nDebug source:")[0]  # obstore's
        raise RegistryUnreachableError(f"the registry's storage failed: {why}") from error


def conflict(name: str) -> RegistryConflictError:
    """The error of a writer who was slower than another."""
    return RegistryConflictError(f"{name} was just changed by another writer: look and try again")


def _check_unchanged(store: Store, name: str, before: bytes | None) -> None:
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


def _copy_checked(source: BinaryIO, target: BinaryIO, sha256: str, path: Path) -> None:
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
        _copy_checked(file, written, sha256, source)


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
