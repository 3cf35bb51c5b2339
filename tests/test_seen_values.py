"""Grey of few bits, and grey whose 0 is white, as people see it."""

import struct
import zlib
from pathlib import Path

import making
import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow

from tilezoo.errors import TileError
from tilezoo.image import read_tile
from tilezoo.sources import source_at
from tilezoo.tiles import Tile, TileRef

GREY = making.request(given=("1", "1", "1"), stated=True)


def read(path: Path, **how: object) -> Tile:
    ref = TileRef(source=source_at(str(path)))
    return read_tile(ref, making.contract(unit="stated", **how), GREY)


def stored(bits: int, seed: int = 0) -> NDArray[np.generic]:
    """Grey values of so many bits, black and white among them, shape (1, 12, 20)."""
    dtype = "uint8" if bits <= 8 else "uint16"
    values = np.random.default_rng(seed).integers(0, 2**bits, (1, 12, 20)).astype(dtype)
    values[0, 0, :2] = 0, 2**bits - 1
    return values


def write_png(path: Path, values: NDArray[np.generic], bits: int, after: bytes = b"") -> Path:
    """Write grey of 1, 2 or 4 bits, which Pillow does not."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    height, width = values.shape[1:]
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    lines = [
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes()
        for row in values[0]
    ]
    body = chunk(b"IDAT", zlib.compress(b"".join(lines)))
    if after:
        body = chunk(b"tRNS", after) + body
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b""))
    return path


@settings(max_examples=40, deadline=None)
@given(bits=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8]), white=st.booleans(), seed=st.integers(0, 9))
def test_grey_of_few_bits_takes_the_whole_range(
    tmp_path_factory: pytest.TempPathFactory, bits: int, white: bool, seed: int
) -> None:
    values = stored(bits, seed)
    path = tmp_path_factory.mktemp("grey") / "a.tif"
    photometric = "MINISWHITE" if white else "MINISBLACK"
    making.write_tiff(path, values, nbits=bits, photometric=photometric)
    seen = np.rint(values * 255.0 / (2**bits - 1)).astype(np.uint8)
    expected = 255 - seen if white else seen
    assert np.array_equal(read(path).pixels, np.broadcast_to(expected, (3, 12, 20)))
    if bits in {1, 2, 4, 8}:
        with Pillow.open(path) as picture:
            assert np.array_equal(np.asarray(picture.convert("L")), expected[0])


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("transparent", [None, 0, 1])
def test_a_png_of_few_bits_is_as_pillow_sees_it(
    tmp_path: Path, bits: int, transparent: int | None
) -> None:
    values = stored(bits)
    after = b"" if transparent is None else struct.pack(">H", transparent)
    path = write_png(tmp_path / "a.png", values, bits, after)
    tile = read(path)
    with Pillow.open(path) as picture:
        seen = np.asarray(picture.convert("L"))
    data = np.ones(seen.shape, bool) if transparent is None else values[0] != transparent
    assert np.array_equal(tile.pixels, np.broadcast_to(seen * data, (3, 12, 20)))
    assert tile.nodata_fraction == pytest.approx(1 - data.mean())


@pytest.mark.parametrize(("bits", "dtype"), [(16, "uint16"), (12, "uint16"), (32, "uint32")])
def test_wider_grey_whose_0_is_white_is_turned_over(tmp_path: Path, bits: int, dtype: str) -> None:
    values = making.texture(1, bands=1, high=2.0**bits - 300, dtype=dtype)
    values[0, 0, 0] = 0
    path = tmp_path / "a.tif"
    how = {"nbits": bits} if bits == 12 else {}
    making.write_tiff(path, values, photometric="MINISWHITE", **how)
    tile = read(path, value_range=(0.0, 2.0**bits - 1))
    assert tile.pixels.dtype == np.dtype(dtype)
    assert np.array_equal(tile.pixels[0], 2**bits - 1 - values[0].astype(np.int64))


def test_12_bits_in_16_stay_as_they_are_stored(tmp_path: Path) -> None:
    values = making.texture(1, bands=1, high=4095, dtype="uint16")
    path = making.write_tiff(tmp_path / "a.tif", values, nbits=12, photometric="MINISBLACK")
    assert np.array_equal(read(path, value_range=(0.0, 4095.0)).pixels[0], values[0])


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_values_that_may_be_negative_are_no_grey_to_turn_over(tmp_path: Path, dtype: str) -> None:
    values = making.texture(1, bands=1, low=-50, high=200, dtype=dtype)
    path = making.write_tiff(tmp_path / "a.tif", values, photometric="MINISWHITE")
    assert np.array_equal(read(path).pixels[0], values[0])


def test_nodata_of_grey_whose_0_is_white_is_a_stored_value(tmp_path: Path) -> None:
    values = making.texture(1, bands=1, low=1)
    values[0, :20] = 0  # white paper
    path = making.write_tiff(tmp_path / "a.tif", values, photometric="MINISWHITE", nodata=0)
    tile = read(path)
    assert tile.nodata_fraction == pytest.approx(0.25)
    assert not tile.pixels[:, :20].any()
    assert np.array_equal(tile.pixels[0, 20:], 255 - values[0, 20:])


def test_a_fax_of_one_bit_is_black_on_white(tmp_path: Path) -> None:
    picture = Pillow.fromarray(making.texture(1, bands=1)[0]).convert("1")
    picture.save(tmp_path / "a.tif", compression="group4")
    assert np.array_equal(read(tmp_path / "a.tif").pixels[0], np.asarray(picture.convert("L")))


def test_a_palette_of_classes_is_refused_with_the_command_that_expands_it(tmp_path: Path) -> None:
    path = making.write_tiff(tmp_path / "a.tif", stored(2), photometric="PALETTE")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (0, 100, 0), 1: (250, 230, 0), 2: (0, 0, 200), 3: (9, 9, 9)})
    with pytest.raises(TileError, match="palette image; expand it with gdal_translate"):
        read(path)
