"""What becomes of a tile's pixels in a pack: chosen bands, one size, one dtype, one scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from tilezoo.bands import ALPHA, BandRequest, FileBand, canonical, same
from tilezoo.errors import OptionError, TileError
from tilezoo.image import MAX_TILE_BYTES, Image
from tilezoo.nodata import refuse_sparse
from tilezoo.pretrain.options import RANGE_FIX, PackDtype
from tilezoo.space import Contract, Unit
from tilezoo.tiles import Tile
from tilezoo.values import to_8bit

RGB = ("red", "green", "blue")
_RANGE_8BIT = (0.0, 255.0)
_UNITS: Mapping[str, Unit] = {
    "u": "dn",
    "i": "dn",
    "f": "reflectance",
}  # by NumPy's kind; uint8 is a unit of its own
_ANY_SIDE = 224  # before a size is settled: what "cut it with --tile-px" proposes


class RgbRequest(BandRequest):
    """Red, green and blue of RGB images; other bands are not dropped without being asked."""

    def choose(self, bands: Sequence[FileBand]) -> tuple[int, ...]:
        """Pick positions as `BandRequest.choose` does, from files of these three bands alone."""
        others = [band for band in bands if band.name != ALPHA]
        if len(others) != len(RGB) and any(band.common == RGB[0] for band in bands):
            written = ",".join(band.name or str(band.number) for band in bands)
            fix = "choose with --bands, for example --bands red,green,blue"
            raise TileError("contract", f"has bands {written}, no RGB image; {fix}")
        return BandRequest.choose(self, bands)


def band_request(bands: Sequence[str] | None) -> BandRequest:
    """Ask for the bands that `--bands` names, or `B04=3,B03=2` numbers; RGB without it.

    Raises:
        OptionError: A band comes twice, is a number without a name, or has none where others do.
    """
    if bands is None:
        return RgbRequest(wanted=RGB, values_stated=True, taker="the pack")
    names = tuple(canonical(band.partition("=")[0]) for band in bands)
    written = ",".join(bands)
    if len({"=" in band for band in bands}) > 1:
        raise OptionError(f"--bands {written}: number all bands or none, as in B04=3,B03=2,B02=1")
    if any(name.isdigit() or not name for name in names):
        fix = "name them: B04=3 calls the third B04"
        raise OptionError(f"--bands {written}: a pack's bands have names; {fix}")
    if any(same(a, b) for i, a in enumerate(names) for b in names[:i]):
        raise OptionError(f"--bands {written}: a band comes twice")
    return BandRequest(wanted=names, given=tuple(bands), values_stated=True, taker="the pack")


def unit_of(dtype: str) -> Unit:
    """Name the unit that pixels of a dtype have in a contract."""
    return "uint8" if dtype == "uint8" else _UNITS[np.dtype(dtype).kind]


@dataclass(frozen=True, kw_only=True)
class Shaping:
    """How every tile of a pack is made.

    Attributes:
        request: Which bands are read.
        dtype: Of the stored pixels.
        value_range: Values that become 0 and 1, as `--value-range` gave them; None for 8-bit
            sources that are stored as they are.
        resized: Tiles of other sizes are resized to `size_px` instead of refused.
        max_nodata: Largest share of pixels without data.
        size_px: Side of every stored tile, pixels; None before the first tile settled it.
        unit: `uint8`, `dn` or `reflectance`; None before the first tile settled it.
    """

    request: BandRequest
    dtype: PackDtype
    value_range: tuple[float, float] | None
    resized: bool
    max_nodata: float
    size_px: int | None
    unit: Unit | None = None

    @property
    def stored_range(self) -> tuple[float, float]:
        """`value_range`, or that of 8-bit images."""
        return self.value_range or _RANGE_8BIT

    @property
    def quantized(self) -> bool:
        """Whether values are scaled to 8 bits."""
        return self.dtype == "uint8" and self.value_range is not None

    @property
    def contract(self) -> Contract:
        """What reading needs to know: the value that stands for no data, and the range."""
        bands = self.request.wanted
        side = self.size_px or _ANY_SIDE
        return Contract(
            bands=bands,
            unit="stated",
            value_range=self.stored_range,
            quantize_uint8=self.quantized,
            size_px=side,
            resize="squash",  # `finish` refuses what is too large for the pack
            resize_px=side,
            interpolation="bicubic",
            gsd_m=None,
            mean=(0.0,) * len(bands),
            std=(1.0,) * len(bands),
        )

    def check(self, image: Image) -> None:
        """Refuse an image that cannot become tiles of the pack, by its header.

        Raises:
            TileError: With the option that helps.
        """
        image.check(self.contract)
        self._check_dtype(image.dtype)
        if self.size_px is None:
            self._check_square(*image.size)

    def settle(self, image: Image) -> Self:
        """Take size and unit from the first image that fits."""
        return replace(self, size_px=self.size_px or image.size[0], unit=unit_of(image.dtype))

    def finish(self, tile: Tile) -> Tile:
        """Bring a tile's pixels to how they are stored, shape (C, size_px, size_px).

        Raises:
            TileError: It is of another size or unit than the pack's, or has too little data.
        """
        refuse_sparse(tile.nodata_fraction, self.max_nodata)
        self._check_dtype(tile.pixels.dtype.name)
        side = self.size_px or 0
        if not self.resized and tile.pixels.shape[1:] != (side, side):
            height, width = tile.pixels.shape[1:]
            fix = f"--size-px {side} resizes all"
            raise TileError("contract", f"{width}x{height} px, the pack's are {side}x{side}; {fix}")
        if self.quantized:
            return replace(tile, pixels=resize(to_8bit(tile.pixels, *self.stored_range), side))
        return replace(tile, pixels=resize(self._cast(tile.pixels), side))

    def _check_dtype(self, dtype: str) -> None:
        if self.value_range is None and dtype != "uint8":
            raise TileError("contract", f"pixels are {dtype}, not 8-bit: {RANGE_FIX}")
        unit = unit_of(dtype)
        if self.dtype == "uint16" and unit == "reflectance":
            fix = "leave it out, and floats are scaled to 8 bits"
            raise TileError("contract", f"pixels are {dtype}, --dtype uint16 keeps integers; {fix}")
        if self.unit is not None and unit != self.unit:
            fix = "one range cannot serve both; pack them apart"
            raise TileError(
                "contract", f"pixels are {dtype} ({unit}), the first {self.unit}; {fix}"
            )

    def _check_square(self, width: int, height: int) -> None:
        fix = "--size-px N resizes and crops, --tile-px N cuts"
        if width != height:
            raise TileError("contract", f"{width}x{height} px, a pack's tiles are square; {fix}")
        if width * height * len(self.request.wanted) > MAX_TILE_BYTES:
            raise TileError("too_large", f"{width}x{height} px are too large for a tile; {fix}")

    def _cast(self, pixels: NDArray[np.generic]) -> NDArray[np.generic]:
        """Change the dtype, where no value is lost."""
        limits = np.iinfo(self.dtype)
        if not np.can_cast(pixels.dtype, self.dtype) and pixels.size:
            low, high = int(pixels.min()), int(pixels.max())
            if low < limits.min or high > limits.max:
                fix = "leave out --dtype uint16 to scale to 8 bits"
                raise TileError("contract", f"values {low}..{high} do not fit {self.dtype}; {fix}")
        return pixels.astype(self.dtype, copy=False)


def resize(pixels: NDArray[np.generic], side: int) -> NDArray[np.generic]:
    """Resize the shorter side to `side` pixels, bicubic with antialias, and crop the centre.

    Args:
        pixels: uint8 or uint16, shape (C, h, w).
        side: Of the result, pixels.

    Returns:
        The same dtype, shape (C, side, side).
    """
    height, width = pixels.shape[1:]
    if (height, width) == (side, side):
        return pixels
    shorter = min(height, width)
    # The centre's square, in the source's pixels: what a crop after resizing would leave.
    left, top = (width - shorter) / 2, (height - shorter) / 2
    box = (left, top, left + shorter, top + shorter)
    bands = [_resize_band(band, side, box) for band in pixels]
    return np.stack(bands)


def _resize_band(
    band: NDArray[Any], side: int, box: tuple[float, float, float, float]
) -> NDArray[np.generic]:
    """Resize one band; 16 bits go by way of floats, and bicubic's overshoot is clipped."""
    exact = band if band.dtype == np.uint8 else band.astype(np.float32)
    image = Pillow.fromarray(exact).resize((side, side), Pillow.Resampling.BICUBIC, box)
    limits = np.iinfo(band.dtype)
    made: NDArray[Any] = np.asarray(image)
    if made.dtype != band.dtype:
        made = np.rint(made).clip(limits.min, limits.max).astype(band.dtype)
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelSums:
    """Sums over pixels, as segments keep them.

    Attributes:
        pixels: How many, of each band.
        values: Their sum, per band.
        squares: The sum of their squares, per band.
    """

    pixels: int
    values: tuple[float, ...]
    squares: tuple[float, ...]


