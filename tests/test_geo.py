"""Footprints: where rasterio puts them, valid everywhere on the globe."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine, RPCTransformer, array_bounds, from_bounds, from_origin
from rasterio.warp import transform_bounds

from tilezoo.geo import (
    approximate_footprint,
    fit_control_points,
    footprint,
    polygon_on_globe,
    solve_rpcs,
)

POLAR_NORTH, POLAR_SOUTH, WEB = "EPSG:3413", "EPSG:3031", "EPSG:3857"


def wkt(crs: str) -> str:
    return CRS(crs).to_wkt()


def shape_of(crs: str, transform: Affine, width: int = 100, height: int = 100) -> shapely.Geometry:
    found = footprint(wkt(crs), transform, width, height)
    assert found is not None
    shape = shapely.from_wkb(found.wkb)
    assert shape.is_valid
    assert shape.geom_type in {"Polygon", "MultiPolygon"}
    assert found.bbox == shape.bounds
    return shape


@pytest.mark.parametrize(
    ("crs", "x", "y", "pixel"),
    [
        ("EPSG:32633", 500_000, 4_500_000, 10),
        ("EPSG:32629", 399_960, 4_200_000, 60),
        ("EPSG:32733", 300_000, 8_000_000, 10),
        ("EPSG:4326", 13.25, 52.5, 0.001),
        ("EPSG:3857", 1_500_000, -6_000_000, 38),
        ("EPSG:3035", 4_300_000, 3_200_000, 100),
        ("EPSG:3413", -2_000_000, -1_000_000, 30),
    ],
)
def test_a_footprint_has_the_bounds_that_rasterio_finds(
    crs: str, x: float, y: float, pixel: float
) -> None:
    transform = from_origin(x, y, pixel, pixel)
    shape = shape_of(crs, transform, 120, 90)
    bounds = array_bounds(90, 120, transform)
    expected = transform_bounds(crs, "OGC:CRS84", *bounds, densify_pts=21)
    diagonal = math.hypot(expected[2] - expected[0], expected[3] - expected[1])
    assert shape.bounds == pytest.approx(expected, abs=2e-4 * diagonal)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["EPSG:4326", "EPSG:32633", "EPSG:32701", POLAR_NORTH, POLAR_SOUTH, WEB]),
    st.tuples(st.floats(-8e6, 8e6), st.floats(-8e6, 8e6)),
    st.floats(0.1, 1e4),
    st.floats(0, 360),
)
@example(crs=POLAR_NORTH, place=(-223334.0, 1127233.0), pixel=7316.0, turn=0.0)
def test_a_footprint_is_the_outline_on_the_globe_within_a_ten_thousandth(
    crs: str, place: tuple[float, float], pixel: float, turn: float
) -> None:
    degrees = 1e-5 if crs == "EPSG:4326" else 1.0
    x, y = (min(max(v * degrees, -8e6), 8e6) for v in place)
    transform = from_origin(x, y, pixel * degrees, pixel * degrees) @ Affine.rotation(turn)
    found = footprint(wkt(crs), transform, 100, 80)
    sides = [np.linspace(a, b, 40, endpoint=False) for a, b in ((0, 100), (0, 80))]
    columns = np.concatenate([sides[0], [100] * 40, 100 - sides[0], [0] * 41])
    rows = np.concatenate([[0] * 40, sides[1], [80] * 40, 80 - sides[1], [0]])
    to_lonlat = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    lon, lat = to_lonlat.transform(*(transform @ (columns, rows)))
    assume(np.isfinite(lon).all() and abs(lat).max() < 85)  # at a pole each point matters
    expected = polygon_on_globe(lon, lat)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        shape = shapely.from_wkb(found.wkb)
        apart = shape.symmetric_difference(expected).area
        assert apart <= 1e-3 * expected.area


def test_a_rotated_grid_is_a_rotated_footprint() -> None:
    transform = from_origin(500_000, 4_500_000, 10, 10) @ Affine.rotation(30)
    shape = shape_of("EPSG:32633", transform)
    assert shape.area == pytest.approx(
        shape_of("EPSG:32633", from_origin(500_000, 4_500_000, 10, 10)).area, rel=0.01
    )
    assert shape.area < 0.8 * shapely.box(*shape.bounds).area


def test_rings_run_counter_clockwise() -> None:
    shape = shape_of("EPSG:32633", from_origin(500_000, 4_500_000, 10, 10))
    assert shape.exterior.is_ccw


def test_a_tile_across_the_antimeridian_is_cut_in_two_narrow_pieces() -> None:
    # UTM zone 1, false easting so far west that the tile starts in zone 60
    shape = shape_of("EPSG:32701", from_origin(150_000, 8_000_000, 1000, 1000))
    west, east = sorted(shapely.get_parts(shape), key=lambda piece: piece.bounds[0])
    assert west.bounds[0] == -180
    assert east.bounds[2] == 180
    assert west.bounds[2] < -178
    assert east.bounds[0] > 178


def test_cutting_at_the_antimeridian_keeps_the_area() -> None:
    cut = shape_of("EPSG:4326", from_origin(179.5, 10, 0.01, 0.01))
    whole = shape_of("EPSG:4326", from_origin(20, 10, 0.01, 0.01))
    assert len(shapely.get_parts(cut)) == 2
    assert cut.area == pytest.approx(whole.area)


@pytest.mark.parametrize(("crs", "pole"), [(POLAR_NORTH, 90.0), (POLAR_SOUTH, -90.0)])
@pytest.mark.parametrize("shift", [0.0, 3000.0])
def test_a_tile_over_a_pole_holds_it_and_all_longitudes(
    crs: str, pole: float, shift: float
) -> None:
    shape = shape_of(crs, from_origin(-5000 + shift, 5000 - shift, 100, 100))
    assert shape.bounds[0] == -180
    assert shape.bounds[2] == 180
    assert pole in {shape.bounds[1], shape.bounds[3]}
    for lon in range(-180, 181, 20):
        assert shape.distance(shapely.Point(lon, pole)) < 1e-9
    assert not shape.intersects(shapely.Point(0, 0.99 * pole))


def test_a_polar_tile_beside_the_pole_does_not_hold_it() -> None:
    shape = shape_of(POLAR_NORTH, from_origin(20_000, 5000, 100, 100))
    assert shape.bounds[2] - shape.bounds[0] < 90
    assert shape.bounds[3] < 90


@pytest.mark.parametrize("west", [-180.0, 0.0])
def test_a_map_of_the_world_covers_the_world(west: float) -> None:
    shape = shape_of("EPSG:4326", from_bounds(west, -90, west + 360, 90, 360, 180), 360, 180)
    assert shape.bounds == (-180, -90, 180, 90)
    assert shape.area == pytest.approx(360 * 180)


def test_longitudes_from_0_to_360_come_back_as_west_and_east() -> None:
    shape = shape_of("EPSG:4326", from_origin(350, 10, 0.01, 0.01))
    assert shape.bounds == pytest.approx((-10, 9, -9, 10))


def test_the_ground_sampling_distance_is_measured_on_the_ellipsoid() -> None:
    utm = footprint(wkt("EPSG:32633"), from_origin(500_000, 4_500_000, 10, 10), 100, 100)
    web = footprint(wkt(WEB), from_origin(0, 8_399_737.89, 10, 10), 10, 10)  # 60° N
    assert utm is not None
    assert web is not None
    assert utm.gsd_m == pytest.approx(10, rel=0.001)
    assert web.gsd_m == pytest.approx(5, rel=0.01)


def test_a_crs_without_a_place_on_the_globe_has_no_footprint() -> None:
    local = 'ENGCRS["site",EDATUM["stake"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
    assert footprint(local, from_origin(0, 0, 1, 1), 10, 10) is None
    assert footprint("no crs at all", from_origin(0, 0, 1, 1), 10, 10) is None


def test_a_grid_outside_its_projection_has_no_footprint() -> None:
    assert footprint(wkt("EPSG:32633"), from_origin(1e12, 1e12, 1e9, 1e9), 10, 10) is None


NUMBERS = st.floats(-1e8, 1e8, allow_nan=False) | st.sampled_from(
    [0.0, 90.0, 180.0, math.inf, math.nan]
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["EPSG:4326", "EPSG:32633", POLAR_NORTH, POLAR_SOUTH, WEB]),
    st.tuples(*[NUMBERS] * 6),
)
@example("EPSG:4326", (0.0, 0.0, 10.0, 0.0, 0.0, 50.0))  # no extent at all
@example("EPSG:4326", (1.0, 0.0, 10.0, 0.0, 0.0, 50.0))  # a line
@example("EPSG:4326", (1.0, 0.0, 10.0, 0.0, -1.0, 100.0))  # latitudes beyond the pole
@example(POLAR_NORTH, (100.0, 0.0, 0.0, 0.0, -100.0, 5000.0))  # an edge through the pole
@example(POLAR_NORTH, (100.0, 0.0, 0.0, 0.0, -100.0, 0.0))  # a corner at the pole
@example(POLAR_SOUTH, (19426871.0, 0.0, -1.0, 49557371.0, 0.0, 0.0))  # slivers alone
def test_any_grid_has_a_valid_footprint_or_none(
    crs: str, numbers: tuple[float, float, float, float, float, float]
) -> None:
    found = footprint(wkt(crs), Affine(*numbers), 20, 20)
    if found is None:
        return
    shape = shapely.from_wkb(found.wkb)
    assert shape.is_valid
    assert not shape.is_empty
    assert shape.geom_type in {"Polygon", "MultiPolygon"}
    xmin, ymin, xmax, ymax = found.bbox
    assert -180 <= xmin <= xmax <= 180
    assert -90 <= ymin <= ymax <= 90
    assert np.isfinite(found.gsd_m)


@settings(max_examples=100, deadline=None)
@given(st.floats(-180, 180), st.floats(-89, 89), st.floats(0.001, 5))
def test_a_geographic_tile_holds_its_own_centre(lon: float, lat: float, side: float) -> None:
    top = min(lat + side / 2, 90)
    height = top - max(lat - side / 2, -90)
    shape = shape_of("EPSG:4326", from_origin(lon - side / 2, top, side / 50, height / 50), 50, 50)
    centre = shapely.Point((lon + 180) % 360 - 180, top - height / 2)
    assert shape.distance(centre) < 1e-9
    assert shape.area == pytest.approx(side * height, rel=1e-3)


def points_of(
    crs: str, transform: Affine, *, side: int = 3, pixels: int = 100
) -> list[GroundControlPoint]:
    """Control points in CRS84, on a grid over an image."""
    to_lonlat = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    at = np.linspace(0, pixels, side)
    places = [
        (row, col, *to_lonlat.transform(*(transform @ (col, row)))) for row in at for col in at
    ]
    return [GroundControlPoint(row, col, lon, lat, 0.0) for row, col, lon, lat in places]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["EPSG:32633", "EPSG:32701", "EPSG:32660", POLAR_NORTH, POLAR_SOUTH]),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.sampled_from([1.0, 100.0, 1000.0]),
    st.floats(0, 360),
    st.sampled_from([2, 3, 7]),
    st.booleans(),
)
def test_control_points_put_a_footprint_where_a_grid_would(
    crs: str, place: tuple[float, float], pixel: float, turn: float, side: int, mirrored: bool
) -> None:
    utm = crs.startswith("EPSG:32")
    west = {"EPSG:32701": 170_000, "EPSG:32660": 830_000}.get(crs, 500_000)
    x, y = (west, 4_000_000) if utm else (0, 0)
    x, y = x + place[0] * 50 * pixel, y + place[1] * 50 * pixel
    transform = from_origin(x, y, pixel, pixel) @ Affine.rotation(turn)
    transform = transform @ Affine.scale(-1, 1) if mirrored else transform
    to_lonlat = fit_control_points(points_of(crs, transform, side=side), wkt("OGC:CRS84"))
    assert to_lonlat is not None
    for window in ((0, 0, 100, 100), (40, 10, 20, 50)):
        exact = footprint(wkt(crs), transform @ Affine.translation(*window[:2]), *window[2:])
        found = approximate_footprint(to_lonlat, window)
        assert exact is not None
        assert found is not None
        assert found.approximate
        assert not exact.approximate
        middle = Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform
        ours, theirs = (shapely.from_wkb(one.wkb) for one in (found, exact))
        assert ours.is_valid
        lon, lat = shapely.get_coordinates(theirs).T
        near = np.stack(middle(lon, lat), axis=1)  # metres
        mine = np.stack(middle(*shapely.get_coordinates(ours).T), axis=1)
        assert abs(near.min(axis=0) - mine.min(axis=0)).max() < 3 * pixel
        assert abs(near.max(axis=0) - mine.max(axis=0)).max() < 3 * pixel
        assert found.gsd_m == pytest.approx(exact.gsd_m, rel=0.02)


def test_control_points_in_line_or_too_few_give_no_place() -> None:
    points = points_of("EPSG:32633", from_origin(500_000, 4_500_000, 10, 10))
    assert fit_control_points(points[:3], wkt("OGC:CRS84")) is None
    assert fit_control_points(points[:2], wkt("OGC:CRS84")) is None
    assert fit_control_points([points[0]] * 9, wkt("OGC:CRS84")) is None
    assert fit_control_points([], wkt("OGC:CRS84")) is None
    assert fit_control_points(points, "no crs") is None
    assert fit_control_points([*points[:2], points[6]], wkt("OGC:CRS84")) is not None


def rpcs_at(lon: float, lat: float, *, side_deg: float, **changed: object) -> RPC:
    """North-up polynomials of an image of 100 px, its height 300 m."""
    none = [0.0] * 17
    stated = {
        "height_off": 300.0, "height_scale": 500.0, "lat_off": lat, "lat_scale": side_deg / 2,
        "long_off": lon, "long_scale": side_deg / 2, "line_off": 49.5, "line_scale": 50.0,
        "samp_off": 49.5, "samp_scale": 50.0, "line_num_coeff": [0.0, 0.0, -1.0, *none],
        "line_den_coeff": [1.0, 0.0, 0.0, *none], "samp_num_coeff": [0.0, 1.0, 0.0, *none],
        "samp_den_coeff": [1.0, 0.0, 0.0, *none],
    }  # fmt: skip
    return RPC(**{**stated, **changed})


@pytest.mark.parametrize("lon", [12.0, 179.99, -179.99])
def test_rational_polynomials_put_a_footprint_where_they_say(lon: float) -> None:
    found = approximate_footprint(solve_rpcs(rpcs_at(lon, 42, side_deg=0.1)), (0, 0, 100, 100))
    exact = footprint(wkt("OGC:CRS84"), from_origin(lon - 0.05, 42.05, 0.001, 0.001), 100, 100)
    assert found is not None
    assert exact is not None
    assert found.approximate
    assert found.bbox == pytest.approx(exact.bbox, abs=1e-6)
    assert shapely.from_wkb(found.wkb).area == pytest.approx(0.01, rel=1e-3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.02, 0.02), min_size=80, max_size=80), st.integers(0, 100))
def test_any_polynomials_put_pixels_where_gdal_does(noise: list[float], at: int) -> None:
    names = ("samp_num_coeff", "samp_den_coeff", "line_num_coeff", "line_den_coeff")
    plain = rpcs_at(12, 42, side_deg=0.1)
    changed = {
        name: (np.array(getattr(plain, name)) + noise[20 * n : 20 * n + 20]).tolist()
        for n, name in enumerate(names)
    }
    rpcs = rpcs_at(12, 42, side_deg=0.1, **changed)
    with RPCTransformer(rpcs, RPC_HEIGHT=300) as transformer:
        expected = transformer.xy([at, 30], [50, at], offset="ul")
    found = solve_rpcs(rpcs)(np.array([[50.0, at], [at, 30.0]]))
    np.testing.assert_allclose(found.T, expected, atol=2e-4)  # a fifth of a pixel


def test_polynomials_that_lead_nowhere_give_no_place() -> None:
    for changed in ({"samp_den_coeff": [0.0] * 20}, {"samp_num_coeff": [0.0] * 20}):
        broken = rpcs_at(12, 42, side_deg=0.1, **changed)
        assert approximate_footprint(solve_rpcs(broken), (0, 0, 100, 100)) is None
    nothing = rpcs_at(12, 42, side_deg=math.nan)
    assert approximate_footprint(solve_rpcs(nothing), (0, 0, 100, 100)) is None
