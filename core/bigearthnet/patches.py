"""BigEarthNet's patches on disk: where they lie, and what each says of itself."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import csv

from tilezoo.bigearthnet.labels import LABELS_43, is_patch_name, patch_version, refuse_unknown
from tilezoo.errors import LabelsError, SourceError, TileError, TileErrorKind
from tilezoo.geo import lonlat_transformer
from tilezoo.image import read_bounds
from tilezoo.opening import gdal
from tilezoo.sources import Source
from tilezoo.table import Failure
from tilezoo.tiles import TileRef
from tilezoo.times import parse_time, time_in_name

_JSON = "labels_metadata.json"
_MOST_BYTES = 64 << 10  # real ones have about 1.5 kB
_KEYS = {
    "labels": list,
    "coordinates": dict,
    "projection": str,
    "acquisition_date": str,
    "tile_source": str,
}
_SIDES = ("ulx", "lry", "lrx", "uly")  # west, south, east, north
_LONGEST_SIDE = 10_000.0  # metres; real patches have 1200
_BANDS = ("B04", "B03", "B02")  # those that an RGB copy of BigEarthNet has
_DATES_APART = timedelta(days=1)  # names like T94161 are seconds off
# Folders not to look into: v2's maps, in folders called like the patches, and radar.
_NOT_LOOKED_INTO = (".", "Reference_Maps", "BigEarthNet-S1", "S1A_", "S1B_")
_NAME_COLUMNS = ("name", "patch_id", "s2_name", "id")
_Facts = TypeVar("_Facts")


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchFacts:
    """What a patch's own files say of it.

    Attributes:
        crs: Its CRS as WKT; None where only the name is known.
        box: xmin, ymin, xmax, ymax in that CRS.
        labels: Of the 43; None where there is no JSON of labels.
        moment: Acquisition time in UTC as the JSON has it; None without a JSON.
        tile_source: The Sentinel-2 product it was cut from.
    """

    crs: str | None = None
    box: tuple[float, float, float, float] | None = None
    labels: list[str] | None = None
    moment: datetime | None = None
    tile_source: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches:
    """Names of patches, sorted, and the folders that hold their folders.

    Attributes:
        names: Without repeats.
        folders: Every folder that holds patches.
        folder_of: Which of them holds each patch, shape (N,); empty where only names are known.
    """

    names: pa.StringArray
    folders: Sequence[str]
    folder_of: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def on_disk(self) -> bool:
        """Whether there are files to read."""
        return len(self.folder_of) > 0

    def slice(self, first: int, last: int) -> list[tuple[str, str]]:
        """Names and paths of patches `first` to `last` (exclusive); the name for a bare name."""
        names = self.names[first:last].to_pylist()
        if not self.on_disk:
            return [(name, name) for name in names]
        places = self.folder_of[first:last].tolist()
        return [(n, f"{self.folders[i]}/{n}") for n, i in zip(names, places, strict=True)]


def find_patches(root: Path) -> Patches:
    """Find the Sentinel-2 patches in a folder and the folders below it.

    Raises:
        SourceError: There are none, a folder cannot be read, or a patch lies there twice.
    """
    top = Path(os.path.abspath(root))
    if is_patch_name(top.name):
        groups = [(str(top.parent), [top.name])]
    else:
        groups = list(_walk(str(top), frozenset()))
    if not groups:
        looked_for = "folders called like S2A_MSIL2A_20170613T101031_87_48"
        raise SourceError(f"{root}: no patch of BigEarthNet-S2 is there; looked for {looked_for}")
    names = pa.concat_arrays([pa.array(found, pa.string()) for _, found in groups])
    sizes = [len(found) for _, found in groups]
    order = pc.sort_indices(names)
    folders = [folder for folder, _ in groups]
    folder_of = np.repeat(np.arange(len(groups), dtype=np.int32), sizes)[order.to_numpy()]
    patches = Patches(names=names.take(order), folders=folders, folder_of=folder_of)
    _refuse_repeats(patches, root)
    return patches


def read_patch_list(path: Path) -> Patches:
    """Take a list of names for patches; none is looked for on disk.

    Args:
        path: Parquet or CSV with a column `name`, `patch_id`, `s2_name` or `id`, or a text with
            one name a line.

    Raises:
        SourceError: It is no such list, is empty, or a name comes twice.
    """
    names = _read_names(path)
    if not len(names) or names.null_count:
        raise SourceError(f"{path}: lists no patch in some row; one name a row is expected")
    ordered = names.take(pc.sort_indices(names))
    patches = Patches(names=ordered, folders=(), folder_of=np.empty(0, np.int32))
    _refuse_repeats(patches, path)
    return patches


def read_patches(patches: Sequence[tuple[str, str]]) -> list[PatchFacts | Failure]:
    """Read the JSON of each patch (name, path), or the header of a band where there is none."""
    found = [_attempt(_read_json, *patch) for patch in patches]
    without = [place for place, facts in enumerate(found) if facts is None]
    if without:
        with gdal():
            for place in without:
                found[place] = _attempt(_read_header, *patches[place])
    return [facts for facts in found if facts is not None]


def failure(path: str, kind: TileErrorKind, message: str) -> Failure:
    """Write down that the patch at `path` gives no row."""
    text = os.fsencode(path).decode(errors="replace")  # a Parquet file holds UTF-8 alone
    source = Source(id=text, path=text)
    return Failure(ref=TileRef(source=source), kind=kind, message=message)


def parse_labels_json(text: bytes, name: str) -> PatchFacts:
    """Read a patch's `…_labels_metadata.json`, and hold it against the patch's name.

    Raises:
        TileError: It is no JSON, lacks something, has labels none of the 43, or another date
            than the name.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TileError("unreadable", f"{_JSON}: not JSON ({error})") from error
    _check_keys(data)
    try:
        refuse_unknown(data["labels"], LABELS_43)
    except LabelsError as error:
        raise TileError("unreadable", f"{_JSON}: {error}") from error
    return PatchFacts(
        crs=_check_crs(data["projection"]),
        box=_parse_box(data["coordinates"]),
        labels=data["labels"],
        moment=_check_date(data["acquisition_date"], name),
        tile_source=data["tile_source"],
    )


