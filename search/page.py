"""Answers to look at: a self-contained HTML page with maps, and a contact sheet as one PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont

from tilezoo.io import whole_file, write_text
from tilezoo.pages import png_bytes, png_uri, render
from tilezoo.pictures import Thumbnailer
from tilezoo.search.answers import Answers, Hit
from tilezoo.search.similarity_map import Atlas
from tilezoo.table import open_table

_SIDE, _GAP, _TEXT, _COLUMNS = 160, 12, 34, 6
_Cell = tuple[Image.Image | None, str, str, bool]
_INK, _SOFT, _PAPER, _EMPTY, _ASKED = "#1c2430", "#5c6773", "#ffffff", "#e9edf1", "#d1495b"


def write_sheet(path: Path, answers: Sequence[Answers]) -> None:
    """Write a sheet: for each query its tile, framed in red, then the answers in order."""
    pictures = Thumbnailer(open_table(answers[0].table), _SIDE)
    cells = [cell for one in answers for cell in _make_cells(one, pictures)]
    height = sum(_count_rows(1 + len(one.hits)) for one in answers) * (_SIDE + _TEXT + _GAP) + _GAP
    sheet = Image.new("RGB", (_COLUMNS * (_SIDE + _GAP) + _GAP, height), _PAPER)
    row = 0
    for one in answers:
        count = 1 + len(one.hits)
        for place, cell in enumerate(cells[:count]):
            _draw(sheet, cell, row + place // _COLUMNS, place % _COLUMNS)
        cells, row = cells[count:], row + _count_rows(count)
    with whole_file(path) as temporary:
        sheet.save(temporary, "PNG")


def picture_hit(pictures: Thumbnailer, hit: Hit) -> Image.Image | None:
    """Make a hit's picture; None when its pixels cannot be read any more."""
    return pictures.of_row(hit.source_uri, hit.pixel_bbox)


def picture_query(pictures: Thumbnailer, answers: Answers) -> Image.Image | None:
    """Make the query's picture, be it a row or an image file."""
    if answers.query is not None:
        return picture_hit(pictures, answers.query)
    return pictures.of_file(answers.image) if answers.image else None


def _make_cells(answers: Answers, pictures: Thumbnailer) -> list[_Cell]:
    asked: _Cell = (picture_query(pictures, answers), "query", answers.query_name, True)
    return [asked, *(_make_cell(pictures, r, hit) for r, hit in enumerate(answers.hits, start=1))]


def _make_cell(pictures: Thumbnailer, rank: int, hit: Hit) -> _Cell:
    return picture_hit(pictures, hit), f"{rank}  {hit.score:.3f}", hit.place or hit.id, False


def _count_rows(count: int) -> int:
    return -(-count // _COLUMNS)


def _draw(sheet: Image.Image, cell: _Cell, row: int, column: int) -> None:
    picture, title, subtitle, asked = cell
    x, y = _GAP + column * (_SIDE + _GAP), _GAP + row * (_SIDE + _TEXT + _GAP)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((x, y, x + _SIDE - 1, y + _SIDE - 1), fill=_EMPTY)
    if picture is not None:
        sheet.paste(picture, (x + (_SIDE - picture.width) // 2, y + (_SIDE - picture.height) // 2))
    if asked:
        draw.rectangle((x - 2, y - 2, x + _SIDE + 1, y + _SIDE + 1), outline=_ASKED, width=3)
    font = ImageFont.load_default(13)
    draw.text((x, y + _SIDE + 2), title, fill=_INK, font=font)
    draw.text((x, y + _SIDE + 17), _shorten(subtitle, font), fill=_SOFT, font=font)


def _shorten(text: str, font: "ImageFont.FreeTypeFont | ImageFont.ImageFont") -> str:
    """Cut text that is wider than a tile, from the left: ids differ at their ends."""
    while font.getlength(text) > _SIDE and len(text) > 2:
        text = "…" + text[2:]
    return text


_SIDE_PX = 168


@dataclass(frozen=True, kw_only=True)
class _Section:
    """One query as the template shows it; a picture is the `src` of an image, or None."""

    answers: Answers
    picture: str | None
    chart: Markup | None
    hits: Sequence[tuple[Hit, str | None]]


def write_page(path: Path, answers: Sequence[Answers], title: str) -> None:
    """Write a page for queries over one table; it needs no other file and no network.

    Args:
        path: Where to.
        answers: One section each; all of one table.
        title: Headline.
    """
    table = open_table(answers[0].table)
    pictures, atlas = Thumbnailer(table, _SIDE_PX), Atlas.of(table)
    sections = [_make_section(one, pictures, atlas) for one in answers]
    backbone = Path(table.manifest.model.name).name
    shown = {"title": title, "table": table, "backbone": backbone, "sections": sections}
    write_text(path, render("tilezoo.search", "answers.html.j2", **shown))


def _make_section(answers: Answers, pictures: Thumbnailer, atlas: Atlas) -> _Section:
    return _Section(
        answers=answers,
        picture=_to_uri(picture_query(pictures, answers)),
        chart=atlas.draw(answers),
        hits=[(hit, _to_uri(picture_hit(pictures, hit))) for hit in answers.hits],
    )


def _to_uri(picture: Image.Image | None) -> str | None:
    return None if picture is None else png_uri(png_bytes(picture))
