"""The hub: a registry served over Hugging Face's HTTP API, for reading and writing.

huggingface_hub, `hf`, timm and transformers use it with `HF_ENDPOINT`; uploads need
`HF_HUB_DISABLE_XET=1` besides, for there is no Xet here. Large files are what Hugging Face calls LFS
files, with their SHA-256 as ETag; small ones are called as git calls them, see blobs.
"""

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tilezoo.errors import NotInRegistryError, OptionError, RegistryError
from tilezoo.options import verb
from tilezoo.zoo.hub.commits import commit, preupload
from tilezoo.zoo.hub.contents import list_commits, paths_info, tree
from tilezoo.zoo.hub.errors import (
    CONFIG,
    HANDLERS,
    MISSING_MODEL,
    RefusedError,
    RequestLog,
    answer_known,
    log,
    refusal,
)
from tilezoo.zoo.hub.files import Staging, lfs_batch, put_upload, resolve
from tilezoo.zoo.hub.models import (
    change_branch,
    change_settings,
    change_tag,
    check_right,
    create_model,
    delete_model,
    list_models,
    list_others,
    model_info,
    move_model,
    refs,
    squash,
    validate_yaml,
    who_am_i,
)
from tilezoo.zoo.hub.page import index, model
from tilezoo.zoo.hub.state import Hub, Limits, Tokens, check_access, hub_of, read_tokens
from tilezoo.zoo.hub.visibility import without_private
from tilezoo.zoo.naming import check_name
from tilezoo.zoo.options import HubOptions
from tilezoo.zoo.registry import Registry

_OTHER_KINDS = ("datasets", "spaces", "kernels")


async def unknown(request: Request, _error: Exception | None = None) -> Response:
    """Answer what Hugging Face has and this hub has not; clients then do without.

    They ask the same of a model that is not there and of one without the thing they ask for, and
    tell these apart by the code of the answer.
    """
    name = _asked_name(request.url.path)
    if name is None or await run_in_threadpool(_is_there, hub_of(request), name):
        return refusal(404, "this hub has no such thing")
    return refusal(
        404, f"no model {name[:100]} here; this hub holds models only", code=MISSING_MODEL
    )


def _asked_name(path: str) -> str | None:
    """The repository that an address is about, whatever of it; None where it is about none."""
    words = path.strip("/").split("/")
    if words[0] != "api":
        kind, words = (words[0], words[1:]) if words[0] in _OTHER_KINDS else ("models", words)
        about = len(words) > 2 and not {"resolve", "raw"}.isdisjoint(words[1:3])
    else:
        kind, words = (*words[1:2], "")[0], words[2:]
        about = kind in ("models", *_OTHER_KINDS) and len(words) > 0
    if not about:
        return None
    named = words[:2]
    return "/".join(named if kind == "models" else [kind, *named])


def answer_missing(request: Request, error: Exception) -> Response:
    """Answer where there is no such model, revision or file; lead on to a model's new name."""
    params = request.path_params
    if request.method in ("GET", "HEAD") and {"org", "name"} <= params.keys():
        name = f"{params['org']}/{params['name']}"
        lacking = isinstance(error, NotInRegistryError) and error.kind == "model"
        new = hub_of(request).registry.moved_to(name) if lacking else None
        path = request.scope["raw_path"].decode("ascii")
        if new and f"/{name}" in path:
            query = f"?{request.url.query}" if request.url.query else ""
            place = path.replace(f"/{name}", f"/{new}", 1) + query
            return Response(status_code=307, headers={"Location": place})
    return answer_known(request, error)


def _is_there(hub: Hub, name: str) -> bool:
    try:
        check_name(name)
    except RegistryError:
        return False
    return hub.registry.has(name)


