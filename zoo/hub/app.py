"""The hub: a registry served over Hugging Face's HTTP API, for reading and writing.

huggingface_hub, `hf`, timm and transformers use it with `HF_ENDPOINT`; uploads need
`HF_HUB_DISABLE_XET=1` besides, for there is no Xet here. Every file is what Hugging Face calls an
LFS file: its ETag is its SHA-256.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tilezoo.errors import OptionError
from tilezoo.options import verb
from tilezoo.zoo.hub.commits import commit, preupload
from tilezoo.zoo.hub.errors import (
    CONFIG,
    HANDLERS,
    RefusedError,
    RequestLog,
    answer_known,
    log,
    unknown,
)
from tilezoo.zoo.hub.files import Staging, lfs_batch, put_upload, resolve
from tilezoo.zoo.hub.models import (
    change_branch,
    change_tag,
    create_model,
    delete_model,
    list_models,
    model_info,
    paths_info,
    refs,
    tree,
    validate_yaml,
    who_am_i,
)
from tilezoo.zoo.hub.page import index, model
from tilezoo.zoo.hub.state import Hub, Limits, Tokens, check_access, read_tokens
from tilezoo.zoo.options import HubOptions
from tilezoo.zoo.registry import Registry

_API = "/api/models/{org}/{name}"
_PAGE = "/{org}/{name}"
ROUTES = [
    Route("/", index),
    Route("/api/whoami-v2", who_am_i),
    Route("/api/validate-yaml", validate_yaml, methods=["POST"]),
    Route("/api/repos/create", create_model, methods=["POST"]),
    Route("/api/repos/delete", delete_model, methods=["DELETE"]),
    Route("/api/models", list_models),
    Route(_API, model_info),
    Route(f"{_API}/revision/{{revision}}", model_info),
    Route(f"{_API}/refs", refs),
    Route(f"{_API}/tree/{{revision}}", tree),
    Route(f"{_API}/tree/{{revision}}/{{path:path}}", tree),
    Route(f"{_API}/paths-info/{{revision}}", paths_info, methods=["POST"]),
    Route(f"{_API}/preupload/{{revision}}", preupload, methods=["POST"]),
    Route(f"{_API}/commit/{{revision}}", commit, methods=["POST"]),
    Route(f"{_API}/branch/{{branch}}", change_branch, methods=["POST", "DELETE"]),
    Route(f"{_API}/tag/{{revision}}", change_tag, methods=["POST", "DELETE"]),
    Route("/api/{path:path}", unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    Route("/uploads/{sha256}", put_upload, methods=["PUT"]),
    Route(f"{_PAGE}/info/lfs/objects/batch", lfs_batch, methods=["POST"]),
    Route(f"{_PAGE}/resolve/{{revision}}/{{path:path}}", resolve),
    Route(_PAGE, model),
    Route(f"{_PAGE}/tree/{{revision}}", model),
    Route(f"{_PAGE}/commit/{{revision}}", model),
]


class Access:
    """Turn away who may not do what a request asks; note what the sender may do."""

    def __init__(self, app: ASGIApp, tokens: Tokens | None) -> None:
        self._app, self._tokens = app, tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401 or 403."""
        if scope["type"] == "http":
            try:
                right = check_access(HTTPConnection(scope), self._tokens)
            except RefusedError as error:
                answer = answer_known(Request(scope), error)
                await answer(scope, receive, send)
                return
            scope.setdefault("state", {})["right"] = right
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
        middleware=[Middleware(RequestLog), Middleware(Access, tokens=tokens)],
        exception_handlers=HANDLERS,
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
