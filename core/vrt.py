"""VRTs: files that make an image of others. Only those that lead nowhere but to files beside them."""

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from xml.etree import ElementTree as ET

from tilezoo.errors import TileError
from tilezoo.formats import START_BYTES, find_driver

_MOST_BYTES = 64 << 20  # a mosaic of 100,000 files has about 50 MB
# Formats that lead to no other file.
_SOURCES = frozenset({"GTiff", "PNG", "JPEG", "JP2OpenJPEG", "WEBP", "BMP", "GIF", "AAIGrid"})
# What mosaics, subsets and stacks of files are made of (https://gdal.org/drivers/raster/vrt.html).
# All else may run code, warp, or name other files.
_SOURCE_KINDS = frozenset({"SimpleSource", "ComplexSource", "AveragedSource"})
_KNOWN = _SOURCE_KINDS | {
    *("VRTDataset", "SRS", "GeoTransform", "Metadata", "MDI", "GCPList", "GCP", "MaskBand"),
    *("VRTRasterBand", "ColorInterp", "Description", "NoDataValue", "HideNoDataValue", "UnitType"),
    *("Offset", "Scale", "CategoryNames", "Category", "ColorTable", "Entry", "Histograms"),
    *("HistItem", "HistMin", "HistMax", "BucketCount", "IncludeOutOfRange", "Approximate"),
    *("HistCounts", "SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect"),
    *("NODATA", "ScaleOffset", "ScaleRatio", "LUT", "UseMaskBand", "ColorTableComponent"),
    *("Exponent", "SrcMin", "SrcMax", "DstMin", "DstMax", "OverviewList", "BlockXSize"),
    "BlockYSize",
}
_PLAIN = frozenset({None, "VRTSourcedRasterBand"})
_FIX = "write it as GeoTIFF first (gdal_translate), or make it with gdalbuildvrt beside its files"
_DECLARATION = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)


def check_vrt(path: str) -> None:
    """Refuse a VRT that could lead out of its folder, onto the network, or run code.

    Raises:
        TileError: It is damaged, or holds anything but images under its own folder.
    """
    try:
        for name in _find_sources(path):
            _check_source(os.path.dirname(path), name)
    except ET.ParseError as error:
        raise TileError("unreadable", f"not a VRT's XML ({error})") from error


def list_vrt_files(path: str) -> list[str]:
    """List the files that a VRT is made of; none where it would be refused."""
    try:
        folder = os.path.dirname(path)
        return [os.path.join(folder, name) for name in dict.fromkeys(_find_sources(path))]
    except (TileError, ET.ParseError, OSError):
        return []


def _find_sources(path: str) -> Iterator[str]:
    """Yield the names of a VRT's files, once every element is known to be harmless."""
    with open(path, "rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES or _DECLARATION.search(content):
        raise TileError("unreadable", f"a VRT of other than plain mosaics; {_FIX}")
    # GDAL takes all files for UTF-8, whatever they say; and `subclass` for `subClass`.
    parser = ET.XMLParser(encoding="utf-8")  # there are no entities
    for element in ET.fromstring(content, parser).iter():
        said = {name.lower(): value for name, value in element.items()}
        kind = said.get("subclass")
        if len(said) < len(element.keys()) or kind not in _PLAIN or element.tag not in _KNOWN:
            what = kind or element.tag
            raise TileError("unreadable", f"a VRT with {what}, which is not read; {_FIX}")
        if element.tag == "SourceFilename":
            if said.get("relativetovrt") != "1":
                raise TileError(
                    "unreadable", f"a VRT that names {element.text!r} absolutely; {_FIX}"
                )
            yield element.text or ""


def _check_source(folder: str, name: str) -> None:
    place = os.path.join(folder, name)
    inside = os.path.realpath(place).startswith(os.path.realpath(folder).rstrip(os.sep) + os.sep)
    plain = PurePosixPath(name)
    if ":" in name or plain.is_absolute() or ".." in plain.parts or not inside:
        raise TileError("unreadable", f"a VRT that leads out of its folder, to {name!r}; {_FIX}")
    if not os.path.isfile(place):
        raise TileError("missing", f"a VRT whose file {name!r} is not there")
    with open(place, "rb") as file:
        driver = find_driver(place, file.read(START_BYTES))
    if driver not in _SOURCES:
        raise TileError("unreadable", f"a VRT of {name!r}, a {driver}; {_FIX}")
