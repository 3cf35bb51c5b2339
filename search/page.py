"""One self-contained HTML page: queries, their answers as pictures, and maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from tilezoo.io import write_text
from tilezoo.pages import png_bytes, png_uri, render
from tilezoo.pictures import Thumbnailer
from tilezoo.search.answers import Answers, Hit
from tilezoo.search.sheet import picture_hit, picture_query
from tilezoo.search.similarity_map import Atlas
from tilezoo.table import open_table

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
