"""The table of patches: what is known of each joined into a row, and the file of all rows."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from tilezoo.bigearthnet.labels import (
    patch_version,
    scene_name,
    season,
    to_19,
)
from tilezoo.bigearthnet.patches import PatchFacts
from tilezoo.geo import footprints_of_boxes
from tilezoo.geoparquet import geo_key, merged_geo_key, write_boxes
from tilezoo.io import whole_file
from tilezoo.table import ERROR_SCHEMA, FACTS, Failure, error_rows
from tilezoo.times import parse_time, time_in_name

_FLAGS = ("recommended", "snow", "cloud_or_shadow")
_GROUPED = ("original_split", "country", "season")

Group = tuple[str | None, str | None, str | None]  # split, country, season
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
    moments = _find_times(names, facts, metadata)
    shapes = _fill_shapes(polygons, metadata["geometry"])
    own_labels = pa.array([one.labels for one in facts], _TEXTS)
    labels = pc.coalesce(own_labels, _decode(metadata["labels"]))
    new_labels = pc.coalesce(_merge_labels(labels), _decode(metadata["new_labels"]))

    def first_known(column: str) -> pa.Array:
        listed = _decode(official[column])
        return pc.coalesce(listed, _decode(metadata[column]))

    snow, cloud = first_known("snow"), first_known("cloud_or_shadow")
    recommended = _recommend(snow, cloud, new_labels, _decode(official["labelled"]))
    columns = {
        "name": names,
        "acquisition_date": [moment and f"{moment:%Y-%m-%d %H:%M:%S}" for moment in moments],
        "labels": labels,
        "tile_source": _find_tile_sources(names, facts, metadata),
        "geometry": pa.array(shapely.to_wkb(shapes, byte_order=1), pa.binary()),
        "new_labels": new_labels,
        "snow": snow,
        "cloud_or_shadow": cloud,
        "original_split": _keep_splits(first_known("original_split"), recommended),
        "country": first_known("country"),
        "season": pc.coalesce(first_known("season"), _name_seasons(moments)),
        "bbox": write_boxes(shapely.bounds(shapes)),
        "datetime": moments,
        "recommended": recommended,
        "s1_name": first_known("s1_name"),
        "s2v1_name": metadata["s2v1_name"],
    }
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def _decode(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.dictionary_decode() if pa.types.is_dictionary(whole.type) else whole


def _find_times(
    names: Sequence[str], facts: Sequence[PatchFacts], metadata: pa.Table
) -> list[datetime | None]:
    """Take the JSON's time, else the older table's, else the name's (a few are seconds off)."""
    older = metadata["acquisition_date"].to_pylist()
    return [
        one.moment or (text and parse_time(text)) or time_in_name(name)
        for name, one, text in zip(names, facts, older, strict=True)
    ]


def _name_seasons(moments: Sequence[datetime | None]) -> pa.Array:
    return pa.array([moment and season(moment) for moment in moments], pa.string())


def _merge_labels(labels: pa.Array) -> pa.Array:
    rows = labels.to_pylist()
    return pa.array([None if row is None else to_19(row) for row in rows], _TEXTS)


def _find_tile_sources(
    names: Sequence[str], facts: Sequence[PatchFacts], metadata: pa.Table
) -> list[str | None]:
    older = metadata["tile_source"].to_pylist()
    return [
        one.tile_source or text or (scene_name(name) if patch_version(name) == 2 else None)
        for name, one, text in zip(names, facts, older, strict=True)
    ]


def _recommend(
    snow: pa.Array, cloud: pa.Array, new_labels: pa.Array, listed_as_labelled: pa.Array
) -> pa.Array:
    """Tell which patches the authors recommend: no snow, no cloud or shadow, a label of the 19."""
    own = pc.greater(pc.list_value_length(new_labels), 0)
    labelled = pc.coalesce(own, listed_as_labelled)
    clear = pc.and_kleene(pc.invert(snow), pc.invert(cloud))
    return pc.and_kleene(clear, labelled)


def _keep_splits(stated: pa.Array, recommended: pa.Array) -> pa.Array:
    """Take discouraged patches out of their split: v2 states one for them too."""
    nowhere = pa.scalar(None, pa.string())
    return pc.if_else(pc.fill_null(recommended, True), stated, nowhere)


def _fill_shapes(polygons: NDArray[np.object_], older: pa.ChunkedArray) -> NDArray[np.object_]:
    if older.null_count == len(older):
        return polygons
    from_table = shapely.from_wkb(older.to_numpy())
    return np.where(shapely.is_missing(polygons), from_table, polygons)


def errors_path(out: Path) -> Path:
    """Name the file of failures: `metadata.errors.parquet` beside `metadata.parquet`."""
    return out.with_name(f"{out.stem}.errors.parquet")


class Output:
    """The two files while they are written, row group by row group, and what is in them."""

    def __init__(self, rows: pq.ParquetWriter, errors: pq.ParquetWriter) -> None:
        self._rows, self._errors = rows, errors
        self._geo: dict[str, Any] | None = None
        self.row_count = 0
        self.failed = 0
        self.first_failure: Failure | None = None
        self.flags: Counter[str] = Counter()
        self.groups: Counter[Group] = Counter()

    def add(self, rows: pa.Table, failures: Sequence[Failure]) -> None:
        """Write rows of `SCHEMA`, and tell patches that gave none."""
        if rows.num_rows:
            self._rows.write_table(rows)
            self._count(rows)
        if failures:
            self._errors.write_table(error_rows(failures))
            self.failed += len(failures)
            self.first_failure = self.first_failure or failures[0]

    def finish(self) -> None:
        """Put the key `geo` into the file, where any row has a place."""
        if self._geo is not None:
            self._rows.add_key_value_metadata({"geo": json.dumps(self._geo)})

    def _count(self, rows: pa.Table) -> None:
        self.row_count += rows.num_rows
        self.flags.update({flag: pc.sum(rows[flag]).as_py() or 0 for flag in _FLAGS})
        self.groups.update(zip(*(rows[name].to_pylist() for name in _GROUPED), strict=True))
        if rows["geometry"].null_count < rows.num_rows:
            here = geo_key(rows)
            self._geo = merged_geo_key([self._geo, here]) if self._geo else here


@contextmanager
def write_rows(out: Path) -> Iterator[Output]:
    """Yield the output to fill; both files come to be whole if the block succeeds, else neither.

    An older file of failures goes, whether or not there are failures now.
    """
    errors = errors_path(out)
    with (
        whole_file(out) as rows_file,
        whole_file(errors) as errors_file,
        # Arrow's own copy of the schema would hide `geo`, which comes last, from pyarrow.
        pq.ParquetWriter(rows_file, SCHEMA, compression="zstd", store_schema=False) as rows_writer,
        pq.ParquetWriter(errors_file, ERROR_SCHEMA, compression="zstd") as errors_writer,
    ):
        output = Output(rows_writer, errors_writer)
        yield output
        output.finish()
    if not output.failed:
        errors.unlink()
