"""The models the zoo knows by name (catalog.json, every fact with its source), and which are here."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tilezoo.errors import UnknownModelError
from tilezoo.io import cache_folder, canonical_json, from_builtins, sha256_text, to_builtins
from tilezoo.space import Contract, Pooling

_HUGGING_FACE = "https://huggingface.co"

OFFLINE_DEFAULT = "dino-vitt16-overhead"

Kind = Literal["hub", "package", "shipped", "ours"]
Conversion = Literal["timm", "plain", "satdino", "reben", "by_position", "none"]


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One backbone by name.

    Attributes:
        name: What users call it.
        kind: `hub`: a repository of the Hugging Face Hub; `package`: a Python package that ships
            the weights; `shipped`: a model directory within tilezoo itself; `ours`: a recipe of this
            project, weights not published yet.
        repo: On the Hub.
        file: The weights' path in the repository or package.
        revision: Of the repository; None where none could be confirmed (then `main`).
        sha256: Of the file, 64 hex digits; None where it could not be confirmed.
        conversion: How its tensors get timm's names.
        package: The Python package.
        architecture: timm's name.
        model_args: What it is built with besides.
        num_classes: Outputs of the head among the weights.
        dimension: Length of a vector under its pooling.
        contract: What pixels it takes.
        pooling: How features are pooled unless another pooling is asked for.
        network: `teacher` or `student`, where there are two.
        licence: SPDX identifier, or the licence's name.
        licence_link: Where it has no SPDX identifier.
        gated: Access has to be asked for.
        paper: `title` and `arxiv`.
        trained_on: The data it learnt from, and how.
        make: For `ours`: the command that makes the weights.
        notes: What a user should know.
        sources: Field → where the fact stands.
        unconfirmed: What could not be read anywhere.
    """

    name: str
    kind: Kind
    repo: str | None
    file: str | None
    revision: str | None
    sha256: str | None
    conversion: Conversion
    package: str | None
    architecture: str
    model_args: Mapping[str, object]
    num_classes: int
    dimension: int
    contract: Contract
    pooling: Pooling
    network: str | None
    licence: str
    licence_link: str | None
    gated: bool
    paper: Mapping[str, str] | None
    trained_on: str
    make: str | None
    notes: str | None
    sources: Mapping[str, str]
    unconfirmed: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Facts for `tilezoo models --json` and `tilezoo show --json`."""
        return dict(to_builtins(self))

    @property
    def key(self) -> str:
        """16 hex digits that change with anything its converted directory depends on."""
        facts = self.to_json()
        used = ("repo", "file", "revision", "sha256", "conversion", "architecture", "model_args")
        wanted = {name: facts[name] for name in (*used, "num_classes", "contract", "pooling")}
        return sha256_text(canonical_json(wanted))[:16]


@lru_cache(maxsize=1)
def entries() -> tuple[CatalogEntry, ...]:
    """All models, by name."""
    text = files("tilezoo.zoo").joinpath("catalog.json").read_text(encoding="utf-8")
    known = from_builtins(json.loads(text), list[CatalogEntry])
    return tuple(sorted(known, key=lambda entry: entry.name))


def entry(name: str) -> CatalogEntry:
    """Find a model by its name.

    Raises:
        UnknownModelError: None is called so; the message has near names.
    """
    known = {entry.name: entry for entry in entries()}
    if name not in known:
        raise UnknownModelError(name, known)
    return known[name]


def shipped_folder(entry: CatalogEntry) -> Path:
    """Where a model that comes with tilezoo lies."""
    return Path(str(files("tilezoo.zoo").joinpath(entry.name)))


def is_installed(entry: CatalogEntry) -> bool:
    """Tell whether the package with the weights is here."""
    try:
        return Path(str(files(str(entry.package)).joinpath(str(entry.file)))).is_file()
    except ModuleNotFoundError:
        return False


def converted_folder(entry: CatalogEntry) -> Path:
    """Where a catalogued model's directory is kept once it is converted."""
    return cache_folder() / "models" / entry.name / entry.key


def is_here(entry: CatalogEntry) -> bool:
    """Tell whether a model can be used without the network."""
    if entry.kind == "shipped" or converted_folder(entry).is_dir():
        return True
    return is_installed(entry) if entry.kind == "package" else _in_hub_cache(entry)


def hub_address(endpoint: str | None) -> str:
    """The address of a hub; None is the one in force, huggingface.co unless HF_ENDPOINT is set."""
    return (endpoint or os.environ.get("HF_ENDPOINT") or _HUGGING_FACE).rstrip("/").lower()


def hub_cache(endpoint: str | None) -> Path | None:
    """The cache of a hub; None is huggingface_hub's own, which holds what is huggingface.co's.

    That one does not tell hubs apart, so every other has a cache to itself.
    """
    address = hub_address(endpoint)
    if address == _HUGGING_FACE:
        return None
    return cache_folder() / "hubs" / sha256_text(address)[:16]


def _in_hub_cache(entry: CatalogEntry) -> bool:
    """Look for the weights in the cache of the hub in force, by huggingface_hub's layout."""
    if entry.repo is None or entry.file is None:
        return False
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    own = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    cache = hub_cache(None) or own
    snapshots = cache / f"models--{entry.repo.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob(f"{entry.revision or '*'}/{entry.file}"))
