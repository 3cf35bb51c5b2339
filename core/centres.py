"""Centres of footprints and distances between them, at the antimeridian and the poles too.

A box that reaches round the globe (-180 to 180) is what a footprint cut at the antimeridian has, or
one that holds a pole; its middle says nothing. The centre is then that of the footprint itself.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Footprints = Callable[[NDArray[np.int64]], Sequence[bytes | None]]
_EARTH_KM = 6371.0
HALF_TURN = 180.0  # degrees; a box that is wider tells nothing of where in it a footprint lies
_WIDE_DEG = 90.0  # a box that is wider is of a footprint in pieces, or at a pole
_NOTHING = 1e-13  # steradians a square degree on the map, less than a centimetre at a pole
_ROUNDING = 1e-9  # degrees
_STEP_DEG = 1.0  # parallels and oblique edges are integrated in such steps


def find_centres(boxes: NDArray[np.float64], footprints: Footprints) -> NDArray[np.float64]:
    """Find the centres of footprints by their boxes, and of wide ones by their shapes.

    Args:
        boxes: West, south, east and north in degrees, shape (N, 4); NaN for tiles without a place.
        footprints: WKB in CRS84 of rows by number; asked for once, and only for wide boxes.

    Returns:
        Longitude (-180..180) and latitude, degrees, shape (N, 2); NaN where there is no place.
    """
    west, south, east, north = boxes.T
    centres = np.stack([(west + east) / 2, (south + north) / 2], axis=1)
    wide = np.flatnonzero(east - west > _WIDE_DEG)
    if len(wide):
        for row, wkb in zip(wide, footprints(wide), strict=True):
            centres[row] = centres[row] if wkb is None else _centre_of_shape(wkb, centres[row])
    return centres


def centre_of_row(
    box: Mapping[str, float] | None, wkb: bytes | None
) -> tuple[float, float] | tuple[None, None]:
    """Find the centre by a row's `bbox` and `geometry`; None and None without a place."""
    if box is None:
        return None, None
    bounds = np.array([[box["xmin"], box["ymin"], box["xmax"], box["ymax"]]], np.float64)
    lon, lat = find_centres(bounds, lambda _: [wkb])[0].tolist()
    return lon, lat


def narrow_boxes(boxes: NDArray[np.float64], footprints: Footprints) -> NDArray[np.float64]:
    """Make boxes of footprints that the antimeridian cuts as narrow as these: east is beyond 180.

    Args:
        boxes: As in `find_centres`.
        footprints: As in `find_centres`; asked for boxes that are wider than half a turn.

    Returns:
        Boxes; those round a pole, or the globe, stay as they are.
    """
    cut = np.flatnonzero(boxes[:, 2] - boxes[:, 0] > HALF_TURN)
    narrow = boxes.copy()
    if len(cut):
        import shapely

        for row, wkb in zip(cut, footprints(cut), strict=True):
            lon = np.mod(shapely.get_coordinates(shapely.from_wkb(wkb))[:, 0] + _ROUNDING, 360)
            if np.ptp(lon) <= HALF_TURN:
                narrow[row, [0, 2]] = lon.min() - _ROUNDING, lon.max() - _ROUNDING
    return narrow


def measure_km(lonlat: NDArray[np.float64], lon: float, lat: float) -> NDArray[np.float64]:
    """Measure great circles from points, shape (N, 2), to one point, kilometres (haversine)."""
    p, q = np.radians(lonlat[:, 1]), np.radians(lat)
    half = np.sin((p - q) / 2) ** 2
    half = half + np.cos(p) * np.cos(q) * np.sin(np.radians(lonlat[:, 0] - lon) / 2) ** 2
    return np.asarray(2 * _EARTH_KM * np.arcsin(np.sqrt(np.minimum(half, 1))))


def find_west(lon: NDArray[np.float64]) -> float:
    """Find the longitude (-180..180) east of which a map of all these is as narrow as can be.

    Args:
        lon: Degrees, shape (N,), at least one.
    """
    around = np.unique(np.mod(lon, 360))
    gaps = np.diff(around, append=around[0] + 360)  # east of each
    if 360 - gaps.max() >= lon.max() - lon.min() - _ROUNDING:
        return float(lon.min())  # as they are they lie as close
    return float((around[(gaps.argmax() + 1) % len(around)] + 180) % 360 - 180)


def turn_east(lon: NDArray[np.float64], west: float) -> NDArray[np.float64]:
    """Turn longitudes to lie from `west` to 360° east of it."""
    return np.asarray(west - _ROUNDING + np.mod(lon - west + _ROUNDING, 360))


def _centre_of_shape(wkb: bytes, middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The direction of the mean of all of a shape's unit vectors; `middle` where there is none."""
    import shapely  # here, since most tables have no such tile

    shape = shapely.segmentize(shapely.orient_polygons(shapely.from_wkb(wkb)), _STEP_DEG)
    rings = map(shapely.get_coordinates, shapely.get_rings(shapely.get_parts(shape)))
    side = -1 if middle[1] < 0 else 1
    x, y, z = total = np.sum([_sum_unit_vectors(*ring.T, side=side) for ring in rings], axis=0)
    if not np.linalg.norm(total) > _NOTHING * shape.area:  # the whole globe, or a line
        return middle
    return np.degrees([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))])


def _sum_unit_vectors(
    lon: NDArray[np.float64], lat: NDArray[np.float64], *, side: int
) -> NDArray[np.float64]:
    """Integrate (cos φ cos λ, cos φ sin λ, sin φ) over what a counter-clockwise ring encloses.

    By Green's theorem the integral over the area, cos φ dφ dλ, is one along the ring, dλ: of
    (δ - sin δ cos δ) / 2 (cos λ, sin λ) and of sin² δ / 2, where δ is the angle from a pole (the
    nearer one, so that small tiles there lose no digits); by Simpson's rule on each edge.

    Args:
        lon: Degrees, first = last, shape (N,).
        lat: Degrees, shape (N,).
        side: The pole: 1 north, -1 south.
    """
    turn, angle = np.radians(lon), np.radians(90 - side * lat)
    ends = _values_on_edge(turn, angle, side)
    middles = _values_on_edge((turn[:-1] + turn[1:]) / 2, (angle[:-1] + angle[1:]) / 2, side)
    edges = (ends[:, :-1] + 4 * middles + ends[:, 1:]) / 6 * np.diff(turn)
    return np.asarray(edges.sum(axis=1))


def _values_on_edge(
    turn: NDArray[np.float64], angle: NDArray[np.float64], side: int
) -> NDArray[np.float64]:
    along = side * (angle - np.sin(angle) * np.cos(angle)) / 2
    return np.stack([along * np.cos(turn), along * np.sin(turn), np.sin(angle) ** 2 / 2])
