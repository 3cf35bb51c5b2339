"""Parts of a report as one HTML page with its pictures inside."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from tilezoo.pages import page, png_uri
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

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5c6773; --line: #dfe4ea; --brand: #0b6e69; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 24px 28px 56px; background: #fff;
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 26px; line-height: 1.25; margin: 22px 0 8px; }
h2 { font-size: 20px; margin: 40px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 16px; margin: 22px 0 8px; } p { margin: 10px 0; max-width: 78ch; }
.verdict { max-width: none; margin: 0; padding: 11px 16px; border-radius: 8px; font-weight: 600;
  border-left: 6px solid; }
.good { background: #e8f5ee; border-color: #1b7f4b; } .bad { background: #fdeaea;
  border-color: #b3261e; } .doubt { background: #fff6e0; border-color: #b7791f; }
ul { padding-left: 22px; margin: 10px 0; max-width: 84ch; } li { margin: 5px 0; }
ul.strong { list-style: none; padding: 0; max-width: none; }
ul.strong li { font-size: 18px; line-height: 1.4; padding: 10px 14px; margin: 8px 0;
  background: #eef5f5; border-left: 4px solid var(--brand); border-radius: 6px; }
aside { background: #fff6e0; border-radius: 8px; padding: 8px 16px; margin: 14px 0; }
aside ul { margin: 0; }
.scroll { overflow-x: auto; margin: 12px 0; background: /* a shadow where there is more to see */
  linear-gradient(to right, #fff 40%, #fff0), linear-gradient(to left, #fff 40%, #fff0) 100% 0,
  linear-gradient(to right, #1c243033, #1c243000), linear-gradient(to left, #1c243033, #1c243000)
  100% 0; background-repeat: no-repeat; background-size: 40px 100%, 40px 100%, 12px 100%, 12px 100%;
  background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-size: 14.5px; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
th, td { text-align: right; padding: 5px 12px; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; max-width: 340px;
  min-width: 120px; } tbody tr:last-child td { border-bottom: 0; }
td small { display: block; color: var(--soft); white-space: nowrap; font-size: 12.5px; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--brand); }
.picture { margin: 14px 0; } .picture img { display: block; width: 100%; max-width: 760px; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 16px;
  margin: 14px 0; } figure { margin: 0; } figure img { display: block; width: 100%;
  aspect-ratio: 1; object-fit: contain; background: #e9edf1; border-radius: 6px; }
figcaption { font-size: 13px; line-height: 1.35; color: var(--soft); padding-top: 6px; }
figcaption b { display: block; color: var(--ink); }
pre { background: #f4f6f8; padding: 12px 14px; border-radius: 8px; font-size: 13.5px;
  white-space: pre-wrap; }
@media (max-width: 640px) { body { padding: 14px 14px 40px; } h1 { font-size: 22px; }
  ul.strong li { font-size: 16.5px; } th, td { padding: 5px 7px; font-size: 13.5px; }
  th:first-child, td:first-child { min-width: 96px; }
  .wide img { width: 620px; } .wide { overflow-x: auto; }
  .gallery { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
"""


def to_html(parts: Iterable[Part], folder: Path, title: str) -> str:
    """Write parts as a page that needs no other file.

    Args:
        parts: In order.
        folder: Where pictures are read from.
        title: Of the window.
    """
    return page(title, _STYLE, "\n".join(_written(part, folder) for part in parts))


def _written(part: Part, folder: Path) -> str:
    match part:
        case Verdict(text=text, mood=mood):
            return f'<p class="verdict {mood}">{_text(text)}</p>'
        case Heading(text=text, level=level):
            return f"<h{level}>{_text(text)}</h{level}>"
        case Text(text=text):
            return f"<p>{_text(text)}</p>"
        case Caution(items=items):
            return f"<aside>{_list(items)}</aside>" if items else ""
        case Bullets(items=items, strong=strong, folded=folded):
            return _folded(_list(items, "strong" if strong else ""), folded) if items else ""
        case Grid(folded=folded):
            return _folded(_grid(part), folded)
        case Picture(file=file, alt=alt, wide=wide):
            css = "picture wide" if wide else "picture"
            return f'<div class="{css}">{_image(folder / file, alt)}</div>'
        case Gallery(tiles=tiles):
            figures = [_figure(folder / tile.file, tile.lines) for tile in tiles]
            return f'<div class="gallery">{"".join(figures)}</div>'
        case Code(text=text):
            return f"<pre>{escape(text)}</pre>"


def _text(text: str) -> str:
    """Write plain text; signs stay with their numbers."""
    return escape(text).replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")


def _list(items: Iterable[str], css: str = "") -> str:
    lines = "".join(f"<li>{_text(item)}</li>" for item in items)
    return f'<ul class="{css}">{lines}</ul>'


def _grid(grid: Grid) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in grid.header)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in grid.rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div>"
    )


def _folded(shown: str, name: str | None) -> str:
    if name is None:
        return shown
    return f"<details><summary>{_text(name)}</summary>{shown}</details>"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Score):
        return f"<td>{cell.value}<small>{cell.low}–{cell.high}</small></td>"
    return f"<td>{_text(cell)}</td>"


def _image(path: Path, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="{png_uri(path.read_bytes())}">'


def _figure(path: Path, lines: Sequence[str]) -> str:
    first, *others = map(_text, lines)
    told = "<br>".join(others)
    return f"<figure>{_image(path, lines[0])}<figcaption><b>{first}</b>{told}</figcaption></figure>"
