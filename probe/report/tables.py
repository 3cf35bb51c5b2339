"""What a report is made of, before it is Markdown or HTML; and its tables.

All text is plain. Cells of tables are those of results.json, rounded and put side by side.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from tilezoo.probe.report.words import (
    MEANING,
    METHODS,
    Verdict,
    main_metrics,
    model_name,
)
from tilezoo.probe.results import (
    Claim,
    LabelEfficiency,
    Results,
    Score,
    ScoresByMethod,
    SplitGap,
    Spread,
    TableFacts,
)
from tilezoo.probe.scores import SCALARS


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """A title (level 1) or the name of a section."""

    text: str
    level: Literal[1, 2, 3] = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Caution:
    """What a reader must know before believing the figures; nothing when there are no items."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bullets:
    """A list of sentences.

    Attributes:
        items: One a line.
        strong: These are the ones to read.
        folded: HTML shows them on demand only, under this name.
    """

    items: tuple[str, ...]
    strong: bool = False
    folded: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreCell:
    """A value and its 95 % interval, as they are printed."""

    value: str
    low: str
    high: str


Cell = str | ScoreCell


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table; its first column names the rows.

    Attributes:
        header: Names of the columns.
        rows: As many cells each.
        folded: HTML shows it on demand only, under this name.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure.

    Attributes:
        file: Beside the report, with `/`.
        alt: What it shows, for those who do not see it.
        wide: It needs some width; narrow screens scroll.
    """

    file: str
    alt: str
    wide: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A tile and the lines below it.

    Attributes:
        file: Its picture, beside the report.
        lines: The first is the one to read.
    """

    file: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """Tiles side by side."""

    tiles: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Something to copy."""

    text: str


Part = Verdict | Heading | Text | Caution | Bullets | Grid | Picture | Gallery | Code


def beside(results: Results) -> dict[str, ScoresByMethod]:
    """Put models first and controls beside them, by the name that heads their column."""
    controls = {f"{name} (control)": found for name, found in results.controls.items()}
    return {**results.results, **controls}


def scores(results: Results) -> Iterator[Part]:
    """Write each way of probing as a table of metrics by models; the linear one first."""
    for method, called in METHODS.items():
        columns = {name: found for name, found in beside(results).items() if method in found}
        folded = None if method == "linear" else called
        if folded is None:
            yield Heading(text=called, level=3)
        rows = [_row(metric, method, columns.values()) for metric in SCALARS]
        yield Grid(header=("", *columns), rows=tuple(rows), folded=folded)


def _row(metric: str, method: str, columns: Iterable[ScoresByMethod]) -> tuple[Cell, ...]:
    return (metric, *(score_cell(found[method].of(metric)) for found in columns))


def meanings(results: Results) -> tuple[str, ...]:
    """Say what each metric is, and the control that is always there."""
    task = results.recipe.task
    metrics = [f"{metric}: {MEANING[metric][task]}" for metric in SCALARS]
    return *metrics, "prior: each class's share of train for every tile, so labels alone"


def by_class(results: Results) -> Grid:
    """Write the linear probe's average precision of each class, by models."""
    columns = beside(results)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            name,
            f"{counts.test:,}",
            *(score_cell(found["linear"].ap_per_class[name]) for found in columns.values()),
        )
        for name, counts in results.class_tiles.items()
    )
    return Grid(header=("class", "test tiles", *columns), rows=rows, folded="The figures by class")


def differences(results: Results) -> Grid:
    """Write what may be said of each pair, by the main metrics of each way of probing."""
    metrics = main_metrics(results)
    entries = [entry for entry in results.differences if entry.metric in metrics]
    header = ("a − b", "probe", "metric", "difference", "relative", "95 % interval", "p (Holm)")
    return Grid(
        header=(*header, "may be claimed"),
        rows=tuple(map(_difference, entries)),
        folded="All differences",
    )


def _difference(entry: Claim) -> tuple[str, ...]:
    relative = "" if entry.relative is None else f"{entry.relative:+.1%}"
    return (
        f"{entry.a} − {entry.b}",
        METHODS[entry.method],
        entry.metric,
        f"{entry.absolute:+.4f}",
        relative,
        f"{entry.low:+.4f} to {entry.high:+.4f}",
        f"{entry.p_holm:.3f}",
        "yes" if entry.may_be_claimed else "no",
    )


def fewer_labels(curve: LabelEfficiency, metric: str) -> Grid:
    """Write the label-efficiency curve: rows of fractions, mean and deviation over seeds."""
    found = {(entry.name, entry.percent): entry.of(metric) for entry in curve.summary}
    names = list(dict.fromkeys(name for name, _ in found))
    rows = tuple(
        (f"{percent:g} %", f"{tiles:,}", *(say_spread(found[name, percent]) for name in names))
        for percent, tiles in tiles_by_percent(curve).items()
    )
    return Grid(header=("of train", "tiles", *names), rows=rows)


def tiles_by_percent(curve: LabelEfficiency) -> dict[float, int]:
    """How many tiles each fraction of the train set is (of the first seed)."""
    return dict(sorted((point.percent, point.tiles) for point in reversed(curve.points)))


def say_spread(entry: Spread) -> str:
    """Write a mean, and the deviation if there is one."""
    spread = "" if entry.deviation is None else f" ± {entry.deviation:.3f}"
    return f"{entry.mean:.3f}{spread}"


def split_gap(found: SplitGap, metric: str) -> Grid:
    """Write how much more a random split gives than one by blocks."""
    header = ("", "probe", "random", "blocks", "gap", "95 % interval")
    rows = [
        (
            name,
            METHODS[method],
            f"{gap.random:.3f}",
            f"{gap.blocks:.3f}",
            f"{gap.gap:+.3f}",
            f"{gap.low:+.3f} to {gap.high:+.3f}",
        )
        for name, methods in found.results.items()
        for method, gap in ((method, gaps.of(metric)) for method, gaps in methods.items())
    ]
    return Grid(header=header, rows=tuple(rows))


def provenance(results: Results) -> Grid:
    """Write which vectors were probed."""
    header = ("table", "model", "pixels", "pooling", "vector", "space", "table's state")
    rows = [
        (
            name,
            model_name(table),
            pixels(table),
            table.pooling,
            f"{table.dimension:,}",
            table.space,
            table.fingerprint,
        )
        for name, table in results.tables.items()
    ]
    return Grid(header=header, rows=tuple(rows))


def pixels(table: TableFacts) -> str:
    """Say which bands were fed, and which values were black and white."""
    bands, (low, high) = table.bands, table.value_range
    named = ", ".join(bands) if len(bands) <= 4 else f"{len(bands)} bands"
    return f"{named}; {low:g} to {high:g}"


def score_cell(entry: Score) -> ScoreCell:
    """Round a score and its interval."""
    value, low, high = (f"{number:.3f}" for number in (entry.value, entry.low, entry.high))
    return ScoreCell(value=value, low=low, high=high)
