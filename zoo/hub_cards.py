"""Model cards on a hub: their front matter as facts, which may be broken in any way."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import yaml

from tilezoo.zoo.registry import Registry, RegistryFile

CARD = "README.md"
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
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_PLAIN = (str, int, bool, type(None))
# What yaml raises for what it cannot read: its own, and Python's for numbers and dates.
_BROKEN = (yaml.YAMLError, ValueError, TypeError, KeyError, RecursionError, AttributeError)


def read_card(registry: Registry, name: str, revision: str, files: Iterable[RegistryFile]) -> str:
    """Read a model's card, or as much of it as a page shows; empty where there is none."""
    if not any(file.path == CARD for file in files):
        return ""
    with registry.open(name, revision, CARD) as file:
        return file.read(_MOST_BYTES).decode("utf-8", "replace")


def card_facts(
    registry: Registry, name: str, revision: str, files: Iterable[RegistryFile]
) -> dict[str, Any]:
    """What a card's front matter tells of a model, in the fields of Hugging Face's answers."""
    facts = front_matter(read_card(registry, name, revision, files)) or {}
    found: dict[str, Any] = {"cardData": facts, "tags": _tags(facts)}
    for key in ("library_name", "pipeline_tag"):
        if isinstance(facts.get(key), str):
            found[key] = facts[key]
    return found


def front_matter(card: str) -> dict[str, Any] | None:
    """Parse a card's front matter into what JSON can hold; None where it is broken."""
    match = _FRONT_MATTER.match(card)
    return _parsed(match[1]) if match else {}


def checked_front_matter(card: str) -> str | None:
    """Say what is wrong with a card's front matter, if anything is."""
    if front_matter(card) is None:
        return "the front matter is no YAML mapping, or has aliases, or is too long or too deep"
    return None


@lru_cache(maxsize=512)
def _parsed(text: str) -> dict[str, Any] | None:
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


def _plain(value: Any) -> Any:
    """Texts for all that JSON has no word for: dates, NaN, numbers too long to print."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    return value if isinstance(value, _PLAIN) else str(value)


def _tags(facts: dict[str, Any]) -> list[str]:
    given = facts.get("tags")
    tags = [tag for tag in given if isinstance(tag, str)] if isinstance(given, list) else []
    for key, form in (("library_name", "{}"), ("pipeline_tag", "{}"), ("license", "license:{}")):
        if isinstance(facts.get(key), str):
            tags.append(form.format(facts[key]))
    return list(dict.fromkeys(tags))
