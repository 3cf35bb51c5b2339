"""Cutting scenes into windows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.errors import OptionError
from tilezoo.sources import Source
from tilezoo.tiles import Cut, TileRef

SIDES = st.integers(1, 60)


@given(SIDES, SIDES, SIDES, st.data())
def test_windows_cover_every_pixel_and_none_lies_beyond_the_grid(
    width: int, height: int, tile_px: int, data: st.DataObject
) -> None:
    cut = Cut(tile_px=tile_px, stride_px=data.draw(st.integers(1, tile_px)))
    covered = np.zeros((height, width), bool)
    windows = [cut.window(number, width) for number in range(cut.count(width, height))]
    for x, y, w, h in windows:
        assert (w, h) == (tile_px, tile_px)
        assert 0 <= x < width
        assert 0 <= y < height
        covered[y : y + h, x : x + w] = True
    assert covered.all()
    assert len(set(windows)) == len(windows)


@given(SIDES, SIDES, st.integers(1, 30))
def test_windows_side_by_side_overlap_nowhere(width: int, height: int, tile_px: int) -> None:
    cut = Cut(tile_px=tile_px, stride_px=tile_px)
    assert cut.count(width, height) == -(-width // tile_px) * -(-height // tile_px)


@given(SIDES, SIDES, st.integers(2, 30), st.data())
def test_no_window_could_be_left_out(
    width: int, height: int, tile_px: int, data: st.DataObject
) -> None:
    cut = Cut(tile_px=tile_px, stride_px=data.draw(st.integers(1, tile_px)))
    last_x = cut.window(cut.count(width, height) - 1, width)[0]
    assert last_x == 0 or last_x - cut.stride_px + tile_px < width


@pytest.mark.parametrize(("tile_px", "stride_px"), [(0, 0), (-4, -4), (64, 0), (64, 65)])
def test_windows_that_miss_pixels_are_refused(tile_px: int, stride_px: int) -> None:
    with pytest.raises(OptionError, match=rf"--tile-px {tile_px} --stride-px {stride_px}: the"):
        Cut(tile_px=tile_px, stride_px=stride_px)


def test_a_windows_id_tells_its_place() -> None:
    source = Source(id="scene.tif", path=str(Path("/data/scene.tif")))
    assert TileRef(source=source).id == "scene.tif"
    assert TileRef(source=source, window=(64, 0, 32, 32)).id == "scene.tif#64,0,32,32"
