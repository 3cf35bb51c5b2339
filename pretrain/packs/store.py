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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import UNSET, UnsetType

from tilezoo.changes import Marks
from tilezoo.errors import PackError
from tilezoo.folder_writer import FolderKind, RunFolder, tell_differences, write_parquet
from tilezoo.geoparquet import geo_key, merged_geo_key
from tilezoo.io import read_state, sha256_file, write_state
from tilezoo.pretrain.packs.choice import Choice, Labels
from tilezoo.pretrain.packs.pixels import PixelSums, Shaping, Sums
from tilezoo.pretrain.packs.segment import (
    TILE_SCHEMA,
    Segment,
    ShardForm,
    write_rows,
    write_segment,
)
from tilezoo.pretrain.packs.shards import (
    MANIFEST,
    PACK_VERSION,
    TILES,
    UNFINISHED,
    PackManifest,
    Shard,
    read_manifest,
)
from tilezoo.progress import count_of, say
from tilezoo.space import Unit
from tilezoo.table import ERROR_SCHEMA, ERRORS
from tilezoo.training_ids import ids_sha256

_JOB = "job.json"
_PACKAGES = ("tilezoo", "numpy", "pillow", "pyarrow", "rasterio")
_MARKS = ".files.npz"  # what the files were that the tiles are of
_SEGMENTS = ".segments.json"  # of a finished pack, so that one of them can be made again
_PACK = FolderKind(
    what="pack",
    error=PackError,
    manifest=MANIFEST,
    mark="tilezoo_pack",
    files=(TILES, ERRORS, _MARKS, _SEGMENTS, "shard-[0-9]*.npy"),
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
        first: Number of its first tile; -1 where older versions did not say it.
        next: Number of the first tile after it.
        tiles: In its shard.
        sha256: Of the shard; None where all its tiles failed.
        sums: Of the shard's pixels.
    """

    next: int
    tiles: int
    sha256: str | None
    sums: PixelSums
    first: int = -1

    def follows(self, tile: int) -> bool:
        """Whether it begins with a tile."""
        return self.first in {-1, tile}


@dataclass(frozen=True, kw_only=True)
class _Segments:
    """The segments of a finished pack, in order."""

    segments: tuple[_SegmentState, ...]


@dataclass(frozen=True, kw_only=True)
class PackStore:
    """One pack's folder while it is written.

    Attributes:
        path: The folder.
        job: What the run is to make.
        settled: What the first tile settled; None before.
        manifest: Of the finished pack; None before.
        marks: What the tiles' files are now; None where they are not looked at.
        changed: Files of finished segments have changed, and these were dropped.
    """

    path: Path
    job: Job
    settled: Settled | None
    manifest: PackManifest | None
    marks: Marks | None = None
    changed: bool = False

    def begin(self, settled: Settled) -> None:
        """Put down what the run is, so that a killed one goes on with the same."""
        RunFolder(self.path, _PACK).begin()
        if self.settled is None:
            write_state(self.path / UNFINISHED / _JOB, replace(self.job, settled=settled))
        if self.marks is not None:
            self.marks.save(self.path / _MARKS)

    def skip(self, tile: int, number: int) -> tuple[int, int]:
        """Go over finished segments from number `number` on, which is to begin with `tile`.

        Returns:
            The first tile, and the number of the segment, that are to be made.
        """
        while (state := self._state(number)) is not None and state.follows(tile):
            tile, number = state.next, number + 1
        return tile, number

    def kept(self) -> int:
        """Count the tiles of finished segments."""
        files = (self.path / UNFINISHED).glob("[0-9]*.json")
        states = (self._state(int(file.stem)) for file in files)
        return sum(state.next - max(0, state.first) for state in states if state is not None)

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
            first=first,
            next=first + segment.outcomes,
            tiles=segment.tiles,
            sha256=sha256_file(shard) if segment.tiles else None,
            sums=segment.sums.state,
        )
        write_state(self._of(number, "json"), state)

    def finish(self, shaping: Shaping, form: ShardForm, segments: int) -> PackManifest:
        """Put rows and failures together, write the manifest last, and clear up.

        Args:
            shaping: Of the tiles.
            form: Of the shards.
            segments: How many there are; what is left of more, of other files, goes.
        """
        states = [state for n in range(segments) if (state := self._state(n)) is not None]
        self._remove_after(segments)
        sums = Sums(form.shape[0], *form.value_range)
        for state in states:
            sums.add_state(state.sums)
        census = self._write_tiles(len(states))
        failures = self._write_errors(len(states))
        manifest = self._manifest(shaping, states, sums, census, failures)
        if self.marks is not None:
            write_state(self.path / _SEGMENTS, _Segments(segments=tuple(states)))
        write_state(self.path / MANIFEST, manifest)
        self.clear_up()
        return manifest

    def clear_up(self) -> None:
        """Remove what only an unfinished pack needs."""
        RunFolder(self.path, _PACK).finish()

    def _state(self, number: int) -> _SegmentState | None:
        """What is known of a segment; None where it is not finished."""
        path = self._of(number, "json")
        if not path.is_file():
            return None
        state = read_state(path, _SegmentState, fix=_ANEW, error=PackError)
        return None if state.tiles and not self._shard(number).is_file() else state

    def _remove_after(self, segments: int) -> None:
        number = segments
        while self._of(number, "json").is_file() or self._shard(number).is_file():
            self._of(number, "json").unlink(missing_ok=True)
            self._shard(number).unlink(missing_ok=True)
            number += 1

    def drop_changed(self, choice: Choice, before: Marks) -> "PackStore":
        """Drop the segments whose files are not what they were, and tell it; keep all others.

        May be cut short at any moment: marks are written anew only when all of it is done.

        Args:
            choice: The tiles.
            before: What the files were when the segments were made.
        """
        changed = (before.of_sources != choice.plan.marks).any(axis=1)
        tiles = choice.mark(choice.plan.find_tiles(changed))
        states = self._list_states()
        dropped = {n for n, state in states.items() if tiles[state.first : state.next].any()}
        if not dropped:
            return self
        first = choice.plan.sources[int(np.flatnonzero(changed)[0])].id
        images = count_of(int(changed.sum()), "image")
        told = f"files of {images} changed since, {first} first"
        count = sum(states[n].next - states[n].first for n in dropped)
        say(f"{self.path}: {told}; {count} of {len(choice)} tiles are made again")
        settled = self.settled
        if self.manifest is not None:
            settled = self._reopen(list(states.values()), self.manifest)
        for number in dropped:
            self._of(number, "json").unlink(missing_ok=True)
        return replace(self, manifest=None, settled=settled, changed=True)

    def _list_states(self) -> dict[int, _SegmentState]:
        """The segments that are there, by number."""
        if self.manifest is not None:
            path = self.path / _SEGMENTS
            kept = read_state(path, _Segments, fix=_ANEW, error=PackError)
            return dict(enumerate(kept.segments))
        files = sorted((self.path / UNFINISHED).glob("[0-9]*.json"))
        found = {int(file.stem): self._state(int(file.stem)) for file in files}
        return {number: state for number, state in found.items() if state is not None}

    def _reopen(self, states: list[_SegmentState], manifest: PackManifest) -> Settled:
        """Make a finished pack an unfinished one: each segment has its own rows and failures."""
        RunFolder(self.path, _PACK).begin()
        unit = None if manifest.unit == "stated" else manifest.unit
        settled = Settled(size_px=manifest.size_px or None, unit=unit)
        rows = pq.read_table(self.path / TILES).replace_schema_metadata(None)
        errors, failed = ERROR_SCHEMA.empty_table(), 0
        if (self.path / ERRORS).is_file():
            errors = pq.read_table(self.path / ERRORS)
        for number, state in enumerate(states):
            own = rows.filter(pc.equal(rows["shard"], number))
            write_rows(self._of(number, "parquet"), TILE_SCHEMA, own)
            failures = state.next - state.first - state.tiles
            told = errors.slice(failed, failures)
            write_rows(self._of(number, "errors.parquet"), ERROR_SCHEMA, told)
            write_state(self._of(number, "json"), state)
            failed += failures
        write_state(self.path / UNFINISHED / _JOB, replace(self.job, settled=settled))
        (self.path / MANIFEST).unlink()
        return settled

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


def open_pack_store(
    path: Path, job: Job, *, overwrite: bool, choice: Choice | None = None
) -> PackStore:
    """Start a pack, or go on with the one that the same request began.

    Segments of files that changed since are dropped, to be made again.

    Args:
        path: Its folder.
        job: What the run is to make.
        overwrite: Throw away what is there.
        choice: The run's tiles; None where files are not looked at.

    Raises:
        PackError: The folder holds another run's pack, or files that are no pack.
    """
    folder = RunFolder(path, _PACK)
    if overwrite:
        folder.clear()
    manifest = read_manifest(path) if (path / MANIFEST).is_file() else None
    begun = None if manifest else _read_job(path)
    now, known = _find_marks(path, choice, finished=manifest is not None)
    if there := manifest or begun:
        folder.refuse_other_run(_differences(there, job, files_known=known is not None))
    elif not overwrite:
        folder.start()
    settled = begun.settled if begun and begun.settled is not UNSET else None
    store = PackStore(path=path, job=job, settled=settled, manifest=manifest, marks=now)
    return store.drop_changed(choice, known) if there and choice and known else store


def _find_marks(
    path: Path, choice: Choice | None, *, finished: bool
) -> tuple[Marks | None, Marks | None]:
    """What the files are now, and what they were, if that is known of the same tiles."""
    if choice is None:
        return None, None
    now = Marks(plan=choice.plan.digest(of_sizes=False), of_sources=choice.plan.marks)
    before = Marks.load(path / _MARKS)
    same = before is not None and before.plan == now.plan
    there = (path / _SEGMENTS).is_file() or not finished
    return now, before if same and there else None


def _read_job(path: Path) -> Job | None:
    file = path / UNFINISHED / _JOB
    return read_state(file, Job, fix=_ANEW, error=PackError) if file.is_file() else None


def _differences(there: Job | PackManifest, asked: Job, *, files_known: bool) -> list[str]:
    """Compare what decides the pixels and rows of two runs."""
    differs = tell_differences(there.request, asked.request)
    if not differs and not files_known and there.tiles_sha256 != asked.tiles_sha256:
        return ["other tiles, or files have changed"]
    return differs
