"""Files on their way into a hub: received under their hash, checked, kept until they are used.

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
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tilezoo.zoo.hub.errors import RefusedError
from tilezoo.zoo.hub.schemas import chunks, count, objects, read_object, text
from tilezoo.zoo.hub.state import Hub, base_url, hub_of, model_of

_SHA256 = re.compile(r"[0-9a-f]{64}")
_VALID_S = 6 * 3600  # of an address
_KEPT_S = 24 * 3600  # of a file that no commit has used
_FLUSH_BYTES = 4 << 20
_MOST_OBJECTS = 1000


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
                found, received = await _written(body, file)
            if (found, received) != (sha256, size):
                raise RefusedError(422, f"{received} bytes came with SHA-256 {found}; upload again")
            return await run_in_threadpool(part.replace, self.folder / sha256)
        finally:
            part.unlink(missing_ok=True)

    def keep(self, data: bytes) -> tuple[Path, str]:
        """Write a small file down; give its place and SHA-256."""
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

    def signature(self, sha256: str, size: str, until: str) -> str:
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
    given = await read_object(request, hub.limits.json_bytes)
    if text(given, "operation") != "upload":
        raise RefusedError(400, "only uploads go by LFS; download by /resolve/")
    wanted = [
        (check_sha256(text(one, "oid")), count(one, "size"))
        for one in objects(given, "objects", _MOST_OBJECTS)
    ]
    await run_in_threadpool(hub.registry.resolve, name)
    await run_in_threadpool(hub.staging.purge)
    entries = await run_in_threadpool(_entries, hub, name, wanted, base_url(request))
    return JSONResponse(
        {"transfer": "basic", "objects": entries, "hash_algo": "sha256"},
        media_type="application/vnd.git-lfs+json",
    )


async def put_upload(request: Request) -> Response:
    """Receive a file at its signed address."""
    hub, sha256 = hub_of(request), check_sha256(request.path_params["sha256"])
    size, until, given = (request.query_params.get(key, "") for key in ("size", "until", "sign"))
    right = hub.staging.signature(sha256, size, until)
    if not hmac.compare_digest(right.encode(), given.encode()) or int(until) < time.time():
        raise RefusedError(403, "this upload's address is not valid (any more): upload again")
    await hub.staging.receive(chunks(request, int(size)), sha256, int(size))
    return Response(status_code=200)


def _entries(hub: Hub, name: str, wanted: list[tuple[str, int]], base: str) -> list[dict[str, Any]]:
    stored = hub.registry.stored(name)
    return [_entry(hub, oid, size, base, is_there=oid in stored) for oid, size in wanted]


def _entry(hub: Hub, oid: str, size: int, base: str, *, is_there: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"oid": oid, "size": size}
    if size > hub.limits.file_bytes:
        message = f"{size} bytes; this hub takes {hub.limits.file_bytes} a file"
        return entry | {"error": {"code": 413, "message": message}}
    if is_there or hub.staging.find(oid):
        return entry
    until = str(int(time.time()) + _VALID_S)
    sign = hub.staging.signature(oid, str(size), until)
    href = f"{base}/uploads/{oid}?size={size}&until={until}&sign={sign}"
    return entry | {"authenticated": True, "actions": {"upload": {"href": href}}}


async def _written(body: AsyncIterator[bytes], file: BinaryIO) -> tuple[str, int]:
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
