"""The pack being written: segments → shards and their rows → manifest, each whole or not there.

A segment is the tiles of one shard and the failures between them. It counts once its state, a
small file under `.packing/`, is there; after a kill the same command makes the others from the
same tiles, so the bytes are the same.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import UNSET, UnsetType

from tilezoo.errors import PackError
from tilezoo.folder_writer import FolderKind, RunFolder, tell_differences, write_parquet
from tilezoo.geoparquet import geo_key, merged_geo_key
from tilezoo.io import read_state, sha256_file, write_state
from tilezoo.pretrain.packs.choice import Labels
from tilezoo.pretrain.packs.pixels import PixelSums, Shaping, Sums
from tilezoo.pretrain.packs.segment import TILE_SCHEMA, Segment, ShardForm, write_segment
from tilezoo.pretrain.packs.shards import (
    MANIFEST,
    PACK_VERSION,
    TILES,
    UNFINISHED,
    PackManifest,
    Shard,
    read_manifest,
)
from tilezoo.space import Unit
from tilezoo.table import ERROR_SCHEMA, ERRORS
from tilezoo.training_ids import ids_sha256

_JOB = "job.json"
_PACKAGES = ("tilezoo", "numpy", "pillow", "pyarrow", "rasterio")
_PACK = FolderKind(
    what="pack",
    error=PackError,
    manifest=MANIFEST,
    mark="tilezoo_pack",
    files=(TILES, ERRORS, "shard-[0-9]*.npy"),
    unfinished=UNFINISHED,
)
_ANEW = "--overwrite starts anew"


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What a pack's first tile settles; None where no tile fits.

    Attributes:
        size_px: Side of every tile, pixels.
        unit: Of the sources' pixels.
    """

    size_px: int | None
    unit: Unit | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run is to make, as an unfinished pack keeps it.

    Attributes:
        request: The options that decide the pack.
        tiles: How many are to be packed.
        tiles_sha256: Of what the sources are.
        settled: By the first tile; not known when the job is asked for.
    """

    request: dict[str, object]
    tiles: int = 0
    tiles_sha256: str = ""
    settled: Settled | UnsetType = UNSET


@dataclass(frozen=True, kw_only=True)
class _SegmentState:
    """What is kept of a finished segment, beside its shard and rows.

    Attributes:
        next: Number of the first tile after it.
        tiles: In its shard.
        sha256: Of the shard; None where all its tiles failed.
        sums: Of the shard's pixels.
    """

    next: int
    tiles: int
    sha256: str | None
    sums: PixelSums


@dataclass(frozen=True, kw_only=True)
class PackStore:
    """One pack's folder while it is written.

    Attributes:
        path: The folder.
        job: What the run is to make.
        settled: What the first tile settled; None before.
        manifest: Of the finished pack; None before.
    """

    path: Path
    job: Job
    settled: Settled | None
    manifest: PackManifest | None

    def begin(self, settled: Settled) -> None:
        """Put down what the run is, so that a killed one goes on with the same."""
        RunFolder(self.path, _PACK).begin()
        if self.settled is None:
            write_state(self.path / UNFINISHED / _JOB, replace(self.job, settled=settled))

    def done(self) -> tuple[int, int]:
        """How many tiles, and how many segments, are finished."""
        states = self._states()
        return (states[-1].next if states else 0), len(states)

    @contextmanager
    def segment(
        self, number: int, first: int, form: ShardForm, labels: Labels | None
    ) -> Iterator[Segment]:
        """Yield the segment to be filled from tile `first` of the choice on; then keep it."""
        shard = self._shard(number)
        rows, errors = self._of(number, "parquet"), self._of(number, "errors.parquet")
        with write_segment(number, form, labels, shard=shard, rows=rows, errors=errors) as segment:
            yield segment
        if not segment.tiles:  # failures alone, after the last full shard
            shard.unlink()
        state = _SegmentState(
            next=first + segment.outcomes,
            tiles=segment.tiles,
            sha256=sha256_file(shard) if segment.tiles else None,
            sums=segment.sums.state,
        )
        write_state(self._of(number, "json"), state)

    def finish(self, shaping: Shaping, form: ShardForm) -> PackManifest:
        """Put rows and failures together, write the manifest last, and clear up."""
        states = self._states()
        sums = Sums(form.shape[0], *form.value_range)
        for state in states:
            sums.add_state(state.sums)
        census = self._write_tiles(len(states))
        failures = self._write_errors(len(states))
        manifest = self._manifest(shaping, states, sums, census, failures)
        write_state(self.path / MANIFEST, manifest)
        self.clear_up()
        return manifest

    def clear_up(self) -> None:
        """Remove what only an unfinished pack needs."""
        RunFolder(self.path, _PACK).finish()

    def _states(self) -> list[_SegmentState]:
        """What is known of the finished segments, in order, up to the first that is missing."""
        found: list[_SegmentState] = []
        while (path := self._of(len(found), "json")).is_file():
            state = read_state(path, _SegmentState, fix=_ANEW, error=PackError)
            if state.tiles and not self._shard(len(found)).is_file():
                break
            found.append(state)
        return found

    def _write_tiles(self, segments: int) -> "_Census":
        """Write the rows of all tiles; returns what they come to."""
        census = _Census()
        for rows in self._rows_of(segments, "parquet"):
            census.add(rows)
        schema = TILE_SCHEMA.with_metadata(census.keys())
        rows_in_turn = self._rows_of(segments, "parquet")
        write_parquet(self.path / TILES, schema, rows_in_turn, compression="zstd")
        return census

    def _write_errors(self, segments: int) -> Counter[str]:
        """Write the rows of all failures, if there are any; returns how many of each kind."""
        failures = Counter[str]()
        for rows in self._rows_of(segments, "errors.parquet"):
            failures.update(rows["kind"].to_pylist())
        (self.path / ERRORS).unlink(missing_ok=True)
        if failures:
            rows = self._rows_of(segments, "errors.parquet")
            write_parquet(self.path / ERRORS, ERROR_SCHEMA, rows, compression="zstd")
        return failures

    def _manifest(
        self,
        shaping: Shaping,
        states: list[_SegmentState],
        sums: Sums,
        census: "_Census",
        failures: Counter[str],
    ) -> PackManifest:
        mean, std = sums.mean_std()
        shards = [
            Shard(file=self._shard(number).name, tiles=state.tiles, sha256=state.sha256)
            for number, state in enumerate(states)
            if state.sha256 is not None
        ]
        return PackManifest(
            tilezoo_pack=PACK_VERSION,
            complete=True,
            bands=shaping.request.wanted,
            dtype=shaping.dtype,
            size_px=shaping.size_px or 0,
            unit=shaping.unit or "stated",
            value_range=shaping.stored_range,
            values="stored" if shaping.request.values == "stored" else UNSET,
            quantized=shaping.quantized,
            tiles=len(census.ids),
            failed=failures.total(),
            nodata=failures["nodata"],
            ids_sha256=ids_sha256(census.ids),
            splits=dict(sorted(census.splits.items())),
            gsd_m=census.gsd_m,
            mean=mean,
            std=std,
            shards=tuple(shards),
            request=self.job.request,
            tiles_sha256=self.job.tiles_sha256,
            versions={package: version(package) for package in _PACKAGES},
        )

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
    _geo: list[dict[str, object]] = field(default_factory=list)

    def add(self, rows: pa.Table) -> None:
        self.ids.extend(rows["id"].to_pylist())
        self.splits.update(rows["split"].drop_null().to_pylist())
        if rows["geometry"].null_count < len(rows):
            self._geo.append(geo_key(rows))
            self._gsds.extend(pc.min_max(rows["gsd_m"]).as_py().values())

    @property
    def gsd_m(self) -> tuple[float, float] | None:
        """Smallest and largest, in metres, to four digits."""
        if not self._gsds:
            return None
        return float(f"{min(self._gsds):.4g}"), float(f"{max(self._gsds):.4g}")

    def keys(self) -> dict[str, str]:
        """File keys of tiles.parquet; `geo` where a tile has a place."""
        return {"geo": json.dumps(merged_geo_key(self._geo))} if self._geo else {}


def lock_pack(path: Path) -> AbstractContextManager[None]:
    """Hold a pack's folder for one writer.

    Raises:
        PackError: Another process holds it, or the folder or disk cannot be written.
    """
    return RunFolder(path, _PACK).lock()


def open_pack_store(path: Path, job: Job, *, overwrite: bool) -> PackStore:
    """Start a pack, or go on with the one that the same request began.

    Args:
        path: Its folder.
        job: What the run is to make.
        overwrite: Throw away what is there.

    Raises:
        PackError: The folder holds another run's pack, or files that are no pack.
    """
    folder = RunFolder(path, _PACK)
    if overwrite:
        folder.clear()
    manifest = read_manifest(path) if (path / MANIFEST).is_file() else None
    begun = None if manifest else _read_job(path)
    if there := manifest or begun:
        folder.refuse_other_run(_differences(there, job))
    elif not overwrite:
        folder.start()
    settled = begun.settled if begun and begun.settled is not UNSET else None
    return PackStore(path=path, job=job, settled=settled, manifest=manifest)


def _read_job(path: Path) -> Job | None:
    file = path / UNFINISHED / _JOB
    return read_state(file, Job, fix=_ANEW, error=PackError) if file.is_file() else None


def _differences(there: Job | PackManifest, asked: Job) -> list[str]:
    """Compare what decides the pixels and rows of two runs."""
    differs = tell_differences(there.request, asked.request)
    if not differs and there.tiles_sha256 != asked.tiles_sha256:
        return ["other tiles, or files have changed"]
    return differs
