"""Opening files: what is known of a CRS already is not asked again, and nothing is missed for it."""

import os
import time
from pathlib import Path

import making
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import from_origin

from tilezoo.errors import TileError
from tilezoo.image import read_tile
from tilezoo.opening import crs_wkt, gdal, open_dataset, read_geo_keys
from tilezoo.sources import source_at
from tilezoo.tiles import Tile, TileRef

# One each of UTM, geographic, polar, a custom projection, and metres up as well as along.
SYSTEMS = (
    "EPSG:32633",
    "EPSG:4326",
    "EPSG:3031",
    "+proj=laea +lat_0=12.5 +lon_0=7 +datum=WGS84",
    "EPSG:32633+5773",
)
FORMS = (
    {},
    {"bigtiff": "YES"},
    {"endianness": "BIG"},
    {"bigtiff": "YES", "endianness": "BIG"},
    {"tiled": True, "compress": "deflate"},
)


def write(path: Path, crs: str | None, **how: object) -> Path:
    return settled(making.write_tiff(path, making.texture(0), crs=crs, photometric="RGB", **how))


def settled(path: Path, seconds_ago: float = 1000) -> Path:
    """Have a file's folder look as if nothing had been written there for a while."""
    then = time.time() - seconds_ago
    os.utime(path.parent, (then, then))
    return path


def read(path: Path) -> Tile:
    ref = TileRef(source=source_at(str(path)))
    return read_tile(ref, making.contract(), making.request())


def wkt(path: Path) -> str | None:
    with gdal(), open_dataset(str(path)) as dataset:
        return crs_wkt(dataset)


@pytest.mark.parametrize("how", FORMS, ids=str)
def test_the_crs_is_the_one_that_rasterio_reads(tmp_path: Path, how: dict[str, object]) -> None:
    for number, crs in enumerate([*SYSTEMS, *SYSTEMS, None]):  # known ones too
        path = write(tmp_path / f"{number}.tif", crs, **how)
        with rasterio.Env(GTIFF_SRS_SOURCE="GEOKEYS"), rasterio.open(path) as file:
            expected = file.crs.wkt if file.crs else None
        assert wkt(path) == expected


@pytest.mark.parametrize("how", FORMS, ids=str)
def test_geo_keys_are_equal_for_equal_systems_alone(tmp_path: Path, how: dict[str, object]) -> None:
    found = [
        read_geo_keys(str(write(tmp_path / f"{n}.tif", crs, **how)))
        for n, crs in enumerate(SYSTEMS)
    ]
    elsewhere = from_origin(7, 8, 9, 9)
    path = write(
        tmp_path / "again.tif", SYSTEMS[0], transform=elsewhere, tags={"A": "b" * 999}, **how
    )
    assert len(set(found)) == len(SYSTEMS)
    assert read_geo_keys(str(path)) == found[0]
    assert read_geo_keys(str(write(tmp_path / "none.tif", None, **how))) not in {None, *found}


def test_a_directory_at_the_end_of_a_file_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", SYSTEMS[0])
    before = read_geo_keys(str(path))
    with rasterio.open(path, "r+") as file:
        file.update_tags(LONG="x" * 20_000)
    assert path.read_bytes().index(b"x" * 20_000) > 10_000
    assert read_geo_keys(str(path)) == before


