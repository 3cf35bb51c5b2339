"""The pages of a hub: the models and their cards, for people. No scripts; text is escaped."""

import base64
import hashlib
from html import escape

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tilezoo.zoo.hub_cards import read_card
from tilezoo.zoo.hub_state import Hub, base_url, hub_of, model_of
from tilezoo.zoo.registry import RegistryFile

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;
color:#1a1a1a;background:#fff}
h1{font-size:1.4rem}a{color:#0a58a8}summary{cursor:pointer;padding:.3rem 0}
summary small,p small{color:#555}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f5f5f2;padding:1rem;font-size:.85rem}
table{border-collapse:collapse;font-size:.9rem}td{padding:.1rem 1rem .1rem 0}
td+td{text-align:right}td+td+td{text-align:left;font-family:monospace}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
_MOST_SHOWN = 200


async def index(request: Request) -> Response:
    """List the models with their cards folded in."""
    hub = hub_of(request)
    names = await run_in_threadpool(hub.registry.models)
    shown = [await run_in_threadpool(_model, hub, name) for name in names[:_MOST_SHOWN]]
    rest = f"<p>… and {len(names) - _MOST_SHOWN} more.</p>" if len(names) > _MOST_SHOWN else ""
    endpoint = escape(base_url(request))
    use = f"<pre>export HF_ENDPOINT={endpoint} HF_HUB_DISABLE_XET=1\nhf download ORG/NAME</pre>"
    title = f"{len(names)} model{'' if len(names) == 1 else 's'}"
    return _page(title, "".join(shown) + rest + f"<h1>How to use them</h1>{use}")


async def model(request: Request) -> Response:
    """Show one model: its files and its card."""
    hub, name = hub_of(request), model_of(request)
    ref = request.path_params.get("revision", "main")
    revision = await run_in_threadpool(hub.registry.resolve, name, ref)
    files = await run_in_threadpool(hub.registry.files, name, revision)
    card = await run_in_threadpool(read_card, hub.registry, name, revision, files)
    rows = "".join(_row(file) for file in files)
    head = f"<p><small>revision {revision}</small></p><table>{rows}</table>"
    back = '<p><a href="/">all models</a></p>'
    return _page(name, f"{head}<pre>{escape(card) or 'no card'}</pre>{back}")


def _model(hub: Hub, name: str) -> str:
    revision = hub.registry.resolve(name)
    files = hub.registry.files(name, revision)
    card = escape(read_card(hub.registry, name, revision, files)) or "no card"
    size = _megabytes(sum(file.size for file in files))
    title = f"{escape(name)} <small>{revision[:8]} · {len(files)} files · {size}</small>"
    link = f'<p><a href="/{escape(name)}">files</a></p>'
    return f"<details><summary>{title}</summary>{link}<pre>{card}</pre></details>"


def _row(file: RegistryFile) -> str:
    cells = (file.path, _megabytes(file.size), f"{file.sha256[:16]}…")
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} B"


def _page(title: str, body: str) -> Response:
    name = escape(title)
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{name} · tilezoo hub</title><style>{_STYLE}</style></head>"
        f"<body><h1>{name}</h1>{body}</body></html>"
    )
    return HTMLResponse(text.encode("utf-8", "replace"), headers=_HEADERS)
