"""The steps of a probe, one after the other: how far each is, and how long it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tilezoo.progress import Advance, progress


class Stages:
    """Tells progress of one table's steps on stderr, and keeps their seconds.

    Attributes:
        seconds: Step → how long it took, all calls together.
    """

    def __init__(self, name: str, *, shown: bool) -> None:
        self._name, self._shown = name, shown
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        """Show one step while the block runs; it yields what is told of units done."""
        start = time.monotonic()
        with progress(total, f"{self._name}: {label}", unit, shown=self._shown) as advance:
            yield advance
        took = time.monotonic() - start
        self.seconds[label] = round(self.seconds.get(label, 0.0) + took, 3)
