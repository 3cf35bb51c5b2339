"""Where catalogued models are kept, and whether they are here; light, for listings."""

import os
from pathlib import Path

from tilezoo.io import cache_folder
from tilezoo.zoo.catalog import CatalogEntry, is_installed


def converted_folder(entry: CatalogEntry) -> Path:
    """Where a catalogued model's directory is kept once it is converted."""
    return cache_folder() / "models" / entry.name / entry.key


def is_here(entry: CatalogEntry) -> bool:
    """Tell whether a model can be used without the network."""
    if entry.kind == "shipped" or converted_folder(entry).is_dir():
        return True
    return is_installed(entry) if entry.kind == "package" else _in_hub_cache(entry)


def _in_hub_cache(entry: CatalogEntry) -> bool:
    """Look for the weights in huggingface_hub's cache, by its layout and settings."""
    if entry.repo is None or entry.file is None:
        return False
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    snapshots = cache / f"models--{entry.repo.replace('/', '--')}" / "snapshots"
    return any(snapshots.glob(f"{entry.revision or '*'}/{entry.file}"))
