"""What a hub's answers share: its registry, limits, received files and turns; and who may do what."""

import base64
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from anyio import Lock
from starlette.requests import HTTPConnection, Request

from tilezoo.errors import OptionError
from tilezoo.zoo.hub.errors import RefusedError
from tilezoo.zoo.naming import check_name
from tilezoo.zoo.registry import Registry

if TYPE_CHECKING:
    from tilezoo.zoo.hub.files import Staging

Right = Literal["read", "write"]

# POSTs that change nothing.
_READING_POSTS = re.compile(r"/api/(validate-yaml|models/[^/]+/[^/]+/paths-info/.*)", re.DOTALL)
_SIGNED = "/uploads/"
_PORT = re.compile(r":\d+$")
_BY_PROXY = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens and what each allows."""

    rights: Mapping[bytes, Right]

    def right_of(self, token: str) -> Right | None:
        """Look a token up; the time it takes does not depend on the tokens."""
        given, found = token.encode(), None
        for known, right in self.rights.items():
            if hmac.compare_digest(known, given):
                found = right
        return found


def read_tokens(path: Path) -> Tokens:
    """Read lines `TOKEN read` and `TOKEN write`; `#` begins a comment.

    Raises:
        OptionError: The file is missing, has none, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--token-file {path}: {error}") from error
    rights: dict[bytes, Right] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if words and (len(words) != 2 or words[1] not in get_args(Right)):
            raise OptionError(f"--token-file {path}: line {number} is not `TOKEN read|write`")
        if words:
            rights[words[0].encode()] = cast("Right", words[1])
    if not rights:
        raise OptionError(f"--token-file {path}: no tokens; add a line `TOKEN read|write`")
    return Tokens(rights)


def check_access(request: HTTPConnection, tokens: Tokens | None) -> Right:
    """Say what the sender may do, if that is enough for the request.

    Raises:
        RefusedError: 401 without a good token where tokens are asked for, 403 where it does not
            allow the request, 400 for an address that could be read in two ways.
    """
    path, method = request.scope["path"], request.scope["method"]
    if not path.isprintable():
        raise RefusedError(400, "the address has unprintable characters")
    if method == "PUT" and path.startswith(_SIGNED):
        return "write"  # the address itself is the permission: see hub/files
    right = _right_here(request) if tokens is None else _right_by_token(request, tokens)
    reads = method in ("GET", "HEAD") or (method == "POST" and _READING_POSTS.fullmatch(path))
    if right == "read" and not reads:
        raise RefusedError(403, _only_reads(tokens))
    return right


def _only_reads(tokens: Tokens | None) -> str:
    if tokens is None:
        return "without --token-file this hub takes writes from its own machine only"
    return "this token may only read; use one with a line `TOKEN write` in the hub's token file"


def _right_by_token(request: HTTPConnection, tokens: Tokens) -> Right:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    basic = scheme.lower() == "basic"
    token = _password(value) if basic else value.strip()
    right = tokens.right_of(token)
    if not token:
        raise RefusedError(401, "this hub needs a token: set HF_TOKEN")
    if right is None:
        # the words that make huggingface_hub say so, instead of "repository not found"
        raise RefusedError(401, "Invalid credentials in Authorization header")
    # a browser sends a password by itself, whichever page made it ask
    return "read" if basic else right


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _right_here(request: HTTPConnection) -> Right:
    """Tell a program on this machine from others, from proxies, and from pages in a browser."""
    headers = request.headers
    relayed = any(header in headers for header in _BY_PROXY)
    page = "origin" in headers or headers.get("sec-fetch-site", "none") != "none"
    client = request.client.host if request.client else ""
    host = _PORT.sub("", headers.get("host", "")).lower()
    local = _is_loopback(client) and (_is_loopback(host) or host == "localhost")
    return "write" if local and not relayed and not page else "read"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
