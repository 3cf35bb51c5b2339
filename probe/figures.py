"""A report's figures of scores: by class, by number of labels, and the differences of pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tilezoo.probe.drawing import (
    COLOURS,
    INK,
    LINE,
    SOFT,
    Series,
    add_legend,
    new_figure,
    plain,
    series_of,
    wrapped,
)
from tilezoo.probe.report_tables import tiles_by_percent
from tilezoo.probe.report_words import Entry, Results, headline_metric, main_metrics, pairs
from tilezoo.probe.scores import PER_CLASS

MOST_CLASSES = 40
_NAME_CHARACTERS = 30  # of a class, a line


def shown_classes(results: Results) -> list[str]:
    """Choose the classes of a figure: those with the most test tiles first."""
    counts = {name: parts["test"] for name, parts in results["class_tiles"].items()}
    return sorted(counts, key=lambda name: -counts[name])[:MOST_CLASSES]


def by_class(results: Results) -> Figure:
    """Draw the linear probe's average precision of each class, with intervals."""
    classes, series = shown_classes(results), series_of(results)
    row_in = max(0.38, 0.085 * len(series) + 0.1)
    figure = new_figure(0.9 + row_in * len(classes) + 0.2 * ((len(series) + 1) // 2))
    axes = figure.add_subplot()
    for number, one in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * 0.72 / len(series)
        _draw_classes(axes, one, classes, shift)
    names = [wrapped(name, _NAME_CHARACTERS, most_lines=3) for name in classes]
    axes.set_yticks(range(len(classes)), names, fontsize=8, linespacing=1.05)
    _write_counts(axes, [results["class_tiles"][name]["test"] for name in classes])
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
    for place, told in [(-0.5, "test tiles"), *((n, f"{c:,}") for n, c in enumerate(counts))]:
        is_header = place < 0
        axes.text(
            1.03,
            place,
            told,
            transform=axes.get_yaxis_transform(),
            fontsize=7.5,
            color=SOFT,
            va="bottom" if is_header else "center",
            ha="center" if is_header else "left",
        )


def _draw_classes(axes: Axes, one: Series, classes: Sequence[str], shift: float) -> None:
    found = one.found["linear"][PER_CLASS]
    places = [number + shift for number in range(len(classes))]
    low, high = ([found[name][side] for name in classes] for side in ("low", "high"))
    axes.hlines(places, low, high, color=one.colour, linewidth=1.4, alpha=0.75)
    values = [found[name]["value"] for name in classes]
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


_Rows = list[tuple[str, list[Entry]]]  # header, differences below it


def _rows_of_models(results: Results) -> _Rows:
    """Each pair, with the main metrics of the linear probe and the first of kNN."""
    main = main_metrics(results)
    wanted = (("linear", main[0]), ("linear", main[1]), ("knn", main[0]))
    found: dict[str, list[Entry]] = {}
    for method, metric in wanted:
        for entry in pairs(results, controls=False, method=method, metric=metric):
            found.setdefault(f"{plain(entry['a'])} − {plain(entry['b'])}", []).append(entry)
    return list(found.items())


def _rows_of_controls(results: Results) -> _Rows:
    """Each model against each control, by the headline's metric of the linear probe."""
    found: dict[str, list[Entry]] = {}
    for entry in pairs(results, controls=True, method="linear", metric=headline_metric(results)):
        found.setdefault(f"{plain(entry['a'])} minus", []).append(entry)
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


def _row_name(entry: Entry, header: str) -> str:
    if header.endswith(" minus"):
        return plain(entry["b"])
    return f"{'kNN' if entry['method'] == 'knn' else entry['method']}, {entry['metric']}"


def _draw_difference(axes: Axes, entry: Entry, place: int) -> None:
    claimed = entry["may_be_claimed"]
    colour = COLOURS[0] if claimed else SOFT
    axes.hlines(place, entry["low"], entry["high"], color=colour, linewidth=2)
    face = colour if claimed else "white"
    axes.plot(entry["absolute"], place, "o", color=colour, markerfacecolor=face, markersize=5.5)
    axes.text(
        1.02,
        place,
        f"{entry['absolute']:+.3f}".replace("-", "−"),
        transform=axes.get_yaxis_transform(),
        fontsize=8.5,
        va="center",
        color=INK if claimed else SOFT,
        fontweight="bold" if claimed else "normal",
    )


def fewer_labels(results: Results) -> Figure:
    """Draw the headline's metric over the share of train that is learnt from."""
    metric = headline_metric(results)
    summary = results["label_efficiency"]["summary"]
    series = [one for one in series_of(results) if any(e["name"] == one.name for e in summary)]
    figure = new_figure(3.5 + 0.2 * ((len(series) + 1) // 2))
    axes = figure.add_subplot()
    for one in series:
        _draw_curve(axes, one, [entry for entry in summary if entry["name"] == one.name], metric)
    tiles = tiles_by_percent(results)
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


def _draw_curve(axes: Axes, one: Series, points: Sequence[Mapping[str, Any]], metric: str) -> None:
    is_model = not one.label.endswith("(control)")
    axes.errorbar(
        [point["percent"] for point in points],
        [point[metric]["mean"] for point in points],
        yerr=[point[metric]["deviation"] or 0 for point in points],
        color=one.colour,
        marker=one.mark,
        markersize=4.5,
        linewidth=1.6 if is_model else 1.1,
        linestyle="-" if is_model else "--",
        capsize=2.5,
        label=one.label,
    )
