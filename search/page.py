"""One self-contained HTML page: queries, their answers as pictures, and a map."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from tilezoo.io import write_text
from tilezoo.pages import page, png_bytes, png_uri
from tilezoo.search.answers import Answers, Hit
from tilezoo.search.atlas import Atlas
from tilezoo.search.pictures import of_hit, of_query
from tilezoo.table import open_table
from tilezoo.thumbnails import Thumbnailer

_SIDE_PX = 168

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5c6773; --line: #dfe4ea; --brand: #0b6e69; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 28px 24px 48px; background: #f7f8fa;
  color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0 0 12px; }
.note { color: var(--soft); margin: 0 0 20px; overflow-wrap: anywhere; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 18px; margin-bottom: 22px; }
.top { display: grid; grid-template-columns: 200px minmax(0, 1fr); gap: 22px; margin-bottom: 18px; }
.hits { display: grid; grid-template-columns: repeat(auto-fill, minmax(168px, 1fr)); gap: 14px; }
figure { margin: 0; } figure.asked img { outline: 3px solid #d1495b; }
img, .gone { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px;
  background: #e9edf1; }
.gone { display: grid; place-items: center; color: var(--soft); font-size: 13px; }
figcaption { font-size: 12.5px; color: var(--soft); padding-top: 5px; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-size: 13.5px; } .bar { height: 4px; border-radius: 2px;
  background: var(--line); margin: 3px 0; } .bar i { display: block; height: 4px;
  border-radius: 2px; background: var(--brand); }
svg { width: 100%; height: auto; display: block; font: 10px system-ui, "DejaVu Sans", sans-serif; }
svg .sea { fill: #eef2f5; } svg text { fill: #5c6773; }
svg .graticule line { stroke: #d3dae1; stroke-width: .7; }
svg .degrees text { stroke: #fff; stroke-width: 3; paint-order: stroke; }
svg .hit circle { fill: #fff; stroke: #1c2430; stroke-width: 1.6; }
svg .hit text { fill: #1c2430; font-weight: 700; text-anchor: middle; }
svg .asked { fill: #d1495b; stroke: #fff; stroke-width: 1.6; }
@media (max-width: 720px) { .top { grid-template-columns: 1fr; } }
"""


def write_page(path: Path, answers: Sequence[Answers], title: str) -> None:
    """Write a page for queries over one table; it needs no other file and no network.

    Args:
        path: Where to.
        answers: One section each; all of one table.
        title: Headline.
    """
    table = open_table(answers[0].table)
    pictures, atlas = Thumbnailer(table, _SIDE_PX), Atlas.of(table)
    sections = [_section(one, pictures, atlas.svg(one)) for one in answers]
    model = table.manifest["model"]["name"]
    about = (
        f"{table.row_count:,} tiles of {table.path}, backbone {Path(model).name}, space "
        f"{table.space.fingerprint}. Scores are cosines. On the maps each dot is a tile, the "
        "brighter the more it looks like the query (red diamond); numbers are the answers."
    )
    head = f'<h1>{escape(title)}</h1><p class="note">{escape(about)}</p>'
    write_text(path, page(title, _STYLE, head + "".join(sections)))


def _section(answers: Answers, pictures: Thumbnailer, chart: str) -> str:
    asked = _figure(of_query(pictures, answers), _about_query(answers), css="asked")
    hits = "".join(
        _figure(of_hit(pictures, hit), _about_hit(rank, hit))
        for rank, hit in enumerate(answers.hits, start=1)
    )
    return (
        f"<section><h2>Nearest to {escape(answers.label)}</h2>"
        f'<div class="top">{asked}<div>{chart}</div></div><div class="hits">{hits}</div></section>'
    )


def _about_query(answers: Answers) -> str:
    name = answers.query.id if answers.query else Path(answers.image or "").name
    return f"<b>query</b><br>{escape(name)}{_where(answers.query) if answers.query else ''}"


def _about_hit(rank: int, hit: Hit) -> str:
    width = max(0.0, min(1.0, hit.score)) * 100
    bar = f'<div class="bar"><i style="width:{width:.1f}%"></i></div>'
    return f"<b>{rank} · {hit.score:.3f}</b>{bar}{escape(hit.id)}{_where(hit)}"


def _where(hit: Hit) -> str:
    when = hit.datetime.strftime("%Y-%m-%d %H:%M") if hit.datetime else ""
    return "".join(f"<br>{escape(text)}" for text in (hit.place, when) if text)


def _figure(picture: Image.Image | None, caption: str, css: str = "") -> str:
    shown = '<div class="gone">pixels are gone</div>'
    if picture is not None:
        shown = f'<img alt="" src="{png_uri(png_bytes(picture))}">'
    return f'<figure class="{css}">{shown}<figcaption>{caption}</figcaption></figure>'
