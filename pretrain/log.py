"""The log: a line of JSON per ten steps, and TensorBoard's files where it is installed."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tilezoo.io import whole_file, write_text
from tilezoo.progress import say

LOG = "log.jsonl"
_BOARD = "tensorboard"
_BOARD_VARIABLE = "TILEZOO_TENSORBOARD"  # another folder for it, as SageMaker wants
_SAID = ("step", "epoch", "loss", "entropy", "lr", "images_per_s", "knn_accuracy")
_SAY_EVERY_S = 10.0


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read a run's log; a last line that a kill cut off is left out."""
    path = run / LOG
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Log:
    """Writes what a run measures, line by line."""

    def __init__(self, run: Path, step: int, *, told: bool = False) -> None:
        """Open a run's log, without what was written after `step`: it will come again.

        Args:
            run: Its folder.
            step: Of the checkpoint that the run goes on from.
            told: Say a line of it on stderr now and then, where that is no terminal: what reads
                the output of a job finds its curves there.
        """
        kept = [entry for entry in read_log(run) if entry["step"] <= step]
        write_text(run / LOG, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._file = (run / LOG).open("a", encoding="utf-8")
        self._board = _board(Path(os.environ.get(_BOARD_VARIABLE) or run / _BOARD), step)
        self._told = told and not sys.stderr.isatty()
        self._said = float("-inf")

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add one line; each of its numbers is a curve in TensorBoard."""
        self._file.write(json.dumps(dict(entry)) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in entry.items():
                if name not in ("step", "epoch"):
                    self._board.add_scalar(name, value, entry["step"])
        now = time.monotonic()
        if self._told and (now - self._said >= _SAY_EVERY_S or "knn_accuracy" in entry):
            say(" ".join(f"{name}={_short(entry[name])}" for name in _SAID if name in entry))
            self._said = now

    def sync(self) -> None:
        """See that what is written survives a crash, as the checkpoint beside it does."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _board(folder: Path, step: int) -> Any:
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


CURVES = "curves.png"
# What stands in each panel, and how it is labelled.
_PANELS = (
    ("loss", "loss"),
    ("knn_accuracy", "kNN accuracy, validation"),
    ("lr", "learning rate"),
    ("weight_decay", "weight decay"),
    ("teacher_momentum", "teacher momentum"),
    ("teacher_temp", "teacher temperature"),
    ("entropy", "teacher entropy, nats"),
    ("spread", "spread of teacher outputs"),
    ("images_per_s", "images/s"),
)


def draw_curves(run: Path, title: str) -> Path | None:
    """Draw a run's log as curves.png; None where there is nothing to draw, or to draw with."""
    entries = read_log(run)
    if not entries or find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle(title)
    for axes, (name, label) in zip(figure.subplots(3, 3).flat, _PANELS, strict=True):
        _draw(axes, entries, name, label)
    with whole_file(run / CURVES) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return run / CURVES


def _draw(axes: Any, entries: Sequence[dict[str, Any]], name: str, label: str) -> None:
    points = [(entry["epoch"], entry[name]) for entry in entries if name in entry]
    axes.set_title(label, fontsize=10, loc="left")
    axes.set_xlabel("epoch", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if not points:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color="grey")
        return
    epochs, values = zip(*points, strict=True)
    axes.plot(epochs, values, linewidth=1.2, marker="o" if len(points) < 30 else None, markersize=3)
    axes.set_title(f"{values[-1]:.4g}", fontsize=9, loc="right", color="tab:blue")
    if name == "knn_accuracy" and epochs[0] == 0:
        axes.axhline(values[0], color="grey", linestyle="--", linewidth=1, label="random weights")
        axes.legend(fontsize=8, loc="lower right")
