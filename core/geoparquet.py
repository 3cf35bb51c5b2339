"""File-level metadata of a part: `geo` (GeoParquet 1.1), `emb` (geoembeddings.org), `tilezoo`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_SIDES = ("xmin", "ymin", "xmax", "ymax")
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


def geo_key(table: pa.Table) -> dict[str, Any]:
    """Describe the `geometry` column by GeoParquet 1.1; an absent `crs` means OGC:CRS84.

    Source: https://geoparquet.org/releases/v1.1.0/
    """
    import shapely  # here, since lists of training tiles are read where there is none

    wkb = table["geometry"].drop_null().to_numpy()
    shapes = shapely.from_wkb(wkb.astype(object))
    kinds = {_FAMILIES[kind] for kind in np.unique(shapely.get_type_id(shapes))}
    bounds = [float(value) for value in shapely.total_bounds(shapes)] if len(shapes) else None
    return _geo(kinds, bounds)


def merged_geo_key(keys: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Describe the `geometry` column of tables put together, by the `geo_key` of each."""
    columns = [key["columns"]["geometry"] for key in keys]
    kinds = {kind for column in columns for kind in column["geometry_types"]}
    bounds = np.array([column["bbox"] for column in columns if "bbox" in column])
    if not len(bounds):
        return _geo(kinds, None)
    return _geo(kinds, [*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()])


def _geo(kinds: set[str], bounds: list[float] | None) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(kinds),
        "covering": {"bbox": {side: ["bbox", side] for side in _SIDES}},
    }
    if bounds is not None:
        column["bbox"] = bounds
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def emb_key(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the vectors as geoembeddings.org's best practices and STAC's `emb` prefix do.

    Source: https://geoembeddings.org (best practices of 2026-03) and
    https://stac-extensions.github.io/embeddings/v0.0.1/schema.json
    """
    space = manifest["space"]
    return {
        "version": "0.0.1",
        "type": "chip",
        "dimensions": manifest["dimension"],
        "data_type": manifest["request"]["dtype"],
        "embedding": {"dim": manifest["dimension"], "quantization": None, "normalized": False},
        "model": {
            "name": manifest["model"]["name"],
            "family": space["architecture"],
            "source": manifest["model"]["source"],
            "weights_sha256": space["weights_sha256"],
            "pooling": space["pooling"],
            "config": space["contract"],
        },
    }


def file_keys(manifest: Mapping[str, Any], geo: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The file keys of a part; `geo` only where geometries exist.

    Args:
        manifest: Of the part's table.
        geo: The `geo_key` of each group of its rows that holds a geometry.
    """
    own = {key: manifest[key] for key in ("space", "precision", "device", "versions")}
    keys = {"emb": emb_key(manifest), "tilezoo": own}
    if geo or manifest["georeferenced"]:
        keys["geo"] = merged_geo_key(geo)
    return {key: json.dumps(value) for key, value in keys.items()}
