"""A registry in an S3 bucket, by obstore: with the credentials, region and endpoint of AWS's tools."""

import io
import os
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tilezoo.errors import OptionError, RegistryUnreachableError
from tilezoo.zoo.stores import PART_BYTES, check_inside, conflict, explain_failures, read_checked

if TYPE_CHECKING:
    from obstore.store import S3Store

_READ_BYTES = 1 << 20
_COPY_BYTES = 5 << 30  # the most that S3 copies in one request


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
            file = obstore.open_reader(self._s3, self._at(name), buffer_size=PART_BYTES)
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
            self._s3.put(self._at(name), read_checked(file, sha256, source), chunk_size=PART_BYTES)

    def adopt(self, source: Path, name: str) -> None:
        with _explain_all():
            self._s3.put(self._at(name), source, chunk_size=PART_BYTES)

    def copy(self, source: str, name: str) -> None:
        with _explain_all():
            if self._s3.head(self._at(source))["size"] > _COPY_BYTES:
                pieces = self._s3.get(self._at(source)).stream(min_chunk_size=PART_BYTES)
                self._s3.put(self._at(name), pieces, chunk_size=PART_BYTES)
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
