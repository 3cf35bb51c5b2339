"""Downloads from a hub: whole files and ranges, named by their SHA-256."""

import re
from collections.abc import Iterator
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tilezoo.errors import NotInRegistryError
from tilezoo.zoo.hub.errors import answer_known
from tilezoo.zoo.hub.state import Hub, hub_of, model_of
from tilezoo.zoo.registry import RegistryFile

_CHUNK = 1 << 20
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def resolve(request: Request) -> Response:
    """Answer GET and HEAD of a file with what huggingface_hub's cache needs to know of it."""
    hub, name = hub_of(request), model_of(request)
    revision = await run_in_threadpool(hub.registry.resolve, name, request.path_params["revision"])
    try:
        path = request.path_params["path"]
        file = await run_in_threadpool(hub.registry.file, name, revision, path)
    except NotInRegistryError as error:
        answer = answer_known(request, error)
        answer.headers["X-Repo-Commit"] = revision  # by which a client remembers that it is not
        return answer
    return _answered(request, hub, name, revision, file)


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


def _answered(request: Request, hub: Hub, name: str, revision: str, file: RegistryFile) -> Response:
    headers = _headers(revision, file)
    if f'"{file.sha256}"' in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    try:
        part = wanted_range(_range_header(request, file), file.size)
    except ValueError:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{file.size}"})
    start, end = part or (0, file.size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    status = 206 if part else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    body = _pieces(hub, name, revision, file.path, start, end)
    return StreamingResponse(body, status_code=status, headers=headers)


def _range_header(request: Request, file: RegistryFile) -> str:
    """The range to answer: none where it goes with another state of the file."""
    condition = request.headers.get("if-range", "")
    holds = not condition or condition.strip('"') == file.sha256
    return request.headers.get("range", "") if holds else ""


def _headers(revision: str, file: RegistryFile) -> dict[str, str]:
    name = quote(file.path.rsplit("/", 1)[-1])
    return {
        "X-Repo-Commit": revision,
        "ETag": f'"{file.sha256}"',
        "X-Linked-Etag": f'"{file.sha256}"',
        "X-Linked-Size": str(file.size),
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        # nothing that was uploaded is shown, let alone run, as a page of this hub
        "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }


def _pieces(hub: Hub, name: str, revision: str, path: str, start: int, end: int) -> Iterator[bytes]:
    with hub.registry.open(name, revision, path) as file:
        file.seek(start)
        left = end - start
        while left > 0 and (piece := file.read(min(_CHUNK, left))):
            left -= len(piece)
            yield piece
