"""What a hub's answers share: its registry, limits, received files and turns; and who may do what."""

import base64
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args
from urllib.parse import unquote

from anyio import Lock
from starlette.requests import HTTPConnection, Request

from tilezoo.errors import NotInRegistryError, OptionError, RegistryError
from tilezoo.zoo.hub.blobs import BlobIds
from tilezoo.zoo.hub.errors import RefusedError
from tilezoo.zoo.naming import check_name
from tilezoo.zoo.registry import Registry

if TYPE_CHECKING:
    from tilezoo.zoo.hub.files import Staging

Right = Literal["read", "write"]

# POSTs that change nothing.
_READING_POSTS = re.compile(r"/api/(validate-yaml|models/[^/]+/[^/]+/paths-info/.*)", re.DOTALL)
_SIGNED = "/uploads/"
_WRITE_CHECK = "/auth-check/write"
_ANYBODY = b"*"
_PORT = re.compile(r":\d+$")
_BY_PROXY = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclass(frozen=True, slots=True)
class Sender:
    """Whom a request comes from.

    Attributes:
        right: What they may do.
        user: What the token file calls them: the author of their commits, and the organisation of
            models that they name without one. None where it does not say.
        is_anybody: They have no token, and are let in all the same: they find no private models.
    """

    right: Right
    user: str | None = None
    is_anybody: bool = False

    @property
    def name(self) -> str:
        """What they are called: by what they may do, where nobody says more."""
        return self.user or {"read": "reader", "write": "writer"}[self.right]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens and whose each is.

    Attributes:
        senders: Token → whose it is.
        is_public: Whether those without a token read.
    """

    senders: Mapping[bytes, Sender]
    is_public: bool = False

    def sender_of(self, token: str) -> Sender | None:
        """Look a token up; the time it takes does not depend on the tokens."""
        given, found = token.encode(), None
        for known, sender in self.senders.items():
            if hmac.compare_digest(known, given):
                found = sender
        return found


def read_tokens(path: Path) -> Tokens:
    """Read lines `TOKEN read` and `TOKEN write`, with a user's name behind; `#` begins a comment.

    A line `* read` lets those read who have no token.

    Raises:
        OptionError: The file is missing, has none, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--token-file {path}: {error}") from error
    senders: dict[bytes, Sender] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if words and not (len(words) in (2, 3) and words[1] in get_args(Right)):
            raise OptionError(
                f"--token-file {path}: line {number} is not `TOKEN read|write [USER]`"
            )
        if words:
            right = cast("Right", words[1])
            user = _check_user(path, number, words[2]) if len(words) == 3 else None
            senders[words[0].encode()] = Sender(right, user)
    anybody = senders.pop(_ANYBODY, None)
    if anybody not in (None, Sender("read")):
        raise OptionError(f"--token-file {path}: who has no token reads at most: `* read`")
    if not senders:
        raise OptionError(f"--token-file {path}: no tokens; add a line `TOKEN read|write [USER]`")
    return Tokens(senders, is_public=anybody is not None)


def _check_user(path: Path, number: int, user: str) -> str:
    try:
        check_name(f"{user}/model")
    except RegistryError as error:
        message = f"--token-file {path}: line {number}: {user!r} is no name for a user"
        raise OptionError(f"{message}: letters, digits, '-', '_' and '.' make one") from error
    return user


def check_access(request: HTTPConnection, tokens: Tokens | None) -> Sender:
    """Say who sends a request and what they may do, if that is enough for it.

    Raises:
        RefusedError: 401 without a good token where tokens are asked for, 403 where it does not
            allow the request, 400 for an address that could be read in two ways.
    """
    path, method = request.scope["path"], request.scope["method"]
    if not path.isprintable():
        raise RefusedError(400, "the address has unprintable characters")
    if method == "PUT" and path.startswith(_SIGNED):
        return Sender("write")  # the address itself is the permission: see hub/files
    reads = method in ("GET", "HEAD") or (method == "POST" and _READING_POSTS.fullmatch(path))
    reads = bool(reads) and not path.endswith(_WRITE_CHECK)
    if tokens is None:
        sender = _sender_here(request)
    elif tokens.is_public and reads and "authorization" not in request.headers:
        sender = Sender("read", is_anybody=True)
    else:
        sender = _sender_by_token(request, tokens)
    if sender.right == "read" and not reads:
        raise RefusedError(403, _only_reads(tokens))
    return sender


def _only_reads(tokens: Tokens | None) -> str:
    if tokens is None:
        return "without --token-file this hub takes writes from its own machine only"
    return "this token may only read; use one with a line `TOKEN write` in the hub's token file"


def _sender_by_token(request: HTTPConnection, tokens: Tokens) -> Sender:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    basic = scheme.lower() == "basic"
    token = _password(value) if basic else value.strip()
    sender = tokens.sender_of(token)
    if not token:
        raise RefusedError(401, "this hub needs a token: set HF_TOKEN")
    if sender is None:
        # the words that make huggingface_hub say so, instead of "repository not found"
        raise RefusedError(401, "Invalid credentials in Authorization header")
    # a browser sends a password by itself, whichever page made it ask
    return Sender("read", sender.user) if basic else sender


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _sender_here(request: HTTPConnection) -> Sender:
    """Tell a program on this machine from others, from proxies, and from pages in a browser."""
    headers = request.headers
    relayed = any(header in headers for header in _BY_PROXY)
    page = "origin" in headers or headers.get("sec-fetch-site", "none") != "none"
    client = request.client.host if request.client else ""
    host = _PORT.sub("", headers.get("host", "")).lower()
    local = _is_loopback(client) and (_is_loopback(host) or host == "localhost")
    return Sender("write" if local and not relayed and not page else "read")


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
        blob_ids: What git calls small files.
    """

    registry: Registry
    tokens: "Tokens | None"
    limits: Limits
    staging: "Staging"
    blob_ids: BlobIds = field(default_factory=BlobIds)
    _turns: dict[str, Lock] = field(default_factory=dict)

    def turn(self, name: str) -> Lock:
        """Queue the writers of one model here, so that none waits in a thread."""
        return self._turns.setdefault(name, Lock())


def hub_of(request: Request) -> Hub:
    """The hub that a request came to, as its sender may see it."""
    return cast("Hub", getattr(request.state, "hub", None) or request.app.state.hub)


def sender_of(request: Request) -> Sender:
    """Whom a request comes from."""
    return cast("Sender", request.state.sender)


def model_of(request: Request) -> str:
    """The model that a request's address names, checked.

    Raises:
        NotInRegistryError: It is no name, where something is read; RegistryError where it is not.
    """
    org, name = request.path_params["org"], request.path_params["name"]
    try:
        return check_name(f"{org}/{name.removesuffix('.git')}")
    except RegistryError as error:
        if request.method in ("GET", "HEAD"):
            raise NotInRegistryError("model", str(error)) from error
        raise


def ref_of(request: Request, key: str = "revision", default: str = "main") -> str:
    """The branch, tag or revision that a request's address names; `refs/heads/main` is `main`."""
    given = unquote(request.path_params.get(key, default))
    return given.removeprefix("refs/heads/").removeprefix("refs/tags/")


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
