"""GeoParquet 1.1: the column `bbox`, and the file key `geo` of a column `geometry`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_SIDES = ("xmin", "ymin", "xmax", "ymax")
GeoKey = dict[str, Any]  # as GeoParquet states it
BBOX = pa.struct([(side, pa.float64()) for side in _SIDES])
_FAMILIES = {3: "Polygon", 6: "MultiPolygon"}


def bbox_row(bounds: Sequence[float]) -> dict[str, float]:
    """Put west, south, east and north into a row of the `bbox` column."""
    return dict(zip(_SIDES, bounds, strict=True))


def read_boxes(column: pa.StructArray | pa.ChunkedArray) -> NDArray[np.float64]:
    """Read a `bbox` column: west, south, east, north in degrees, shape (N, 4); NaN for null."""
    structs = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    sides = [pc.struct_field(structs, side).to_numpy(zero_copy_only=False) for side in _SIDES]
    return np.stack(sides, axis=1).astype(np.float64)


def write_boxes(boxes: NDArray[np.float64]) -> pa.StructArray:
    """Make a `bbox` column of boxes as `read_boxes` gives them."""
    missing = pa.array(np.isnan(boxes).any(axis=1))
    sides = [pa.array(side) for side in boxes.T]
    return pa.StructArray.from_arrays(sides, fields=list(BBOX), mask=missing)


def geo_key(table: pa.Table) -> GeoKey:
    """Describe the `geometry` column by GeoParquet 1.1; an absent `crs` means OGC:CRS84.

    Source: https://geoparquet.org/releases/v1.1.0/
    """
    import shapely  # here, since lists of training tiles are read where there is none

    wkb = table["geometry"].drop_null().to_numpy()
    shapes = shapely.from_wkb(wkb.astype(object))
    kinds = {_FAMILIES[kind] for kind in np.unique(shapely.get_type_id(shapes))}
    bounds = [float(value) for value in shapely.total_bounds(shapes)] if len(shapes) else None
    return _write_geo_key(kinds, bounds)


def merged_geo_key(keys: Sequence[GeoKey]) -> GeoKey:
    """Describe the `geometry` column of tables put together, by the `geo_key` of each."""
    columns = [key["columns"]["geometry"] for key in keys]
    kinds = {kind for column in columns for kind in column["geometry_types"]}
    bounds = np.array([column["bbox"] for column in columns if "bbox" in column])
    if not len(bounds):
        return _write_geo_key(kinds, None)
    return _write_geo_key(
        kinds, [*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()]
    )


def _write_geo_key(kinds: set[str], bounds: list[float] | None) -> GeoKey:
    column: GeoKey = {
        "encoding": "WKB",
        "geometry_types": sorted(kinds),
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    if bounds is not None:
        column["bbox"] = bounds
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
