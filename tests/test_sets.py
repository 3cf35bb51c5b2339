"""Files of a folder that are one image: by their names, and only where they can be."""

from pathlib import Path

import making
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.transform import from_origin

from tilezoo.errors import TileError
from tilezoo.image import read_tile
from tilezoo.sets import find_sets
from tilezoo.sources import discover
from tilezoo.tiles import TileRef

NAMES = st.lists(
    st.builds(
        "{}{}{}.{}".format,
        st.sampled_from(["", "s_", "ortho-", "scene.1_", "LC08_"]),
        st.sampled_from(
            ["B1", "B02", "B04", "B8A", "A1", "C12", "VV", "band3", "mask", "x", "TCI"]
        ),
        st.sampled_from(["", "_2", "_10m"]),
        st.sampled_from(["tif", "TIF", "jp2", "png"]),
    ),
    unique_by=str.lower,
    max_size=12,
)


@given(NAMES)
def test_each_file_is_of_one_image_or_beside_one_and_none_is_lost(names: list[str]) -> None:
    found = find_sets("/nowhere/at/all", names)
    members = [one.prefix + ending for one in found.sets for ending in (one.endings or ("",))]
    dropped = [name for one in found.sets if one.problem for name in names]
    assert sorted(set(members) | set(found.singles) | set(found.beside) | set(dropped)) == sorted(
        set(names) | set(dropped)
    )
    assert len(set(found.singles)) == len(found.singles)
    assert not set(found.singles) & set(members)


def write_cells(folder: Path, cells: list[str], *, bands: int, step_m: int) -> None:
    for place, cell in enumerate(cells):
        making.write_tiff(
            folder / f"sheet_{cell}.tif",
            making.texture(place, bands=bands, side=16),
            crs="EPSG:32633",
            transform=from_origin(500_000 + step_m * place, 5_000_000, 10, 10),
        )


@pytest.mark.parametrize(
    ("cells", "bands", "step_m"),
    [
        (["A1", "A2", "B1", "B2", "C1"], 3, 0),  # other letters: cells of a grid
        (["A1", "B1", "B2"], 1, 0),
        (["B1", "B2", "B3"], 3, 0),  # three bands each
        (["B1", "B2", "B3"], 1, 160),  # side by side
        (["B01", "B02", "B03"], 1, 2000),
    ],
)
def test_places_that_are_called_like_bands_are_tiles(
    tmp_path: Path, cells: list[str], bands: int, step_m: int
) -> None:
    write_cells(tmp_path, cells, bands=bands, step_m=step_m)
    assert [source.id for source in discover([tmp_path])] == [f"sheet_{cell}.tif" for cell in cells]


def test_a_band_that_is_there_twice_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("s_B4.tif", "s_B04.tif", "s_B03.tif"):
        making.write_tiff(tmp_path / name, making.texture(1, bands=1))
    (source,) = discover([tmp_path])
    assert source.problem is not None
    assert "one band twice: s_B04.tif and s_B4.tif" in source.problem[1]


GRIDS = {
    "another zone": ({"crs": "EPSG:32634"}, 16, "in two CRS"),
    "another origin": ({"transform": from_origin(500_080, 5_000_000, 10, 10)}, 16, "apart"),
    "another extent": ({}, 12, "apart"),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_bands_on_other_ground_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    changes, side, why = GRIDS[kind]
    place = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    making.write_tiff(tmp_path / "s/B02.tif", making.texture(1, bands=1, side=16), **place)
    making.write_tiff(tmp_path / "s/B03.tif", making.texture(2, bands=1, side=16), **place)
    wrong = making.texture(3, bands=1, side=side)
    making.write_tiff(tmp_path / "s/B04.tif", wrong, **{**place, **changes})
    (source,) = discover([tmp_path])
    with pytest.raises(TileError, match=why) as refused:
        read_tile(TileRef(source=source), making.contract(), making.request())
    assert "B04.tif" in str(refused.value)
    assert refused.value.kind == "contract"


@pytest.mark.parametrize("ratio", [2, 3, 6])
def test_coarser_bands_of_the_same_ground_go_together(tmp_path: Path, ratio: int) -> None:
    sides = {"B02": 36, "B03": 36, "B04": 36 // ratio}
    for place, (band, side) in enumerate(sides.items()):
        gsd = 10 * 36 / side
        making.write_tiff(
            tmp_path / f"s/{band}.tif",
            np.full((1, side, side), 50 + place, np.uint8),
            crs="EPSG:32633",
            transform=from_origin(500_000, 5_000_000, gsd, gsd),
        )
    (source,) = discover([tmp_path])
    tile = read_tile(TileRef(source=source), making.contract(), making.request())
    assert tile.pixels.shape == (3, 36, 36)
    assert tile.pixels[:, 0, 0].tolist() == [52, 51, 50]
