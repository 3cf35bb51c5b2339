"""Pictures that can only be decoded from their first byte on: JPEG by Pillow, each once for many windows.

JPEG leaves decoders a choice, and GDAL's differs from that of Pillow and torchvision (libjpeg-turbo
with smooth chroma) by up to 40 levels in files whose colours are stored at half the resolution. A
network saw what Pillow makes of a JPEG when it was trained, so that is what it is fed. Formats
without loss are the same by any decoder, and are left to GDAL, as is JPEG inside TIFF.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from threading import Condition, Lock
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tilezoo.tiles import Window

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from rasterio.io import DatasetReader

# Decoded pictures that wait for their next window, all together: 11,585 px squared of RGB JPEG.
MAX_DECODED_BYTES = 512 << 20
_FROM_START = frozenset({"PNG", "JPEG", "GIF", "WEBP"})  # drivers that cannot begin in the middle
_BROKEN = (SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, struct.error)
# Pixels that are taken out of a picture at once: few enough that malloc has the room at hand.
_STRIP_PX = 40_000
_VIRTUAL = "/vsi"  # what the names of GDAL's own files begin with: in archives, in memory
_SCAN, _END = b"\xff\xda", b"\xff\xd9"  # markers, which compressed data never holds
_Key = tuple[str, int, int]  # path, size, time of its last change in ns


class Decoded(Protocol):
    """A whole picture in memory, of which windows are taken."""

    def read(self, indexes: Sequence[int], window: Window) -> NDArray[np.generic]:
        """Take bands (1-based) of a window that lies inside, shape (C, h, w)."""


def is_by_pillow(dataset: "DatasetReader") -> bool:
    """Whether a file's pixels are Pillow's: JPEG of 8 bits."""
    return is_from_start(dataset) and dataset.driver == "JPEG" and dataset.dtypes[0] == "uint8"


def is_from_start(dataset: "DatasetReader") -> bool:
    """Whether any window of a file on this machine costs decoding all that lies before it."""
    return dataset.driver in _FROM_START and not dataset.name.startswith(_VIRTUAL)


def count_decoded_bytes(dataset: "DatasetReader") -> int:
    """Bytes that a decoded picture takes; Pillow keeps colours in four bytes a pixel."""
    pixels = int(dataset.width * dataset.height)
    if is_by_pillow(dataset):
        return pixels * (1 if dataset.count == 1 else 4)
    sizes: Sequence[int] = [np.dtype(name).itemsize for name in dataset.dtypes]
    return pixels * sum(sizes)


def decode(dataset: "DatasetReader") -> Decoded:
    """Decode a whole picture.

    Raises:
        OSError: It is damaged.
        RasterioError: It is damaged.
    """
    if is_by_pillow(dataset):
        return _PillowPixels(_decode_jpeg(dataset.name, (dataset.width, dataset.height)))
    return _Pixels(dataset.read())


def _decode_jpeg(path: str, size: tuple[int, int]) -> "Picture":
    from PIL.JpegImagePlugin import JpegImageFile

    content = Path(path).read_bytes()
    # Decoders take the zeros of a download that stopped for grey; an end they do not have.
    if content.find(_END, max(0, content.rfind(_SCAN))) < 0:
        raise OSError("the JPEG is truncated: it has no end")
    try:
        # The class and not `Image.open`: that asks every plug-in, and has a limit of its own.
        with JpegImageFile(BytesIO(content)) as picture:
            picture.load()
    except _BROKEN as error:
        raise OSError(f"not a JPEG that can be decoded: {error}") from None
    if picture.size != size:
        raise OSError(f"GDAL reads {size[0]}x{size[1]} px, Pillow {picture.width}x{picture.height}")
    return picture


@dataclass(frozen=True, slots=True)
class _PillowPixels:
    picture: "Picture"

    def read(self, indexes: Sequence[int], window: Window) -> NDArray[np.generic]:
        x, y, width, height = window
        taken = np.empty((len(indexes), height, width), np.uint8)
        rows = max(1, _STRIP_PX // width)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            values = self._crop((x, y + top, x + width, y + bottom))
            for place, index in enumerate(indexes):
                taken[place, top:bottom] = values[:, index - 1]
        return taken

    def _crop(self, box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        """Take out rows, shape (rows, C, w): a band's lines lie whole, which is quick to copy."""
        part = self.picture if box == (0, 0, *self.picture.size) else self.picture.crop(box)
        if part.mode not in {"L", "RGB"}:  # CMYK and YCCK
            part = part.convert("RGB")
        lines = part.tobytes("raw", "RGB;L" if part.mode == "RGB" else "L")
        return np.frombuffer(lines, np.uint8).reshape(part.height, -1, part.width)


