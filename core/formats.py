"""Which files are images: by suffix and first bytes, by a header beside them, or not at all."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tilezoo.errors import TileError

# Of a folder's files these are taken for images by their names alone.
COMMON_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2"})
IMAGE_SUFFIXES = COMMON_SUFFIXES | {
    *(".vrt", ".jpx", ".j2k", ".webp", ".bmp", ".gif", ".ntf", ".nitf")
}
# And these if their first bytes, or a header beside them, say so: the suffixes are of other files too.
_DOUBTFUL_SUFFIXES = frozenset({".img", ".asc"})
_RAW_SUFFIXES = frozenset({"", ".dat", ".img", ".bil", ".bip", ".bsq", ".bin", ".raw", ".envi"})
STORE_SUFFIXES = frozenset({".zarr"})  # of folders that are one store of many files
_ARRAY_MARKS = frozenset({".zarray", "zarr.json"})  # files of an array in a Zarr store
# What lies beside images and is of them: masks, overviews, world files, metadata.
_BESIDE_SUFFIXES = frozenset(
    {".aux", ".aux.xml", ".hdr", ".prj", ".ovr", ".msk", ".wld", ".rrd", ".ige", ".rpb", ".imd"}
    | {".xml", ".json", ".geojson", ".stx", ".clr"}
)
# World files (.tfw, .jgw, .tifw), and metadata in text as Landsat and Maxar write them.
_BESIDE = re.compile(
    r"\.[a-z]\w?\w?\w?w$|_(?:MTL|ANG|GCP|VER|RPC|MD5|metadata)\.txt$", re.IGNORECASE
)
START_BYTES = 512  # of a file, that tell its format
_ENVI, _ESRI = (
    re.compile(rb"ENVI\s"),
    re.compile(rb"\s*(?:BYTEORDER|LAYOUT|NROWS|NCOLS)\s", re.IGNORECASE),
)
# GDAL's driver of a file, by its first bytes.
_DRIVERS = tuple(
    (re.compile(start, re.DOTALL | re.IGNORECASE if driver == "AAIGrid" else re.DOTALL), driver)
    for start, driver in (
        (rb"II[*+]\0|MM\0[*+]", "GTiff"),  # 43 is BigTIFF's
        (rb"\x89PNG", "PNG"),
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JP2OpenJPEG"),
        (rb"EHFA_HEADER_TAG", "HFA"),
        (rb"RIFF....WEBP", "WEBP"),
        (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
        (rb"GIF8[79]a", "GIF"),
        (rb"NITF0|NSIF0", "NITF"),
        (rb"\s*(?:ncols|nrows|xll(?:corner|center)|yll(?:corner|center)|cellsize)\s", "AAIGrid"),
        (rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<VRTDataset", "VRT"),
        (rb"CDF[\x01\x02\x05]", "netCDF"),
        (rb"\x89HDF\r\n\x1a\n", "HDF5"),
        (rb"SQLite format 3\0", "GPKG"),
    )
)
# What is taken by first bytes and suffix alone: it leads to other files, or is not always an image.
_BY_SUFFIX_TOO = {"VRT": {".vrt"}, "GPKG": {".gpkg"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refused:
    """A format that is known and not read."""

    start: re.Pattern[bytes]
    what: str
    fix: str


_UNPACK = "unpack it and name the folder"
_REFUSED = tuple(
    _Refused(start=re.compile(start, re.DOTALL), what=what, fix=fix)
    for start, what, fix in (
        (rb"PK\x03\x04", "a zip archive", _UNPACK),
        (rb"\x1f\x8b", "packed by gzip", "unpack it (gunzip, tar -xzf) and name what comes out"),
        (rb"BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c", "a packed file", _UNPACK),
        (rb".{257}ustar", "a tar archive", _UNPACK),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", "write it as PNG first (djxl IN OUT.png)"),
        (rb"....ftyp(?:avif|avis|heic|heix|mif1)", "AVIF or HEIF", "write it as PNG first"),
        (rb"\x0e\x03\x13\x01", "HDF4", "write what it holds as GeoTIFFs first (gdal_translate)"),
        (rb"SQLite format 3\0", "a database", "write it as GeoTIFF first (gdal_translate)"),
        (rb"%PDF", "a PDF", "write its pages as images first (gdal_translate, pdftoppm)"),
    )
)


def suffix_of(name: str) -> str:
    """The suffix of a file's name, in small letters with its dot; empty without one."""
    return os.path.splitext(name)[1].lower()


