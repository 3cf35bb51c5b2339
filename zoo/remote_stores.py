"""Where a registry's files lie under a URL: in a bucket of S3, or in what fsspec opens."""

import io
import os
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tilezoo.errors import OptionError, RegistryUnreachableError
from tilezoo.zoo.stores import (
    FolderStore,
    Store,
    check_inside,
    check_unchanged,
    conflict,
    copy_checked,
    explain_failures,
    read_checked,
)

if TYPE_CHECKING:
    from obstore.store import S3Store

_READ_BYTES = 1 << 20
_PART_BYTES = 8 << 20  # of an upload; 10,000 parts make 80 GB
_COPY_BYTES = 5 << 30  # the most that S3 copies in one request


def open_store(root: str | Path) -> Store:
    """Open a folder, or the place that a URL such as `s3://bucket/prefix` names."""
    text = str(root)
    if text.startswith("file://"):
        return FolderStore(Path(text.removeprefix("file://")))
    if text.startswith("s3://"):
        return BucketStore(text)
    return FsspecStore(text) if "://" in text else FolderStore(Path(text))


class BucketStore:
    """A prefix of an S3 bucket, with the credentials, region and endpoint that AWS's tools use.

    A file appears when its upload is complete. Locks hold within one process; between processes
    `replace` is a conditional request.
    """

    def __init__(self, url: str) -> None:
        self._root = url.rstrip("/")
        self._s3 = _open_bucket(url)
        self._locks: dict[str, Lock] = {}
        self._guard = Lock()

    def read(self, name: str) -> bytes:
        with _explain():
            return bytes(self._s3.get(self._at(name)).bytes())

    def open(self, name: str) -> BinaryIO:
        import obstore

        with _explain():
            file = obstore.open_reader(self._s3, self._at(name), buffer_size=_PART_BYTES)
        return cast("BinaryIO", io.BufferedReader(_BucketFile(file), _READ_BYTES))

    def exists(self, name: str) -> bool:
        with _explain():
            try:
                self._s3.head(self._at(name))
            except FileNotFoundError:
                return False
        return True

    def children(self, name: str) -> list[str]:
        with _explain():
            try:
                found = self._s3.list_with_delimiter(self._at(name) if name else None)
            except FileNotFoundError:  # no such bucket
                return []
        paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in paths)

    def files_below(self, name: str) -> list[str]:
        with _explain():
            found = [one["path"] for page in self._s3.list(self._at(name)) for one in page]
        return sorted(path for path in found if path.startswith(f"{name}/"))

    def last_change(self, name: str) -> datetime:
        with _explain():
            return self._s3.head(self._at(name))["last_modified"]

    def write(self, name: str, data: bytes) -> None:
        with _explain_all():
            self._s3.put(self._at(name), data)

    def replace(self, name: str, data: bytes, before: bytes | None) -> None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with _explain():
                self._replace(self._at(name), data, before)
        except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
            raise conflict(name) from error

    def _replace(self, path: str, data: bytes, before: bytes | None) -> None:
        if before is None:
            self._s3.put(path, data, mode="create")
            return
        found = self._s3.get(path)
        if bytes(found.bytes()).strip() != before.strip():
            raise conflict(path)
        self._s3.put(path, data, mode={"e_tag": str(found.meta["e_tag"])})

    def put(self, source: Path, name: str, sha256: str) -> None:
        with _explain_all(), source.open("rb") as file:
            self._s3.put(self._at(name), read_checked(file, sha256, source), chunk_size=_PART_BYTES)

    def adopt(self, source: Path, name: str) -> None:
        with _explain_all():
            self._s3.put(self._at(name), source, chunk_size=_PART_BYTES)

    def copy(self, source: str, name: str) -> None:
        with _explain_all():
            if self._s3.head(self._at(source))["size"] > _COPY_BYTES:
                pieces = self._s3.get(self._at(source)).stream(min_chunk_size=_PART_BYTES)
                self._s3.put(self._at(name), pieces, chunk_size=_PART_BYTES)
            else:
                self._s3.copy(self._at(source), self._at(name))

    def delete(self, name: str) -> None:
        with _explain():
            self._s3.delete(self._at(name))

    def delete_folder(self, name: str) -> None:
        with _explain():
            for found in self._s3.list(self._at(name)):
                self._s3.delete([one["path"] for one in found])

    def lock(self, name: str) -> AbstractContextManager[object]:
        with self._guard:
            return self._locks.setdefault(name, Lock())

    def scratch(self) -> None:
        return None

    def _at(self, name: str) -> str:
        return check_inside(name, self._root)


class _BucketFile(io.RawIOBase):
    """What obstore reads of an object, as Python's own buffered files take it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        with _explain():
            piece = memoryview(self._file.read(len(buffer)))
        buffer[: len(piece)] = piece
        return len(piece)


def _open_bucket(url: str) -> "S3Store":
    """Find credentials, region and endpoint as boto3 does: environment, profiles, roles."""
    try:
        from boto3 import Session
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as error:
        raise OptionError(f"{url}: {error}; run: pip install 'tilezoo[s3]'") from error
    try:
        session = Session()
        service = session.client("s3").meta
        return S3Store.from_url(
            url,
            endpoint=service.endpoint_url,
            region=service.region_name,
            credential_provider=Boto3CredentialProvider(session),
            client_options={"allow_http": True},
        )
    except (BotoCoreError, BaseError, ValueError) as error:
        fix = "aws configure, or AWS_PROFILE, gives credentials and region"
        raise RegistryUnreachableError(f"{url}: {' '.join(str(error).split())}; {fix}") from error


def _explain() -> AbstractContextManager[None]:
    """Explain what S3 refuses, but for a missing file and a condition that does not hold."""
    from botocore.exceptions import BotoCoreError
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    passed = (FileNotFoundError, AlreadyExistsError, PreconditionError)
    return explain_failures((OSError, BaseError, BotoCoreError), passed)


def _explain_all() -> AbstractContextManager[None]:
    """Explain a missing file too: where one writes, it is the bucket that is missing."""
    from botocore.exceptions import BotoCoreError
    from obstore.exceptions import BaseError

    return explain_failures((OSError, BaseError, BotoCoreError), ())


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
            return cast("BinaryIO", self._fs.open(self._at(name), "rb", block_size=_PART_BYTES))

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

    def files_below(self, name: str) -> list[str]:
        with explain_failures():
            self._fs.invalidate_cache()
            found = self._fs.find(self._at(name))
        return sorted(str(path).removeprefix(f"{self._root}/") for path in found)

    def last_change(self, name: str) -> datetime:
        with explain_failures():
            self._fs.invalidate_cache(self._parent(name))
            return cast("datetime", self._fs.modified(self._at(name)))

    def write(self, name: str, data: bytes) -> None:
        with explain_failures(passed=()):
            self._fs.pipe_file(self._at(name), data)

    def replace(self, name: str, data: bytes, before: bytes | None) -> None:
        check_unchanged(self, name, before)
        self.write(name, data)

    def put(self, source: Path, name: str, sha256: str) -> None:
        with explain_failures(passed=()), source.open("rb") as file:
            target = self._fs.open(self._at(name), "wb", block_size=_PART_BYTES)
            try:
                copy_checked(file, target, sha256, source)
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
