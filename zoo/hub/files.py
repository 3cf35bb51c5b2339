"""Files of a hub: handed out whole or in ranges, received under their hash before a commit uses them.

An upload's address is signed, because huggingface_hub sends no token there (on Hugging Face it
is a storage's own). The key lives as long as the process.
"""

import hashlib
import hmac
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tilezoo.errors import NotInRegistryError, RegistryDamagedError
from tilezoo.zoo.hub.blobs import is_large
from tilezoo.zoo.hub.errors import RefusedError, answer_known
from tilezoo.zoo.hub.schemas import LfsBody, LfsObject, chunks, read_body
from tilezoo.zoo.hub.state import Hub, base_url, hub_of, model_of, ref_of
from tilezoo.zoo.revisions import RegistryFile

_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VALID_S = 6 * 3600  # how long an upload's address is good
_KEPT_S = 24 * 3600  # how long a file is kept that no commit has used
_FLUSH_BYTES = 4 << 20
_MOST_OBJECTS = 1000


async def resolve(request: Request) -> Response:
    """Answer GET and HEAD of a file with what huggingface_hub's cache needs to know of it."""
    hub, name = hub_of(request), model_of(request)
    revision = await run_in_threadpool(hub.registry.resolve, name, ref_of(request))
    try:
        path = request.path_params["path"]
        file = await run_in_threadpool(hub.registry.file, name, revision, path)
    except NotInRegistryError as error:
        answer = answer_known(request, error)
        answer.headers["X-Repo-Commit"] = revision  # by which a client remembers that it is not
        return answer
    return await run_in_threadpool(_answer, request, hub, name, revision, file)


def wanted_range(header: str, size: int) -> tuple[int, int] | None:
    """Read a `Range` header: the first byte and the one after the last; None for the whole file.

    What is no single range of bytes is ignored, as RFC 9110 allows.

    Raises:
        ValueError: The range begins behind the end.
    """
    match = _RANGE.fullmatch(header.strip())
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, end = max(size - int(match[2]), 0), size
    else:
        start, end = int(match[1]), min(int(match[2] or size) + 1, size)
        if match[2] and int(match[2]) < start:
            return None
    if start >= size:
        raise ValueError(header)
    return start, end


