"""Finished tables with given vectors, written as a run writes them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import making
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tilezoo.embed.store import open_writer
from tilezoo.geo import footprint
from tilezoo.space import Space
from tilezoo.table import NamedModel, TableManifest, TableRequest, rows, schema
from tilezoo.tiles import Tile

_DEGREES = "OGC:CRS84"


def clustered(count: int, dimension: int = 32, clusters: int = 40) -> NDArray[np.float32]:
    """Vectors around cluster centres, as embeddings of like tiles are; shape (count, D)."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters, dimension))
    near = 0.35 * rng.normal(size=(count, dimension))
    return (centres[rng.integers(0, clusters, count)] + near).astype(np.float32)


def tile(number: int, place: tuple[float, float] | None) -> Tile:
    """A tile of 0.1° with its centre at a place."""
    if place is not None:
        transform = making.from_origin(place[0] - 0.05, place[1] + 0.05, 0.01, 0.01)
    return Tile(
        id=f"tile_{number:06d}",
        pixels=np.zeros((3, 10, 10), np.uint8),
        source_uri=f"/nowhere/tile_{number:06d}.tif",
        pixel_bbox=(0, 0, 10, 10),
        nodata_fraction=0.0,
        crs=_DEGREES if place else None,
        footprint=footprint(_DEGREES, transform, 10, 10) if place else None,
        datetime=datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=number),
    )


def write_table(
    path: Path,
    vectors: NDArray[np.float32],
    *,
    lonlat: NDArray[np.float64] | None = None,
    part_rows: int = 1000,
    weights: str = "a" * 64,
    ids: Sequence[str] | None = None,
) -> Path:
    """Write a table of these vectors, in parts, with these places (none) and ids (by number)."""
    count, dimension = vectors.shape
    own = making.contract()
    space = Space(weights_sha256=weights, architecture="none", contract=own, pooling="cls")
    manifest = TableManifest(
        tiles=count,
        dimension=dimension,
        space=space.state,
        model=NamedModel(name="none", source="/nowhere/model"),
        request=TableRequest(),
        precision="fp32",
        device="cpu",
        georeferenced=lonlat is not None,
        tiles_sha256="",
        part_rows=part_rows,
        segment_tiles=part_rows,
    )
    path.mkdir(parents=True)
    store = open_writer(path, manifest, overwrite=False)
    store.begin()
    for segment in store.missing():
        numbers = range(segment.first, segment.last)
        tiles = [tile(n, None if lonlat is None else tuple(lonlat[n])) for n in numbers]
        if ids is not None:
            tiles = [replace(tile, id=ids[n]) for n, tile in zip(numbers, tiles, strict=True)]
        made = rows(tiles, vectors[segment.first : segment.last])
        store.add(segment, pa.Table.from_batches([made], schema=schema(dimension, "float32")), [])
    store.finish()
    return path
