"""BigEarthNet's metadata that exist already as Parquet: ours, the old tools', and v2's own."""

import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from tilezoo.bigearthnet.labels import (
    LABELS_19,
    LABELS_43,
    is_patch_name,
    patch_version,
    refuse_unknown,
    scene_name,
    season,
    to_19,
)
from tilezoo.bigearthnet.patches import PatchFacts
from tilezoo.errors import LabelsError
from tilezoo.geo import footprints_of_boxes, lonlat_transformer
from tilezoo.table import FACTS
from tilezoo.times import parse_time, time_in_name

if TYPE_CHECKING:
    from pyproj import Transformer

_TEXTS = pa.list_(pa.string())

# Names and order are those of the helper packages' table, which scripts out there read; what is
# ours stands behind.
SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("acquisition_date", pa.string()),  # 2017-06-13 10:10:31, as v1's JSON has it
        pa.field("labels", _TEXTS),  # of the 43; null for v2
        pa.field("tile_source", pa.string()),
        FACTS.field("geometry"),  # WKB, OGC:CRS84
        pa.field("new_labels", _TEXTS),  # of the 19
        pa.field("snow", pa.bool_()),
        pa.field("cloud_or_shadow", pa.bool_()),
        pa.field("original_split", pa.string()),  # train, validation, test; null if discouraged
        pa.field("country", pa.string()),
        pa.field("season", pa.string()),
        FACTS.field("bbox"),
        FACTS.field("datetime"),
        pa.field("recommended", pa.bool_()),
        pa.field("s1_name", pa.string()),
        pa.field("s2v1_name", pa.string()),
    ]
)


def footprints(facts: Sequence[PatchFacts | None]) -> NDArray[np.object_]:
    """Find patches' footprints: polygons in OGC:CRS84, shape (N,); None where a box has none."""
    by_crs: dict[str, list[int]] = {}
    for place, one in enumerate(facts):
        if one is not None and one.crs is not None:
            by_crs.setdefault(one.crs, []).append(place)
    found = np.full(len(facts), None)
    for crs, places in by_crs.items():
        boxes = np.array([facts[place].box for place in places], np.float64)  # type: ignore[union-attr]
        found[places] = footprints_of_boxes(crs, boxes)
    return found


