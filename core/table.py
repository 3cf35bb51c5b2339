"""The table: embeddings of many tiles as a folder of GeoParquet parts, and how it is read."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from tilezoo.bands import Values
from tilezoo.centres import find_centres, narrow_boxes
from tilezoo.errors import SpaceError, TableError, TileErrorKind, where_to_look
from tilezoo.geoparquet import BBOX, GeoKey, bbox_row, merged_geo_key, read_boxes
from tilezoo.io import canonical_json, read_state, sha256_text, to_builtins
from tilezoo.row_groups import RowGroups, tell_damage, to_rows
from tilezoo.space import Dtype, Precision, Space, SpaceState

if TYPE_CHECKING:
    from tilezoo.tiles import Tile, TileRef

TABLE_VERSION = 1
MANIFEST = "manifest.json"
ERRORS = "errors.parquet"
_OF_FITTING = frozenset({"contract", "too_large", "invalid_pixels"})  # what options mend
_PART_NAME = re.compile(r"part-\d{5,}\.parquet")
_AGAIN = "make the table again"

_ROWS_PER_BATCH = 8192
_PIXEL_BBOX = pa.list_(pa.int32(), 4)
# What is known of each tile, in tables and in packs of training tiles.
FACTS = pa.schema(
    [
        pa.field("geometry", pa.binary()),
        pa.field("bbox", BBOX),
        pa.field("datetime", pa.timestamp("us", tz="UTC")),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("pixel_bbox", _PIXEL_BBOX, nullable=False),
        pa.field("crs", pa.string()),
        pa.field("gsd_m", pa.float32()),
        pa.field("nodata_fraction", pa.float32(), nullable=False),
    ]
)
ERROR_SCHEMA = pa.schema(
    [
        pa.field("source_uri", pa.string(), nullable=False),
        # Of any length, because pyarrow before 26 cannot read nulls among lists of a fixed one.
        pa.field("pixel_bbox", pa.list_(pa.int32())),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A tile that gave no vector, and why."""

    ref: "TileRef"
    kind: TileErrorKind
    message: str


def schema(dimension: int, dtype: Dtype) -> pa.Schema:
    """The columns of a table whose vectors have `dimension` values."""
    value = pa.float16() if dtype == "float16" else pa.float32()
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(value, dimension)),
            *FACTS,
        ]
    )


def rows(
    tiles: "Sequence[Tile]", vectors: NDArray[np.float32], dtype: Dtype = "float32"
) -> pa.RecordBatch:
    """Put tiles and their vectors, shape (N, D), into rows."""
    columns = schema(vectors.shape[1], dtype)
    values = pa.array(vectors.astype(dtype, copy=False).ravel())
    arrays = [
        pa.array([tile.id for tile in tiles], pa.string()),
        pa.FixedSizeListArray.from_arrays(values, type=columns.field("embedding").type),
        *facts(tiles).values(),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def facts(tiles: "Sequence[Tile]") -> dict[str, pa.Array]:
    """Put what is known of tiles into the columns of `FACTS`, by name.

    Where the place is approximate, `crs` is null: no CRS has these pixels as its grid.
    """
    places = [tile.footprint for tile in tiles]
    data = {
        "geometry": [place and place.wkb for place in places],
        "bbox": [place and bbox_row(place.bbox) for place in places],
        "datetime": [tile.datetime for tile in tiles],
        "source_uri": [tile.source_uri for tile in tiles],
        "pixel_bbox": [list(tile.pixel_bbox) for tile in tiles],
        "crs": [None if p and p.approximate else t.crs for t, p in zip(tiles, places, strict=True)],
        "gsd_m": [place and place.gsd_m for place in places],
        "nodata_fraction": [tile.nodata_fraction for tile in tiles],
    }
    return {name: pa.array(data[name], FACTS.field(name).type) for name in FACTS.names}


def error_rows(failures: Sequence[Failure]) -> pa.Table:
    """Put failures into rows of errors.parquet."""
    windows = [f.ref.window and list(f.ref.window) for f in failures]
    columns = [
        [f.ref.source.uri for f in failures],
        windows,
        [f.kind for f in failures],
        [f.message for f in failures],
    ]
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, ERROR_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=ERROR_SCHEMA)


def tell_first_fault(errors: Path, *, nodata: bool) -> str:
    """Tell the first fault of an errors.parquet: its source, and why.

    Args:
        errors: The file.
        nodata: Whether a whole tile without data is one; a window without is none.
    """
    if not errors.is_file():
        return "its reason is gone with that file"
    with pq.ParquetFile(errors) as file:
        rows = chain.from_iterable(batch.to_pylist() for batch in file.iter_batches())
        faults = (
            _tell_fault(row["source_uri"], row["kind"], row["message"])
            for row in rows
            if row["kind"] != "nodata" or (nodata and row["pixel_bbox"] is None)
        )
        return next(faults, "none that counts")


def _tell_fault(uri: str, kind: TileErrorKind, message: str) -> str:
    told = f"{uri}: {message}"
    return f"{told}; {where_to_look(uri)}" if kind in _OF_FITTING else told


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """The model that a table's vectors are of: what the user called it, and its directory."""

    name: str
    source: str