@settings(max_examples=300, deadline=None)
@given(
    damage=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=4)
)
def test_geo_keys_of_damaged_files_are_some_bytes_or_none(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = folder / "good.tif"
    if not good.exists():
        write(good, SYSTEMS[0])
    content = bytearray(good.read_bytes())
    for place, data in damage:
        content[place : place + len(data)] = data
    (folder / "damaged.tif").write_bytes(content)
    assert isinstance(read_geo_keys(str(folder / "damaged.tif")), bytes | None)
    assert read_geo_keys(str(folder / "gone.tif")) is None


def beside(path: Path, kind: str) -> None:
    """Write what GDAL reads beside a file: another CRS, a mask, or a time."""
    if kind == "crs":
        aux = "<PAMDataset><SRS>EPSG:32733</SRS></PAMDataset>"
        path.with_name(f"{path.name}.aux.xml").write_text(aux)
    elif kind == "mask":
        mask = np.zeros((1, 80, 80), np.uint8)
        mask[:, 40:] = 255
        making.write_tiff(path.with_name("mask.tif"), mask, crs=None)
        path.with_name("mask.tif").rename(path.with_name(f"{path.name}.msk"))
        with rasterio.open(path.with_name(f"{path.name}.msk"), "r+") as file:
            file.update_tags(INTERNAL_MASK_FLAGS_1="2")
    else:
        lines = ('satId = "WV02";', "firstLineTime = 2019-02-03T04:05:06.000000Z;")
        group = "\n\t".join(["BEGIN_GROUP = IMAGE_1", *lines])
        path.with_suffix(".IMD").write_text(f"{group}\nEND_GROUP = IMAGE_1\nEND;\n")


def test_what_lies_beside_a_file_is_read_and_so_is_what_comes_to_lie_there_later(
    tmp_path: Path,
) -> None:
    place = from_origin(500_000, 4_500_000, 10, 10)
    plain = read(write(tmp_path / "a.tif", "EPSG:32633", transform=place))
    assert (plain.crs, plain.nodata_fraction, plain.datetime) == ("EPSG:32633", 0, None)
    for kind, name in (("crs", "b"), ("mask", "c"), ("time", "d")):
        path = write(tmp_path / kind / f"{name}.tif", "EPSG:32633", transform=place)
        assert read(path).crs == "EPSG:32633"
        beside(path, kind)
        settled(path, seconds_ago=500)
        tile = read(path)
        told = {
            "crs": tile.crs == "EPSG:32733",
            "mask": tile.nodata_fraction == pytest.approx(0.5),
            "time": tile.datetime is not None and tile.datetime.year == 2019,
        }
        assert told[kind], kind


def test_a_world_file_gives_a_place_to_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    making.as_pillow(making.texture(0)).save(path)
    settled(path)
    with gdal(), open_dataset(str(path)) as dataset:
        assert dataset.transform.is_identity
    path.with_suffix(".pgw").write_text("20\n0\n0\n-20\n600010\n4999990\n")
    settled(path, seconds_ago=500)
    with gdal(), open_dataset(str(path)) as dataset:
        assert tuple(dataset.transform)[:6] == (20, 0, 600_000, 0, -20, 5_000_000)


def test_a_file_that_is_gone_is_told_as_missing(tmp_path: Path) -> None:
    with gdal(), pytest.raises(TileError) as error:
        open_dataset(str(tmp_path / "gone.tif"))
    assert error.value.kind == "missing"


def test_a_folder_that_is_being_written_to_is_looked_into_each_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", "EPSG:32633")
    settled(path, seconds_ago=0)
    assert read(path).crs == "EPSG:32633"
    beside(path, "crs")
    settled(path, seconds_ago=0)
    assert read(path).crs == "EPSG:32733"


def test_bands_in_a_folder_of_their_own_are_asked_for_nothing_beside_them(tmp_path: Path) -> None:
    making.write_band_files(tmp_path / "s", side=60)
    (tmp_path / "s/labels_metadata.json").write_text("{}")
    settled(tmp_path / "s/B02.tif")
    asked = making.request("B04", "B03", "B02")
    how = {"bands": ("B04", "B03", "B02"), "unit": "dn", "value_range": (0.0, 2000.0)}
    ref = TileRef(source=source_at(str(tmp_path / "s")))
    alone = read_tile(ref, making.contract(**how), asked)
    settled(tmp_path / "s/B02.tif", seconds_ago=0)
    tile = read_tile(ref, making.contract(**how), asked)
    assert np.array_equal(alone.pixels, tile.pixels)
    assert (alone.crs, alone.footprint) == (tile.crs, tile.footprint)
