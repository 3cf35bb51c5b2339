"""Progress on stderr: a bar on a terminal, else a line every ten seconds."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_EVERY_S = 10.0

Advance = Callable[[int], None]
_told: set[str] = set()  # what has been told of in this run
_telling = threading.Lock()


@contextmanager
def progress(
    total: int, label: str, unit: str = "tiles", *, shown: bool = True
) -> Iterator[Advance]:
    """Show progress while the block runs.

    Args:
        total: Units of the whole.
        label: What is going on.
        unit: What is counted.
        shown: False for none at all.

    Yields:
        A function that takes how many more units are done.
    """
    if not shown:
        yield lambda _count: None
    elif sys.stderr.isatty():
        with _show_bar(total, label, unit) as advance:
            yield advance
    else:
        yield _Lines(total, label, unit).advance


@contextmanager
def _show_bar(total: int, label: str, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[rate]}} {unit}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, rate="–")

        def advance(count: int) -> None:
            bar.advance(task, count)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f}" if speed else "–")

        yield advance


class _Lines:
    def __init__(self, total: int, label: str, unit: str) -> None:
        self._total, self._label, self._unit = total, label, unit
        self._done = 0
        self._start = self._last = time.monotonic()

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < _LINE_EVERY_S:
            return
        self._last = now
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate if rate else 0.0
        text = f"{self._label}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {_format_span(left)} left"
        print(text, file=sys.stderr, flush=True)


def _format_span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def say(text: str) -> None:
    """Tell the user something that is not data, on stderr."""
    print(text, file=sys.stderr, flush=True)


def say_once(what: str, text: str) -> None:
    """Tell the user something once a run, the first time that it comes up.

    Args:
        what: Is told of, the same for each file.
        text: What is said.
    """
    with _telling:
        if what in _told:
            return
        _told.add(what)
    say(text)


def begin_telling() -> None:
    """Begin a run, which tells what `say_once` told of in the one before."""
    with _telling:
        _told.clear()


def count_of(count: int, thing: str) -> str:
    """Count things in words: `1 image`, `2 images`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"
