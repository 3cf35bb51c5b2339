"""Parts of a report as Markdown (GitHub's, as model cards and pull requests show it)."""

import re
from collections.abc import Iterable, Sequence

from tilezoo.probe.page_parts import (
    Bullets,
    Caution,
    Cell,
    Code,
    Gallery,
    Grid,
    Heading,
    Part,
    Picture,
    Score,
    Text,
    Verdict,
)

_BESIDE = 4  # tiles of a gallery
# Signs that Markdown or HTML would take for its own; `_` inside a word is none of them.
_SIGNS = re.compile(r"[\\`*\[\]<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_AT_START = re.compile(r"^(#*|\d*)([#+.)-])(?=\s)")  # of a heading or list


def to_markdown(parts: Iterable[Part]) -> str:
    """Write parts one below the other."""
    written = [text for part in parts if (text := _written(part))]
    return "\n\n".join(written) + "\n"


def escaped(text: str) -> str:
    """Write text so that none of its signs means anything."""
    one_line = " ".join(text.split()).replace("&", "&amp;")
    safe = _SIGNS.sub(lambda sign: _harmless(sign[0]), one_line)
    return _AT_START.sub(r"\1\\\2", safe)


def _harmless(sign: str) -> str:
    return {"<": "&lt;", ">": "&gt;"}.get(sign, f"\\{sign}")


def _written(part: Part) -> str:
    match part:
        case Verdict(text=text):
            return f"**{escaped(text)}**"
        case Heading(text=text, level=level):
            return f"{'#' * level} {escaped(text)}"
        case Text(text=text):
            return escaped(text)
        case Caution(items=items):
            return "\n".join(f"> - {escaped(item)}" for item in items)
        case Bullets(items=items, strong=strong, folded=folded):
            mark = "**" * strong
            return _titled(folded, "\n".join(f"- {mark}{escaped(item)}{mark}" for item in items))
        case Grid(header=header, rows=rows, folded=folded):
            return _titled(folded, _grid(header, rows))
        case Picture(file=file, alt=alt):
            return f"![{escaped(alt)}]({file})"
        case Gallery():
            return _gallery(part)
        case Code(text=text):
            return f"```\n{text}\n```"


def _titled(title: str | None, text: str) -> str:
    return text if title is None else f"### {escaped(title)}\n\n{text}"


def _grid(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    line = "|---" + "|---:" * (len(header) - 1) + "|"
    return "\n".join([_row(map(escaped, header)), line, *(_row(map(_cell, row)) for row in rows)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Score):
        return f"{cell.value} ({cell.low}–{cell.high})"
    return escaped(cell)


def _gallery(gallery: Gallery) -> str:
    """Write tiles as tables of one row of pictures and one of words."""
    tables = []
    for first in range(0, len(gallery.tiles), _BESIDE):
        beside = gallery.tiles[first : first + _BESIDE]
        pictures = [f"![{escaped(tile.lines[0])}]({tile.file})" for tile in beside]
        words = ["<br>".join(map(escaped, tile.lines)) for tile in beside]
        tables.append("\n".join([_row(pictures), "|---" * len(beside) + "|", _row(words)]))
    return "\n\n".join(tables)
