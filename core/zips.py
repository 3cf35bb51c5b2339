"""Products in zip files, as agencies deliver them: listed and read where they are.

A file in one is called as GDAL calls it: `/vsizip//data/S2A_….zip/S2A_….SAFE/…/T32TQM_B04.jp2`.
"""

import os
import re
import zlib
from pathlib import PurePosixPath
from typing import BinaryIO, cast
from zipfile import BadZipFile, ZipFile, ZipInfo

from tilezoo.errors import TileError
from tilezoo.products.scenes import is_container

_INSIDE = re.compile(r"/vsizip/(?P<archive>.+?\.zip)/(?P<inner>.+)", re.IGNORECASE)
_SUFFIX = ".zip"
DAMAGED = (BadZipFile, EOFError, zlib.error)  # what reading a file in a damaged one raises


def split_zipped(path: str) -> tuple[str, str] | None:
    """Split a path into a zip file into that and the name within; None for an ordinary path."""
    match = _INSIDE.fullmatch(path)
    return None if match is None else (match["archive"], match["inner"])


def is_zipped_product(path: str) -> bool:
    """Tell by its name whether a zip file is a delivery of a known product (`S2A_MSIL2A_….zip`)."""
    stem, suffix = os.path.splitext(path)
    if suffix.lower() != _SUFFIX:
        return False
    plain = stem[: -len(".SAFE")] if stem.upper().endswith(".SAFE") else stem
    return any(is_container(f"/{os.path.basename(plain)}{end}") for end in ("", ".SAFE"))


def list_zipped(path: str) -> tuple[str, list[str]] | None:
    """Find the product in a zip file: GDAL's name of its folder, and what lies in that, sorted.

    None where there is none: no folder, several, or one of no known product.

    Raises:
        TileError: The file cannot be read, or is no zip file.
    """
    try:
        with ZipFile(path) as archive:
            names = [name for name in archive.namelist() if _is_plain(name)]
    except (OSError, BadZipFile, ValueError, NotImplementedError) as error:
        raise TileError("unreadable", f"not a readable zip file ({error})") from error
    tops = {name.partition("/")[0] for name in names}
    top = next(iter(tops), "")
    if len(tops) != 1 or not is_container(f"/{top}"):
        return None
    return f"/vsizip/{path}/{top}", sorted(name[len(top) + 1 :] for name in names)


def _is_plain(name: str) -> bool:
    """Tell whether a name is that of a file and stays in the archive."""
    parts = PurePosixPath(name).parts
    return not name.endswith("/") and not name.startswith("/") and ".." not in parts


def open_stored(path: str) -> BinaryIO:
    """Open a file to read its first bytes, in a zip file or not.

    Raises:
        OSError: It is not there, or the zip file is damaged.
    """
    found = split_zipped(path)
    if found is None:
        return open(path, "rb", buffering=0)
    try:
        with ZipFile(found[0]) as archive:
            return cast("BinaryIO", archive.open(found[1]))
    except (KeyError, BadZipFile, RuntimeError, NotImplementedError) as error:
        raise OSError(f"cannot be read from its zip file ({error})") from error


def count_bytes(path: str) -> int:
    """Bytes that a file takes on disk, in a zip file or not.

    Raises:
        OSError: It is not there.
    """
    found = split_zipped(path)
    return os.path.getsize(path) if found is None else _find_entry(*found).compress_size


def _find_entry(archive: str, inner: str) -> ZipInfo:
    try:
        with ZipFile(archive) as opened:
            return opened.getinfo(inner)
    except (KeyError, BadZipFile) as error:
        raise OSError(f"cannot be read from its zip file ({error})") from error
