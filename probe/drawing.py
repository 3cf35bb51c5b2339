"""How a report's figures look: narrow with large letters, so that a phone shows them legibly.

Figures are drawn by matplotlib's Figure alone, in its default settings whatever the user's are.
"""

import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tilezoo.io import whole_file

WIDTH_IN = 5.6
INK, SOFT, LINE = "#1c2430", "#5c6773", "#dfe4ea"
# Okabe & Ito's colours, which the colour-blind tell apart: https://jfly.uni-koeln.de/color/
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREYS = ("#4d4d4d", "#7f7f7f", "#a6a6a6", "#bfbfbf")
_MODEL_MARKS, _CONTROL_MARKS = "osD^vP", "xd+1"
_DPI = 200
_LONGEST_NAME = 44
_SETTINGS: dict[Any, Any] = {  # matplotlib 3.11 lists every name in a type
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """How one model or control is drawn.

    Attributes:
        name: In results.json.
        label: In legends.
        colour: Grey for controls.
        mark: matplotlib's marker.
        found: Its scores.
    """

    name: str
    label: str
    colour: str
    mark: str
    found: Mapping[str, Any]


def series_of(results: Mapping[str, Any]) -> list[Series]:
    """Give each model a colour, and each control a grey."""
    models = [
        _series(name, "", COLOURS, _MODEL_MARKS, number, found)
        for number, (name, found) in enumerate(results["results"].items())
    ]
    controls = [
        _series(name, " (control)", GREYS, _CONTROL_MARKS, number, found)
        for number, (name, found) in enumerate(results["controls"].items())
    ]
    return [*models, *controls]


def _series(
    name: str, kind: str, colours: tuple[str, ...], marks: str, number: int, found: Any
) -> Series:
    return Series(
        name=name,
        label=f"{plain(name)}{kind}",
        colour=colours[number % len(colours)],
        mark=marks[number % len(marks)],
        found=found,
    )


def draw(path: Path, make: Callable[[], Figure]) -> None:
    """Draw a figure as PNG; the same values give the same bytes."""
    with rc_context(), warnings.catch_warnings():
        # Letters that the font lacks become boxes; the tables hold the names.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        rcdefaults()
        rcParams.update(_SETTINGS)
        with whole_file(path) as temporary:
            make().savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})


def new_figure(height_in: float) -> Figure:
    """Begin a figure of the one width."""
    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def plain(text: str) -> str:
    """Write text so that matplotlib takes none of it for mathematics, and cut what is too long."""
    one_line = " ".join(text.split())
    short = one_line if len(one_line) <= _LONGEST_NAME else f"{one_line[: _LONGEST_NAME - 1]}…"
    shown = f" {short}" if short.startswith("_") else short  # legends leave out what begins with _
    return shown.replace("$", r"\$")


def wrapped(text: str, width: int, most_lines: int = 2) -> str:
    """Break a name into lines."""
    lines = textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], f"{lines[most_lines - 1][: width - 1].rstrip(' ,')}…"]
    return "\n".join(lines).replace("$", r"\$")


def add_legend(figure: Figure, axes: Axes, series: list[Series]) -> None:
    """Put the legend above everything, in the order of the series."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(series), 2)
    longest = max(map(len, labels), default=0)
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=1 if longest > 34 else columns,
        frameon=False,
        fontsize=8.5,
        handletextpad=0.5,
        columnspacing=1.2,
    )
