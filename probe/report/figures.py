"""A report's figures of scores: by class, by number of labels, and the differences of pairs."""

import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tilezoo.io import whole_file
from tilezoo.probe.report.tables import tiles_by_percent
from tilezoo.probe.report.words import headline_metric, main_metrics, pairs
from tilezoo.probe.results import (
    Claim,
    CurveSummary,
    LabelEfficiency,
    Results,
    ScoresByMethod,
)

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
    found: ScoresByMethod


def series_of(results: Results) -> list[Series]:
    """Give each model a colour, and each control a grey."""
    models = [
        _series(name, "", COLOURS, _MODEL_MARKS, number, found)
        for number, (name, found) in enumerate(results.results.items())
    ]
    controls = [
        _series(name, " (control)", GREYS, _CONTROL_MARKS, number, found)
        for number, (name, found) in enumerate(results.controls.items())
    ]
    return [*models, *controls]


def _series(
    name: str, kind: str, colours: tuple[str, ...], marks: str, number: int, found: ScoresByMethod
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


def break_name(text: str, width: int, most_lines: int = 2) -> str:
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


MOST_CLASSES = 40
_NAME_CHARACTERS = 30  # of a class, a line


def choose_classes(results: Results) -> list[str]:
    """Choose the classes of a figure: those with the most test tiles first."""
    counts = {name: parts.test for name, parts in results.class_tiles.items()}
    return sorted(counts, key=lambda name: -counts[name])[:MOST_CLASSES]


def by_class(results: Results) -> Figure:
    """Draw the linear probe's average precision of each class, with intervals."""
    classes, series = choose_classes(results), series_of(results)
    row_in = max(0.38, 0.085 * len(series) + 0.1)
    figure = new_figure(0.9 + row_in * len(classes) + 0.2 * ((len(series) + 1) // 2))
    axes = figure.add_subplot()
    for number, one in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * 0.72 / len(series)
        _draw_classes(axes, one, classes, shift)
    names = [break_name(name, _NAME_CHARACTERS, most_lines=3) for name in classes]
    axes.set_yticks(range(len(classes)), names, fontsize=8, linespacing=1.05)
    _write_counts(axes, [results.class_tiles[name].test for name in classes])
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("average precision, 95 % interval", fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5)
    for edge in range(1, len(classes)):
        axes.axhline(edge - 0.5, color=LINE, linewidth=0.6)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    add_legend(figure, axes, series)
    return figure


def _write_counts(axes: Axes, counts: Sequence[int]) -> None:
    """Write the number of test tiles to the right of each class."""
    for place, text in [(-0.5, "test tiles"), *((n, f"{c:,}") for n, c in enumerate(counts))]:
        is_header = place < 0
        axes.text(
            1.03,
            place,
            text,
            transform=axes.get_yaxis_transform(),
            fontsize=7.5,
            color=SOFT,
            va="bottom" if is_header else "center",
            ha="center" if is_header else "left",
        )


def _draw_classes(axes: Axes, one: Series, classes: Sequence[str], shift: float) -> None:
    found = one.found["linear"].ap_per_class
    places = [number + shift for number in range(len(classes))]
    low = [found[name].low for name in classes]
    high = [found[name].high for name in classes]
    axes.hlines(places, low, high, color=one.colour, linewidth=1.4, alpha=0.75)
    values = [found[name].value for name in classes]
    # A mark at 1 reaches over the edge; cut in half it would be taken for another.
    axes.plot(
        values, places, one.mark, color=one.colour, markersize=4.2, clip_on=False, label=one.label
    )


def differences(results: Results) -> Figure:
    """Draw the difference of each pair with its interval, models first, then against controls."""
    groups = [
        (called, rows)
        for called, rows in (
            ("between models", _rows_of_models(results)),
            ("against controls", _rows_of_controls(results)),
        )
        if rows
    ]
    heights = [0.3 * sum(1 + len(entries) for _, entries in rows) + 0.75 for _, rows in groups]
    figure = new_figure(sum(heights))
    panels = figure.subplots(len(groups), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (called, rows) in zip(panels, groups, strict=True):
        _draw_pairs(axes, rows)
        axes.set_title(f"Differences {called}", loc="left", fontsize=10, fontweight="bold")
    panels[-1].set_xlabel("difference, 95 % interval (filled: may be claimed)", fontsize=8.5)
    return figure


_Rows = list[tuple[str, list[Claim]]]  # header, differences below it


def _rows_of_models(results: Results) -> _Rows:
    """Each pair, with the main metrics of the linear probe and the first of kNN."""
    main = main_metrics(results)
    wanted = (("linear", main[0]), ("linear", main[1]), ("knn", main[0]))
    found: dict[str, list[Claim]] = {}
    for method, metric in wanted:
        for entry in pairs(results, controls=False, method=method, metric=metric):
            found.setdefault(f"{plain(entry.a)} − {plain(entry.b)}", []).append(entry)
    return list(found.items())


def _rows_of_controls(results: Results) -> _Rows:
    """Each model against each control, by the headline's metric of the linear probe."""
    found: dict[str, list[Claim]] = {}
    for entry in pairs(results, controls=True, method="linear", metric=headline_metric(results)):
        found.setdefault(f"{plain(entry.a)} minus", []).append(entry)
    return list(found.items())


def _draw_pairs(axes: Axes, rows: _Rows) -> None:
    place, ticks = 0, []
    for header, entries in rows:
        axes.text(
            0.01,
            place,
            header,
            transform=axes.get_yaxis_transform(),
            fontsize=8.5,
            color=SOFT,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
        place += 1
        for entry in entries:
            _draw_difference(axes, entry, place)
            ticks.append((place, _row_name(entry, header)))
            place += 1
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8.5)
    axes.set_ylim(place - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.08)


def _row_name(entry: Claim, header: str) -> str:
    if header.endswith(" minus"):
        return plain(entry.b)
    return f"{'kNN' if entry.method == 'knn' else entry.method}, {entry.metric}"


def _draw_difference(axes: Axes, entry: Claim, place: int) -> None:
    claimed = entry.may_be_claimed
    colour = COLOURS[0] if claimed else SOFT
    axes.hlines(place, entry.low, entry.high, color=colour, linewidth=2)
    face = colour if claimed else "white"
    axes.plot(entry.absolute, place, "o", color=colour, markerfacecolor=face, markersize=5.5)
    axes.text(
        1.02,
        place,
        f"{entry.absolute:+.3f}".replace("-", "−"),
        transform=axes.get_yaxis_transform(),
        fontsize=8.5,
        va="center",
        color=INK if claimed else SOFT,
        fontweight="bold" if claimed else "normal",
    )


def fewer_labels(results: Results, curve: LabelEfficiency) -> Figure:
    """Draw the headline's metric over the share of train that is learnt from."""
    metric = headline_metric(results)
    summary = curve.summary
    series = [one for one in series_of(results) if any(e.name == one.name for e in summary)]
    figure = new_figure(3.5 + 0.2 * ((len(series) + 1) // 2))
    axes = figure.add_subplot()
    for one in series:
        _draw_curve(axes, one, [entry for entry in summary if entry.name == one.name], metric)
    tiles = tiles_by_percent(curve)
    axes.set_xscale("log")
    names = [f"{percent:g} %\n{count:,}" for percent, count in tiles.items()]
    axes.set_xticks(list(tiles), names)
    axes.minorticks_off()
    axes.set_xlabel("of the train set; tiles", fontsize=8.5)
    axes.set_ylabel(f"{metric} (linear probe)", fontsize=8.5)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    add_legend(figure, axes, series)
    return figure


def _draw_curve(axes: Axes, one: Series, points: Sequence[CurveSummary], metric: str) -> None:
    is_model = not one.label.endswith("(control)")
    axes.errorbar(
        [point.percent for point in points],
        [point.of(metric).mean for point in points],
        yerr=[point.of(metric).deviation or 0 for point in points],
        color=one.colour,
        marker=one.mark,
        markersize=4.5,
        linewidth=1.6 if is_model else 1.1,
        linestyle="-" if is_model else "--",
        capsize=2.5,
        label=one.label,
    )


_ROW_NAME_CHARACTERS = 32
_MOST_NAMED = 5  # classes whose names fit below the columns too
_MOST_WRITTEN = 20  # classes whose cells have room for figures
_DARK = 0.55  # share from which white letters are the legible ones


def confusion(results: Results, name: str) -> Figure:
    """Draw a model's predicted classes by true class, as shares of each true class's tiles.

    Columns carry the numbers of the rows, because long names do not fit below them.
    """
    classes, counts = results.recipe.classes, np.array(results.mistakes.confusion[name])
    tiles = np.array([results.class_tiles[one].test for one in classes])
    shares = counts / np.maximum(tiles, 1)[:, None]
    numbered = len(classes) > _MOST_NAMED
    row_in = 0.32 if numbered else 0.55
    figure = new_figure(row_in * len(classes) + (0.55 if numbered else 0.85))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    _name_axes(axes, classes, numbered=numbered)
    if len(classes) <= _MOST_WRITTEN:
        _write_shares(axes, shares, 9 if len(classes) <= _MOST_NAMED else 6)
    else:
        bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=24, pad=0.02)
        bar.set_ticks([0, 0.5, 1], labels=["0 %", "50 %", "100 %"], fontsize=7.5)
    return figure


def _name_axes(axes: Axes, classes: Sequence[str], *, numbered: bool) -> None:
    names = [
        break_name(f"{number}  {one}" if numbered else one, _ROW_NAME_CHARACTERS, most_lines=3)
        for number, one in enumerate(classes, start=1)
    ]
    size = 6.8 if numbered else 8.5
    axes.set_yticks(range(len(classes)), names, fontsize=size, linespacing=1.05)
    numbers = [str(number) for number in range(1, len(classes) + 1)]
    below = numbers if numbered else [break_name(one, 13, most_lines=3) for one in classes]
    axes.set_xticks(range(len(classes)), below, fontsize=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", fontsize=8.5)
    axes.set_ylabel("true", fontsize=8.5)


def _write_shares(axes: Axes, shares: NDArray[np.float64], size: float) -> None:
    """Write percent into each cell that has any, and frame what is right."""
    for (row, column), share in np.ndenumerate(shares):
        if round(share * 100) or row == column:
            colour = "white" if share > _DARK else INK
            text = f"{share * 100:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    for place in range(len(shares)):
        corner = (place - 0.5, place - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=SOFT, linewidth=0.7))
