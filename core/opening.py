"""Opening image files with GDAL: which are taken, with what settings, and what it need not do."""

import os
import struct
import time
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

from tilezoo.errors import TileError, TileErrorKind
from tilezoo.formats import IMAGE_SUFFIXES, find_driver

if TYPE_CHECKING:
    from rasterio.env import Env
    from rasterio.io import DatasetReader

# GeoKeyDirectory (shorts), GeoDoubleParams (doubles), GeoAsciiParams (characters): tag and type →
# bytes a value (OGC 19-008r4, https://docs.ogc.org/is/19-008r4/19-008r4.html).
_BYTES = {(34735, 3): 2, (34736, 12): 8, (34737, 2): 1}
_TAGS = {tag for tag, _ in _BYTES}
_MOST_ENTRIES, _MOST_BYTES = 1000, 1 << 16  # a header beyond these is damaged


def read_geo_keys(path: str) -> bytes | None:
    """Read the GeoKeys of a TIFF's (or BigTIFF's) first image, as they are stored.

    Reading a CRS takes GDAL three times as long as opening the file; reading these bytes does not.

    Returns:
        Equal for files that state the same CRS in the same way; None where they cannot be found.
    """
    try:
        with open(path, "rb") as file:
            return _parse_geo_keys(file)
    except (OSError, OverflowError, ValueError, KeyError, struct.error):  # GDAL tells what is wrong
        return None


def _parse_geo_keys(file: BinaryIO) -> bytes:
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
    return b"".join([start[:2], *(_read_value(file, order + word, *each) for each in found)])


def _read_value(file: BinaryIO, word: str, tag: int, kind: int, count: int, inline: bytes) -> bytes:
    """A tag and its value: in the entry itself if it is that short, else where the entry points."""
    size = count * _BYTES[tag, kind]
    if size > _MOST_BYTES:
        raise ValueError(size)
    value = inline
    if size > len(inline):
        file.seek(*struct.unpack(word, inline))
        value = file.read(size)
    return struct.pack("<HI", tag, count) + value


_GDAL = {
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",  # a truncated JPEG is an error, not a grey half
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # the fast way takes a truncated PNG for black pixels
    "GDAL_CACHEMAX": 64 << 20,  # bytes; the default is 5 % of the machine
    "GDAL_PAM_ENABLED": "YES",
    # A CRS as the file states it: half the time of opening was comparing it with the EPSG's.
    "GTIFF_SRS_SOURCE": "GEOKEYS",
}
# What GDAL looks for beside a file: masks, world files, .aux.xml, 45 kinds of metadata.
_BESIDE = "GDAL_DISABLE_READDIR_ON_OPEN"
_NOTHING = "EMPTY_DIR"
_BY_NAME = "TRUE"  # each by its name; by listing the folder, 100,000 tiles were listed per tile
# Of what lies beside images, what GDAL has no use for; folders have no suffix as a rule.
_NO_USE = IMAGE_SUFFIXES | {"", ".json", ".geojson", ".csv", ".parquet"}
_SETTLED_NS = 3_000_000_000  # the coarsest file systems date in steps of two seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stated:
    """A CRS as a TIFF states it: equal for equal GeoKeys, in whichever file they are read."""

    keys: bytes
    dataset: "DatasetReader" = field(compare=False)


def gdal() -> "Env":
    """GDAL's settings for reading, in force inside the `with` block and this thread."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    # Tiles without a place are ordinary here: their geometry is null.
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    return rasterio.Env(**_GDAL, **{_BESIDE: _BY_NAME})


def open_dataset(path: str) -> "DatasetReader":
    """Open a file, inside `gdal()`; ask `crs_wkt` for its CRS, for it does not know it itself.

    Raises:
        TileError: It is not there, cannot be opened, or is of no format that is taken.
    """
    from rasterio.env import setenv
    from rasterio.errors import RasterioError

    try:
        setenv(**{_BESIDE: _NOTHING if _is_alone(path) else _BY_NAME})
        return _reader_class()(path, driver=find_driver(path))
    except (RasterioError, OSError) as error:
        kind: TileErrorKind = "unreadable" if os.path.exists(path) else "missing"
        raise TileError(kind, one_line(error)) from error


def crs_wkt(dataset: "DatasetReader") -> str | None:
    """The CRS of a dataset that `open_dataset` gave, as WKT; None without one.

    Raises:
        TileError: The CRS is damaged.
    """
    from rasterio.errors import CRSError, RasterioError

    path = dataset.name
    # What lies beside a file can overrule what it states.
    keys = read_geo_keys(path) if dataset.driver == "GTiff" and _is_alone(path) else None
    try:
        return _cached_wkt(_Stated(keys=keys, dataset=dataset)) if keys else _read_wkt(dataset)
    except (RasterioError, CRSError, OSError) as error:
        raise TileError("unreadable", one_line(error)) from error


@lru_cache(maxsize=256)
def crs_name(wkt: str) -> str:
    """Write a CRS as `EPSG:…` where it is one of these, else as WKT."""
    from rasterio.crs import CRS

    return str(CRS.from_wkt(wkt).to_string())


def one_line(error: BaseException) -> str:
    """Tell an error in one line."""
    # rasterio's own words on a failed read are "See previous exception for details."
    cause = error.__cause__ or error
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if len(text) <= 200 else text[:199] + "…"


@lru_cache(maxsize=256)
def _cached_wkt(stated: _Stated) -> str | None:
    return _read_wkt(stated.dataset)


def _read_wkt(dataset: "DatasetReader") -> str | None:
    from rasterio.io import DatasetReader

    crs = DatasetReader.read_crs(dataset)
    return str(crs.wkt) if crs else None


@lru_cache(maxsize=1)
def _reader_class() -> "type[DatasetReader]":
    from rasterio.io import DatasetReader

    class WithoutCrs(DatasetReader):  # type: ignore[misc]  # rasterio has no types
        """Opens a file in a quarter of the time, most of which goes into the CRS."""

        def read_crs(self) -> None:
            """Leave it to `crs_wkt`."""

    return WithoutCrs


def _is_alone(path: str) -> bool:
    """Tell whether nothing that GDAL could look for lies in a file's folder, nor will any moment."""
    folder = os.path.dirname(path) or "."
    try:
        changed_ns = os.stat(folder).st_mtime_ns
        settled = time.time_ns() - changed_ns > _SETTLED_NS
        return settled and _holds_images_alone(folder, changed_ns)
    except OSError:  # a folder that may be entered but not listed
        return False


@lru_cache(maxsize=1024)
def _holds_images_alone(folder: str, _changed_ns: int) -> bool:
    return all(os.path.splitext(name)[1].lower() in _NO_USE for name in os.listdir(folder))
