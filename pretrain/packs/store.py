"""The pack being written: segments → shards and their rows → manifest, each whole or not there.

A segment is the tiles of one shard and the failures between them. It counts once its state, a
small file under `.packing/`, is there; after a kill the same command makes the others from the
same tiles, so the bytes are the same.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilezoo.errors import PackError
from tilezoo.folder_writer import differing, refuse_foreign
from tilezoo.geoparquet import geo_key, merged_geo_key
from tilezoo.io import sha256_file, whole_file, write_json
from tilezoo.pretrain.packs.choice import Labels
from tilezoo.pretrain.packs.pixels import Sums
from tilezoo.pretrain.packs.segment import TILE_SCHEMA, Segment, ShardForm, written_segment
from tilezoo.pretrain.packs.shards import MANIFEST, PACK_VERSION, TILES, UNFINISHED, read_manifest
from tilezoo.table import ERROR_SCHEMA, ERRORS
from tilezoo.training_ids import ids_sha256

_JOB = "job.json"
_SHARDS = "shard-[0-9]*.npy"
_PACKAGES = ("tilezoo", "numpy", "pillow", "pyarrow", "rasterio")


@dataclass(frozen=True, kw_only=True)
class PackStore:
    """One pack's folder while it is written.

    Attributes:
        path: The folder.
        job: What the run is to make: `request`, `tiles`, `tiles_sha256`.
        begun: What the first tile settled (`size_px`, `unit`); None before.
        manifest: Of the finished pack; None before.
    """

    path: Path
    job: Mapping[str, Any]
    begun: Mapping[str, Any] | None
    manifest: Mapping[str, Any] | None

    def begin(self, settled: Mapping[str, Any]) -> None:
        """Put down what the run is, so that a killed one goes on with the same."""
        (self.path / UNFINISHED).mkdir(exist_ok=True)
        for folder in (self.path, self.path / UNFINISHED):
            for stale in folder.glob(".*.tmp"):  # of a killed run; this one holds the lock
                stale.unlink()
        if self.begun is None:
            write_json(self.path / UNFINISHED / _JOB, {**self.job, "settled": dict(settled)})

    def states(self) -> list[dict[str, Any]]:
        """What is known of the finished segments, in order, up to the first that is missing."""
        found: list[dict[str, Any]] = []
        while (path := self._of(len(found), "json")).is_file():
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["tiles"] and not self._shard(len(found)).is_file():
                break
            found.append(state)
        return found

    @contextmanager
    def segment(
        self, number: int, first: int, form: ShardForm, labels: Labels | None
    ) -> Iterator[Segment]:
        """Yield the segment to be filled from tile `first` of the choice on; then keep it."""
        shard = self._shard(number)
        rows, errors = self._of(number, "parquet"), self._of(number, "errors.parquet")
        with written_segment(
            number, form, labels, shard=shard, rows=rows, errors=errors
        ) as segment:
            yield segment
        if not segment.tiles:  # failures alone, after the last full shard
            shard.unlink()
        state = {
            "next": first + segment.outcomes,
            "tiles": segment.tiles,
            "sha256": sha256_file(shard) if segment.tiles else None,
            "sums": segment.sums.to_json(),
        }
        write_json(self._of(number, "json"), state)

    def finish(self, form: ShardForm, described: Mapping[str, Any]) -> dict[str, Any]:
        """Put rows and failures together, write the manifest last, and clear up.

        Args:
            form: Of the shards.
            described: What the manifest says of bands and values.
        """
        states = self.states()
        sums = Sums(form.shape[0], *form.value_range)
        for state in states:
            sums.add_json(state["sums"])
        census, failures = _Census(), Counter[str]()
        for rows in self._rows_of(len(states), "parquet"):
            census.add(rows)
        for rows in self._rows_of(len(states), "errors.parquet"):
            failures.update(rows["kind"].to_pylist())
        tile_rows = self._rows_of(len(states), "parquet")
        _write_rows(self.path / TILES, TILE_SCHEMA.with_metadata(census.keys()), tile_rows)
        (self.path / ERRORS).unlink(missing_ok=True)
        if failures:
            error_rows = self._rows_of(len(states), "errors.parquet")
            _write_rows(self.path / ERRORS, ERROR_SCHEMA, error_rows)
        mean, std = sums.mean_std()
        manifest = {
            "tilezoo_pack": PACK_VERSION,
            "complete": True,
            **described,
            "tiles": len(census.ids),
            "failed": failures.total(),
            "nodata": failures["nodata"],
            "ids_sha256": ids_sha256(census.ids),
            "splits": dict(sorted(census.splits.items())),
            "gsd_m": census.gsd_m,
            "mean": mean,
            "std": std,
            "shards": [
                {"file": self._shard(n).name, "tiles": s["tiles"], "sha256": s["sha256"]}
                for n, s in enumerate(states)
                if s["tiles"]
            ],
            "request": self.job["request"],
            "tiles_sha256": self.job["tiles_sha256"],
            "versions": {package: version(package) for package in _PACKAGES},
        }
        write_json(self.path / MANIFEST, manifest)
        self.clear_up()
        return manifest

    def clear_up(self) -> None:
        """Remove what only an unfinished pack needs."""
        shutil.rmtree(self.path / UNFINISHED, ignore_errors=True)

    def _rows_of(self, segments: int, ending: str) -> Iterator[pa.Table]:
        """Go through the segments' rows, some thousands at a time."""
        for number in range(segments):
            with pq.ParquetFile(self._of(number, ending)) as part:
                for group in range(part.num_row_groups):
                    yield part.read_row_group(group)

    def _shard(self, number: int) -> Path:
        return self.path / f"shard-{number:05d}.npy"

    def _of(self, number: int, ending: str) -> Path:
        return self.path / UNFINISHED / f"{number:05d}.{ending}"


