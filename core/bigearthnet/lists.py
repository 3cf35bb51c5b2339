"""BigEarthNet v1's official lists: splits, countries, seasons, snow, cloud, and who has no label.

They ship as data in the package bigearthnet-common, whose code does not run any more; only its
files are read.
"""

from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from tilezoo.errors import LabelsError

_PACKAGE = "bigearthnet_common"
_ALL = "s1_s2_name_country_season"
_COLUMNS = {"s2_name": "name", "s1_name": "s1_name", "country": "country", "season": "season"}
_SPLITS = {"train": "train", "val": "validation", "test": "test"}  # file → name of the split
_SNOW = "patches_with_seasonal_snow"
_CLOUD = "patches_with_cloud_and_shadow"
_UNLABELLED = "patches_with_no_19_class_targets"
_WORD = pa.dictionary(pa.int8(), pa.string())

LISTS_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("s1_name", pa.string()),
        pa.field("country", _WORD),
        pa.field("season", _WORD),
        pa.field("original_split", _WORD),
        pa.field("snow", pa.bool_()),
        pa.field("cloud_or_shadow", pa.bool_()),
        pa.field("labelled", pa.bool_()),
    ]
)


def read_lists(folder: str | Path | None = None) -> pa.Table:
    """Read the official lists into one row for each of the 590,326 patches of v1.

    Takes about three seconds and 60 MB. A season is the list's own, which is that of the
    Sentinel-1 partner's date: for 438 patches at the end of August and November another than
    that of the Sentinel-2 image.

    Args:
        folder: Where the lists lie as .csv.bz2 or .csv; those of bigearthnet-common if None.

    Returns:
        Columns of `LISTS_SCHEMA`. `original_split` is train, validation or test, null for
        patches out of all three; `labelled` tells whether one of the 19 classes is there.

    Raises:
        LabelsError: A list is missing or damaged, or the lists contradict each other.
    """
    place = _package_folder() if folder is None else Path(folder)
    patches = _read_all(place)
    names = patches["name"]
    splits = {name: _mark(names, place, stem) for stem, name in _SPLITS.items()}
    columns = {
        **{name: patches[name] for name in _COLUMNS.values()},
        "original_split": _assign_splits(splits, names, place),
        "snow": _mark(names, place, _SNOW),
        "cloud_or_shadow": _mark(names, place, _CLOUD),
        "labelled": pc.invert(_mark(names, place, _UNLABELLED)),
    }
    return pa.table(columns).select(LISTS_SCHEMA.names).cast(LISTS_SCHEMA).combine_chunks()


def join_lists(names: pa.Array, lists: pa.Table) -> pa.Table:
    """Find what the lists say of patches, by their names alone.

    Args:
        names: Of patches of v1, in any order.
        lists: From `read_lists`.

    Returns:
        The lists' columns but `name`, in the order of `names`; null where a name is not listed.
    """
    rows = pc.index_in(names, lists["name"])
    return lists.drop_columns("name").take(rows)


def _package_folder() -> Path:
    found = find_spec(_PACKAGE)  # a top-level name: found without importing it
    if found is None or not found.submodule_search_locations:
        raise LabelsError(
            "BigEarthNet's official lists (splits, countries, snow, cloud) are not installed; "
            "pip install --no-deps bigearthnet-common, or name their folder with --lists DIR, "
            "or go without by --no-lists"
        )
    return Path(found.submodule_search_locations[0])


def _read_all(folder: Path) -> pa.Table:
    path = _find_file(folder, _ALL)
    found = _read(path, csv.ReadOptions())
    missing = [column for column in _COLUMNS if column not in found.column_names]
    if missing:
        raise LabelsError(f"{path}: has no column {missing[0]!r}; take bigearthnet-common's own")
    patches = found.select(list(_COLUMNS)).rename_columns(list(_COLUMNS.values()))
    if pc.count_distinct(patches["name"]).as_py() != patches.num_rows:
        raise LabelsError(f"{path}: some patch is listed twice; take bigearthnet-common's own")
    return patches


def _mark(names: pa.ChunkedArray, folder: Path, stem: str) -> pa.ChunkedArray:
    """Tell of each patch whether a list (one name a line, no header) names it."""
    path = _find_file(folder, stem)
    members = _read(path, csv.ReadOptions(column_names=["name"]))["name"]
    unknown = members.filter(pc.invert(pc.is_in(members, names)))
    if len(unknown):
        fix = "take the lists of one source"
        raise LabelsError(f"{path}: {unknown[0].as_py()!r} is not in {_ALL}.csv; {fix}")
    return pc.is_in(names, members)


def _assign_splits(
    members: dict[str, pa.ChunkedArray], names: pa.ChunkedArray, folder: Path
) -> pa.ChunkedArray:
    split = pa.nulls(len(names), pa.string())
    for name, inside in members.items():
        twice = pc.and_(inside, pc.is_valid(split))
        if pc.any(twice).as_py():
            patch = names.filter(twice)[0].as_py()
            raise LabelsError(f"{folder}: {patch!r} is in two of the three splits; mend the lists")
        split = pc.if_else(inside, name, split)
    return split


def _find_file(folder: Path, stem: str) -> Path:
    for suffix in (".csv.bz2", ".csv"):
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    raise LabelsError(
        f"{folder}: no {stem}.csv.bz2 or .csv; name the folder with bigearthnet-common's lists"
    )


def _read(path: Path, options: csv.ReadOptions) -> pa.Table:
    convert = csv.ConvertOptions(column_types=dict.fromkeys(["name", *_COLUMNS], pa.string()))
    try:
        return csv.read_csv(path, read_options=options, convert_options=convert)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise LabelsError(f"{path}: damaged or no list of patches ({reason})") from error
