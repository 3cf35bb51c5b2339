"""One self-contained HTML page: queries, their answers as pictures, and a map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tilezoo.geoparquet import read_boxes
from tilezoo.io import write_text
from tilezoo.pages import page, png_bytes, png_uri
from tilezoo.pictures import Thumbnailer
from tilezoo.search.answers import Answers, Hit
from tilezoo.search.index import rows_at
from tilezoo.search.sheet import of_hit, of_query
from tilezoo.table import Table, open_table

_DOTS = 4000
_WIDTH = 720.0
_MIN_SPAN = 0.02  # degrees that a map shows at least
# Five of matplotlib's viridis colours (CC0), evenly spaced.
_RAMP = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))


@dataclass(frozen=True)
class Atlas:
    """Centres of (a sample of) a table's tiles, and their vectors.

    Attributes:
        lonlat: Degrees, shape (N, 2).
        vectors: Unit vectors, shape (N, D).
    """

    lonlat: NDArray[np.float64]
    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, table: Table) -> "Atlas":
        """Take every n-th tile that has a place."""
        boxes = read_boxes(table.column("bbox"))
        placed = np.flatnonzero(np.isfinite(boxes).all(axis=1))
        rows = placed[:: max(1, math.ceil(len(placed) / _DOTS))]
        lonlat = np.stack(
            [boxes[rows, 0] + boxes[rows, 2], boxes[rows, 1] + boxes[rows, 3]], axis=1
        )
        return cls(lonlat / 2, rows_at(table, rows))

    def svg(self, answers: Answers) -> str:
        """Draw the map: dots coloured by cosine with the query, answers numbered."""
        if not len(self.lonlat):
            return '<p class="note">No tile has a place on the map.</p>'
        view = _View.around(self.lonlat)
        scores = (self.vectors @ answers.vector[0]).astype(np.float64)
        low, high = np.percentile(scores, [5, 99.5])
        shade = np.clip((scores - low) / max(high - low, 1e-9), 0, 1)
        order = np.argsort(scores)
        dots = [view.dot(self.lonlat[i], float(shade[i])) for i in order]
        return view.frame("".join([*dots, *_markers(view, answers)]), float(low), float(high))


@dataclass(frozen=True)
class _View:
    """A plate carrée window, its scale true along the middle parallel."""

    west: float
    north: float
    scale: float  # px a degree of longitude
    stretch: float  # of a degree of latitude against one of longitude
    height: float
    radius: float

    @classmethod
    def around(cls, lonlat: NDArray[np.float64]) -> "_View":
        (west, south), (east, north) = lonlat.min(axis=0), lonlat.max(axis=0)
        margin = max(0.04 * max(east - west, north - south), _MIN_SPAN / 2)
        west, east, south, north = west - margin, east + margin, south - margin, north + margin
        stretch = 1 / max(0.2, math.cos(math.radians((north + south) / 2)))
        scale = min(_WIDTH / (east - west), 0.75 * _WIDTH / ((north - south) * stretch))
        west -= (_WIDTH / scale - (east - west)) / 2
        radius = float(np.clip(0.42 * math.sqrt(_WIDTH * 0.5 * _WIDTH / len(lonlat)), 2, 9))
        return cls(west, north, scale, stretch, (north - south) * stretch * scale, radius)

    def at(self, lon: float, lat: float) -> tuple[float, float]:
        return (lon - self.west) * self.scale, (self.north - lat) * self.scale * self.stretch

    def dot(self, lonlat: NDArray[np.float64], shade: float) -> str:
        x, y = self.at(*lonlat)
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{self.radius:.1f}" fill="{_colour(shade)}"/>'

    def frame(self, inside: str, low: float, high: float) -> str:
        """Put lines of longitude and latitude around, their names over all, a legend below."""
        lines, names = self._graticule()
        ramp = "".join(
            f'<stop offset="{i * 25}%" stop-color="{_colour(i / 4)}"/>' for i in range(5)
        )
        return (
            f'<svg viewBox="0 0 {_WIDTH:.0f} {self.height + 34:.0f}" role="img" '
            f'aria-label="map of similarity"><rect width="{_WIDTH:.0f}" '
            f'height="{self.height:.0f}" class="sea"/><g class="graticule">{lines}</g>{inside}'
            f'<g class="degrees">{names}</g>'
            f'<defs><linearGradient id="ramp">{ramp}</linearGradient></defs>'
            f'<rect x="0" y="{self.height + 12:.0f}" width="160" height="10" fill="url(#ramp)"/>'
            f'<text x="166" y="{self.height + 21:.0f}">cosine {low:.2f} to {high:.2f}</text></svg>'
        )

    def _graticule(self) -> tuple[str, str]:
        """Lines of longitude and latitude, and their names."""
        step = _nice_step(_WIDTH / self.scale / 6)
        east = self.west + _WIDTH / self.scale
        south = self.north - self.height / self.scale / self.stretch
        lines, names = [], []
        for lon in _multiples(self.west, east, step):
            x, _ = self.at(lon, 0)
            lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{self.height:.1f}"/>')
            names.append(f'<text x="{x + 3:.1f}" y="11">{_degrees(lon, "EW")}</text>')
        for lat in _multiples(south, self.north, step):
            _, y = self.at(0, lat)
            lines.append(f'<line x1="0" x2="{_WIDTH:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            names.append(f'<text x="3" y="{y - 3:.1f}">{_degrees(lat, "NS")}</text>')
        return "".join(lines), "".join(names)


def _markers(view: _View, answers: Answers) -> list[str]:
    marks = []
    for rank, hit in reversed(list(enumerate(answers.hits, start=1))):
        if hit.lon is not None and hit.lat is not None:
            x, y = view.at(hit.lon, hit.lat)
            marks.append(
                f'<g class="hit"><circle cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
                f'<text x="{x:.1f}" y="{y + 3.5:.1f}">{rank}</text></g>'
            )
    asked = answers.query
    if asked is not None and asked.lon is not None and asked.lat is not None:
        x, y = view.at(asked.lon, asked.lat)
        side = 14
        marks.append(
            f'<rect class="asked" x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" '
            f'width="{side}" height="{side}" transform="rotate(45 {x:.1f} {y:.1f})"/>'
        )
    return marks


def _colour(share: float) -> str:
    place = share * (len(_RAMP) - 1)
    left = min(int(place), len(_RAMP) - 2)
    part = place - left
    mixed = (round(a + (b - a) * part) for a, b in zip(_RAMP[left], _RAMP[left + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _nice_step(wished: float) -> float:
    """The next of 1, 2, 5 times a power of ten; 15, 30 or 60 for globes."""
    if wished > 10:
        return next((step for step in (15.0, 30.0) if step >= wished), 60.0)
    power = math.pow(10, math.floor(math.log10(wished)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wished)


def _multiples(low: float, high: float, step: float) -> list[float]:
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _degrees(value: float, sides: str) -> str:
    side = sides[value < 0] if value else ""
    return f"{abs(value):.6g}°{side}"


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
