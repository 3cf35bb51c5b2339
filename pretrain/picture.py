"""The picture of a run: loss, schedules, health, throughput and kNN accuracy over the epochs."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tilezoo.io import whole_file
from tilezoo.pretrain.log import read_log

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