@dataclass(frozen=True, slots=True)
class _Pixels:
    values: NDArray[np.generic]  # (C, H, W)

    def read(self, indexes: Sequence[int], window: Window) -> NDArray[np.generic]:
        x, y, width, height = window
        part = self.values[:, y : y + height, x : x + width]
        return part[[index - 1 for index in indexes]]


@dataclass(eq=False, slots=True)
class _Entry:
    """A picture of the pool, and how many hold it."""

    size: int
    users: int = 0
    decoded: Decoded | None = None
    lock: Lock = field(default_factory=Lock)


class DecodedPictures:
    """Decoded pictures that threads share, within a number of bytes.

    A picture that nobody holds stays until its room is needed. A thread that needs room others
    hold waits for them, so it may hold one picture at a time.

    Attributes:
        limit: Bytes of all pictures together; a larger picture is not to be asked for.
    """

    def __init__(self, limit: int = MAX_DECODED_BYTES) -> None:
        self.limit = limit
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._changed = Condition()

    @contextmanager
    def hold(self, path: str, size: int, decode: Callable[[], Decoded]) -> Iterator[Decoded]:
        """Give a picture that takes `size` bytes, decoded by the first thread that asks for it."""
        status = Path(path).stat()
        key = (path, status.st_size, status.st_mtime_ns)
        entry = self._take(key, size)
        try:
            with entry.lock:
                if entry.decoded is None:
                    entry.decoded = decode()
            yield entry.decoded
        finally:
            self._release(key, entry)

    def clear(self) -> None:
        """Let go of pictures that nobody holds."""
        with self._changed:
            self._drop_idle(self.limit + 1)

    def _take(self, key: _Key, size: int) -> _Entry:
        with self._changed:
            while key not in self._entries and not self._drop_idle(size):
                self._changed.wait()
            entry = self._entries.setdefault(key, _Entry(size))
            self._entries.move_to_end(key)
            entry.users += 1
            return entry

    def _drop_idle(self, wanted: int) -> bool:
        """Drop idle pictures, longest unused first, until there is room; tell whether there is."""
        for key, entry in list(self._entries.items()):
            if self._fits(wanted):
                break
            if not entry.users:
                del self._entries[key]
        return self._fits(wanted)

    def _fits(self, wanted: int) -> bool:
        return sum(entry.size for entry in self._entries.values()) + wanted <= self.limit

    def _release(self, key: _Key, entry: _Entry) -> None:
        with self._changed:
            entry.users -= 1
            if not entry.users and entry.decoded is None:  # damaged
                self._entries.pop(key, None)
            self._changed.notify_all()


DECODED = DecodedPictures()


@contextmanager
def letting_go() -> Iterator[None]:
    """Let go of decoded pictures at the end of a run."""
    try:
        yield
    finally:
        DECODED.clear()


def tell_size(path: str, size: int) -> str:
    """Say that a picture is too large to be decoded once for all its windows."""
    name, mib = Path(path).name, DECODED.limit >> 20
    return (
        f"{name}: {size >> 20} MiB once decoded, more than the {mib} that are kept: GDAL decodes it "
        "for each few windows, which is slow, and a JPEG's pixels are then GDAL's; "
        "make it a tiled TIFF with gdal_translate -co TILED=YES"
    )
