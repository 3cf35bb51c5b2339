"""A probe's results as text of 80 columns: leakage first, then scores, then what may be claimed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import wrap

from msgspec import UnsetType

from tilezoo.probe.report.tables import say_spread
from tilezoo.probe.report.words import augmentation, headline_metric, without_width
from tilezoo.probe.results import (
    FEW_BLOCKS,
    NEIGHBOURS,
    Claim,
    Gap,
    Results,
    Score,
    ScoresByMethod,
)
from tilezoo.probe.scores import SCALARS

WIDTH = 80
_LABEL = 19  # columns of a row's name
_COLUMN = 20  # of a model
_BESIDE = (WIDTH - _LABEL) // _COLUMN
_METHODS = ("linear", "knn", "centroid")


def to_terminal(results: Results) -> str:
    """Write results as text."""
    parts = [
        _wrap(filter(None, [*_leakage(results), results.shared_groups])),
        _wrap([_setting(results), *_warnings(results)]),
        *_tables({**results.results, **results.controls}),
        _curve(results),
        _gap(results),
        _wrap(entry.claim for entry in _headlines(results)),
    ]
    return "\n\n".join(part for part in parts if part)


def _leakage(results: Results) -> list[str]:
    return [audit.said for audit in results.leakage.values()]


def _wrap(sentences: Iterable[str]) -> str:
    lines = [line for text in sentences for line in wrap(text, WIDTH, subsequent_indent="  ")]
    return "\n".join(lines)


def _setting(results: Results) -> str:
    recipe, tiles = results.recipe, results.tiles
    return (
        f"{tiles.test:,} test tiles, {len(recipe.classes)} classes, {recipe.task}; "
        f"{recipe.protocol} protocol{augmentation(recipe)}; 95 % intervals from "
        f"{recipe.bootstrap.replicates:,} resamples of {tiles.resampled_units:,} "
        f"{recipe.bootstrap.unit}s"
    )


def _warnings(results: Results) -> list[str]:
    """What must be known before the scores are read."""
    notes = [note for note in (FEW_BLOCKS, NEIGHBOURS) if note in results.notes]
    unfinished = [
        f"{name}: the linear probe stopped before its optimum; scores may be a little low"
        for name, fits in results.fits.items()
        if fits["linear"].converged is False
    ]
    at_edge = [
        f"{name}: C = {fits['linear'].c:g} is the last that was tried"
        for name, fits in results.fits.items()
        if fits["linear"].at_edge is True
    ]
    return [*notes, *without_width(results), *unfinished, *at_edge]


def _tables(models: Mapping[str, ScoresByMethod]) -> Iterator[str]:
    """Write each way of probing as a table, and another one where models do not fit beside."""
    for method in _METHODS:
        names = [name for name in models if method in models[name]]
        for first in range(0, len(names), _BESIDE):
            beside = names[first : first + _BESIDE]
            rows = [
                _row(metric, [_cell(models[name][method].of(metric)) for name in beside])
                for metric in SCALARS
            ]
            yield "\n".join([_row(method, [_short(name) for name in beside]), *rows])


def _row(label: str, cells: Sequence[str]) -> str:
    return (f"{label:<{_LABEL}}" + "".join(f"{cell:<{_COLUMN}}" for cell in cells)).rstrip()


def _short(name: str) -> str:
    most = _COLUMN - 2
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _cell(score: Score) -> str:
    return f"{score.value:.3f} {score.low:.3f}–{score.high:.3f}"


def _headlines(results: Results) -> list[Claim]:
    """Choose the claims that are printed: of the linear probe by the metric it is chosen by."""
    metric = headline_metric(results)
    return [
        entry
        for entry in results.differences
        if entry.metric == metric and entry.method == "linear"
    ]


def _curve(results: Results) -> str:
    """Write the label-efficiency curve of the headline metric, mean over seeds."""
    if isinstance(results.label_efficiency, UnsetType):
        return ""
    metric, summary = headline_metric(results), results.label_efficiency.summary
    names = list(dict.fromkeys(entry.name for entry in summary))
    found = {(entry.name, entry.percent): entry.of(metric) for entry in summary}
    tables = []
    for first in range(0, len(names), _BESIDE):
        beside = names[first : first + _BESIDE]
        rows = [_row(f"{metric} by labels", [_short(name) for name in beside])]
        for percent in dict.fromkeys(entry.percent for entry in summary):
            cells = [say_spread(found[name, percent]) for name in beside]
            rows.append(_row(f"{percent:g} % of train", cells))
        tables.append("\n".join(rows))
    return "\n\n".join(tables)


def _gap(results: Results) -> str:
    metric = headline_metric(results)
    if isinstance(results.split_gap, UnsetType):
        return ""
    gaps = results.split_gap.results
    return _wrap(
        _gap_sentence(name, metric, gap["linear"].of(metric)) for name, gap in gaps.items()
    )


def _gap_sentence(name: str, metric: str, gap: Gap) -> str:
    return (
        f"{name}: linear {metric} is {gap.random:.3f} with a random split, {gap.blocks:.3f} by "
        f"blocks; gap {gap.gap:+.3f}, 95 % interval {gap.low:+.3f} to {gap.high:+.3f}"
    )