@dataclass(kw_only=True)
class _Census:
    """What a manifest says of all tiles together, gathered from their rows."""

    ids: list[str] = field(default_factory=list)
    splits: Counter[str] = field(default_factory=Counter)
    _gsds: list[float] = field(default_factory=list)
    _geo: list[dict[str, Any]] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        self.ids.extend(rows["id"].to_pylist())
        self.splits.update(rows["split"].drop_null().to_pylist())
        if rows["geometry"].null_count < len(rows):
            self._geo.append(geo_key(rows))
            self._gsds.extend(pc.min_max(rows["gsd_m"]).as_py().values())

    @property
    def gsd_m(self) -> list[float] | None:
        """Smallest and largest, in metres, to four digits."""
        ends = (min(self._gsds), max(self._gsds)) if self._gsds else ()
        return [float(f"{gsd:.4g}") for gsd in ends] or None

    def keys(self) -> dict[str, str]:
        """File keys of tiles.parquet; `geo` where a tile has a place."""
        return {"geo": json.dumps(merged_geo_key(self._geo))} if self._geo else {}


def _write_rows(path: Path, schema: pa.Schema, parts: Iterator[pa.Table]) -> None:
    with whole_file(path) as made, pq.ParquetWriter(made, schema, compression="zstd") as writer:
        for rows in parts:
            writer.write_table(rows.replace_schema_metadata(schema.metadata))


def open_store(path: Path, job: Mapping[str, Any], *, overwrite: bool) -> PackStore:
    """Start a pack, or go on with the one that the same request began.

    Args:
        path: Its folder.
        job: What the run is to make.
        overwrite: Throw away what is there.

    Raises:
        PackError: The folder holds another run's pack, or files that are no pack.
    """
    if overwrite:
        _clear(path)
    manifest = read_manifest(path) if (path / MANIFEST).is_file() else None
    begun = None if manifest else _read_job(path)
    found = manifest or begun
    if found is None:
        refuse_foreign(path, "pack", PackError)
    else:
        _refuse_other_run(path, found, job)
    settled = None if begun is None else begun["settled"]
    return PackStore(path=path, job=job, begun=settled, manifest=manifest)


def _read_job(path: Path) -> dict[str, Any] | None:
    file = path / UNFINISHED / _JOB
    if not file.is_file():
        return None
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise PackError(f"{file}: damaged; --overwrite starts anew") from error


def _clear(path: Path) -> None:
    """Remove a pack's own files and nothing else, in an order that may be cut short."""
    manifest = path / MANIFEST
    own = [path / TILES, path / ERRORS, *path.glob(_SHARDS)]
    if manifest.is_file() and b'"tilezoo_pack"' in manifest.read_bytes():
        own.insert(0, manifest)
    elif not (path / UNFINISHED).is_dir():
        refuse_foreign(path, "pack", PackError, leftovers={file.name for file in own})
    shutil.rmtree(path / UNFINISHED, ignore_errors=True)
    for file in own:
        file.unlink(missing_ok=True)


def _refuse_other_run(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare what decides the pixels and rows of two runs."""
    differs = differing(found.get("request", {}), wanted["request"])
    if not differs and found.get("tiles_sha256") != wanted["tiles_sha256"]:
        differs = ["other tiles, or files have changed"]
    if differs:
        fix = "choose another -o, or --overwrite to start anew"
        raise PackError(f"{path} is the pack of another run ({'; '.join(differs)}); {fix}")
