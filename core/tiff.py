"""What a TIFF's own directories tell without GDAL: its pages, and the keys of its CRS."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import BinaryIO

# GeoKeyDirectory (shorts), GeoDoubleParams (doubles), GeoAsciiParams (characters): tag and type →
# bytes a value (OGC 19-008r4, https://docs.ogc.org/is/19-008r4/19-008r4.html).
_GEO_BYTES = {(34735, 3): 2, (34736, 12): 8, (34737, 2): 1}
_GEO_TAGS = {tag for tag, _ in _GEO_BYTES}
_MOST_ENTRIES, _MOST_BYTES = 1000, 1 << 16  # a header beyond these is damaged
_MOST_DIRECTORIES = 10_000
_USUAL_BYTES = 1024  # of a directory
# Tags and values of TIFF 6.0 (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, page 36).
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _WIDTH, _HEIGHT = 254, 255, 256, 257
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_OLD_REDUCED = 2  # value of SubfileType
_WORDS = {3: "H", 4: "I", 16: "Q"}  # types of an integer in an entry
_BROKEN = (OSError, OverflowError, ValueError, KeyError, struct.error)  # GDAL tells what is wrong


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One image of a TIFF; masks are none.

    Attributes:
        number: Of its directory, from 1.
        size: Width and height, pixels.
        reduced: It is an overview or a preview of another.
    """

    number: int
    size: tuple[int, int]
    reduced: bool


def read_geo_keys(path: str) -> bytes | None:
    """Read the GeoKeys of a TIFF's (or BigTIFF's) first image, as they are stored.

    Reading a CRS takes GDAL three times as long as opening the file; reading these bytes does not.

    Returns:
        Equal for files that state the same CRS in the same way; None where they cannot be found.
    """
    try:
        with open(path, "rb") as file:
            reader = _Reader(file)
            directory = next(reader.directories())
            entries = (entry for entry in directory if entry[0] in _GEO_TAGS)
            return b"".join([reader.mark, *(reader.read_geo(*entry) for entry in entries)])
    except _BROKEN:
        return None


def has_one_page(file: BinaryIO, start: bytes) -> bool:
    """Tell whether a TIFF has one directory alone, in a few microseconds; False if that is unclear.

    Args:
        file: Opened unbuffered.
        start: Its first bytes, which were read already.
    """
    try:
        order, word, count, place = _read_head(start)
        (first,) = struct.unpack_from(order + word, start, place)
        file.seek(first)
        directory = file.read(_USUAL_BYTES)
        (entries,) = struct.unpack_from(order + count, directory)
        size = 2 * struct.calcsize(word) + 4
        end = struct.calcsize(count) + entries * size
        return struct.unpack_from(order + word, directory, end) == (0,)
    except _BROKEN:
        return False


def read_pages(path: str) -> tuple[Page, ...]:
    """List the images of a TIFF, overviews among them; empty where its directories are damaged."""
    try:
        with open(path, "rb") as file:
            reader = _Reader(file)
            found = (
                reader.read_page(number, directory)
                for number, directory in enumerate(reader.directories(), 1)
            )
            return tuple(page for page in found if page is not None)
    except _BROKEN:
        return ()


_Entry = tuple[int, int, int, bytes]  # tag, type, count, and the value or where that is


def _read_head(start: bytes) -> tuple[str, str, str, int]:
    """Byte order, struct's letters of an offset and of a directory's count, where the first is told."""
    order = {b"II": "<", b"MM": ">"}[start[:2]]
    (version,) = struct.unpack(f"{order}H", start[2:4])
    return order, *{42: ("I", "H", 4), 43: ("Q", "Q", 8)}[version]


class _Reader:
    """Goes through an open TIFF's directories."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        start = file.read(16)
        self.mark = start[:2]
        self._order, self._word, self._count, place = _read_head(start)
        (self._first,) = struct.unpack_from(self._order + self._word, start, place)

    def directories(self) -> Iterator[Iterator[_Entry]]:
        """Yield each directory's entries, in the order of the file's chain."""
        word = struct.Struct(self._order + self._word)
        entry = struct.Struct(f"{self._order}HH{self._word}{word.size}s")  # tag, type, count, value
        place, seen = self._first, set[int]()
        while place and place not in seen and len(seen) < _MOST_DIRECTORIES:
            seen.add(place)
            self._file.seek(place)
            (entries,) = self._take(self._count)
            if entries > _MOST_ENTRIES:
                raise ValueError(entries)
            content = self._file.read(entries * entry.size)
            following = self._file.read(word.size)
            yield entry.iter_unpack(content)
            (place,) = word.unpack(following)

    def read_page(self, number: int, directory: Iterator[_Entry]) -> Page | None:
        """What a directory says of its image; None for a mask."""
        first = takewhile(lambda entry: entry[0] <= _HEIGHT, directory)  # they are sorted
        known = {tag: self._read_number(kind, inline) for tag, kind, _, inline in first}
        if known.get(_SUBFILE_TYPE, 0) & _MASK:
            return None
        size = known.get(_WIDTH, 0), known.get(_HEIGHT, 0)
        return Page(number=number, size=size, reduced=_is_reduced(known))

    def read_geo(self, tag: int, kind: int, count: int, inline: bytes) -> bytes:
        """A tag and its value: in the entry itself if that short, else where the entry points."""
        size = count * _GEO_BYTES[tag, kind]
        if size > _MOST_BYTES:
            raise ValueError(size)
        value = inline
        if size > len(value):
            self._file.seek(*struct.unpack(self._order + self._word, value))
            value = self._file.read(size)
        return struct.pack("<HI", tag, count) + value

    def _read_number(self, kind: int, inline: bytes) -> int:
        return int(struct.unpack_from(self._order + _WORDS[kind], inline)[0])

    def _take(self, form: str) -> tuple[int, ...]:
        size = struct.calcsize(form)
        return struct.unpack(self._order + form, self._file.read(size))


def _is_reduced(known: Mapping[int, int]) -> bool:
    reduced = known.get(_SUBFILE_TYPE, 0) & _REDUCED
    return bool(reduced) or known.get(_OLD_SUBFILE_TYPE) == _OLD_REDUCED
