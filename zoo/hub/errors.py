"""What a hub does about errors: answers that clients understand, and a log of JSON lines on stderr."""

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tilezoo.errors import (
    NotInRegistryError,
    RegistryConflictError,
    RegistryDamagedError,
    RegistryError,
    RegistryUnreachableError,
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._=;:-]{1,200}")
CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "tilezoo.zoo.hub.errors.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "loggers": {"uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False}},
}


class JsonFormatter(logging.Formatter):
    """Write what uvicorn says as lines of our log."""

    def format(self, record: logging.LogRecord) -> str:
        """Make one line of a record, its traceback within it."""
        facts = {"event": "log", "level": record.levelname, "message": record.getMessage()}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return _line(facts)


def log(event: str, facts: Mapping[str, object]) -> None:
    """Write one line."""
    sys.stderr.write(_line({"event": event, **facts}) + "\n")
    sys.stderr.flush()


class RequestLog:
    """Log each request when its answer is through: never a token, never a signed address.

    An answer has its request's id, by which it is found in the log.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note what becomes of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = {"status": 0, "in": 0, "out": 0}
        start, request_id = time.monotonic(), _request_id(scope)

        async def receive_counted() -> Message:
            message = await receive()
            seen["in"] += len(message.get("body", b""))
            return message

        async def send_counted(message: Message) -> None:
            seen["status"] = message.get("status", seen["status"])
            seen["out"] += len(message.get("body", b""))
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive_counted, send_counted)
        finally:
            log("request", {"id": request_id, **_request_facts(scope, seen, start)})


def _request_id(scope: Scope) -> str:
    """The id that a client gave its request, if it is a plain one; else a new one."""
    headers = Headers(scope=scope)
    given = headers.get("x-request-id") or headers.get("x-amzn-trace-id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


def _request_facts(scope: Scope, seen: dict[str, int], start: float) -> dict[str, object]:
    client = scope.get("client")
    return {
        "client": client[0] if client else None,
        "right": scope.get("state", {}).get("right"),
        "method": scope["method"],
        "path": scope["path"][:1000],
        "status": seen["status"] or 500,  # 500 is answered further out
        "bytes_in": seen["in"],
        "bytes_out": seen["out"],
        "ms": round((time.monotonic() - start) * 1000, 1),
    }


def _line(facts: Mapping[str, object]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, **facts})


# huggingface_hub.utils._http.hf_raise_for_status tells errors apart by these.
MISSING_MODEL = "RepoNotFound"
_CODES = {"model": MISSING_MODEL, "revision": "RevisionNotFound", "file": "EntryNotFound"}


class RefusedError(RegistryError):
    """A request is refused with this HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def refusal(status: int, message: str, *, code: str | None = None) -> JSONResponse:
    """Answer with an error: the message as JSON and in the header that clients show."""
    plain = "".join(char if " " <= char <= "~" else "?" for char in message)[:300]
    headers = {"X-Error-Message": plain}
    if code:
        headers["X-Error-Code"] = code
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="tilezoo hub: the token is the password"'
    # what is left of a body that was not read must not be taken for the next request
    if status in (401, 403, 413):
        headers["Connection"] = "close"
    return JSONResponse({"error": plain}, status_code=status, headers=headers)


def answer_known(_request: Request, error: Exception) -> Response:
    """Answer an error of the registry."""
    if isinstance(error, NotInRegistryError):
        # clients say more, and repeat what they do not say themselves
        message = "Repository not found" if error.kind == "model" else str(error)
        return refusal(404, message, code=_CODES[error.kind])
    if isinstance(error, RefusedError):
        return refusal(error.status, str(error))
    if isinstance(error, RegistryDamagedError):
        log("damaged", {"error": str(error)})
        return refusal(500, f"{error}; its hub's log tells more")
    if isinstance(error, RegistryUnreachableError):
        log("storage", {"error": str(error)})  # it may name what is not the client's to know
        return refusal(503, "this hub's storage does not answer; try again later")
    return refusal(409 if isinstance(error, RegistryConflictError) else 400, str(error))


def answer_http(_request: Request, error: Exception) -> Response:
    """Answer what no route takes, in the same form."""
    if not isinstance(error, HTTPException):
        return refusal(500, "internal error")
    answer = refusal(error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


def answer_gone(_request: Request, _error: Exception) -> Response:
    """Answer nobody: the client hung up in the middle of its body."""
    return refusal(400, "the request broke off")


HANDLERS = {
    RegistryError: answer_known,
    HTTPException: answer_http,
    ClientDisconnect: answer_gone,
}
