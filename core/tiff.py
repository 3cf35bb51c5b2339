"""What a TIFF's header says of its CRS, as bytes: equal bytes are an equal CRS."""

import struct
from typing import BinaryIO

# GeoKeyDirectory (shorts), GeoDoubleParams (doubles), GeoAsciiParams (characters): tag and type →
# bytes a value (OGC 19-008r4, https://docs.ogc.org/is/19-008r4/19-008r4.html).
_BYTES = {(34735, 3): 2, (34736, 12): 8, (34737, 2): 1}
_TAGS = {tag for tag, _ in _BYTES}
_MOST_ENTRIES, _MOST_BYTES = 1000, 1 << 16  # a header beyond these is damaged


def geo_keys(path: str) -> bytes | None:
    """Read the GeoKeys of a TIFF's (or BigTIFF's) first image, as they are stored.

    Reading a CRS takes GDAL three times as long as opening the file; reading these bytes does not.

    Returns:
        Equal for files that state the same CRS in the same way; None where they cannot be found.
    """
    try:
        with open(path, "rb") as file:
            return _geo_keys(file)
    except (OSError, OverflowError, ValueError, KeyError, struct.error):  # GDAL tells what is wrong
        return None


def _geo_keys(file: BinaryIO) -> bytes:
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}[start[:2]]
    (version,) = struct.unpack(f"{order}H", start[2:4])
    word, count = {42: ("I", "H"), 43: ("Q", "Q")}[version]
    (directory,) = struct.unpack_from(order + word, start, 4 if version == 42 else 8)
    file.seek(directory)
    entry = struct.Struct(f"{order}HH{word}{struct.calcsize(word)}s")  # tag, type, count, value
    (entries,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
    if entries > _MOST_ENTRIES:
        raise ValueError(entries)
    found = [
        each for each in entry.iter_unpack(file.read(entries * entry.size)) if each[0] in _TAGS
    ]
    return b"".join([start[:2], *(_value(file, order + word, *each) for each in found)])


def _value(file: BinaryIO, word: str, tag: int, kind: int, count: int, inline: bytes) -> bytes:
    """A tag and its value: in the entry itself if it is that short, else where the entry points."""
    size = count * _BYTES[tag, kind]
    if size > _MOST_BYTES:
        raise ValueError(size)
    value = inline
    if size > len(inline):
        file.seek(*struct.unpack(word, inline))
        value = file.read(size)
    return struct.pack("<HI", tag, count) + value
