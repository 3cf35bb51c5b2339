"""A report's figure of which classes are taken for which."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tilezoo.probe.drawing import INK, SOFT, new_figure, wrapped
from tilezoo.probe.report_words import Results

_NAME_CHARACTERS = 32
_MOST_NAMED = 5  # classes whose names fit below the columns too
_MOST_WRITTEN = 20  # classes whose cells have room for figures
_DARK = 0.55  # share from which white letters are the legible ones


def confusion(results: Results, name: str) -> Figure:
    """Draw a model's predicted classes by true class, as shares of each true class's tiles.

    Columns carry the numbers of the rows, because long names do not fit below them.
    """
    classes, counts = results["recipe"]["classes"], np.array(results["mistakes"]["confusion"][name])
    tiles = np.array([results["class_tiles"][one]["test"] for one in classes])
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
        wrapped(f"{number}  {one}" if numbered else one, _NAME_CHARACTERS, most_lines=3)
        for number, one in enumerate(classes, start=1)
    ]
    size = 6.8 if numbered else 8.5
    axes.set_yticks(range(len(classes)), names, fontsize=size, linespacing=1.05)
    numbers = [str(number) for number in range(1, len(classes) + 1)]
    below = numbers if numbered else [wrapped(one, 13, most_lines=3) for one in classes]
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
            told = f"{share * 100:.0f}"
            axes.text(column, row, told, ha="center", va="center", fontsize=size, color=colour)
    for place in range(len(shares)):
        corner = (place - 0.5, place - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=SOFT, linewidth=0.7))
