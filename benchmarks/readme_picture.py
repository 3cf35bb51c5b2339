"""Draw the README's first picture: the demo's answers, and how the backbone in the box compares.

python benchmarks/readme_picture.py DEMO OUT.png

DEMO is the folder that `make demo` wrote (its search.png); figures are those of
MODEL_CARDS/dino-vitt16-overhead/mines.json and climate.json.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from numpy.typing import NDArray

_RECORD = Path(__file__).parent.parent / "MODEL_CARDS" / "dino-vitt16-overhead"
_TASKS = {
    "mines": "mines in the Amazon\n(Sentinel-2, 10 m; 10 sheets)",
    "climate": "Köppen climates A to D\n(Blue Marble, 7.4 km; every third block of 30°)",
}
_ROWS = {
    "dino-vitt16-overhead": "dino-vitt16-overhead (ours)",
    "random-weights": "the same network, random weights",
    "colour-statistics": "colour statistics",
    "efficientnet-lite0-imagenet": "EfficientNet-lite0, ImageNet labels",
    "deit-tiny-imagenet": "DeiT-Tiny, ImageNet labels",
}
_QUERIES = 3
_OWN, _OTHERS = "#1f6f8b", "#9aa5ab"


def main() -> None:
    """Put both halves on one picture."""
    demo, out = map(Path, sys.argv[1:])
    mpl.use("agg")
    answers = nearest(plt.imread(demo / "search.png"))
    height, width = answers.shape[:2]
    inches = 9.0
    upper = inches * height / width
    figure = plt.figure(figsize=(inches, upper + 3.4))
    whole = upper + 3.4
    pictures = figure.add_axes((0, 3.4 / whole, 1, upper / whole))
    pictures.imshow(answers)
    pictures.set_axis_off()
    for number, task in enumerate(_TASKS):
        results = json.loads((_RECORD / f"{task}.json").read_text(encoding="utf-8"))
        left = 0.27 + 0.375 * number
        draw(figure.add_axes((left, 0.62 / whole, 0.335, 2.05 / whole)), task, results)
    figure.axes[1].set_yticks(range(len(_ROWS)), list(_ROWS.values()), fontsize=9)
    figure.axes[2].set_yticks(range(len(_ROWS)), [])
    figure.savefig(out, dpi=100)


def nearest(sheet: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the first of each query's two rows: the query and its five nearest tiles."""
    return np.concatenate(np.array_split(sheet, 2 * _QUERIES)[::2])


def draw(axes: Axes, task: str, results: Mapping[str, Any]) -> None:
    """Draw average precision with its 95 % interval, a row for each method."""
    scores = {**results["results"], **results["controls"]}
    for place, name in enumerate(_ROWS):
        score = scores[name]["linear"]["ap_macro"]
        colour = _OTHERS if place else _OWN
        axes.barh(place, score["value"], color=colour, height=0.62)
        axes.plot((score["low"], score["high"]), (place, place), color="#333333", linewidth=1)
        axes.text(0.02, place, f"{score['value']:.2f}", va="center", color="white", fontsize=9)
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.set_title(_TASKS[task], fontsize=10)
    axes.set_xlabel("average precision, linear probe; lines: 95 % intervals", fontsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


if __name__ == "__main__":
    main()
