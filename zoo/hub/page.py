"""Pages of a hub: its models and their cards, whose front matter may be broken in any way."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape

import yaml
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from tilezoo.errors import RegistryDamagedError, RegistryError
from tilezoo.zoo.cards import cut_card
from tilezoo.zoo.hub.errors import log
from tilezoo.zoo.hub.state import Hub, base_url, hub_of, model_of, ref_of
from tilezoo.zoo.modeldir import CARD
from tilezoo.zoo.registry import Registry
from tilezoo.zoo.revisions import RegistryFile

_MOST_BYTES = 256 << 10
_MOST_FRONT_MATTER = 64 << 10
_DEEPEST = 30
_OPENING = (
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
)
_CLOSING = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_PLAIN = (str, int, bool, type(None))
# What yaml raises for what it cannot read: its own, and Python's for numbers and dates.
_BROKEN = (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError, AttributeError)


def read_card(registry: Registry, name: str, revision: str, files: Iterable[RegistryFile]) -> str:
    """Read a model's card, or as much of it as a page shows; empty where there is none.

    Nor is a damaged one shown: the log tells of it, and the model is there all the same.
    """
    if not any(file.path == CARD for file in files):
        return ""
    try:
        with registry.open(name, revision, CARD) as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except RegistryDamagedError as error:
        log("damaged", {"error": str(error)})
        return ""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card's front matter tells of a model, in the fields of Hugging Face's answers."""

    data: Mapping[str, object]
    tags: Sequence[str]
    library_name: str | None
    pipeline_tag: str | None

    def to_json(self) -> dict[str, object]:
        """As answers have it: what the card does not state is left out."""
        optional = {"library_name": self.library_name, "pipeline_tag": self.pipeline_tag}
        stated = {key: value for key, value in optional.items() if value is not None}
        return {"cardData": self.data, "tags": self.tags, **stated}


def card_facts(card: str) -> CardFacts:
    """Take the facts out of a card's front matter."""
    facts = front_matter(card) or {}
    library, pipeline = (facts.get(key) for key in ("library_name", "pipeline_tag"))
    return CardFacts(
        facts,
        _tags(facts),
        library if isinstance(library, str) else None,
        pipeline if isinstance(pipeline, str) else None,
    )


def front_matter(card: str) -> dict[str, object] | None:
    """Parse a card's front matter into what JSON can hold; None where it is broken."""
    return _parse(cut_card(card.lstrip())[0])  # clients allow empty lines before it


def check_front_matter(card: str) -> str | None:
    """Say what is wrong with a card's front matter, if anything is."""
    facts = front_matter(card)
    if facts is None:
        return "the front matter is no YAML mapping, or has aliases, or is too long or too deep"
    if not isinstance(facts.get("model-index", []), list):
        return "model-index is no list"
    return None


@lru_cache(maxsize=512)
def _parse(text: str) -> dict[str, object] | None:
    try:
        _refuse_costly(text)
        value = _plain(yaml.safe_load(text))
    except _BROKEN:
        return None
    return value if isinstance(value, dict) else ({} if value is None else None)


def _refuse_costly(text: str) -> None:
    """A few aliases of aliases grow to gigabytes as JSON; deep nesting takes yaml hours to scan."""
    depth = 0
    if len(text) > _MOST_FRONT_MATTER:
        raise ValueError("too long")
    for token in yaml.scan(text):
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > _DEEPEST or isinstance(token, yaml.AliasToken):
            raise ValueError("too deep, or aliases")


def _plain(value: object) -> object:
    """Write as text what JSON has no word for: dates, NaN, numbers too long to print."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    return value if isinstance(value, _PLAIN) else str(value)


def _tags(facts: Mapping[str, object]) -> list[str]:
    given = facts.get("tags")
    tags = [tag for tag in given if isinstance(tag, str)] if isinstance(given, list) else []
    for key, form in (("library_name", "{}"), ("pipeline_tag", "{}"), ("license", "license:{}")):
        if isinstance(facts.get(key), str):
            tags.append(form.format(facts[key]))
    return list(dict.fromkeys(tags))


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
    revision = await run_in_threadpool(hub.registry.resolve, name, ref_of(request))
    files = await run_in_threadpool(hub.registry.files, name, revision)
    card = await run_in_threadpool(read_card, hub.registry, name, revision, files)
    rows = "".join(_row(file) for file in files)
    head = f"<p><small>revision {revision}</small></p><table>{rows}</table>"
    back = '<p><a href="/">all models</a></p>'
    return _page(name, f"{head}<pre>{escape(card) or 'no card'}</pre>{back}")


def _model(hub: Hub, name: str) -> str:
    try:
        return _sound_model(hub, name)
    except (RegistryError, OSError) as error:
        log("damaged", {"model": name, "error": str(error)})
        return f"<p>{escape(name)} <small>is damaged: this hub's log tells more</small></p>"


def _sound_model(hub: Hub, name: str) -> str:
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
