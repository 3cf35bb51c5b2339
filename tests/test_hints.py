"""Hints about values: ranges that saturate, units that are mixed, nodata that no file declares."""

from collections.abc import Sequence
from pathlib import Path

import making
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilezoo.embed import embed
from tilezoo.hints import find_hints, spread, thin_out
from tilezoo.pretrain import pack
from tilezoo.tiles import Tile


def tile(pixels: NDArray[np.generic], number: int = 0, nodata_fraction: float = 0.0) -> Tile:
    return Tile(
        id=f"{number}.tif",
        pixels=pixels,
        source_uri=f"{number}.tif",
        pixel_bbox=(0, 0, *pixels.shape[:0:-1]),
        nodata_fraction=nodata_fraction,
        crs=None,
        footprint=None,
        datetime=None,
    )


def hints(
    pixels: Sequence[NDArray[np.generic]], low: float, high: float, *, stated: bool = False
) -> list[str]:
    tiles = [tile(each, number) for number, each in enumerate(pixels)]
    return find_hints(tiles, (low, high), stated=stated)


def numbers(seed: int = 0, *, low: float = 100, high: float = 3000) -> NDArray[np.generic]:
    return making.texture(seed, low=low, high=high, dtype="uint16")


def test_values_that_fit_their_range_deserve_no_hint() -> None:
    assert hints([numbers(1), numbers(2)], 0, 3000) == []
    assert hints([making.texture(1), making.texture(2)], 0, 255) == []
    assert hints([numbers(1).astype("float32") / 10_000], 0, 0.3) == []


@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1), white=st.booleans())
def test_more_than_a_tenth_at_one_end_is_told_with_the_share(share: float, white: bool) -> None:
    values = np.full(3 * 400, 1500, np.uint16)
    values[: round(share * len(values))] = 5000 if white else 3
    (told, *more) = hints([values.reshape(3, 20, 20)], 100, 3000) or [""]
    assert not more
    counted = round(share * len(values)) / len(values)
    if counted > 0.1:
        name = "white" if white else "black"
        assert told.startswith(f"{counted:.0%} of the first tiles' values are {name} in the range")
        assert "100,3000" in told
        assert "--value-range" in told
    else:
        assert told == ""


@pytest.mark.parametrize(
    ("pixels", "low", "high", "what"),
    [
        (numbers(), 0, 1, "100% of the first tiles' values are white"),
        (making.texture(1, low=2), 0, 1, "100% of the first tiles' values are white"),
        (
            numbers().astype("float32") / 10_000,
            0,
            3000,
            "100% of the first tiles' values are black",
        ),
    ],
)
def test_a_range_of_another_unit_is_told(
    pixels: NDArray[np.generic], low: float, high: float, what: str
) -> None:
    (told,) = hints([pixels], low, high)
    assert told.startswith(what)
    assert "most of them lie in" in told


def test_fractions_beside_numbers_are_told_by_name() -> None:
    told = hints([numbers(1), numbers(2).astype("float32") / 10_000], 0, 3000)
    assert told[0].startswith("units are mixed: 1.tif reaches 0.3 (float32), 0.tif reaches 3e+03")


@pytest.mark.parametrize(("end", "dtype"), [(0, "uint8"), (255, "uint8"), (65535, "uint16")])
def test_a_collar_that_no_file_declares_is_told_with_what_declares_it(end: int, dtype: str) -> None:
    pixels = making.texture(1, low=5, high=250, dtype=dtype)
    pixels[:, :, :20] = end
    top = float(np.iinfo(dtype).max)
    (told,) = hints(
        [pixels, making.texture(2, low=5, high=250, dtype=dtype)], 0, 255 if top < 256 else 260
    )
    assert told == (
        f"12% of the first tiles' pixels are {end} in all bands; "
        f"if that means no data, say --nodata {end}"
    )
    assert hints([pixels], 0, 300, stated=True) == []


def test_pixels_that_were_filled_are_neither_black_nor_undeclared() -> None:
    pixels = numbers()
    pixels[:, :40] = 0
    filled = tile(pixels, nodata_fraction=0.5)
    assert find_hints([filled], (0.0, 3000.0), stated=False) == []


def test_of_a_large_tile_every_so_many_pixels_are_looked_at() -> None:
    pixels = making.texture(1, side=700, height=300)
    assert np.array_equal(thin_out(tile(pixels)).pixels, pixels[:, ::4, ::4])


@given(st.integers(0, 500))
def test_tiles_that_are_looked_at_lie_all_over_the_run(count: int) -> None:
    places = spread(count)
    assert len(places) == min(count, 8)
    assert len(set(places)) == len(places)
    if count:
        assert places[0] == 0
        assert places[-1] >= count / 2 or count == 1


def write_mixed(folder: Path) -> None:
    making.write_tiff(folder / "a.tif", numbers(1), photometric="RGB")
    making.write_tiff(folder / "b.tif", numbers(2).astype("float32") / 10_000, photometric="RGB")


def test_embed_gives_hints_before_it_begins(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mixed(tmp_path / "in")
    embed(tmp_path / "in", out=tmp_path / "t", model=vit, value_range="0,3000", device="cpu")
    assert "hint: units are mixed: b.tif reaches 0.3" in capsys.readouterr().err


def test_pack_gives_hints_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    making.write_tiff(tmp_path / "in/a.tif", numbers(1), photometric="RGB")
    pack(tmp_path / "in", out=tmp_path / "p", value_range="0,500")
    assert "values are white in the range 0,500" in capsys.readouterr().err