def split_part(path: str) -> tuple[str, str | None]:
    """Split `scene.tif:2` and `scene.nc:B04` into the file and which part of it is meant.

    Returns:
        The path and None where it is that of a file, or no file is named in this way.
    """
    if ":" not in path or os.path.lexists(path):
        return path, None
    places = (match.start() for match in re.finditer(":", path))
    found = next((place for place in places if os.path.isfile(path[:place])), None)
    return (path, None) if found is None else (path[:found], path[found + 1 :])


def find_driver(path: str, start: bytes) -> str:
    """Find GDAL's driver of a file by its first bytes, else by the header beside it.

    Raises:
        TileError: It is empty or of no format that is taken, with what can be done.
        OSError: The header cannot be read.
    """
    found = next((driver for signature, driver in _DRIVERS if signature.match(start)), None)
    own = _BY_SUFFIX_TOO.get(found or "")
    if own and suffix_of(path) not in own:  # a file that says it is something else
        found = None
    if found is None and suffix_of(path) in _RAW_SUFFIXES:
        found = _find_raw_driver(path)
    if found is None:
        raise TileError("unreadable", _tell_format(start))
    return found


def list_headers(path: str) -> list[str]:
    """List the headers beside a file that may be of plain numbers; none for another."""
    if suffix_of(path) not in _RAW_SUFFIXES:
        return []
    near = (f"{os.path.splitext(path)[0]}.hdr", f"{path}.hdr")
    return [header for header in near if header != path and os.path.isfile(header)]


def tell_refused(path: str) -> str | None:
    """Why a file or store cannot be an image, and what to do; None where it may be one."""
    if suffix_of(path) in STORE_SUFFIXES and os.path.isdir(path):
        return _tell_store(path)
    if not os.path.isfile(path):  # to open a pipe is to wait for ever
        return None
    try:
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
        find_driver(path, start)
    except TileError:
        return _tell_known(start)
    except OSError:  # told when it is read
        return None
    return None


def _tell_store(path: str) -> str:
    """What to do with a Zarr store, by its first array."""
    arrays = (os.path.relpath(f, path) for f, _, names in os.walk(path) if _ARRAY_MARKS & {*names})
    first = next(arrays, ".").removeprefix(".")
    own = f'ZARR:"{path}":/{first}'
    return f"a Zarr store; write an array of it as GeoTIFF first (gdal_translate '{own}' OUT.tif)"


def _tell_known(start: bytes) -> str | None:
    known = next((one for one in _REFUSED if one.start.match(start)), None)
    return f"{known.what}; {known.fix}" if known else None


def sort_out(folder: str, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Sort a folder's files whose suffix does not say that they are images.

    Returns:
        Those that are images by their first bytes or a header, and the suffixes of those that are
        passed over: neither images nor of an image.
    """
    names = list(names)
    headers = {name[: -len(".hdr")] for name in names if suffix_of(name) == ".hdr"}
    images, passed_over = [], []
    for name in names:
        stem, suffix = os.path.splitext(name)
        kind = suffix.lower()
        raw = kind in _RAW_SUFFIXES and (name in headers or stem in headers)
        if (raw or kind in _DOUBTFUL_SUFFIXES) and _is_image(os.path.join(folder, name)):
            images.append(name)
        elif kind not in _BESIDE_SUFFIXES and not _BESIDE.search(name):
            passed_over.append(kind)
    return images, passed_over


def _is_image(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            find_driver(path, file.read(START_BYTES))
    except (TileError, OSError):
        return False
    return True


def _find_raw_driver(path: str) -> str | None:
    """The driver of plain numbers that a header beside them tells of."""
    for header in list_headers(path):
        with open(header, "rb") as file:
            start = file.read(START_BYTES)
        if _ENVI.match(start):
            return "ENVI"
        if _ESRI.match(start):
            return "EHdr"
    return None


def _tell_format(start: bytes) -> str:
    if not start:
        return "the file is empty"
    return _tell_known(start) or "not a TIFF, PNG, JPEG, JPEG 2000 or other image that is read"