class Sums:
    """Sums over pixels, band by band, from which mean and std come.

    Kept in the stored values less the range's low end: whole numbers, whose sums are exact in
    float64 for any pack, so the order of tiles does not matter.
    """

    def __init__(self, bands: int, low: float, high: float) -> None:
        self._low, self._high = low, high
        self._pixels = 0
        self._values = np.zeros(bands)
        self._squares = np.zeros(bands)

    def add(self, pixels: NDArray[np.generic]) -> None:
        """Add one tile, shape (C, H, W)."""
        flat = pixels.reshape(len(pixels), -1).astype(np.float64)  # (C, H*W)
        if pixels.dtype != np.uint8:  # 8 bits hold the range and nothing else
            np.clip(flat, self._low, self._high, out=flat)
            flat -= self._low
        self._pixels += flat.shape[1]
        self._values += flat.sum(axis=1)
        self._squares += np.einsum("cp,cp->c", flat, flat)

    @property
    def state(self) -> PixelSums:
        """The sums so far; JSON holds them exactly."""
        return PixelSums(
            pixels=self._pixels,
            values=tuple(self._values.tolist()),
            squares=tuple(self._squares.tolist()),
        )

    def add_state(self, kept: PixelSums) -> None:
        """Add sums that were kept."""
        self._pixels += kept.pixels
        self._values += kept.values
        self._squares += kept.squares

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each band on the 0..1 scale; zeros without pixels."""
        count = max(1, self._pixels)
        mean = self._values / count
        std = np.sqrt(np.maximum(self._squares / count - mean**2, 0.0))
        width = self._high - self._low
        return tuple((mean / width).tolist()), tuple((std / width).tolist())
