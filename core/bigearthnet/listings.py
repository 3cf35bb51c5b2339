"""What is known of patches besides their own files: the official lists of v1, and older tables.

The lists tell splits, countries, seasons, snow, cloud, and who has no label. They ship as data in the
package bigearthnet-common, whose code does not run any more; only its files are read. Older tables
are Parquet: ours, the old tools' (bigearthnet-gdf-builder), and v2's own (reBEN).
"""

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from pyarrow import csv
from pyproj import CRS

from tilezoo.bigearthnet.labels import (
    LABELS_19,
    LABELS_43,
    is_patch_name,
    refuse_unknown,
)
from tilezoo.errors import LabelsError
from tilezoo.geo import lonlat_transformer

_PACKAGE = "bigearthnet_common"
_ALL = "s1_s2_name_country_season"
_COLUMNS = {"s2_name": "name", "s1_name": "s1_name", "country": "country", "season": "season"}
_SPLIT_FILES = {"train": "train", "val": "validation", "test": "test"}  # file → name of the split
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
    splits = {name: _mark(names, place, stem) for stem, name in _SPLIT_FILES.items()}
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
    found = _read_csv(path, csv.ReadOptions())
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
    members = _read_csv(path, csv.ReadOptions(column_names=["name"]))["name"]
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


def _read_csv(path: Path, options: csv.ReadOptions) -> pa.Table:
    convert = csv.ConvertOptions(column_types=dict.fromkeys(["name", *_COLUMNS], pa.string()))
    try:
        return csv.read_csv(path, read_options=options, convert_options=convert)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise LabelsError(f"{path}: damaged or no list of patches ({reason})") from error


_ROWS_AT_A_TIME = 65_536
_TEXTS = pa.list_(pa.string())
_REPEATED = pa.dictionary(pa.int32(), pa.string())  # a few hundred texts, each in many rows
# Our column → its names elsewhere. `name`, `original_split`, … are the old tools'
# (bigearthnet-gdf-builder), `patch_id`, `split`, … v2's (reBEN).
_NAMES = {
    "name": ("name", "patch_id"),
    "acquisition_date": ("acquisition_date",),
    "labels": ("labels",),
    "new_labels": ("new_labels",),
    "tile_source": ("tile_source",),
    "original_split": ("original_split", "split"),
    "snow": ("snow", "contains_seasonal_snow"),
    "cloud_or_shadow": ("cloud_or_shadow", "contains_cloud_or_shadow"),
    "country": ("country",),
    "season": ("season",),
    "s1_name": ("s1_name",),
    "s2v1_name": ("s2v1_name",),
    "geometry": ("geometry",),
}
_TYPES = {
    **dict.fromkeys(_NAMES, _REPEATED),
    **dict.fromkeys(("name", "s1_name", "s2v1_name"), pa.string()),
    "labels": _TEXTS,
    "new_labels": _TEXTS,
    "snow": pa.bool_(),
    "cloud_or_shadow": pa.bool_(),
    "geometry": pa.binary(),
}
METADATA_SCHEMA = pa.schema([pa.field(name, _TYPES[name]) for name in _NAMES])

_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_V2_FILES = ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet")


def read_metadata(paths: Sequence[str | Path], *, geometry: bool = False) -> pa.Table:
    """Read Parquet files of patches into one form, whoever wrote them.

    `labels` are the 43 classes, which v2 has not; `new_labels` are the 19, and null where the 43
    tell them. v2's `patch_id`, `split`, `contains_seasonal_snow` and `contains_cloud_or_shadow`
    go by v1's names.

    Args:
        paths: The files; v2 has two, one for the patches under snow, cloud or shadow.
        geometry: Read the footprints too, as WKB in OGC:CRS84; all null without.

    Returns:
        Columns of `METADATA_SCHEMA`, rows as they come.

    Raises:
        LabelsError: A file is damaged or of another kind, has labels or splits that BigEarthNet
            has not, or a patch comes twice.
    """
    found = [_read(Path(path), geometry) for path in paths]
    table = pa.concat_tables([METADATA_SCHEMA.empty_table(), *found]).combine_chunks()
    _refuse_repeats(table["name"], paths)
    return table


def find_v2_metadata(root: Path) -> list[Path]:
    """Find v2's own metadata in `root`, a folder in it, or one of three folders above it."""
    top = root.absolute()
    with os.scandir(top) as entries:
        below = [Path(e.path) for e in entries if not is_patch_name(e.name) and e.is_dir()]
    for folder in (top, *sorted(below), *top.parents[:3]):
        found = [folder / name for name in _V2_FILES if is_v2(folder / name)]
        if found:
            return found
    return []


def is_metadata(path: Path) -> bool:
    """Tell whether a Parquet file holds labels of patches, and not names alone.

    Raises:
        LabelsError: It is no Parquet file.
    """
    with _open(path) as file:
        return bool({"labels", "new_labels"} & set(file.schema_arrow.names))


