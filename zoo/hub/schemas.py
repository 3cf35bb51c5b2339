"""Bodies of requests: read no longer than they may be, and checked against the form they have.

Field names are those that Hugging Face's clients send.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, TypeVar
from urllib.parse import parse_qs

from anyio import fail_after
from msgspec import Meta
from starlette.requests import Request

from tilezoo.io import from_builtins
from tilezoo.zoo.hub.errors import RefusedError

T = TypeVar("T")
Bytes = Annotated[int, Meta(ge=0)]
_MAX_FIELDS = 10_000
_PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class RepositoryBody:
    """Which model is made or deleted."""

    name: str
    organization: str | None = None
    type: str | None = None
    private: bool | None = None
    visibility: str | None = None


@dataclass(frozen=True, slots=True)
class SettingsBody:
    """Who finds a model; `gated` asks for what there is not."""

    private: bool | None = None
    visibility: str | None = None
    gated: bool | str | None = None


@dataclass(frozen=True, slots=True)
class MoveBody:
    """Which model gets which name."""

    fromRepo: str  # noqa: N815
    toRepo: str  # noqa: N815
    type: str | None = None


@dataclass(frozen=True, slots=True)
class BranchBody:
    """Where a branch begins."""

    startingPoint: str | None = None  # noqa: N815


@dataclass(frozen=True, slots=True)
class TagBody:
    """What a tag is called."""

    tag: str


@dataclass(frozen=True, slots=True)
class CardBody:
    """A card that is going to be uploaded."""

    content: str


@dataclass(frozen=True, slots=True)
class PathsBody:
    """Which files are asked about."""

    paths: tuple[str, ...] = ()
    expand: bool = False


@dataclass(frozen=True, slots=True)
class AnnouncedFile:
    """A file that a commit is going to have; `sample` are its first 512 bytes in base64."""

    path: str
    size: Bytes
    sample: str | None = None


@dataclass(frozen=True, slots=True)
class PreuploadBody:
    """Which files a commit is going to have, and the text of its `.gitignore`."""

    files: tuple[AnnouncedFile, ...]
    gitIgnore: str | None = None  # noqa: N815


@dataclass(frozen=True, slots=True)
class LfsObject:
    """A file that is going to be uploaded, by its SHA-256."""

    oid: str
    size: Bytes


@dataclass(frozen=True, slots=True)
class LfsBody:
    """Which files are going to be uploaded."""

    operation: str
    objects: tuple[LfsObject, ...]


@dataclass(frozen=True, slots=True)
class CommitLine:
    """One line of a commit; the form of its value depends on its key."""

    key: str
    value: dict[str, object]


@dataclass(frozen=True, slots=True)
class CommitHeader:
    """Value of `header`."""

    parentCommit: str | None = None  # noqa: N815
    summary: str | None = None
    description: str | None = None


@dataclass(frozen=True, slots=True)
class SquashBody:
    """What a history that begins anew is called."""

    message: str | None = None


@dataclass(frozen=True, slots=True)
class CommitFile:
    """Value of `file`: a small file with its bytes."""

    path: str
    content: str
    encoding: str = "base64"


@dataclass(frozen=True, slots=True)
class CommitLfsFile:
    """Value of `lfsFile`: a file that was uploaded, by its SHA-256."""

    path: str
    oid: str


@dataclass(frozen=True, slots=True)
class CommitDeletion:
    """Value of `deletedFile` and `deletedFolder`."""

    path: str


async def read_body(request: Request, limit: int, kind: type[T]) -> T:
    """Read a JSON body.

    Raises:
        RefusedError: 400 where it has another form; the message names the field.
    """
    return parse_body(b"".join([chunk async for chunk in chunks(request, limit)]), kind)


async def read_paths(request: Request, limit: int) -> PathsBody:
    """Read which files are asked about, from a form or a JSON object."""
    if "json" in request.headers.get("content-type", ""):
        return await read_body(request, limit, PathsBody)
    body = b"".join([chunk async for chunk in chunks(request, limit)])
    try:
        fields = parse_qs(body.decode(), max_num_fields=_MAX_FIELDS, keep_blank_values=True)
    except ValueError as error:
        raise RefusedError(400, f"the body is no form ({error})") from error
    expand = fields.get("expand", [""])[-1].lower() in ("true", "1")
    return PathsBody(tuple(fields.get("paths", ())), expand)


async def read_lines(request: Request, limit: int, line_limit: int) -> AsyncIterator[bytes]:
    """Cut a body into its lines without holding more than one of them."""
    rest = bytearray()
    async for chunk in chunks(request, limit):
        rest += chunk
        *lines, last = rest.split(b"\n") if b"\n" in chunk else (rest,)
        for line in lines:
            yield bytes(line)
        rest = bytearray(last)
        if len(rest) > line_limit:
            raise RefusedError(413, f"a line is longer than {line_limit} bytes; upload by LFS")
    yield bytes(rest)


async def chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Pass a body on as it comes.

    Raises:
        RefusedError: 413 as soon as it is, or says it is, longer than `limit` bytes; 408 where
            the sender falls silent.
    """
    stated = request.headers.get("content-length", "")
    received = int(stated) if stated.isdecimal() and len(stated) < 20 else 0
    if received > limit:
        raise RefusedError(413, f"the body has {received} bytes; this hub takes {limit} at most")
    received = 0
    async with aclosing(request.stream()) as stream:
        while chunk := await _next(stream):
            received += len(chunk)
            if received > limit:
                raise RefusedError(413, f"the body is too large; this hub takes {limit} bytes")
            yield chunk


async def _next(stream: AsyncGenerator[bytes, None]) -> bytes:
    """Wait for the next piece, but not for ever; nothing is the end."""
    try:
        with fail_after(_PATIENCE_S):
            return await anext(stream, b"")
    except TimeoutError as error:
        raise RefusedError(408, f"nothing came for {_PATIENCE_S} s; send it again") from error


def parse_body(data: bytes, kind: type[T]) -> T:
    """Parse JSON into its form.

    Raises:
        RefusedError: 400 where it has another; the message names the field.
    """
    try:
        return check_body(json.loads(data), kind)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "a JSON object is expected") from error


def check_body(value: object, kind: type[T]) -> T:
    """Hold parsed JSON to its form.

    Raises:
        RefusedError: 400 where it has another; the message names the field.
    """
    try:
        return from_builtins(value, kind)
    except ValueError as error:
        raise RefusedError(400, f"the body has another form: {error}") from error
