"""A map of similarity: where a table's tiles lie, coloured by how much each looks like a query.

Drawn as SVG by hand: matplotlib's refers to its own elements by links and holds the legend as a
picture, where this is text that a page styles and a reader hears.
"""

import math
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from tilezoo.centres import find_west, turn_east
from tilezoo.search.answers import Answers
from tilezoo.search.vectors import rows_at
from tilezoo.table import Table

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
        centres = table.find_centres()
        placed = np.flatnonzero(np.isfinite(centres).all(axis=1))
        rows = placed[:: max(1, math.ceil(len(placed) / _DOTS))]
        return cls(centres[rows], rows_at(table, rows))

    def draw(self, answers: Answers) -> Markup | None:
        """Draw the map: dots coloured by cosine with the query, answers numbered.

        Returns:
            An SVG element; None where no tile has a place.
        """
        if not len(self.lonlat):
            return None
        view = _View.around(self.lonlat)
        scores = (self.vectors @ answers.vector[0]).astype(np.float64)
        low, high = np.percentile(scores, [5, 99.5])
        shade = np.clip((scores - low) / max(high - low, 1e-9), 0, 1)
        order = np.argsort(scores)
        dots = [view.dot(self.lonlat[i], float(shade[i])) for i in order]
        drawn = "".join([*dots, *_draw_markers(view, answers)])
        return Markup(view.frame(drawn, float(low), float(high)))


@dataclass(frozen=True)
class _View:
    """A plate carrée window, its scale true along the middle parallel.

    It may run over the antimeridian: longitudes are counted on from its west, past 180°.
    """

    first: float  # longitude of the westernmost tile, where longitudes start to count
    west: float
    north: float
    scale: float  # px a degree of longitude
    stretch: float  # of a degree of latitude against one of longitude
    height: float
    radius: float

    @classmethod
    def around(cls, lonlat: NDArray[np.float64]) -> "_View":
        first = find_west(lonlat[:, 0])
        lon, lat = turn_east(lonlat[:, 0], first), lonlat[:, 1]
        west, east, south, north = lon.min(), lon.max(), lat.min(), lat.max()
        margin = max(0.04 * max(east - west, north - south), _MIN_SPAN / 2)
        west, east, south, north = west - margin, east + margin, south - margin, north + margin
        stretch = 1 / max(0.2, math.cos(math.radians((north + south) / 2)))
        scale = min(_WIDTH / (east - west), 0.75 * _WIDTH / ((north - south) * stretch))
        west -= (_WIDTH / scale - (east - west)) / 2
        radius = float(np.clip(0.42 * math.sqrt(_WIDTH * 0.5 * _WIDTH / len(lonlat)), 2, 9))
        return cls(first, west, north, scale, stretch, (north - south) * stretch * scale, radius)

    def place(self, lon: float, lat: float) -> tuple[float, float]:
        """Where a tile is, px: x from the left and y from the top."""
        return self.at(float(turn_east(np.array(lon), self.first)), lat)

    def at(self, lon: float, lat: float) -> tuple[float, float]:
        return (lon - self.west) * self.scale, (self.north - lat) * self.scale * self.stretch

    def dot(self, lonlat: NDArray[np.float64], shade: float) -> str:
        x, y = self.place(*lonlat.tolist())
        return (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{self.radius:.1f}" fill="{_mix_colour(shade)}"/>'
        )

    def frame(self, inside: str, low: float, high: float) -> str:
        """Put lines of longitude and latitude around, their names over all, a legend below."""
        lines, names = self._draw_graticule()
        ramp = "".join(
            f'<stop offset="{i * 25}%" stop-color="{_mix_colour(i / 4)}"/>' for i in range(5)
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

    def _draw_graticule(self) -> tuple[str, str]:
        """Lines of longitude and latitude, and their names."""
        step = _choose_step(_WIDTH / self.scale / 6)
        east = self.west + _WIDTH / self.scale
        south = self.north - self.height / self.scale / self.stretch
        lines, names = [], []
        for lon in _list_multiples(self.west, east, step):
            x, _ = self.at(lon, 0)
            lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{self.height:.1f}"/>')
            names.append(f'<text x="{x + 3:.1f}" y="11">{_write_degrees(lon, "EW")}</text>')
        for lat in _list_multiples(south, self.north, step):
            _, y = self.at(0, lat)
            lines.append(f'<line x1="0" x2="{_WIDTH:.0f}" y1="{y:.1f}" y2="{y:.1f}"/>')
            names.append(f'<text x="3" y="{y - 3:.1f}">{_write_degrees(lat, "NS")}</text>')
        return "".join(lines), "".join(names)


def _draw_markers(view: _View, answers: Answers) -> list[str]:
    marks = []
    for rank, hit in reversed(list(enumerate(answers.hits, start=1))):
        if hit.lon is not None and hit.lat is not None:
            x, y = view.place(hit.lon, hit.lat)
            marks.append(
                f'<g class="hit"><circle cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
                f'<text x="{x:.1f}" y="{y + 3.5:.1f}">{rank}</text></g>'
            )
    asked = answers.query
    if asked is not None and asked.lon is not None and asked.lat is not None:
        x, y = view.place(asked.lon, asked.lat)
        side = 14
        marks.append(
            f'<rect class="asked" x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" '
            f'width="{side}" height="{side}" transform="rotate(45 {x:.1f} {y:.1f})"/>'
        )
    return marks


def _mix_colour(share: float) -> str:
    place = share * (len(_RAMP) - 1)
    left = min(int(place), len(_RAMP) - 2)
    part = place - left
    mixed = (round(a + (b - a) * part) for a, b in zip(_RAMP[left], _RAMP[left + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _choose_step(wished: float) -> float:
    """The next of 1, 2, 5 times a power of ten; 15, 30 or 60 for globes."""
    if wished > 10:
        return next((step for step in (15.0, 30.0) if step >= wished), 60.0)
    power = math.pow(10, math.floor(math.log10(wished)))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= wished)


def _list_multiples(low: float, high: float, step: float) -> list[float]:
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _write_degrees(value: float, sides: str) -> str:
    value = (value + 180) % 360 - 180 if abs(value) > 180 else value
    side = sides[value < 0] if value else ""
    return f"{abs(value):.6g}°{side}"
