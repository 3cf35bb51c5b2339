"""Where a tile lies: its footprint in OGC:CRS84 and its ground sampling distance."""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

if TYPE_CHECKING:
    from pyproj import Geod, Transformer
    from rasterio.control import GroundControlPoint
    from rasterio.rpc import RPC
    from rasterio.transform import Affine

PixelsToLonlat = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Columns and rows, shape (2, N) → longitudes and latitudes in degrees, shape (N, 2)."""

_POINTS_PER_EDGE = 24  # an edge of 1,000 km near a pole lies off by less than a thousandth
_CORNERS = np.arange(4) * _POINTS_PER_EDGE
_SIMPLIFY = 1e-4  # share of the footprint's shorter extent that a dropped vertex may lie off
# Powers of column and row, and how many control points they take.
_POLYNOMIALS = (
    (((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2)), 9),
    (((0, 0), (1, 0), (0, 1), (1, 1)), 4),
    (((0, 0), (1, 0), (0, 1)), 3),
)
_SETTLED = 1e-4  # singular values below that share of the greatest are points in line
# Terms of a rational polynomial that are without height, and their powers of longitude and latitude.
# NIMA, The Compendium of Controlled Extensions for NITF (STDI-0002), RPC00B.
_RPC_TERMS = (0, 1, 2, 4, 7, 8, 11, 12, 14, 15)
_RPC_POWERS = ((0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (3, 0), (1, 2), (2, 1), (0, 3))
_ITERATIONS = 10
_CLOSE = 1e-6  # of the image's half side
_LEAST_AREA = 1e-14  # square degrees, about a square centimetre: less is a line


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """A tile's place on the globe.

    Attributes:
        wkb: Polygon in OGC:CRS84 (longitude, latitude in degrees); a MultiPolygon where the
            antimeridian cuts it.
        bbox: xmin, ymin, xmax, ymax of that geometry, degrees.
        gsd_m: Ground sampling distance at the tile's centre, metres.
        approximate: Known by control points or RPCs alone, to some pixels at best.
    """

    wkb: bytes
    bbox: tuple[float, float, float, float]
    gsd_m: float
    approximate: bool = False


def footprint(crs_wkt: str, transform: "Affine", width: int, height: int) -> Footprint | None:
    """Find the footprint of a `width` by `height` pixel grid, or None where none exists.

    Args:
        crs_wkt: The grid's CRS as WKT.
        transform: Pixel corner (column, row) → CRS coordinates.
        width: Columns.
        height: Rows.
    """
    to_lonlat = lonlat_transformer(crs_wkt)
    if to_lonlat is None or not all(map(math.isfinite, transform)):
        return None
    return _place_grid(_to_lonlat(to_lonlat, transform, _grid_points(width, height)))


def approximate_footprint(
    to_lonlat: PixelsToLonlat, window: tuple[int, int, int, int]
) -> Footprint | None:
    """Find the footprint of a window (x, y, width, height) of an image without a grid on the map.

    Args:
        to_lonlat: By `fit_control_points` or `solve_rpcs`.
        window: In the image's pixels.
    """
    x, y, width, height = window
    found = _place_grid(to_lonlat(np.add(_grid_points(width, height), [[x], [y]])))
    return found and replace(found, approximate=True)


def fit_control_points(
    points: "Sequence[GroundControlPoint]", crs_wkt: str
) -> PixelsToLonlat | None:
    """Fit where pixels lie by ground control points; None where they do not settle it.

    Least squares of the longest polynomial (at most of the second order, as GDAL's default) that
    the points settle, not of coordinates but of unit vectors: so the antimeridian and the poles
    are places like others, and edges between four corners are great circles.
    """
    to_lonlat = lonlat_transformer(crs_wkt)
    pixels = np.array([[point.col for point in points], [point.row for point in points]], float)
    if to_lonlat is None or not points or not np.isfinite(pixels).all():
        return None
    lonlat = to_lonlat.transform([point.x for point in points], [point.y for point in points])
    vectors = _to_vectors(np.asarray(lonlat, float))
    if not np.isfinite(vectors).all():
        return None
    low, high = pixels.min(axis=1, keepdims=True), pixels.max(axis=1, keepdims=True)
    span = np.maximum(high - low, 1)
    for terms, least in _POLYNOMIALS:
        known = _power((pixels - low) / span, terms)
        weights, _, rank, _ = np.linalg.lstsq(known, vectors, rcond=_SETTLED)
        if len(points) >= least and rank == len(terms):
            return lambda at: _to_angles(_power((at - low) / span, terms) @ weights)
    return None  # points on a line, or all in one place


def _power(at: NDArray[np.float64], terms: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    return np.stack([at[0] ** i * at[1] ** j for i, j in terms], axis=1)


def solve_rpcs(rpcs: "RPC") -> PixelsToLonlat:
    """Find where pixels lie by rational polynomials (RPC00B), at the height they are centred on.

    Heights of the ground are not known here: on slopes of an oblique view that is pixels off.
    Newton's method, since GDAL's (`rasterio.transform.RPCTransformer`) warns where it fails, and
    warnings cannot be kept apart in threads. NaN where it leads nowhere.
    """
    pairs = (
        np.array([rpcs.samp_num_coeff, rpcs.samp_den_coeff], float),
        np.array([rpcs.line_num_coeff, rpcs.line_den_coeff], float),
    )
    offsets = np.array([[rpcs.samp_off], [rpcs.line_off]], float)
    scales = np.array([[rpcs.samp_scale], [rpcs.line_scale]], float)

    def project(ground: NDArray[np.float64]) -> NDArray[np.float64]:
        terms = np.stack([ground[0] ** i * ground[1] ** j for i, j in _RPC_POWERS])
        level = [pair[:, _RPC_TERMS] @ terms for pair in pairs]
        return np.stack([above / below for above, below in level])

    def solve(at: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            wanted = (at - 0.5 - offsets) / scales  # whole numbers are centres of pixels
            ground = _invert(project, wanted)
            lon = ground[0] * rpcs.long_scale + rpcs.long_off
            return np.stack([lon, ground[1] * rpcs.lat_scale + rpcs.lat_off], axis=1)

    return solve


def _invert(
    project: Callable[[NDArray[np.float64]], NDArray[np.float64]], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find where a function of the plane has these values, both of shape (2, N); NaN where not."""
    at, east, north = np.zeros_like(wanted), np.array([[1e-5], [0]]), np.array([[0], [1e-5]])
    for _ in range(_ITERATIONS):
        x, y = wanted - project(at)
        a, c = (project(at + east) - project(at - east)) / 2e-5
        b, d = (project(at + north) - project(at - north)) / 2e-5
        at = at + np.stack([d * x - b * y, a * y - c * x]) / (a * d - b * c)
    near = abs(wanted - project(at)).max(axis=0) < _CLOSE
    return np.where(near, at, np.nan)


def _to_vectors(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors, shape (N, 3), of longitudes and latitudes in degrees, shape (2, N)."""
    lon, lat = np.radians(lonlat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _to_angles(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, z = vectors.T
    angles = np.stack([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))], axis=1)
    return np.asarray(np.degrees(angles), np.float64)


def _place_grid(lonlat: NDArray[np.float64]) -> Footprint | None:
    """Make the footprint of `_grid_points` on the globe, shape (N, 2); None where there is none."""
    if not np.isfinite(lonlat).all() or abs(lonlat[:, 1]).max() > 90:
        return None
    ring, centre = lonlat[:-3], lonlat[-3:]
    corners = _find_corners(ring)
    if corners is not None:
        return _place_corners(corners, gsd_m=_measure_gsd(centre))
    shape = polygon_on_globe(*ring.T)
    if shape is None:
        return None
    return Footprint(
        wkb=shapely.to_wkb(shape, byte_order=1), bbox=shape.bounds, gsd_m=_measure_gsd(centre)
    )


def footprints_of_boxes(crs_wkt: str, boxes: NDArray[np.float64]) -> NDArray[np.object_]:
    """Find the footprints of many small boxes at once, two hundred in the time of one alone.

    Edges are straight lines between corners, which is as good for boxes of a few kilometres away
    from the poles and the antimeridian.

    Args:
        crs_wkt: The boxes' CRS as WKT (or anything that pyproj reads).
        boxes: xmin, ymin, xmax, ymax in that CRS, shape (N, 4).

    Returns:
        Polygons in OGC:CRS84, counter-clockwise from the upper left, shape (N,); None where a box
        has no place on the globe.
    """
    polygons = np.full(len(boxes), None)
    to_lonlat = lonlat_transformer(crs_wkt)
    if to_lonlat is None:
        return polygons
    west, south, east, north = (0, 1, 2, 3)
    x, y = boxes[:, [west, west, east, east]], boxes[:, [north, south, south, north]]
    corners = np.stack(to_lonlat.transform(x, y), axis=-1)  # (N, 4, 2)
    placed = np.isfinite(corners).all(axis=(1, 2))
    polygons[placed] = shapely.polygons(corners[placed])
    return polygons


def polygon_on_globe(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> BaseGeometry | None:
    """Build a valid CRS84 geometry from a closed ring that may cross the antimeridian or a pole.

    Longitudes are made continuous along the ring. A ring that then ends a turn away from its
    start goes round a pole and is closed along it; the shape is cut at ±180° (RFC 7946 §3.1.9).
    A ring without area gives None.

    Args:
        lon: Ring longitudes in degrees, first = last, neighbours less than 180° apart, shape (N,).
        lat: Ring latitudes in degrees, shape (N,).
    """
    # The package antimeridian (0.4.9) was tried in place of this: grids over a pole, maps of the
    # whole world and rings that fold come out invalid or raise there.
    continuous = np.unwrap(lon, period=360)
    turns = continuous[-1] - continuous[0]
    points = np.stack([continuous, lat], axis=1)
    if abs(turns) > 180:
        pole = math.copysign(90.0, float(lat.mean()))
        points = np.vstack([points, [continuous[-1], pole], [continuous[0], pole]])
    with np.errstate(all="ignore"):  # GEOS divides by zero on its way to slivers
        ring = shapely.Polygon(points)
        drawn = _keep_polygons(shapely.make_valid(ring, method="structure", keep_collapsed=False))
        pieces = [piece for part in drawn for piece in _cut_at_antimeridian(_simplify(part))]
        shape = shapely.union_all(pieces) if len(pieces) > 1 else next(iter(pieces), None)
    return None if shape is None or shape.is_empty else shape  # slivers can cancel out


def _keep_polygons(shape: BaseGeometry) -> list[BaseGeometry]:
    parts = shapely.get_parts(shape)
    return [p for p in parts if p.geom_type == "Polygon" and p.area > _LEAST_AREA]


def _cut_at_antimeridian(shape: BaseGeometry) -> list[BaseGeometry]:
    xmin, _, xmax, _ = shape.bounds
    if xmin >= -180 and xmax <= 180:
        return [shape]
    pieces: list[BaseGeometry] = []
    for turn in range(math.floor((xmin + 180) / 360), math.ceil((xmax - 180) / 360) + 1):
        west = -180.0 + 360 * turn
        piece = shape.intersection(shapely.box(west, -90, west + 360, 90))
        moved = shapely.transform(piece, lambda xy, by=360 * turn: xy - (by, 0))
        pieces.extend(_keep_polygons(moved))
    return pieces


def _simplify(shape: BaseGeometry) -> BaseGeometry:
    xmin, ymin, xmax, ymax = shape.bounds
    simple = shape.simplify(_SIMPLIFY * min(xmax - xmin, ymax - ymin))
    return shapely.orient_polygons(simple) if simple.is_valid and not simple.is_empty else shape


def _find_corners(ring: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The corners of a grid's outline that is straight between them, counter-clockwise.

    That is nearly every tile, in a tenth of the time of `polygon_on_globe`, with the same outcome.
    None for the others: curved or folded ones, and those at the antimeridian or a pole.

    Args:
        ring: Longitudes and latitudes of `_grid_points`, shape (4 * points + 1, 2).
    """
    (west, _), (east, _) = low, high = ring.min(axis=0), ring.max(axis=0)
    if west < -180 or east > 180 or east - west >= 180:
        return None
    edges = ring[:-1].view(np.complex128).reshape(4, _POINTS_PER_EDGE)  # longitude + i latitude
    starts = edges[:, 0]
    edge = starts[[1, 2, 3, 0]] - starts
    turns = (edge.conj() * edge[[1, 2, 3, 0]]).imag  # cross products, above 0 to the left
    if turns.min() < _LEAST_AREA and turns.max() > -_LEAST_AREA:
        return None
    along = (edges - starts[:, None]) / edge[:, None]  # from 0 to 1; imaginary: off the edge
    off = (abs(along.imag).max(axis=1) * abs(edge)).max()
    if off > _SIMPLIFY * min(high - low) or along.real.min() < 0 or along.real.max() > 1:
        return None
    return ring[_CORNERS if turns[0] > 0 else _CORNERS[[0, 3, 2, 1]]]


def _place_corners(corners: NDArray[np.float64], *, gsd_m: float) -> Footprint:
    """A footprint of four corners, its WKB (little-endian) written by hand."""
    ring = [*corners.ravel().tolist(), *corners[0].tolist()]
    (xmin, ymin), (xmax, ymax) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    wkb = struct.pack("<BIII10d", 1, shapely.GeometryType.POLYGON, 1, 5, *ring)
    return Footprint(wkb=wkb, bbox=(xmin, ymin, xmax, ymax), gsd_m=gsd_m)


@lru_cache(maxsize=256)
def _grid_points(width: int, height: int) -> NDArray[np.float64]:
    """Columns and rows, shape (2, 4 * points + 4).

    First the grid's outline, closed, from the upper left to the right; then its centre, and one
    pixel to the right of it and below.
    """
    step = np.linspace(0, 1, _POINTS_PER_EDGE, endpoint=False)
    zero, one = np.zeros_like(step), np.ones_like(step)
    x = np.concatenate([step, one, 1 - step, zero, [0]]) * width
    y = np.concatenate([zero, step, one, 1 - step, [0]]) * height
    at_x, at_y = width / 2, height / 2
    return np.stack([np.append(x, [at_x, at_x + 1, at_x]), np.append(y, [at_y, at_y, at_y + 1])])


def _to_lonlat(
    to_lonlat: "Transformer", transform: "Affine", pixels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Transform columns and rows, shape (2, N), to longitudes and latitudes, shape (N, 2)."""
    a, b, c, d, e, f, *_ = transform
    x, y = pixels
    lon, lat = to_lonlat.transform(a * x + b * y + c, d * x + e * y + f, inplace=True)
    lonlat = np.empty((len(x), 2))
    # Grids whose pixel centres lie on the poles reach half a pixel beyond them.
    lonlat[:, 0], lonlat[:, 1] = lon, np.minimum(np.maximum(lat, -90), 90)
    return lonlat


def _measure_gsd(centre: NDArray[np.float64]) -> float:
    """Measure one pixel at the centre along both axes on the ellipsoid; geometric mean, metres."""
    here, right, below = centre.tolist()
    width, height = (_geod().inv(*here, *there)[2] for there in (right, below))
    return math.sqrt(width * height)


@lru_cache(maxsize=256)
def lonlat_transformer(crs_wkt: str) -> "Transformer | None":
    """Make the way from a CRS to OGC:CRS84; None where it has no place on the globe."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import ProjError

    try:
        crs = CRS.from_user_input(crs_wkt)
        return Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    except ProjError:  # an engineering or broken CRS: no place on the globe
        return None


@lru_cache(maxsize=1)
def _geod() -> "Geod":
    from pyproj import Geod

    return Geod(ellps="WGS84")
