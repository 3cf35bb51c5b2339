"""Square-like blocks of ground, on the whole globe: which block a tile is in, and what is near."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilezoo.errors import ProbeError

_RADIUS_KM = 6371.0088  # mean radius of the Earth, IUGG
_ROUNDING = 1e-9  # degrees, a tenth of a millimetre
_WIDE_DEG = 180.0  # a box that is wider crosses the antimeridian


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Rows of latitude, each cut into equal blocks around the globe.

    Attributes:
        height_deg: Of a row, degrees.
        width_km: Blocks are at least so wide all over; None where degrees count.
        width_deg: Blocks are at least so wide, degrees; None where kilometres count.
    """

    height_deg: float
    width_km: float | None = None
    width_deg: float | None = None

    def columns(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many blocks a row of latitude has.

        In kilometres: so many that two points of one row (or of it and the next towards the
        equator) whose longitudes differ by a block are at least `width_km` apart: the distance of
        a point at latitude φ from a meridian Δλ away is asin(cos φ sin Δλ) R, and the side nearer
        to the pole is the worst.
        """
        if self.width_km is None:
            return np.full(len(rows), max(1, math.floor(360 / (self.width_deg or 360) + 1e-9)))
        edges = np.stack([rows, rows + 1]) * self.height_deg - 90
        poleward = np.cos(np.radians(np.minimum(np.abs(edges).max(axis=0), 90)))
        angle = math.sin(self.width_km / _RADIUS_KM)
        sine = np.divide(angle, poleward, out=np.ones_like(poleward), where=poleward > angle)
        columns = np.floor(2 * np.pi / np.arcsin(sine)).astype(np.int64)
        return np.where(sine < 1, columns, 1)

    def place(self, lonlat: NDArray[np.float64]) -> NDArray[np.int64]:
        """Find the row and column of points, shape (N, 2), both counted from south-west."""
        rows = np.floor((lonlat[:, 1] + 90) / self.height_deg).astype(np.int64)
        columns = self.columns(rows)
        turned = np.mod((lonlat[:, 0] + 180) / 360, 1.0)
        return np.stack([rows, np.minimum(np.floor(turned * columns), columns - 1)], 1).astype(
            np.int64
        )

    def near(self, cells: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark cells, shape (N, 2), that are among some others or within one block of them."""
        unique, inverse = np.unique(cells, axis=0, return_inverse=True)
        marked = np.zeros(len(unique), bool)
        west, width = self._span(unique)
        for row in np.unique(others[:, 0]):
            here = np.abs(unique[:, 0] - row) <= 1
            there = others[others[:, 0] == row]
            their_west, their_width = self._span(there)
            marked[here] |= _touch(west[here], width[here], their_west, their_width[0])
        return marked[inverse.ravel()]

    def _span(self, cells: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        width = 360 / self.columns(cells[:, 0])
        return cells[:, 1] * width, width


def _touch(
    west: NDArray[np.float64],
    width: NDArray[np.float64],
    theirs: NDArray[np.float64],
    their_width: float,
) -> NDArray[np.bool_]:
    """Mark spans of longitude less than one block (the wider of the two) from any of theirs."""
    gap = np.maximum(width, their_width)[:, None]
    ahead = np.mod(theirs[None] - (west + width)[:, None], 360)
    behind = np.mod(west[:, None] - (theirs + their_width)[None], 360)
    # Of spans that overlap, one gap is negative and so comes out a turn too long.
    disjoint = ahead + behind <= 360 - width[:, None] - their_width + _ROUNDING
    apart = disjoint & (np.minimum(ahead, behind) >= gap - _ROUNDING)
    return np.asarray(~apart.all(axis=1))


def grid(*, block_deg: float | None, block_km: float | None, times: int = 1) -> Grid:
    """Make the grid of `--block-deg` or `--block-km`, or of blocks so many times as large."""
    if block_km is not None:
        side = min(block_km * times, 5000.0)
        return Grid(height_deg=math.degrees(side / _RADIUS_KM), width_km=side)
    if block_deg is None:
        raise ProbeError("no side of a block is given; add --block-km or --block-deg")
    side = min(block_deg * times, 90.0)
    return Grid(height_deg=side, width_deg=side)


def centres(boxes: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Find the centres of footprints, longitude and latitude, shape (N, 2).

    Raises:
        ProbeError: A tile has no footprint.
    """
    missing = 0 if boxes is None else int(np.isnan(boxes).any(axis=1).sum())
    if boxes is None or missing:
        told = "the tiles have" if boxes is None else f"{missing} tiles have"
        raise ProbeError(
            f"{told} no footprint, so there are no blocks of ground; leave the blocks' side out, "
            "or embed georeferenced tiles"
        )
    lon = (boxes[:, 0] + boxes[:, 2]) / 2
    across = boxes[:, 2] - boxes[:, 0] > _WIDE_DEG
    return np.stack([np.where(across, 180.0, lon), (boxes[:, 1] + boxes[:, 3]) / 2], axis=1)


def refuse_small_blocks(grid: Grid, boxes: NDArray[np.float64]) -> None:
    """Refuse blocks that are smaller than a tile: neighbours would share pixels across blocks."""
    tallest_deg = float((boxes[:, 3] - boxes[:, 1]).max())
    if tallest_deg > grid.height_deg:
        in_km = grid.width_km is not None
        side, tile = (
            f"{math.radians(deg) * _RADIUS_KM:.4g} km" if in_km else f"{deg:.4g}°"
            for deg in (grid.height_deg, tallest_deg)
        )
        raise ProbeError(
            f"blocks of {side} are smaller than the largest tile ({tile} high); give them a "
            f"longer side, --block-{'km' if in_km else 'deg'}"
        )
