"""The table being written: segments → parts → manifest, each whole or not there at all.

A part covers a fixed range of the plan's tiles and is put together from segments of about a
thousand tiles, each a file under `.segments/`. After a kill, finished parts and segments stay;
the same command makes the others, from the same batches, so the rows are the same.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec import UNSET

from tilezoo.changes import Marks
from tilezoo.errors import TableError
from tilezoo.folder_writer import FolderKind, RunFolder, tell_differences, write_parquet
from tilezoo.geoparquet import GeoKey, geo_key
from tilezoo.io import sha256_file, whole_file, write_state
from tilezoo.progress import count_of, say
from tilezoo.reading import TilePlan
from tilezoo.space import Precision
from tilezoo.table import (
    ERROR_SCHEMA,
    ERRORS,
    MANIFEST,
    Failure,
    Part,
    TableManifest,
    error_rows,
    file_keys,
    read_table_manifest,
    schema,
)
from tilezoo.training_ids import TRAINING_IDS

_MARKS = ".files.npz"  # what the files were that the vectors are of
_TABLE = FolderKind(
    what="table",
    error=TableError,
    manifest=MANIFEST,
    mark="tilezoo_table",
    files=(ERRORS, TRAINING_IDS, _MARKS, "part-[0-9][0-9][0-9][0-9][0-9].parquet"),
    derived=("index",),
    unfinished=".segments",
)
_GROUP_BYTES = 4 << 20  # of a part in memory at once, and so of a row group, about


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """How many rows have no place (`missing`), and how many an approximate one."""

    missing: int
    approximate: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TableSegment:
    """Tiles `first` to `last` (exclusive) of the plan, all of one part."""

    part: int
    number: int
    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


def lock_table(path: Path) -> AbstractContextManager[None]:
    """Hold a table's folder for one writer.

    Raises:
        TableError: Another process holds it, or the folder or disk cannot be written.
    """
    return RunFolder(path, _TABLE).lock()


def open_writer(
    path: Path, wanted: TableManifest, *, overwrite: bool, plan: TilePlan | None = None
) -> "TableWriter":
    """Start a table, or go on with the one that the same request began.

    Segments of files that changed since are dropped, to be made again.

    Args:
        path: Its folder, which is there.
        wanted: The manifest of the run that is asked for.
        overwrite: Throw away what is there.
        plan: The run's tiles; None where files are not looked at.

    Raises:
        TableError: The folder holds another run's table, or files that are no table.
    """
    folder = RunFolder(path, _TABLE)
    if overwrite:
        folder.clear()
    found = None if overwrite else read_table_manifest(path)
    if found is None and not overwrite:
        folder.start()
    now = None
    if plan is not None:
        now = Marks(plan=plan.digest(of_sizes=False), of_sources=plan.marks)
    before = Marks.load(path / _MARKS) if now else None
    known = before if before and now and before.plan == now.plan else None
    if found is not None:
        there = replace(found, tiles_sha256=wanted.tiles_sha256) if known else found
        folder.refuse_other_run(_differences(there, wanted))
        found = there
    writer = TableWriter(folder, found or wanted, now)
    if found and known and plan is not None:
        writer.drop_changed(plan, known)
    return writer


def _differences(there: TableManifest, now: TableManifest) -> list[str]:
    """Compare what decides the rows of two runs."""
    found = tell_differences(asdict(there.request), asdict(now.request))
    if there.space.fingerprint != now.space.fingerprint:
        names = f"{there.model.name} there, {now.model.name} now"
        found.insert(0, f"model: {names} (another space)")
    if there.scalings != now.scalings:
        listed = (_list(one.scalings or ()) for one in (there, now))
        found.append("values: {} there, {} now".format(*listed))
    if not found and there.tiles_sha256 != now.tiles_sha256:
        return [f"tiles: {there.tiles} there, {now.tiles} now, or files have changed"]
    return found


def _list(scalings: Sequence[str]) -> str:
    return "; ".join(scalings) or "as stored"


class TableWriter:
    """One table's folder while it is written."""

    def __init__(
        self, folder: RunFolder, manifest: TableManifest, marks: Marks | None = None
    ) -> None:
        self._folder, self._manifest, self._marks = folder, manifest, marks
        self._places = Places(missing=0, approximate=0)

    @property
    def path(self) -> Path:
        """The table's folder."""
        return self._folder.path

    @property
    def manifest(self) -> TableManifest:
        """As far as it is known."""
        return self._manifest

    @property
    def places(self) -> Places:
        """Of the finished table's rows."""
        return self._places

    def settle(self, *, precision: Precision, georeferenced: bool) -> None:
        """State what the first tiles have shown."""
        self._manifest = replace(self._manifest, precision=precision, georeferenced=georeferenced)

    def begin(self, training_ids: Path | None = None) -> None:
        """Put the manifest down, so that a killed run knows its own request.

        Args:
            training_ids: The model's list of tiles it was trained on, kept beside the vectors for
                leakage audits; models of others have none.
        """
        self._folder.begin()
        write_state(self.path / MANIFEST, self._manifest)
        if self._marks is not None:
            self._marks.save(self.path / _MARKS)
        if training_ids and training_ids.is_file():
            with whole_file(self.path / TRAINING_IDS) as temporary:
                shutil.copyfile(training_ids, temporary)

    def drop_changed(self, plan: TilePlan, before: Marks) -> None:
        """Drop the segments whose files are not what they were, and tell it; keep all others.

        May be cut short at any moment: marks are written anew only when all of it is done.

        Args:
            plan: Of the tiles.
            before: What the files were when the segments were made.
        """
        changed = (before.of_sources != plan.marks).any(axis=1)
        tiles = plan.find_tiles(changed)
        dropped = [s for s in self._list_segments() if tiles[s.first : s.last].any()]
        missing = set(self.missing())
        made = [segment for segment in dropped if segment not in missing]
        if not made:
            return
        first = plan.sources[int(np.flatnonzero(changed)[0])].id
        images = count_of(int(changed.sum()), "image")
        told = f"files of {images} changed since, {first} first"
        count = sum(map(len, made))
        say(f"{self.path}: {told}; {count} of {self._manifest.tiles} tiles are made again")
        if self._manifest.complete:
            self._reopen(plan)
        for part in sorted({segment.part for segment in made}):
            self._split_part(part, plan)
        for segment in made:
            self._errors_of(segment).unlink(missing_ok=True)
            self._rows_of(segment).unlink(missing_ok=True)

    def _reopen(self, plan: TilePlan) -> None:
        """Make a finished table an unfinished one: each segment has its own errors again."""
        self._folder.begin()
        if (self.path / ERRORS).is_file():
            errors, first = pq.read_table(self.path / ERRORS), 0
            for part in range(self.part_count):
                for segment, rows in self._count_rows(part, plan):
                    failed = len(segment) - rows
                    if failed:
                        self._write(self._errors_of(segment), errors.slice(first, failed))
                    first += failed
        self._manifest = replace(self._manifest, complete=False)
        write_state(self.path / MANIFEST, self._manifest)

    def _split_part(self, part: int, plan: TilePlan) -> None:
        """Turn a part, if it is there, back into its segments."""
        if not self._part(part).is_file():
            return
        self._folder.begin()
        counts, first = self._count_rows(part, plan), 0
        rows = pq.read_table(self._part(part)).replace_schema_metadata(None)
        for segment, count in counts:
            self._write(self._rows_of(segment), rows.slice(first, count))
            first += count
        self._part(part).unlink()

    def _count_rows(self, part: int, plan: TilePlan) -> list[tuple[TableSegment, int]]:
        """How many of a part's rows are of each of its segments: ids of both are in one order."""
        ids = pq.read_table(self._part(part), columns=["id"])["id"].to_pylist()
        counts, first = [], 0
        for segment in self._list_segments(part):
            last = first
            for ref in plan.tiles(segment.first, segment.last):
                last += last < len(ids) and ids[last] == ref.id
            counts.append((segment, last - first))
            first = last
        return counts

    def missing(self) -> Iterator[TableSegment]:
        """Segments that are still to be made, in order."""
        for segment in self._list_segments():
            made = self._part(segment.part).is_file() or self._rows_of(segment).is_file()
            if not made:
                yield segment

    def done_tiles(self) -> int:
        """Tiles of finished segments."""
        return self._manifest.tiles - sum(map(len, self.missing()))

    def add(self, segment: TableSegment, rows: pa.Table, failures: Sequence[Failure]) -> None:
        """Keep a segment; when its part has all of them, make the part."""
        self._errors_of(segment).unlink(missing_ok=True)
        if failures:
            self._write(self._errors_of(segment), error_rows(failures))
        self._write(self._rows_of(segment), rows)
        self._make_part(segment.part)

    def finish(self) -> None:
        """Make what parts and errors are due, the final manifest, and clear up."""
        for part in range(self.part_count):
            self._make_part(part)
        errors = self._gather_errors()
        self._agree_on_places()
        self._places = self._count_places()
        parts = tuple(_describe(self._part(part)) for part in range(self.part_count))
        self._manifest = replace(
            self._manifest,
            complete=True,
            approximate_places=self._places.approximate or UNSET,
            rows=sum(part.rows for part in parts),
            failed=errors.num_rows,
            empty_windows=_count_empty(
                errors, windows_alone=self._manifest.request.max_nodata == 1
            ),
            parts=parts,
        )
        write_state(self.path / MANIFEST, self._manifest)
        self._folder.finish()

    def _count_places(self) -> Places:
        paths = [self._part(part) for part in range(self.part_count)]
        facts = pq.ParquetDataset(paths).read(columns=["gsd_m", "crs"])
        placed = pc.is_valid(facts["gsd_m"])  # as `geometry`, and far smaller
        approximate = pc.and_(placed, pc.is_null(facts["crs"]))
        count = facts.num_rows - (pc.sum(placed).as_py() or 0)
        return Places(missing=count, approximate=pc.sum(approximate).as_py() or 0)

    def _agree_on_places(self) -> None:
        """Give all parts the key `geo` if one has it: readers take one schema for all of them.

        Those that were made before the first tile with a place came are written anew.
        """
        paths = [self._part(part) for part in range(self.part_count)]
        lacking = [path for path in paths if b"geo" not in pq.read_schema(path).metadata]
        georeferenced = len(lacking) < len(paths)
        self._manifest = replace(self._manifest, georeferenced=georeferenced)
        for path in lacking if georeferenced else ():
            with pq.ParquetFile(path) as old:
                keys = {**old.schema_arrow.metadata, **file_keys(self._manifest, [])}
                groups = (
                    old.read_row_group(n, use_threads=False) for n in range(old.num_row_groups)
                )
                write_parquet(path, old.schema_arrow.with_metadata(keys), groups, **self._layout)

    @property
    def part_count(self) -> int:
        """Number of parts; one at least, so that an empty table has its columns."""
        return max(1, -(-self._manifest.tiles // self._manifest.part_rows))

    def _list_segments(self, part: int | None = None) -> Iterator[TableSegment]:
        tiles, part_rows = self._manifest.tiles, self._manifest.part_rows
        step = self._manifest.segment_tiles
        for which in range(self.part_count) if part is None else [part]:
            end = min((which + 1) * part_rows, tiles)
            for number, first in enumerate(range(which * part_rows, end, step)):
                yield TableSegment(
                    part=which, number=number, first=first, last=min(first + step, end)
                )

    def _make_part(self, part: int) -> None:
        """Put a part together if all its segments are there and it is not."""
        segments = list(self._list_segments(part))
        if self._part(part).is_file() or not all(self._rows_of(s).is_file() for s in segments):
            return
        columns = schema(self._manifest.dimension, self._manifest.request.dtype)
        keys = file_keys(self._manifest, self._read_geo_keys(segments))
        groups = self._group_rows(segments)
        write_parquet(self._part(part), columns.with_metadata(keys), groups, **self._layout)
        for segment in segments:
            self._rows_of(segment).unlink()

    def _read_geo_keys(self, segments: Iterable[TableSegment]) -> list[GeoKey]:
        places = (self._read(segment, ["geometry"]) for segment in segments)
        return [geo_key(rows) for rows in places if rows["geometry"].null_count < len(rows)]

    def _group_rows(self, segments: Iterable[TableSegment]) -> Iterator[pa.Table]:
        """Go through the segments' rows, some megabytes at a time."""
        group: list[pa.Table] = []
        for segment in segments:
            group.append(self._read(segment))
            if sum(rows.nbytes for rows in group) >= _GROUP_BYTES:
                yield pa.concat_tables(group)
                group = []
        if group:
            yield pa.concat_tables(group)

    def _read(self, segment: TableSegment, columns: list[str] | None = None) -> pa.Table:
        with pq.ParquetFile(self._rows_of(segment)) as file:
            return file.read(columns, use_threads=False)

    def _gather_errors(self) -> pa.Table:
        """Write errors.parquet in the plan's order, if anything failed."""
        found = [path for s in self._list_segments() if (path := self._errors_of(s)).is_file()]
        (self.path / ERRORS).unlink(missing_ok=True)
        errors = pa.concat_tables([ERROR_SCHEMA.empty_table(), *map(pq.read_table, found)])
        if found:
            self._write(self.path / ERRORS, errors)
        return errors

    def _write(self, path: Path, rows: pa.Table) -> None:
        write_parquet(path, rows.schema, [rows], **self._layout)

    @property
    def _layout(self) -> dict[str, object]:
        """How Parquet lays values out (benchmarks/README.md, "Parquet").

        Vectors by bytes, first all signs and exponents: faster and smaller than by a dictionary.
        DuckDB reads that of float32 alone.
        """
        wide = self._manifest.request.dtype == "float32"
        split = ["embedding.list.element"] if wide else False
        return {
            "compression": "zstd",
            "use_dictionary": ["crs"],
            "use_byte_stream_split": split,
        }

    def _part(self, part: int) -> Path:
        return self.path / f"part-{part:05d}.parquet"

    def _rows_of(self, segment: TableSegment) -> Path:
        return self._folder.unfinished / f"{segment.part:05d}-{segment.number:05d}.parquet"

    def _errors_of(self, segment: TableSegment) -> Path:
        return self._folder.unfinished / f"{segment.part:05d}-{segment.number:05d}.errors.parquet"


def _describe(path: Path) -> Part:
    rows = pq.read_metadata(path).num_rows
    return Part(file=path.name, rows=rows, sha256=sha256_file(path))


def _count_empty(errors: pa.Table, *, windows_alone: bool) -> int:
    """Count what is listed in errors.parquet for want of data, but is no fault.

    Args:
        errors: Of all tiles.
        windows_alone: Nothing was said of how much data a tile needs: a file without any is a fault.
    """
    nodata = pc.equal(errors["kind"], "nodata")
    if windows_alone:
        nodata = pc.and_(nodata, pc.is_valid(errors["pixel_bbox"]))
    return int(pc.sum(nodata).as_py() or 0)
