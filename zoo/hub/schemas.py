"""The bodies of requests, never longer than they may be, in the form they should have."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs

from anyio import fail_after
from starlette.requests import Request

from tilezoo.zoo.hub.errors import RefusedError

_MAX_FIELDS = 10_000
_PATIENCE_S = 60


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


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RefusedError: 400 where it is something else.
    """
    return parse_object(b"".join([chunk async for chunk in chunks(request, limit)]))


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


async def read_fields(request: Request, limit: int) -> dict[str, list[str]]:
    """Read the fields of a form, or of a JSON object with lists of texts."""
    if "json" in request.headers.get("content-type", ""):
        given = await read_object(request, limit)
        return {key: texts(given, key) for key in given if isinstance(given[key], list)}
    body = b"".join([chunk async for chunk in chunks(request, limit)])
    try:
        return parse_qs(body.decode(), max_num_fields=_MAX_FIELDS, keep_blank_values=True)
    except ValueError as error:
        raise RefusedError(400, f"the body is no form ({error})") from error


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        RefusedError: 400 where it is something else.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RefusedError(400, "a JSON object is expected") from error
    if not isinstance(value, dict):
        raise RefusedError(400, "a JSON object is expected")
    return value


def text(given: dict[str, Any], key: str, default: str | None = None) -> str:
    """Take a text out of an object.

    Raises:
        RefusedError: 400 where there is none.
    """
    value = given.get(key, default)
    value = default if value is None else value
    if not isinstance(value, str):
        raise RefusedError(400, f"{key!r} should be a text")
    return value


def texts(given: dict[str, Any], key: str) -> list[str]:
    """Take a list of texts out of an object.

    Raises:
        RefusedError: 400 where there is none.
    """
    value = given.get(key)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise RefusedError(400, f"{key!r} should be a list of texts")
    return value


def objects(given: dict[str, Any], key: str, most: int) -> list[dict[str, Any]]:
    """Take a list of objects, `most` at most, out of an object.

    Raises:
        RefusedError: 400 where there is none.
    """
    value = given.get(key)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise RefusedError(400, f"{key!r} should be a list of objects")
    if len(value) > most:
        raise RefusedError(413, f"{key!r} has {len(value)} entries; {most} at most")
    return value


def count(given: dict[str, Any], key: str) -> int:
    """Take a number of bytes out of an object.

    Raises:
        RefusedError: 400 where there is none.
    """
    value = given.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RefusedError(400, f"{key!r} should be a number of bytes")
    return value