def _answer(request: Request, hub: Hub, name: str, revision: str, file: RegistryFile) -> Response:
    tag = _tag(hub, name, revision, file)
    headers = _headers(revision, file, tag)
    if _is_known(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    try:
        part = wanted_range(_range_header(request, tag), file.size)
    except ValueError:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{file.size}"})
    start, end = part or (0, file.size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    status = 206 if part else 200
    opened = _open(hub, name, revision, file)
    if request.method == "HEAD":
        opened.close()
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_pieces(opened, start, end), status_code=status, headers=headers)


def _tag(hub: Hub, name: str, revision: str, file: RegistryFile) -> str:
    """What Hugging Face's cache calls a file: a large one by its SHA-256, else as git does."""
    if is_large(file.path, file.size):
        return file.sha256
    return hub.blob_ids.of(hub.registry, name, revision, [file])[file.path]


def _is_known(header: str, tag: str) -> bool:
    """Tell whether an `If-None-Match` names the file."""
    return header.strip() == "*" or f'"{tag}"' in header


def _range_header(request: Request, tag: str) -> str:
    """The range to answer: none where it goes with another state of the file."""
    condition = request.headers.get("if-range", "")
    holds = not condition or condition.strip('"') == tag
    return request.headers.get("range", "") if holds else ""


def _headers(revision: str, file: RegistryFile, tag: str) -> dict[str, str]:
    name = quote(file.path.rsplit("/", 1)[-1])
    headers = {
        "X-Repo-Commit": revision,
        "ETag": f'"{tag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        # nothing that was uploaded is shown, let alone run, as a page of this hub
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if is_large(file.path, file.size):
        headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(file.size)}
    return headers


def _open(hub: Hub, name: str, revision: str, file: RegistryFile) -> BinaryIO:
    """Open a file if it is as long as it should be: once an answer has begun it is too late."""
    opened = hub.registry.open(name, revision, file.path)
    size = opened.seek(0, os.SEEK_END)
    if size != file.size:
        opened.close()
        message = f"{name}@{revision}: {file.path} has {size} bytes, listed are {file.size}"
        raise RegistryDamagedError(f"{message}; publish it again")
    return opened


def _pieces(opened: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    with opened as file:
        file.seek(start)
        left = end - start
        while left > 0 and (piece := file.read(min(_CHUNK, left))):
            left -= len(piece)
            yield piece


class Staging:
    """A local folder of received files, each under its SHA-256. They never change."""

    def __init__(self, folder: Path | None) -> None:
        self._temporary = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="tilezoo-hub-")
            folder = Path(self._temporary.name)
        self.folder = folder
        self._key = secrets.token_bytes(32)

    def find(self, sha256: str) -> Path | None:
        """Find a received file, and keep it for another day."""
        path = self.folder / check_sha256(sha256)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    async def receive(self, body: AsyncIterator[bytes], sha256: str, size: int) -> Path:
        """Write a body down piece by piece; keep it if it is what it should be.

        Raises:
            RefusedError: 422 where size or hash differ.
        """
        part = self.folder / f"{check_sha256(sha256)}.{secrets.token_hex(6)}.part"
        try:
            with part.open("xb") as file:
                digest, received = await _write_pieces(body, file)
            if (digest, received) != (sha256, size):
                raise RefusedError(
                    422, f"{received} bytes came with SHA-256 {digest}; upload again"
                )
            return await run_in_threadpool(part.replace, self.folder / sha256)
        finally:
            part.unlink(missing_ok=True)

    def keep(self, data: bytes) -> tuple[Path, str]:
        """Write a small file down; give its path and SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        part = self.folder / f"{sha256}.{secrets.token_hex(6)}.part"
        try:
            part.write_bytes(data)
            return part.replace(self.folder / sha256), sha256
        finally:
            part.unlink(missing_ok=True)

    def purge(self) -> None:
        """Delete what has lain unused for a day, whole or broken off."""
        oldest = time.time() - _KEPT_S
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def sign(self, sha256: str, size: str, until: str) -> str:
        """Sign the address of an upload."""
        message = f"{sha256} {size} {until}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


def check_sha256(value: str) -> str:
    """Return a SHA-256 if it is one.

    Raises:
        RefusedError: 400 where it is not.
    """
    if not _SHA256.fullmatch(value):
        raise RefusedError(400, "an oid should be a SHA-256, 64 hex digits")
    return value


async def lfs_batch(request: Request) -> Response:
    """Say which files are to be uploaded, and where to (Git LFS batch API, basic transfer)."""
    hub, name = hub_of(request), model_of(request)
    body = await read_body(request, hub.limits.json_bytes, LfsBody)
    if body.operation != "upload":
        raise RefusedError(400, "only uploads go by LFS; download by /resolve/")
    if len(body.objects) > _MOST_OBJECTS:
        raise RefusedError(413, f"{len(body.objects)} files at once; {_MOST_OBJECTS} at most")
    for one in body.objects:
        check_sha256(one.oid)
    await run_in_threadpool(hub.registry.resolve, name)
    await run_in_threadpool(hub.staging.purge)
    entries = await run_in_threadpool(_entries, hub, name, body.objects, base_url(request))
    return JSONResponse(
        {"transfer": "basic", "objects": entries, "hash_algo": "sha256"},
        media_type="application/vnd.git-lfs+json",
    )


async def put_upload(request: Request) -> Response:
    """Receive a file at its signed address."""
    hub, sha256 = hub_of(request), check_sha256(request.path_params["sha256"])
    size, until, given = (request.query_params.get(key, "") for key in ("size", "until", "sign"))
    right = hub.staging.sign(sha256, size, until)
    if not hmac.compare_digest(right.encode(), given.encode()) or int(until) < time.time():
        raise RefusedError(403, "this upload's address is not valid (any more): upload again")
    await hub.staging.receive(chunks(request, int(size)), sha256, int(size))
    return Response(status_code=200)


def _entries(
    hub: Hub, name: str, objects: Sequence[LfsObject], base: str
) -> list[dict[str, object]]:
    stored = hub.registry.files_by_sha256(name)
    return [_entry(hub, one, base, is_there=one.oid in stored) for one in objects]


def _entry(hub: Hub, wanted: LfsObject, base: str, *, is_there: bool) -> dict[str, object]:
    oid, size = wanted.oid, wanted.size
    entry: dict[str, object] = {"oid": oid, "size": size}
    if size > hub.limits.file_bytes:
        message = f"{size} bytes; this hub takes {hub.limits.file_bytes} a file"
        return entry | {"error": {"code": 413, "message": message}}
    if is_there or hub.staging.find(oid):
        return entry
    until = str(int(time.time()) + _VALID_S)
    sign = hub.staging.sign(oid, str(size), until)
    href = f"{base}/uploads/{oid}?size={size}&until={until}&sign={sign}"
    return entry | {"authenticated": True, "actions": {"upload": {"href": href}}}


async def _write_pieces(body: AsyncIterator[bytes], file: BinaryIO) -> tuple[str, int]:
    """Write in large pieces, off the event loop; give hash and size."""
    digest, received, held = hashlib.sha256(), 0, bytearray()

    def flush() -> None:
        digest.update(held)
        file.write(held)
        held.clear()

    async for chunk in body:
        held += chunk
        received += len(chunk)
        if len(held) >= _FLUSH_BYTES:
            await run_in_threadpool(flush)
    await run_in_threadpool(flush)
    return digest.hexdigest(), received
