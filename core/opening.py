"""Opening image files with GDAL: which are taken, with what settings, and what it need not do."""

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from tilezoo.containers import CONTAINERS, find_inside
from tilezoo.errors import TileError, TileErrorKind
from tilezoo.formats import IMAGE_SUFFIXES, START_BYTES, find_driver, split_part
from tilezoo.tiff import Page, has_one_page, read_geo_keys, read_pages
from tilezoo.vrt import check_vrt
from tilezoo.zips import DAMAGED, count_bytes, open_stored

if TYPE_CHECKING:
    from rasterio.env import Env
    from rasterio.io import DatasetReader

_GDAL = {
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",  # a truncated JPEG is an error, not a grey half
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",  # the fast way takes a truncated PNG for black pixels
    "GDAL_CACHEMAX": 64 << 20,  # bytes; the default is 5 % of the machine
    "GDAL_PAM_ENABLED": "YES",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none",  # nothing is fetched, whatever a file names
    # A CRS as the file states it: half the time of opening was comparing it with the EPSG's.
    "GTIFF_SRS_SOURCE": "GEOKEYS",
}
# What GDAL looks for beside a file: masks, world files, .aux.xml, 45 kinds of metadata.
_BESIDE = "GDAL_DISABLE_READDIR_ON_OPEN"
_NOTHING = "EMPTY_DIR"
_BY_NAME = "TRUE"  # each by its name; by listing the folder, 100,000 tiles were listed per tile
# Of what lies beside images, what GDAL has no use for; folders have no suffix as a rule.
_NO_USE = IMAGE_SUFFIXES | {"", ".json", ".geojson", ".csv", ".parquet"}
_PAGES_SHOWN = 8
_LEADING = frozenset({"HFA", "NITF", "VRT"})  # drivers of files that may name others, or hold them
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

    Args:
        path: Of the file, with `:PART` for one of its images.

    Raises:
        TileError: It is not there, cannot be opened, is of no format that is taken, or holds
            several images and none is named.
    """
    from rasterio.env import setenv
    from rasterio.errors import RasterioError

    file, part = split_part(path)
    try:
        setenv(**{_BESIDE: _NOTHING if _is_alone(file) else _BY_NAME})
        driver, name = _find_image(file, part)
        dataset = _reader_class()(name, driver=driver)
        if driver in _LEADING:
            _refuse_more(file, dataset)
        return dataset
    except (RasterioError, OSError, *DAMAGED) as error:
        there = os.path.exists(file) or isinstance(error, DAMAGED)
        kind: TileErrorKind = "unreadable" if there else "missing"
        raise TileError(kind, one_line(error)) from error


def count_stored(dataset: "DatasetReader", path: str) -> int:
    """Bytes on disk that an open dataset is made of."""
    made_of = dataset.files if dataset.driver in _LEADING else [split_part(path)[0]]
    return sum(map(count_bytes, made_of))


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


def _find_image(path: str, part: str | None) -> tuple[str, str]:
    """GDAL's driver, and what it calls the image that is meant: the file, or one of its parts."""
    with open_stored(path) as file:
        start = file.read(START_BYTES)
        driver = find_driver(path, start)
        if part is None and driver == "GTiff" and has_one_page(file, start):
            return driver, path
    if driver == "GTiff":
        return driver, _find_page(path, part)
    if driver in CONTAINERS:
        return find_inside(path, driver, part)
    if part is not None:
        raise TileError("missing", f"has no part {part!r}; it is one image")
    if driver == "VRT":
        check_vrt(path)
    return driver, path


def _find_page(path: str, part: str | None) -> str:
    pages = read_pages(path)
    if part is None:
        _refuse_several(path, pages)
        return path
    if not any(str(page.number) == part for page in pages):
        there = f"there are {_tell_pages(pages)}" if pages else "it is one image"
        raise TileError("missing", f"has no part {part!r}; {there}")
    return f"GTIFF_DIR:{part}:{path}"


def _refuse_more(file: str, dataset: "DatasetReader") -> None:
    """Refuse a file that is made of others which are not in its folder, or holds several images."""
    folder = os.path.realpath(os.path.dirname(file)) + os.sep
    outside = [f for f in dataset.files if not os.path.realpath(f).startswith(folder)]
    several = dataset.subdatasets
    if outside or several:
        dataset.close()
    if outside:
        raise TileError("unreadable", f"leads out of its folder, to {outside[0]}")
    if several:
        fix = f"write the one you need as GeoTIFF first (gdal_translate '{several[0]}' OUT.tif)"
        raise TileError("contract", f"holds {len(several)} images; {fix}")


def _refuse_several(file: str, pages: Sequence[Page]) -> None:
    """Refuse a TIFF whose first image is a preview, or one of several."""
    full = [page for page in pages if not page.reduced]
    if len(full) > 1 or (full and pages[0].reduced):
        largest = max(full, key=lambda page: page.size[0] * page.size[1])
        fix = f"name one: {file}:{largest.number}"
        raise TileError("contract", f"holds several images: {_tell_pages(pages)}; {fix}")


def _tell_pages(pages: Sequence[Page]) -> str:
    shown = [
        f"{page.number} ({'x'.join(map(str, page.size))} px{', reduced' * page.reduced})"
        for page in pages[:_PAGES_SHOWN]
    ]
    left = len(pages) - len(shown)
    return ", ".join([*shown, *([f"{left} more"] if left else [])])


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