def is_v2(path: Path) -> bool:
    """Tell whether a file is v2's own metadata; False where there is none.

    Raises:
        LabelsError: It is no Parquet file.
    """
    if not path.is_file():
        return False
    with _open(path) as file:
        return "patch_id" in file.schema_arrow.names


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise LabelsError(f"{path}: not a Parquet file of patches ({reason})") from error


def _read(path: Path, geometry: bool) -> pa.Table:
    with _open(path) as file:
        present = file.schema_arrow.names
        if not {"name", "patch_id"} & set(present):
            raise LabelsError(f"{path}: no column `name` or `patch_id`; is it of BigEarthNet?")
        crs = _read_crs(file, path) if geometry and "geometry" in present else None
        wanted = {old for names in _NAMES.values() for old in names} - {"geometry"}
        columns = [name for name in present if name in wanted or (crs and name == "geometry")]
        try:
            batches = file.iter_batches(_ROWS_AT_A_TIME, columns=columns)
            return pa.Table.from_batches(
                [_unify(batch, crs, path) for batch in batches], METADATA_SCHEMA
            )
        except (OSError, pa.ArrowException, shapely.GEOSException) as error:
            reason = str(error).splitlines()[0]
            raise LabelsError(f"{path}: damaged or of another kind ({reason})") from error


def _unify(batch: pa.RecordBatch, crs: CRS | None, path: Path) -> pa.RecordBatch:
    columns = {new: _take_column(batch, new, old) for new, old in _NAMES.items()}
    if columns["name"].null_count:
        raise LabelsError(f"{path}: a row has no name; every row names its patch")
    given = batch.schema.names
    if "patch_id" in given and "new_labels" not in given:  # v2 has labels of the 19 alone
        columns["labels"], columns["new_labels"] = columns["new_labels"], columns["labels"]
    try:
        refuse_unknown(_list_distinct(columns["labels"]), LABELS_43)
        refuse_unknown(_list_distinct(columns["new_labels"]), LABELS_19)
        columns["original_split"] = _name_splits(columns["original_split"])
        if crs:
            columns["geometry"] = _to_crs84(columns["geometry"], crs)
    except LabelsError as error:
        raise LabelsError(f"{path}: {error}") from error
    known_by_43 = pc.is_valid(columns["labels"])
    columns["new_labels"] = pc.if_else(known_by_43, pa.scalar(None, _TEXTS), columns["new_labels"])
    return pa.RecordBatch.from_pydict(columns, METADATA_SCHEMA)


def _take_column(batch: pa.RecordBatch, new: str, old: Sequence[str]) -> pa.Array:
    name = next((name for name in old if name in batch.schema.names), None)
    if name is None:
        return pa.nulls(batch.num_rows, _TYPES[new])
    column = batch[name]
    if pa.types.is_timestamp(column.type):
        column = pc.strftime(column.cast(pa.timestamp("s")), format="%Y-%m-%d %H:%M:%S")
    kind = _TYPES[new]
    return column.cast(pa.string()).dictionary_encode() if kind == _REPEATED else column.cast(kind)


def _list_distinct(lists: pa.Array) -> list[str]:
    return list(pc.unique(pc.list_flatten(lists)).to_pylist())


def _name_splits(splits: pa.Array) -> pa.Array:
    given = splits.to_pylist()
    unknown = next((split for split in given if split is not None and split not in _SPLITS), None)
    if unknown is not None:
        raise LabelsError(f"the split {unknown!r} is none of train, validation and test")
    return pa.array([split and _SPLITS[split] for split in given], _REPEATED)


def _read_crs(file: pq.ParquetFile, path: Path) -> CRS:
    """Read the geometries' CRS: PROJJSON today, WKT in what geopandas wrote in 2022."""
    keys = file.metadata.metadata or {}
    try:
        stated = json.loads(keys[b"geo"])["columns"]["geometry"].get("crs", "OGC:CRS84")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        fix = "write it with geopandas, or leave the column out"
        raise LabelsError(f"{path}: nothing says in which CRS `geometry` is; {fix}") from error
    text = stated if isinstance(stated, str) else json.dumps(stated)
    if lonlat_transformer(text) is None:
        raise LabelsError(f"{path}: the CRS of `geometry` is none on the globe ({text[:60]})")
    return CRS.from_user_input(text)


def _to_crs84(geometry: pa.Array, crs: CRS) -> pa.Array:
    stated = geopandas.GeoSeries.from_wkb(geometry.to_numpy(zero_copy_only=False), crs=crs)
    moved = stated.to_crs("OGC:CRS84").array
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise LabelsError("a geometry lies outside the CRS that the file states")
    return pa.array(shapely.to_wkb(moved, byte_order=1), pa.binary())


def _refuse_repeats(names: pa.ChunkedArray, paths: Sequence[str | Path]) -> None:
    counts = names.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        name, reason = repeated[0]["values"].as_py(), ", ".join(map(str, paths))
        raise LabelsError(f"{reason}: the patch {name} comes more than once; leave one row for it")
