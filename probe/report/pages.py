"""A probe's report: Markdown, one HTML page and pictures, all of results.json and nothing else."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UnsetType

from tilezoo.io import whole_file, write_text
from tilezoo.pages import png_bytes, png_uri, render
from tilezoo.probe.report import tables as tables_of
from tilezoo.probe.report import words
from tilezoo.probe.report.tables import (
    Bullets,
    Caution,
    Cell,
    Code,
    Gallery,
    Grid,
    Heading,
    Part,
    Picture,
    ScoreCell,
    Shown,
    Text,
)
from tilezoo.probe.report.words import Verdict
from tilezoo.probe.results import Mistake, Results, read_results
from tilezoo.table import Table

_BESIDE = 4  # tiles of a gallery
# Signs that Markdown or HTML would take for its own; `_` inside a word is none of them.
_SIGNS = re.compile(r"[\\`*\[\]<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_AT_START = re.compile(r"^(#*|\d*)([#+.)-])(?=\s)")  # of a heading or list


REPORT, PAGE, PICTURES = "report.md", "report.html", "pictures"
_TILE_PX = 224
_NARROW_CLASSES = 8  # whose matrix a phone shows whole


def write_report(
    out: str | Path,
    *,
    tables: Mapping[str, Table],
    command: str,
    dataset: str | None = None,
    note: str | None = None,
) -> Path:
    """Write report.md, report.html and pictures/ beside a probe's results.json.

    Args:
        out: The folder of results.
        tables: By the names they have in results.json, for pictures of their tiles; those that
            are missing are not pictured.
        command: What repeats all of it.
        dataset: What the tiles and labels are called.
        note: What a reader must know first, said before any figure.

    Returns:
        report.html.

    Raises:
        ProbeError: There are no results.
    """
    folder = Path(out)
    results = read_results(folder)
    forget_report(folder)
    (folder / PICTURES).mkdir(exist_ok=True)
    title = words.title(results, dataset)
    parts = list(_parts(folder, results, tables, title=title, note=note, command=command))
    write_text(folder / REPORT, to_markdown(parts))
    write_text(folder / PAGE, to_html(parts, folder, title))
    return folder / PAGE


def forget_report(folder: Path) -> None:
    """Remove an earlier report, which is of other results."""
    for stale in (folder / REPORT, folder / PAGE, *(folder / PICTURES).glob("*.png")):
        stale.unlink(missing_ok=True)


def _parts(
    folder: Path,
    results: Results,
    tables: Mapping[str, Table],
    *,
    title: str,
    note: str | None,
    command: str,
) -> Iterator[Part]:
    yield words.verdict(results)
    yield Heading(text=title, level=1)
    if note:
        yield Text(text=note)
    yield Bullets(items=tuple(words.headlines(results)), strong=True)
    yield Text(text=words.setting(results))
    if text := words.left_out(results):
        yield Text(text=text)
    yield Caution(items=tuple(words.cautions(results)))
    yield from _scores(results)
    yield from _differences(folder, results)
    yield from _classes(folder, results)
    yield from _curve(folder, results)
    yield from _gap(results)
    yield from _confusion(folder, results)
    yield from _mistaken(folder, results, tables)
    yield from _again(results, command)


def _scores(results: Results) -> Iterator[Part]:
    yield Heading(text="Scores")
    yield from tables_of.scores(results)
    yield Bullets(items=tables_of.meanings(results), folded="What the metrics are")


def _differences(folder: Path, results: Results) -> Iterator[Part]:
    from tilezoo.probe.report import figures

    if not results.differences:
        return
    yield Heading(text="Differences")
    alt = "Differences of pairs with their intervals"
    yield _draw(folder, "differences", alt, partial(figures.differences, results))
    if len(results.results) > 1:  # else they are the headline
        yield Bullets(items=tuple(words.against_controls(results)))
    yield tables_of.differences(results)


def _classes(folder: Path, results: Results) -> Iterator[Part]:
    from tilezoo.probe.report import figures

    yield Heading(text="By class")
    alt = "Average precision of each class, with intervals"
    yield _draw(folder, "by-class", alt, partial(figures.by_class, results))
    if len(results.class_tiles) > figures.MOST_CLASSES:
        yield Text(text="The classes with the most test tiles are drawn; the table holds all.")
    yield tables_of.by_class(results)


def _curve(folder: Path, results: Results) -> Iterator[Part]:
    from tilezoo.probe.report import figures

    if isinstance(results.label_efficiency, UnsetType):
        return
    yield Heading(text="Fewer labels")
    alt = "Scores over the number of labels learnt from"
    yield _draw(
        folder,
        "fewer-labels",
        alt,
        partial(figures.fewer_labels, results, results.label_efficiency),
    )
    yield Text(text="Bars and ± are the standard deviation over subsets drawn with other seeds.")
    yield tables_of.fewer_labels(results.label_efficiency, words.headline_metric(results))


def _gap(results: Results) -> Iterator[Part]:
    if not isinstance(results.split_gap, UnsetType):
        metric = words.headline_metric(results)
        yield Heading(text="A random split against one by blocks")
        yield Text(text=f"What neighbours in train and test give away, by {metric}.")
        yield tables_of.split_gap(results.split_gap, metric)


def _confusion(folder: Path, results: Results) -> Iterator[Part]:
    from tilezoo.probe.report.figures import confusion

    matrices = results.mistakes.confusion
    if not matrices:
        return
    several = results.recipe.task == "multilabel"
    yield Heading(text="True and predicted together" if several else "Taken for each other")
    more = "; a tile may have several" if several else ""
    yield Text(text=f"Percent of a true class's test tiles that are predicted as a class{more}.")
    for name in matrices:
        yield Heading(text=name, level=3)
        alt = f"Predicted classes by true class, {name}"
        drawn = partial(confusion, results, name)
        wide = len(results.recipe.classes) > _NARROW_CLASSES
        yield _draw(folder, f"confusion-{name}", alt, drawn, wide=wide)


def _mistaken(folder: Path, results: Results, tables: Mapping[str, Table]) -> Iterator[Part]:
    yield Heading(text="Test tiles mistaken most")
    for name, mistaken in results.mistakes.tiles.items():
        yield Heading(text=name, level=3)
        shown = _picture_tiles(folder, name, mistaken, tables.get(name))
        missing = len(mistaken) - len(shown)
        if not mistaken:
            yield Text(text="No test tile is mistaken.")
        if shown:
            yield Gallery(tiles=tuple(shown))
        if missing:
            yield Text(text=f"{missing} of {len(mistaken)} are not pictured: their files are gone.")


def _picture_tiles(
    folder: Path, name: str, mistaken: Sequence[Mistake], table: Table | None
) -> list[Shown]:
    """Make pictures of the tiles whose files are still there."""
    from tilezoo.pictures import Thumbnailer  # rasterio is wanted for this alone

    if table is None or not mistaken:
        return []
    pictures, shown = Thumbnailer(table, _TILE_PX), []
    for number, (one, row) in enumerate(zip(mistaken, _rows(table, mistaken), strict=True), 1):
        picture = row and pictures.of_row(row["source_uri"], tuple(row["pixel_bbox"]))
        if picture:
            file = f"{PICTURES}/mistaken-{name}-{number}.png"
            with whole_file(folder / file) as temporary:
                temporary.write_bytes(png_bytes(picture))
            shown.append(Shown(file=file, lines=words.mistake(one)))
    return shown


def _rows(table: Table, mistaken: Sequence[Mistake]) -> list[dict[str, Any] | None]:
    """Find the rows of tiles by id; None for those that the table does not hold."""
    wanted = pa.array([one.id for one in mistaken], pa.string())
    places = pc.index_in(wanted, value_set=table.column("id").combine_chunks()).to_pylist()
    rows = [place for place in places if place is not None]
    found = iter(table.take(rows, ["source_uri", "pixel_bbox"]))
    return [None if place is None else next(found) for place in places]


def _again(results: Results, command: str) -> Iterator[Part]:
    yield Heading(text="Do it again")
    yield Code(text=command)
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    yield Text(text=f"Recipe {results.recipe.sha256}; {versions}.")
    yield tables_of.provenance(results)
    yield Bullets(items=tuple(results.notes))


def _draw(
    folder: Path, name: str, alt: str, make: Callable[[], Any], *, wide: bool = False
) -> Picture:
    from tilezoo.probe.report.figures import draw

    file = f"{PICTURES}/{name}.png"
    draw(folder / file, make)
    return Picture(file=file, alt=alt, wide=wide)


def to_markdown(parts: Iterable[Part]) -> str:
    """Write parts one below the other."""
    written = [text for part in parts if (text := _write_part(part))]
    return "\n\n".join(written) + "\n"


def escape_signs(text: str) -> str:
    """Write text so that none of its signs means anything."""
    one_line = " ".join(text.split()).replace("&", "&amp;")
    safe = _SIGNS.sub(lambda sign: _harmless(sign[0]), one_line)
    return _AT_START.sub(r"\1\\\2", safe)


def _harmless(sign: str) -> str:
    return {"<": "&lt;", ">": "&gt;"}.get(sign, f"\\{sign}")


def _write_part(part: Part) -> str:
    match part:
        case Verdict(text=text):
            return f"**{escape_signs(text)}**"
        case Heading(text=text, level=level):
            return f"{'#' * level} {escape_signs(text)}"
        case Text(text=text):
            return escape_signs(text)
        case Caution(items=items):
            return "\n".join(f"> - {escape_signs(item)}" for item in items)
        case Bullets(items=items, strong=strong, folded=folded):
            mark = "**" * strong
            return _put_title(
                folded, "\n".join(f"- {mark}{escape_signs(item)}{mark}" for item in items)
            )
        case Grid(header=header, rows=rows, folded=folded):
            return _put_title(folded, _grid(header, rows))
        case Picture(file=file, alt=alt):
            return f"![{escape_signs(alt)}]({file})"
        case Gallery():
            return _gallery(part)
        case Code(text=text):
            return f"```\n{text}\n```"


def _put_title(title: str | None, text: str) -> str:
    return text if title is None else f"### {escape_signs(title)}\n\n{text}"


def _grid(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    line = "|---" + "|---:" * (len(header) - 1) + "|"
    return "\n".join(
        [_row(map(escape_signs, header)), line, *(_row(map(_cell, row)) for row in rows)]
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if isinstance(cell, ScoreCell):
        return f"{cell.value} ({cell.low}–{cell.high})"
    return escape_signs(cell)


def _gallery(gallery: Gallery) -> str:
    """Write tiles as tables of one row of pictures and one of words."""
    tables = []
    for first in range(0, len(gallery.tiles), _BESIDE):
        beside = gallery.tiles[first : first + _BESIDE]
        pictures = [f"![{escape_signs(tile.lines[0])}]({tile.file})" for tile in beside]
        words = ["<br>".join(map(escape_signs, tile.lines)) for tile in beside]
        tables.append("\n".join([_row(pictures), "|---" * len(beside) + "|", _row(words)]))
    return "\n\n".join(tables)


def to_html(parts: Iterable[Part], folder: Path, title: str) -> str:
    """Write parts as a page that needs no other file.

    Args:
        parts: In order.
        folder: Where pictures are read from.
        title: Of the window.
    """
    return render(
        "tilezoo.probe.report",
        "report.html.j2",
        title=title,
        parts=[(type(part).__name__, part) for part in parts if not _is_empty(part)],
        picture=lambda file: png_uri((folder / file).read_bytes()),
        spaced=_hold_signs,
    )


def _is_empty(part: Part) -> bool:
    return isinstance(part, Bullets | Caution) and not part.items


def _hold_signs(text: str) -> str:
    """Keep signs with their numbers where lines break."""
    return text.replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")