@dataclass(frozen=True, kw_only=True)
class TableRequest:
    """What a run was asked for, as far as it changes a table; see `tilezoo embed --help`."""

    bands: str | None = None
    value_range: str | None = None
    nodata: str | None = None
    max_nodata: float = 1.0
    values: Values | None = None
    tile_px: int | None = None
    stride_px: int | None = None
    batch_size: int = 64
    precision: Literal["auto"] | Precision = "auto"
    dtype: Dtype = "float32"
    shard: str | None = None
    limit: int | None = None
    part_rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file of a table's rows, and the hash of its bytes."""

    file: str
    rows: int
    sha256: str

    def __post_init__(self) -> None:
        """Refuse a name that leads out of the table's folder."""
        if not _PART_NAME.fullmatch(self.file):
            raise ValueError(f"{self.file!r} is no part's name")


@dataclass(frozen=True, kw_only=True)
class TableManifest:
    """What manifest.json says.

    Attributes:
        tilezoo_table: Version of the format.
        complete: All else is settled; before, `rows` and what follows may change.
        rows: Tiles with a vector.
        failed: Tiles without one.
        empty_windows: Those of these that are windows of scenes without any data, or tiles with
            less than `max_nodata` asks for: no fault.
        tiles: All of them.
        dimension: Length of a vector.
        space: In which the vectors live.
        model: Whose they are.
        pretraining: What the model's directory says of its training (`tiles`, `ids_sha256`, …).
        request: What was asked for.
        precision: In which vectors are computed; `auto` before it is settled.
        device: On which kind of device.
        georeferenced: Some tile has a place, so all parts have the key `geo`; as far as the first
            tiles show before the table is complete.
        approximate_places: Rows whose place is known by control points or RPCs alone, and whose
            `crs` is null; absent for none.
        tiles_sha256: Hash of all tiles' ids and files' sizes.
        part_rows: Tiles of a part.
        segment_tiles: Tiles of a segment, which a killed run can lose.
        scalings: What is done to values of products with a scale or offset of their own, and to
            how many images; absent for nothing.
        parts: In the order of rows.
        versions: Of the packages that made it.
    """

    tilezoo_table: int = TABLE_VERSION
    complete: bool = False
    rows: int = 0
    failed: int = 0
    empty_windows: int = 0
    tiles: int
    dimension: int
    space: SpaceState
    model: NamedModel
    pretraining: dict[str, object] = field(default_factory=dict)
    request: TableRequest
    precision: Literal["auto"] | Precision
    device: str
    georeferenced: bool
    approximate_places: int | UnsetType = UNSET
    tiles_sha256: str
    part_rows: int
    segment_tiles: int
    scalings: tuple[str, ...] | UnsetType = UNSET
    parts: tuple[Part, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def settled_precision(self) -> Precision:
        """In which vectors are computed, once the first tiles have settled it."""
        return "fp32" if self.precision == "auto" else self.precision


@dataclass(frozen=True)
class Table:
    """A finished table on disk; vectors are streamed, never held whole unless asked for.

    Attributes:
        path: Its folder.
        manifest: What manifest.json says.
        footers: Of its parts' files, in the order of rows.
    """

    path: Path
    manifest: TableManifest
    footers: tuple[pq.FileMetaData, ...] = field(repr=False, compare=False)

    @cached_property
    def space(self) -> Space:
        """The space its vectors live in."""
        return Space.from_state(self.manifest.space)

    @property
    def row_count(self) -> int:
        """Number of rows."""
        return self.manifest.rows

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.manifest.dimension

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the space, any part, or the order of parts."""
        parts = to_builtins(self.manifest.parts)
        state = {"space": self.manifest.space.fingerprint, "parts": parts}
        return sha256_text(canonical_json(state))[:16]

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """Stream the embedding column in row order, arrays of shape (n, D)."""
        import pyarrow.dataset as ds  # here, since it takes longer to load than one row to read

        parts = ds.dataset([str(path) for path in self._rows.files])
        scanner = parts.scanner(columns=["embedding"], batch_size=_ROWS_PER_BATCH)
        with tell_damage(self.path):
            for batch in scanner.to_batches():
                if batch.num_rows:
                    yield self._to_vectors(batch)

    def vectors_at(self, row_numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Fetch vectors by row number, in the order asked, shape (N, D)."""
        wanted, places = np.unique(row_numbers, return_inverse=True)
        found = [self._to_vectors(batch) for batch in self._rows.take(wanted, ["embedding"])]
        return np.concatenate([np.empty((0, self.dimension), np.float32), *found])[places]

    def column(self, name: str) -> pa.ChunkedArray:
        """Read one column whole, in row order."""
        return self._rows.column(name)

    def find_centres(self) -> NDArray[np.float64]:
        """Longitude and latitude of the tiles' centres, shape (N, 2); NaN without a place."""
        return find_centres(read_boxes(self.column("bbox")), self._read_footprints)

    def find_boxes(self) -> NDArray[np.float64]:
        """Bounds of the tiles' places, shape (N, 4), NaN without one; see `narrow_boxes`."""
        return narrow_boxes(read_boxes(self.column("bbox")), self._read_footprints)

    def _read_footprints(self, row_numbers: NDArray[np.int64]) -> list[bytes | None]:
        return [row["geometry"] for row in self.take(row_numbers, ["geometry"])]

    def take(
        self,
        row_numbers: Sequence[int] | NDArray[np.int64],
        columns: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Fetch rows by number, in the order asked, all columns or those named."""
        wanted, places = np.unique(np.asarray(row_numbers, np.int64), return_inverse=True)
        found = [row for batch in self._rows.take(wanted, columns) for row in to_rows(batch)]
        return [found[place] for place in places]

    def row_of(self, tile_id: str) -> int | None:
        """Find a row's number by its id, the first if several; None when there is none."""
        return self._rows.find(tile_id)

    @cached_property
    def _rows(self) -> RowGroups:
        files = tuple(self.path / part.file for part in self.manifest.parts)
        return RowGroups(files, self.footers)

    def _to_vectors(self, batch: pa.RecordBatch) -> NDArray[np.float32]:
        flat = np.from_dlpack(batch.column("embedding").flatten())  # to_numpy loads pandas
        return np.asarray(flat.reshape(-1, self.dimension).astype(np.float32, copy=False))


def open_table(path: str | Path) -> Table:
    """Open a finished table.

    Raises:
        TableError: There is none, it is unfinished, or a part is missing or damaged.
    """
    folder = Path(path)
    manifest = read_table_manifest(folder)
    if manifest is None:
        raise TableError(f"{folder}: no table here; make one with `tilezoo embed … -o {folder}`")
    if not manifest.complete:
        raise TableError(f"{folder}: the table is unfinished; run its `tilezoo embed` again")
    footers = tuple(_read_footer(folder / part.file, part.rows) for part in manifest.parts)
    return Table(folder, manifest, footers)


def read_table_manifest(folder: Path) -> TableManifest | None:
    """Read a table's manifest; None when there is none.

    Raises:
        TableError: It is damaged or of a version this program does not know.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    version = read_state(path, _Versioned, fix=_AGAIN).tilezoo_table
    if version is None:
        raise TableError(f"{path}: not a table's manifest; {_AGAIN}")
    if version != TABLE_VERSION:
        raise TableError(f"{path}: version {version} of the format, this program knows 1; update")
    return read_state(path, TableManifest, fix=_AGAIN)


@dataclass(frozen=True)
class _Versioned:
    tilezoo_table: int | None = None


def _read_footer(path: Path, row_count: int) -> pq.FileMetaData:
    with tell_damage(path):
        footer = pq.read_metadata(path)
    if footer.num_rows != row_count:
        found = f"{footer.num_rows} rows, the manifest says {row_count}"
        raise TableError(f"{path}: {found}; make it again")
    return footer


def refuse_other_space(first: Space, second: Space, what: str) -> None:
    """Refuse to compare vectors of two spaces.

    Raises:
        SpaceError: Naming what differs.
    """
    if first.fingerprint == second.fingerprint:
        return
    ours, theirs = vars(first.state), vars(second.state)
    differing = [key for key in ours if key != "fingerprint" and ours[key] != theirs[key]]
    raise SpaceError(
        f"{what}: vectors of space {second.fingerprint} cannot be compared with {first.fingerprint}"
        f" ({', '.join(differing)} differ); embed both with one model and the same options"
    )


def file_keys(manifest: TableManifest, geo: Sequence[GeoKey]) -> dict[str, str]:
    """The file keys of a part: `emb` and `tilezoo`, and `geo` only where geometries exist.

    Args:
        manifest: Of the part's table.
        geo: The `geo_key` of each group of its rows that holds a geometry.
    """
    own = {
        "space": manifest.space,
        "precision": manifest.precision,
        "device": manifest.device,
        "versions": manifest.versions,
    }
    keys = {"emb": _describe_vectors(manifest), "tilezoo": to_builtins(own)}
    if geo or manifest.georeferenced:
        keys["geo"] = merged_geo_key(geo)
    return {key: json.dumps(value) for key, value in keys.items()}


def _describe_vectors(manifest: TableManifest) -> dict[str, object]:
    """Describe the vectors as geoembeddings.org's best practices and STAC's `emb` prefix do.

    Source: https://geoembeddings.org (best practices of 2026-03) and
    https://stac-extensions.github.io/embeddings/v0.0.1/schema.json
    """
    space = manifest.space
    return {
        "version": "0.0.1",
        "type": "chip",
        "dimensions": manifest.dimension,
        "data_type": manifest.request.dtype,
        "embedding": {"dim": manifest.dimension, "quantization": None, "normalized": False},
        "model": {
            "name": manifest.model.name,
            "family": space.architecture,
            "source": manifest.model.source,
            "weights_sha256": space.weights_sha256,
            "pooling": space.pooling,
            "config": to_builtins(space.contract),
        },
    }
