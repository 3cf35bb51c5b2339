"""Private models of a hub that anybody reads: those without a token find nothing of them.

That is seen to where all bytes come from, the registry's store, so no answer can forget it.
"""

import copy
from dataclasses import replace
from datetime import datetime
from typing import BinaryIO, cast

from tilezoo.zoo.hub.state import Hub
from tilezoo.zoo.registry import Registry
from tilezoo.zoo.stores import Store

_MARK = "private"  # a file of this name beside a model's refs


def is_private(registry: Registry, name: str) -> bool:
    """Tell whether only those with a token find a model."""
    return registry.store.exists(f"{name}/{_MARK}")


def set_private(registry: Registry, name: str, *, private: bool) -> None:
    """Let only those with a token find a model, or everybody.

    Raises:
        NotInRegistryError: There is no such model.
    """
    with registry.lock(name):
        registry.resolve(name)
        if private:
            registry.store.write(f"{name}/{_MARK}", b"")
        elif is_private(registry, name):
            registry.store.delete(f"{name}/{_MARK}")


def without_private(hub: Hub) -> Hub:
    """The hub as those see it who have no token; for one request."""
    registry = copy.copy(hub.registry)
    registry.store = cast("Store", _PublicStore(hub.registry.store))  # they read, no more
    return replace(hub, registry=registry)


class _PublicStore:
    """Reads what a store has, but for the files of private models; it does nothing else."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, bool] = {}

    def read(self, name: str) -> bytes:
        return self._visible(name).read(name)

    def open(self, name: str) -> BinaryIO:
        return self._visible(name).open(name)

    def last_change(self, name: str) -> datetime:
        return self._visible(name).last_change(name)

    def exists(self, name: str) -> bool:
        return not self._is_hidden(name) and self._store.exists(name)

    def children(self, name: str) -> list[str]:
        if self._is_hidden(name):
            return []
        found = self._store.children(name)
        return [child for child in found if not self._is_hidden(f"{name}/{child}")]

    def _visible(self, name: str) -> Store:
        if self._is_hidden(name):
            raise FileNotFoundError(name)
        return self._store

    def _is_hidden(self, name: str) -> bool:
        """Tell whether a file or folder is a private model's."""
        parts = name.strip("/").split("/")
        if len(parts) < 2:
            return False
        model = "/".join(parts[:2])
        if model not in self._known:
            self._known[model] = self._store.exists(f"{model}/{_MARK}")
        return self._known[model]