_API = "/api/models/{org}/{name}"
_PAGE = "/{org}/{name}"
ROUTES = [
    Route("/", index),
    Route("/api/whoami-v2", who_am_i),
    Route("/api/validate-yaml", validate_yaml, methods=["POST"]),
    Route("/api/repos/create", create_model, methods=["POST"]),
    Route("/api/repos/delete", delete_model, methods=["DELETE"]),
    Route("/api/repos/move", move_model, methods=["POST"]),
    Route("/api/models", list_models),
    Route("/api/datasets", list_others),
    Route("/api/spaces", list_others),
    Route(_API, model_info),
    Route(f"{_API}/revision/{{revision}}", model_info),
    Route(f"{_API}/refs", refs),
    Route(f"{_API}/settings", change_settings, methods=["PUT"]),
    Route(f"{_API}/tree/{{revision}}", tree),
    Route(f"{_API}/tree/{{revision}}/{{path:path}}", tree),
    Route(f"{_API}/commits/{{revision}}", list_commits),
    Route(f"{_API}/super-squash/{{revision}}", squash, methods=["POST"]),
    Route(f"{_API}/auth-check", check_right),
    Route(f"{_API}/auth-check/write", check_right),
    Route(f"{_API}/paths-info/{{revision}}", paths_info, methods=["POST"]),
    Route(f"{_API}/preupload/{{revision}}", preupload, methods=["POST"]),
    Route(f"{_API}/commit/{{revision}}", commit, methods=["POST"]),
    Route(f"{_API}/branch/{{branch}}", change_branch, methods=["POST", "DELETE"]),
    Route(f"{_API}/tag/{{revision}}", change_tag, methods=["POST", "DELETE"]),
    Route("/api/{path:path}", unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    Route("/uploads/{sha256}", put_upload, methods=["PUT"]),
    Route(f"{_PAGE}/info/lfs/objects/batch", lfs_batch, methods=["POST"]),
    Route(f"{_PAGE}/resolve/{{revision}}/{{path:path}}", resolve),
    Route(f"{_PAGE}/raw/{{revision}}/{{path:path}}", resolve),
    Route(_PAGE, model),
    Route(f"{_PAGE}/tree/{{revision}}", model),
    Route(f"{_PAGE}/commit/{{revision}}", model),
]
# Of an address' words, the one before a branch, a tag or a revision.
_BEFORE_REF = frozenset(
    [
        "branch",
        "commit",
        "commits",
        "paths-info",
        "preupload",
        "raw",
        "resolve",
        "revision",
        "super-squash",
        "tag",
        "tree",
    ]
)


class SlashedRefs:
    """Keep a quoted '/' of a branch's name from what divides an address.

    Clients quote it in `refs%2Fpr%2F1`; servers give applications the address without quotes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, the '/' of its ref still quoted."""
        if scope["type"] == "http" and b"%2f" in scope["raw_path"].lower():
            path = _keep_slashes(scope["raw_path"].decode("ascii"))
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)


def _keep_slashes(raw_path: str) -> str:
    words = raw_path.split("/")
    place = 6 if words[1:3] == ["api", "models"] else 4  # /org/name/resolve/REF
    if len(words) > place and words[place - 1] in _BEFORE_REF:
        words[place] = re.sub("%2f", "%252F", words[place], flags=re.IGNORECASE)
    return unquote("/".join(words))


class Access:
    """Turn away who may not do what a request asks; note what the sender may do."""

    def __init__(self, app: ASGIApp, tokens: Tokens | None) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 or 403."""
        if scope["type"] == "http":
            try:
                sender = check_access(HTTPConnection(scope), self._tokens)
            except RefusedError as error:
                answer = answer_known(Request(scope), error)
                await answer(scope, receive, send)
                return
            state = scope.setdefault("state", {})
            state.update(right=sender.right, sender=sender)
            if sender.is_anybody:
                state["hub"] = without_private(scope["app"].state.hub)
        await self._app(scope, receive, send)


def make_app(
    registry: Registry, *, tokens: Tokens | None = None, limits: Limits | None = None
) -> Starlette:
    """Make the ASGI application that serves a registry.

    Args:
        registry: What to serve.
        tokens: Who may read and write; without them anybody reads, and this machine writes.
        limits: How large what comes in may be.
    """
    staging = Staging(registry.store.scratch())
    app = Starlette(
        routes=ROUTES,
        middleware=[
            Middleware(RequestLog),
            Middleware(Access, tokens=tokens),
            Middleware(SlashedRefs),
        ],
        exception_handlers={**HANDLERS, NotInRegistryError: answer_missing, 404: unknown},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.hub = Hub(
        registry=registry, tokens=tokens, limits=limits or Limits(), staging=staging
    )
    return app


@verb(HubOptions)
def serve(options: HubOptions) -> None:
    """Serve a registry until interrupted; a folder is made if missing.

    The log's first line says where the hub listens.

    Raises:
        TilezooError: The root or the token file cannot be used, or the port is taken.
    """
    registry = Registry(options.root, shown_as="of this hub")
    registry.models()  # so that a root that does not answer is said now
    tokens = read_tokens(Path(options.token_file)) if options.token_file else None
    limits = Limits(file_bytes=options.max_file_mb * 1_000_000)
    app = make_app(registry, tokens=tokens, limits=limits)
    config = uvicorn.Config(
        app, host=options.host, port=options.port, http="h11", access_log=False, log_config=CONFIG,
        log_level="warning", proxy_headers=False, server_header=False, timeout_keep_alive=30,
        limit_concurrency=1000,
    )  # fmt: skip
    bound = _bind(options.host, options.port)
    _Server(config, str(options.root)).run(sockets=[bound])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, root: str) -> None:
        super().__init__(config)
        self._root = root

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say where."""
        await super().startup(sockets)
        for bound in sockets or []:
            host, port = bound.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log("listening", {"url": f"http://{shown}:{port}", "root": self._root})


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise OptionError(f"--host {host} --port {port}: {error}; try --port 0") from error
    return bound


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    app.state.hub.staging.purge()
    yield