def make_rows(
    names: Sequence[str],
    facts: Sequence[PatchFacts],
    polygons: NDArray[np.object_],
    official: pa.Table,
    metadata: pa.Table,
) -> pa.Table:
    """Join what is known of patches; what a patch says of itself goes first, then the lists.

    Args:
        names: Of the patches.
        facts: What their files say.
        polygons: Their footprints, shape (N,), None where no file says.
        official: What the lists say, rows as `names` (`join_lists`).
        metadata: What older tables say, rows as `names`, columns of `METADATA_SCHEMA`.

    Returns:
        Columns of `SCHEMA`.
    """
    moments = _moments(names, facts, metadata)
    shapes = _shapes(polygons, metadata["geometry"])
    own_labels = pa.array([one.labels for one in facts], _TEXTS)
    labels = pc.coalesce(own_labels, _plain(metadata["labels"]))
    new_labels = pc.coalesce(_new_labels(labels), _plain(metadata["new_labels"]))

    def first_known(column: str) -> pa.Array:
        listed = _plain(official[column])
        return pc.coalesce(listed, _plain(metadata[column]))

    snow, cloud = first_known("snow"), first_known("cloud_or_shadow")
    recommended = _recommended(snow, cloud, new_labels, _plain(official["labelled"]))
    columns = {
        "name": names,
        "acquisition_date": [moment and f"{moment:%Y-%m-%d %H:%M:%S}" for moment in moments],
        "labels": labels,
        "tile_source": _tile_sources(names, facts, metadata),
        "geometry": pa.array(shapely.to_wkb(shapes, byte_order=1), pa.binary()),
        "new_labels": new_labels,
        "snow": snow,
        "cloud_or_shadow": cloud,
        "original_split": _splits(first_known("original_split"), recommended),
        "country": first_known("country"),
        "season": pc.coalesce(first_known("season"), _seasons(moments)),
        "bbox": _bboxes(shapes),
        "datetime": moments,
        "recommended": recommended,
        "s1_name": first_known("s1_name"),
        "s2v1_name": metadata["s2v1_name"],
    }
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def _plain(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole


def _moments(
    names: Sequence[str], facts: Sequence[PatchFacts], metadata: pa.Table
) -> list[datetime | None]:
    """Take the JSON's time, else the older table's, else the name's (a few are seconds off)."""
    older = metadata["acquisition_date"].to_pylist()
    return [
        one.moment or (text and parse_time(text)) or time_in_name(name)
        for name, one, text in zip(names, facts, older, strict=True)
    ]


def _seasons(moments: Sequence[datetime | None]) -> pa.Array:
    return pa.array([moment and season(moment) for moment in moments], pa.string())


def _new_labels(labels: pa.Array) -> pa.Array:
    rows = labels.to_pylist()
    return pa.array([None if row is None else to_19(row) for row in rows], _TEXTS)


def _tile_sources(
    names: Sequence[str], facts: Sequence[PatchFacts], metadata: pa.Table
) -> list[str | None]:
    older = metadata["tile_source"].to_pylist()
    return [
        one.tile_source or text or (scene_name(name) if patch_version(name) == 2 else None)
        for name, one, text in zip(names, facts, older, strict=True)
    ]


def _recommended(
    snow: pa.Array, cloud: pa.Array, new_labels: pa.Array, listed_as_labelled: pa.Array
) -> pa.Array:
    """Tell which patches the authors recommend: no snow, no cloud or shadow, a label of the 19."""
    own = pc.greater(pc.list_value_length(new_labels), 0)
    labelled = pc.coalesce(own, listed_as_labelled)
    clear = pc.and_kleene(pc.invert(snow), pc.invert(cloud))
    return pc.and_kleene(clear, labelled)


def _splits(stated: pa.Array, recommended: pa.Array) -> pa.Array:
    """Take discouraged patches out of their split: v2 states one for them too."""
    nowhere = pa.scalar(None, pa.string())
    return pc.if_else(pc.fill_null(recommended, True), stated, nowhere)


def _shapes(polygons: NDArray[np.object_], older: pa.ChunkedArray) -> NDArray[np.object_]:
    if older.null_count == len(older):
        return polygons
    from_table = shapely.from_wkb(older.to_numpy())
    return np.where(shapely.is_missing(polygons), from_table, polygons)


def _bboxes(shapes: NDArray[np.object_]) -> pa.StructArray:
    sides = [pa.array(side) for side in shapely.bounds(shapes).T]
    missing = pa.array(shapely.is_missing(shapes))
    return pa.StructArray.from_arrays(sides, fields=list(FACTS.field("bbox").type), mask=missing)


_ROWS = 65_536  # read at a time
_TEXTS_bigearthnet_tables = pa.list_(pa.string())
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
    "labels": _TEXTS_bigearthnet_tables,
    "new_labels": _TEXTS_bigearthnet_tables,
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
    with _opened(path) as file:
        return bool({"labels", "new_labels"} & set(file.schema_arrow.names))


def is_v2(path: Path) -> bool:
    """Tell whether a file is v2's own metadata; False where there is none.

    Raises:
        LabelsError: It is no Parquet file.
    """
    if not path.is_file():
        return False
    with _opened(path) as file:
        return "patch_id" in file.schema_arrow.names


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        told = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise LabelsError(f"{path}: not a Parquet file of patches ({told})") from error


def _read(path: Path, geometry: bool) -> pa.Table:
    with _opened(path) as file:
        present = file.schema_arrow.names
        if not {"name", "patch_id"} & set(present):
            raise LabelsError(f"{path}: no column `name` or `patch_id`; is it of BigEarthNet?")
        place = _way_to_crs84(file, path) if geometry and "geometry" in present else None
        wanted = {old for names in _NAMES.values() for old in names} - {"geometry"}
        columns = [name for name in present if name in wanted or (place and name == "geometry")]
        try:
            batches = file.iter_batches(_ROWS, columns=columns)
            return pa.Table.from_batches(
                [_in_one_form(batch, place, path) for batch in batches], METADATA_SCHEMA
            )
        except (OSError, pa.ArrowException, shapely.GEOSException) as error:
            told = str(error).splitlines()[0]
            raise LabelsError(f"{path}: damaged or of another kind ({told})") from error


def _in_one_form(
    batch: pa.RecordBatch, to_lonlat: "Transformer | None", path: Path
) -> pa.RecordBatch:
    columns = {new: _column(batch, new, old) for new, old in _NAMES.items()}
    if columns["name"].null_count:
        raise LabelsError(f"{path}: a row has no name; every row names its patch")
    given = batch.schema.names
    if "patch_id" in given and "new_labels" not in given:  # v2 has labels of the 19 alone
        columns["labels"], columns["new_labels"] = columns["new_labels"], columns["labels"]
    try:
        refuse_unknown(_distinct(columns["labels"]), LABELS_43)
        refuse_unknown(_distinct(columns["new_labels"]), LABELS_19)
        columns["original_split"] = _plain_splits(columns["original_split"])
        if to_lonlat:
            columns["geometry"] = _in_crs84(columns["geometry"], to_lonlat)
    except LabelsError as error:
        raise LabelsError(f"{path}: {error}") from error
    told_by_43 = pc.is_valid(columns["labels"])
    columns["new_labels"] = pc.if_else(
        told_by_43, pa.scalar(None, _TEXTS_bigearthnet_tables), columns["new_labels"]
    )
    return pa.RecordBatch.from_pydict(columns, METADATA_SCHEMA)


def _column(batch: pa.RecordBatch, new: str, old: Sequence[str]) -> pa.Array:
    name = next((name for name in old if name in batch.schema.names), None)
    if name is None:
        return pa.nulls(batch.num_rows, _TYPES[new])
    column = batch[name]
    if pa.types.is_timestamp(column.type):
        column = pc.strftime(column.cast(pa.timestamp("s")), format="%Y-%m-%d %H:%M:%S")
    kind = _TYPES[new]
    return column.cast(pa.string()).dictionary_encode() if kind == _REPEATED else column.cast(kind)


def _distinct(lists: pa.Array) -> list[str]:
    return list(pc.unique(pc.list_flatten(lists)).to_pylist())


def _plain_splits(splits: pa.Array) -> pa.Array:
    given = splits.to_pylist()
    unknown = next((split for split in given if split is not None and split not in _SPLITS), None)
    if unknown is not None:
        raise LabelsError(f"the split {unknown!r} is none of train, validation and test")
    return pa.array([split and _SPLITS[split] for split in given], _REPEATED)


def _way_to_crs84(file: pq.ParquetFile, path: Path) -> "Transformer":
    """Find the geometries' CRS: PROJJSON today, WKT in what geopandas wrote in 2022."""
    keys = file.metadata.metadata or {}
    try:
        column = json.loads(keys[b"geo"])["columns"]["geometry"]
        crs = column.get("crs", "OGC:CRS84")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        fix = "write it with geopandas, or leave the column out"
        raise LabelsError(f"{path}: nothing says in which CRS `geometry` is; {fix}") from error
    text = crs if isinstance(crs, str) else json.dumps(crs)
    to_lonlat = lonlat_transformer(text)
    if to_lonlat is None:
        raise LabelsError(f"{path}: the CRS of `geometry` is none on the globe ({text[:60]})")
    return to_lonlat


def _in_crs84(geometry: pa.Array, to_lonlat: "Transformer") -> pa.Array:
    def moved(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(to_lonlat.transform(points[:, 0], points[:, 1]), axis=1)

    shapes = shapely.transform(shapely.from_wkb(geometry.to_numpy(zero_copy_only=False)), moved)
    if not np.isfinite(shapely.get_coordinates(shapes)).all():
        raise LabelsError("a geometry lies outside the CRS that the file states")
    return pa.array(shapely.to_wkb(shapes, byte_order=1), pa.binary())


def _refuse_repeats(names: pa.ChunkedArray, paths: Sequence[str | Path]) -> None:
    counts = names.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        name, told = repeated[0]["values"].as_py(), ", ".join(map(str, paths))
        raise LabelsError(f"{told}: the patch {name} comes more than once; leave one row for it")
