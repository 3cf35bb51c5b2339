"""What a hub's answers share: its registry, its limits, its received files, and turns."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from anyio import Lock
from starlette.requests import Request

from tilezoo.zoo.hub.errors import RefusedError
from tilezoo.zoo.naming import check_name
from tilezoo.zoo.registry import Registry

if TYPE_CHECKING:
    from tilezoo.zoo.hub.access import Tokens
    from tilezoo.zoo.hub.files import Staging

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How large what comes in may be, in bytes.

    Attributes:
        file_bytes: A file.
        commit_bytes: The body of a commit, with its small files.
        inline_bytes: A small file that comes within a commit.
        json_bytes: Any other body.
    """

    file_bytes: int = 16 << 30
    commit_bytes: int = 256 << 20
    inline_bytes: int = 1 << 20
    json_bytes: int = 4 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """A hub's parts.

    Attributes:
        registry: What it serves.
        tokens: Who may do what; None for writes from this machine only.
        limits: How large what comes in may be.
        staging: Received files that no commit has used.
    """

    registry: Registry
    tokens: "Tokens | None"
    limits: Limits
    staging: "Staging"
    _turns: dict[str, Lock] = field(default_factory=dict)

    def turn(self, name: str) -> Lock:
        """Queue the writers of one model here, so that none waits in a thread."""
        return self._turns.setdefault(name, Lock())


def hub_of(request: Request) -> Hub:
    """The hub that a request came to."""
    return cast("Hub", request.app.state.hub)


def model_of(request: Request) -> str:
    """The model that a request's address names, checked."""
    org, name = request.path_params["org"], request.path_params["name"]
    return check_name(f"{org}/{name.removesuffix('.git')}")


def base_url(request: Request) -> str:
    """The hub's address as the client knows it, also behind a proxy that ends TLS.

    Raises:
        RefusedError: 400 for a Host header that is none.
    """
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise RefusedError(400, "the Host header is no host")
    proto = request.headers.get("x-forwarded-proto", "")
    scheme = proto if proto in ("http", "https") else request.scope["scheme"]
    return f"{scheme}://{host}"
