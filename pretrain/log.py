"""The log: a line of JSON per ten steps, and TensorBoard's files where it is installed."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from msgspec import UNSET, UnsetType

from tilezoo.io import from_builtins, to_builtins, whole_file, write_text
from tilezoo.progress import say

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"
CURVES = "curves.png"
_BOARD = "tensorboard"
_BOARD_VARIABLE = "TILEZOO_TENSORBOARD"  # another folder for it, as SageMaker wants
_SAID = ("step", "epoch", "loss", "entropy", "lr", "images_per_s", "knn_accuracy")
_SAY_EVERY_S = 10.0
# What stands in each panel of the picture, and how it is labelled.
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
_FEW_POINTS = 30  # of a curve, which are marked

Number = float | UnsetType


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the log: what a window of steps came to, or kNN accuracy.

    Attributes:
        step: Steps that are done.
        epoch: The same in epochs.
        loss: Mean of the window; so for the next two.
        entropy: Of the teacher's targets, nats.
        spread: Of the teacher's outputs.
        lr: Of the window's last step; so for the next three.
        weight_decay: λ of the regularised parameters.
        teacher_momentum: λ of the teacher's moving average.
        teacher_temp: τ_t.
        images_per_s: Tiles per second, over all processes.
        data_wait: Share of the time that training waited for tiles.
        knn_accuracy: Of the teacher on labelled tiles.
    """

    step: int
    epoch: float
    loss: Number = UNSET
    entropy: Number = UNSET
    spread: Number = UNSET
    lr: Number = UNSET
    weight_decay: Number = UNSET
    teacher_momentum: Number = UNSET
    teacher_temp: Number = UNSET
    images_per_s: Number = UNSET
    data_wait: Number = UNSET
    knn_accuracy: Number = UNSET


def read_log(run: Path) -> list[Entry]:
    """Read a run's log; a last line that a kill cut off is left out."""
    path = run / LOG
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [from_builtins(json.loads(line), Entry) for line in lines if line.endswith("\n")]


def curve(entries: Sequence[Entry], name: str) -> list[tuple[float, float]]:
    """Take epoch and value from the entries that have a value of this name."""
    points = [(entry.epoch, getattr(entry, name)) for entry in entries]
    return [(epoch, value) for epoch, value in points if value is not UNSET]


class Log:
    """Writes what a run measures, line by line."""

    def __init__(self, run: Path, step: int, *, aloud: bool = False) -> None:
        """Open a run's log, without what was written after `step`: it will come again.

        Args:
            run: Its folder.
            step: Of the checkpoint that the run goes on from.
            aloud: Say a line of it on stderr now and then, where that is no terminal: what reads
                the output of a job finds its curves there.
        """
        kept = [entry for entry in read_log(run) if entry.step <= step]
        write_text(run / LOG, "".join(map(_to_line, kept)))
        self._file = (run / LOG).open("a", encoding="utf-8")
        self._board = _open_board(Path(os.environ.get(_BOARD_VARIABLE) or run / _BOARD), step)
        self._aloud = aloud and not sys.stderr.isatty()
        self._said = float("-inf")

    def write(self, entry: Entry) -> None:
        """Add one line; each of its numbers is a curve in TensorBoard."""
        self._file.write(_to_line(entry))
        self._file.flush()
        numbers = {name: value for name, value in asdict(entry).items() if value is not UNSET}
        if self._board is not None:
            for name in numbers.keys() - {"step", "epoch"}:
                self._board.add_scalar(name, numbers[name], entry.step)
        now = time.monotonic()
        if self._aloud and (now - self._said >= _SAY_EVERY_S or "knn_accuracy" in numbers):
            say(" ".join(f"{name}={_round(numbers[name])}" for name in _SAID if name in numbers))
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


def _to_line(entry: Entry) -> str:
    return json.dumps(to_builtins(entry)) + "\n"


def _round(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _open_board(folder: Path, step: int) -> "SummaryWriter | None":
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)


def draw_curves(run: Path, title: str) -> Path | None:
    """Draw a run's log as curves.png; None where there is nothing to draw, or to draw with."""
    entries = read_log(run)
    if not entries or find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle(title)
    for axes, (name, label) in zip(figure.subplots(3, 3).flat, _PANELS, strict=True):
        _draw_panel(axes, curve(entries, name), label, starts_random=name == "knn_accuracy")
    with whole_file(run / CURVES) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    return run / CURVES


def _draw_panel(
    axes: Any, points: Sequence[tuple[float, float]], label: str, *, starts_random: bool
) -> None:
    axes.set_title(label, fontsize=10, loc="left")
    axes.set_xlabel("epoch", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if not points:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color="grey")
        return
    epochs, values = zip(*points, strict=True)
    marker = "o" if len(points) < _FEW_POINTS else None
    axes.plot(epochs, values, linewidth=1.2, marker=marker, markersize=3)
    axes.set_title(f"{values[-1]:.4g}", fontsize=9, loc="right", color="tab:blue")
    if starts_random and epochs[0] == 0:
        axes.axhline(values[0], color="grey", linestyle="--", linewidth=1, label="random weights")
        axes.legend(fontsize=8, loc="lower right")
