"""Centres and distances: those of unit vectors, wherever a footprint lies."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from rasterio.transform import from_origin

from tilezoo.centres import (
    centre_of_row,
    find_centres,
    find_west,
    measure_km,
    narrow_boxes,
    turn_east,
)
from tilezoo.geo import Footprint, footprint

EARTH_KM = 6371.0
LON, LAT = st.floats(-180, 180), st.floats(-90, 90)


def unit(lon, lat) -> NDArray[np.float64]:
    lon, lat = np.broadcast_arrays(np.radians(lon), np.radians(lat))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def angle_km(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    across = np.linalg.norm(np.cross(first, second))
    return float(EARTH_KM * np.arctan2(across, first @ second))


def centre(found: Footprint) -> NDArray[np.float64]:
    lonlat = find_centres(np.array([found.bbox]), lambda _: [found.wkb])[0]
    assert -180 <= lonlat[0] <= 180
    assert -90 <= lonlat[1] <= 90
    return unit(*lonlat)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["EPSG:3413", "EPSG:3031", "EPSG:32701", "EPSG:32660"]),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    st.sampled_from([1.0, 1e3, 1e5, 1e6]),
)
def test_a_tile_has_its_centre_where_the_mean_of_its_pixels_is(crs, place, side) -> None:
    """Beside and over the poles, and across the antimeridian (UTM's false easting is 500 km)."""
    utm = crs.startswith("EPSG:32")
    side = min(side, 1e5) if utm else side
    x, y = 500_000 + (-320_000 if "01" in crs else 320_000), 8_000_000
    x, y = (x, y) if utm else (0, 0)
    transform = from_origin(x + place[0] * side, y + place[1] * side, side / 40, side / 40)
    found = footprint(CRS(crs).to_wkt(), transform, 40, 40)
    assert found is not None
    columns, rows = np.meshgrid(np.arange(0.5, 40), np.arange(0.5, 40))
    to_lonlat = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    mean = unit(*to_lonlat.transform(*(transform @ (columns.ravel(), rows.ravel())))).mean(axis=0)
    assert angle_km(centre(found), mean / np.linalg.norm(mean)) < 0.2 * side / 1000


@given(st.floats(179, 181), st.floats(-80, 80), st.floats(0.001, 1.8))
def test_a_tile_at_the_antimeridian_has_its_centre_in_its_middle(lon, lat, side) -> None:
    found = footprint("OGC:CRS84", from_origin(lon - side / 2, lat + side / 2, side, side), 1, 1)
    assert found is not None
    assert angle_km(centre(found), unit(lon, lat)) < 0.02 * side * 111


def test_a_hole_is_no_part_of_a_footprint() -> None:
    ring = shapely.Point(0, 0).buffer(1).difference(shapely.Point(0.5, 0).buffer(0.4))
    moved = [
        shapely.transform(ring, lambda xy, by=by: xy + np.array([by, 0])) for by in (179.5, -180.5)
    ]
    cut = shapely.MultiPolygon(
        [
            moved[0].intersection(shapely.box(-180, -90, 180, 90)),
            moved[1].intersection(shapely.box(-180, -90, 180, 90)),
        ]
    )
    lon, lat = centre_of_row(
        dict(zip(("xmin", "ymin", "xmax", "ymax"), cut.bounds, strict=True)), cut.wkb
    )
    assert lon == pytest.approx(179.5 + ring.centroid.x, abs=1e-3)
    assert lat == pytest.approx(0, abs=1e-9)


def test_the_whole_globe_and_a_tile_without_a_place_break_nothing() -> None:
    globe = shapely.box(-180, -90, 180, 90)
    boxes = np.array([globe.bounds, [np.nan] * 4, globe.bounds])
    found = find_centres(boxes, lambda rows: [globe.wkb, None][: len(rows)])
    np.testing.assert_array_equal(found, [[0, 0], [np.nan, np.nan], [0, 0]])
    assert centre_of_row(None, None) == (None, None)


@given(st.floats(-180, 180), st.floats(-80, 80), st.floats(0.001, 1.8))
def test_boxes_are_narrow_wherever_they_lie(lon, lat, side) -> None:
    found = footprint("OGC:CRS84", from_origin(lon - side / 2, lat + side / 2, side, side), 1, 1)
    assert found is not None
    west, south, east, north = narrow_boxes(np.array([found.bbox]), lambda _: [found.wkb])[0]
    assert east - west == pytest.approx(side, abs=1e-8)
    assert (south, north) == (found.bbox[1], found.bbox[3])
    assert angle_km(unit((west + east) / 2, lat), unit(lon, lat)) < 1e-3


def test_boxes_round_a_pole_stay_as_they_are() -> None:
    found = footprint(CRS("EPSG:3413").to_wkt(), from_origin(-5000, 5000, 100, 100), 100, 100)
    assert found is not None
    boxes = np.array([found.bbox, [10, 0, 11, 1], [np.nan] * 4])
    np.testing.assert_array_equal(narrow_boxes(boxes, lambda _: [found.wkb]), boxes)


@given(LON, LAT, LON, LAT)
def test_a_distance_is_the_angle_between_unit_vectors(lon, lat, lon2, lat2) -> None:
    found = measure_km(np.array([[lon, lat]]), lon2, lat2)[0]
    assert found == pytest.approx(angle_km(unit(lon, lat), unit(lon2, lat2)), abs=1e-3)


@given(st.lists(LON, min_size=1, max_size=8))
def test_a_map_is_as_narrow_as_the_places_allow(lons) -> None:
    lon = np.array(lons)
    west = find_west(lon)
    turned = turn_east(lon, west)
    np.testing.assert_allclose(unit(turned, 0), unit(lon, 0), atol=1e-9)
    width = turned.max() - west
    assert turned.min() >= west - 1e-6
    best = min(np.mod(lon - start + 1e-7, 360).max() for start in lon)
    assert width <= best + 1e-6


def test_places_on_both_sides_of_greenwich_stay_as_they_are() -> None:
    lon = np.array([-50.0, 120.0, 3.0])
    assert find_west(lon) == -50
    np.testing.assert_allclose(turn_east(lon, -50.0), lon)
    np.testing.assert_allclose(turn_east(np.array([179.9, -179.9]), 179.9), [179.9, 180.1])
