"""A hub's log: one JSON object a line on stderr, for requests and for what goes wrong."""

import json
import logging
import sys
import time
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "tilezoo.zoo.hub_log.JsonFormatter"}},
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
    """Log each request when its answer is through: never a token, never a signed address."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note what becomes of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = {"status": 0, "in": 0, "out": 0}
        start = time.monotonic()

        async def receiving() -> Message:
            message = await receive()
            seen["in"] += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            seen["status"] = message.get("status", seen["status"])
            seen["out"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receiving, sending)
        finally:
            log("request", _request_facts(scope, seen, start))


def _request_facts(
    scope: MutableMapping[str, Any], seen: dict[str, int], start: float
) -> dict[str, object]:
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
