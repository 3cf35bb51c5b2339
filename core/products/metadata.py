"""Reading small metadata files of products, whatever is in them: XML, JSON, Landsat's lists.

Nothing here raises for what a file holds: one that is too large, no file at all, damaged or hostile
(entities, nesting without end) tells nothing.
"""

import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeAlias
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from tilezoo.errors import TileError
from tilezoo.times import parse_time

Json: TypeAlias = "dict[str, Json] | list[Json] | str | float | bool | None"

_MOST_BYTES = 8 << 20  # the largest known are some MB (DIMAP of Pléiades Neo)
_MOST_NESTED = 100
_ZIPPED = re.compile(r"/vsizip/\{?(?P<archive>.+?\.zip)\}?/(?P<inner>.+)", re.IGNORECASE)


def read_first(*paths: Path) -> bytes | None:
    """Read the first of some files that is there; None where there is none, or none fit to be read.

    Args:
        paths: Also inside a zip file, as GDAL calls it (`/vsizip/scene.zip/scene/MTD.xml`).
    """
    return next((data for path in paths if (data := _read(path)) is not None), None)


def _read(path: Path) -> bytes | None:
    try:
        data = _read_zipped(path) if "vsizip" in path.parts[:2] else _read_plain(path)
    # KeyError: not in the archive; the others are what zipfile says of damaged and of locked ones.
    except (OSError, KeyError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return data if 0 < len(data) <= _MOST_BYTES else None


def _read_zipped(path: Path) -> bytes:
    match = _ZIPPED.fullmatch(str(path))
    if match is None:
        return b""
    whole = Path("/", match["archive"])  # the second slash of `/vsizip//…` is lost in a Path
    name = whole if whole.is_file() else match["archive"]
    with zipfile.ZipFile(name) as archive, archive.open(match["inner"]) as file:
        return file.read(_MOST_BYTES + 1)


def _read_plain(path: Path) -> bytes:
    if not path.is_file():  # a pipe would keep a reader waiting
        return b""
    with path.open("rb") as file:
        return file.read(_MOST_BYTES + 1)


def read_tags(path: Path) -> tuple[float, float, Mapping[str, str]]:
    """Scale, offset and tags of an image file; 1, 0 and nothing where it cannot be read."""
    from tilezoo.opening import gdal, open_dataset

    try:
        with gdal(), open_dataset(str(path)) as dataset:
            return dataset.scales[0], dataset.offsets[0], dataset.tags()
    except TileError:  # told when its pixels are read
        return 1.0, 0.0, {}


def to_number(text: str | None) -> float | None:
    """A finite number; None for anything else."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def to_time(*texts: str) -> datetime | None:
    """The first of some texts that is a time, UTC."""
    return next((time for text in texts if text and (time := parse_time(text))), None)


def parse_xml(data: bytes | None) -> Element | None:
    """Parse XML without its namespaces; None for anything that is not plain XML.

    A document type is refused: entities are declared there, and no metadata of a product has one.
    """
    if data is None:
        return None
    try:
        return _Plain().parse(data)
    # ValueError: an encoding that is not known; LookupError likewise.
    except (expat.ExpatError, ValueError, LookupError):
        return None


class _Plain:
    """Builds a tree of elements as expat reads them."""

    def __init__(self) -> None:
        self._builder, self._depth = TreeBuilder(), 0

    def parse(self, data: bytes) -> Element:
        """Parse a whole document; raises ValueError for what is not taken."""
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._builder.data
        parser.Parse(data, True)
        return self._builder.close()

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MOST_NESTED:
            raise ValueError("nested too deep")
        self._builder.start(_local(tag), {_local(k): v for k, v in attributes.items()})

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self._builder.end(_local(tag))


def _local(tag: str) -> str:
    return tag.rpartition(":")[2]


def find_text(root: Element | None, *tags: str) -> str:
    """The text of the first element of these names, the first name first; empty for none."""
    if root is None:
        return ""
    texts = (element.text or "" for tag in tags for element in root.iter(tag))
    return next((text.strip() for text in texts if text.strip()), "")


def parse_json(data: bytes | None) -> Json:
    """Parse JSON; None for anything else."""
    if data is None:
        return None
    try:
        parsed: Json = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return parsed


def pick(value: Json, *path: str | int) -> str:
    """The text at a path of keys and places in parsed JSON; empty where there is none."""
    for step in path:
        if isinstance(value, dict) and isinstance(step, str):
            value = value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return ""
    return value if isinstance(value, str) else ""


def parse_groups(data: bytes | None) -> dict[str, dict[str, str]]:
    """Read Landsat's MTL file in any of its three forms: group → key → value, both upper case.

    Groups are the innermost; what is told outside of any is in the group of an empty name.
    """
    if data is None:
        return {}
    start = data.lstrip()[:1]
    if start == b"{":
        found = _list_json(parse_json(data), "", 0)
    elif start == b"<":
        found = _list_xml(parse_xml(data))
    else:
        found = _list_lines(data.decode("utf-8", "replace"))
    groups: dict[str, dict[str, str]] = {}
    for group, key, value in found:
        groups.setdefault(group.upper(), {})[key.upper()] = value
    return groups


def _list_json(value: Json, group: str, depth: int) -> Iterator[tuple[str, str, str]]:
    if not isinstance(value, dict) or depth > _MOST_NESTED:
        return
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _list_json(inner, key, depth + 1)
        elif isinstance(inner, str | float | int):
            yield group, key, str(inner)


def _list_xml(root: Element | None) -> Iterator[tuple[str, str, str]]:
    for parent in () if root is None else root.iter():
        for child in parent:
            if len(child) == 0:
                yield parent.tag, child.tag, (child.text or "").strip()


def _list_lines(text: str) -> Iterator[tuple[str, str, str]]:
    """`KEY = value` in `GROUP = NAME` … `END_GROUP = NAME`; DigitalGlobe's lists are alike."""
    groups: list[str] = []
    for line in text.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        value = value.rstrip(";").strip().strip('"')
        if not equals:
            continue
        if key.upper() in {"GROUP", "BEGIN_GROUP"}:
            groups.append(value)
            yield "", f"GROUP {value}", ""
        elif key.upper() == "END_GROUP":
            groups = groups[:-1]
        else:
            yield groups[-1] if groups else "", key, value