def _walk(folder: str, above: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    """Find folders that hold patches, with the patches' names; patches are not looked into."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder above: what is there is found anyway
        return
    patches, below = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_patch_name(entry.name):
                    patches.append(entry.name)
                elif entry.is_dir() and not entry.name.startswith(_NOT_LOOKED_INTO):
                    below.append(entry.path)
    except OSError as error:
        reason = error.strerror or error
        raise SourceError(
            f"{folder}: cannot be read ({reason}); see to it or name another"
        ) from error
    if patches:
        yield folder, patches
    for path in sorted(below):
        yield from _walk(path, above | {real})


def _read_names(path: Path) -> pa.StringArray:
    try:
        if path.suffix.lower() == ".parquet":
            file = pq.ParquetFile(path)
            column = next((c for c in _NAME_COLUMNS if c in file.schema_arrow.names), None)
            found = file.read([column]) if column else None
        else:
            found = _read_csv_names(path)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise SourceError(f"{path}: not a readable list of patches ({reason})") from error
    if found is None:
        columns = ", ".join(_NAME_COLUMNS)
        raise SourceError(f"{path}: no column of patches' names; call it one of {columns}")
    return found.column(0).cast(pa.string()).combine_chunks()


def _read_csv_names(path: Path) -> pa.Table | None:
    """Read the column of names of a list that has a header, or has none as the official ones."""
    options = csv.ReadOptions(autogenerate_column_names=True)
    found = csv.read_csv(path, read_options=options)
    first = found.slice(0, 1).to_pylist()[0] if found.num_rows else {}
    for number, heading in enumerate(map(str, first.values())):
        if heading in _NAME_COLUMNS:
            return found.select([number]).slice(1)
        if is_patch_name(heading):
            return found.select([number])
    return None


def _refuse_repeats(patches: Patches, where: Path) -> None:
    names = patches.names
    repeated = np.flatnonzero(pc.equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False))
    if not len(repeated):
        return
    first = int(repeated[0])
    (name, path), (_, other) = patches.slice(first, first + 2)
    reason = f": {path} and {other}" if patches.on_disk else ""
    raise SourceError(f"{where}: the patch {name} is there twice{reason}; leave one of them")


def _attempt(read: Callable[[str, str], _Facts], name: str, path: str) -> _Facts | Failure:
    try:
        return read(name, path)
    except TileError as error:
        return failure(path, error.kind, str(error))


def _read_json(name: str, path: str) -> PatchFacts | None:
    """Read a v1 patch's JSON; None where it has none, as in copies of the bands alone, or v2."""
    if patch_version(name) == 2:
        return None
    try:
        with open(f"{path}/{name}_{_JSON}", "rb") as file:
            return parse_labels_json(file.read(_MOST_BYTES), name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TileError("unreadable", f"{_JSON}: {error.strerror or error}") from error


def _read_header(name: str, path: str) -> PatchFacts:
    candidates = (f"{path}/{name}_{band}.tif" for band in _BANDS)
    band = next((file for file in candidates if os.path.isfile(file)), None)
    if band is None:
        raise TileError("missing", f"no {_JSON} and no band {', '.join(_BANDS)}")
    crs, box = read_bounds(band)
    return PatchFacts(crs=crs, box=box)


def _check_keys(data: Any) -> None:
    if not isinstance(data, dict):
        raise TileError("unreadable", f"{_JSON}: not an object of {', '.join(_KEYS)}")
    missing = [key for key in _KEYS if key not in data]
    if missing:
        raise TileError("unreadable", f"{_JSON}: lacks {', '.join(missing)}")
    for key, kind in _KEYS.items():
        if not isinstance(data[key], kind):
            raise TileError("unreadable", f"{_JSON}: {key} is no {kind.__name__}")


def _check_crs(projection: str) -> str:
    if lonlat_transformer(projection) is None:
        raise TileError("unreadable", f"{_JSON}: the projection is no CRS on the globe")
    return projection


def _parse_box(coordinates: dict[str, Any]) -> tuple[float, float, float, float]:
    sides = [coordinates.get(side) for side in _SIDES]
    west, south, east, north = (
        float(side) if isinstance(side, int | float) and math.isfinite(side) else math.nan
        for side in sides
    )
    if not (0 < east - west <= _LONGEST_SIDE and 0 < north - south <= _LONGEST_SIDE):
        reason = ", ".join(f"{side} {value!r}" for side, value in zip(_SIDES, sides, strict=True))
        raise TileError("unreadable", f"{_JSON}: coordinates are no box of 1200 m ({reason})")
    return west, south, east, north


def _check_date(text: str, name: str) -> datetime:
    stated, named = parse_time(text), time_in_name(name)
    if stated is None:
        raise TileError("unreadable", f"{_JSON}: acquisition_date {text!r} is no date")
    if named is not None and abs(stated - named) > _DATES_APART:
        raise TileError(
            "unreadable", f"{_JSON}: is of {text}, the patch's name of {named:%Y-%m-%d}"
        )
    return stated
