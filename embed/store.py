"""The table being written: segments → parts → manifest, each whole or not there at all.

A part covers a fixed range of the plan's tiles and is put together from segments of about a
thousand tiles, each a file under `.segments/`. After a kill, finished parts and segments stay;
the same command makes the others, from the same batches, so the rows are the same.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilezoo.errors import TableError
from tilezoo.folder_writer import differing, one_writer, refuse_foreign
from tilezoo.geoparquet import file_keys, geo_key
from tilezoo.io import sha256_file, whole_file, write_json
from tilezoo.table import ERROR_SCHEMA, ERRORS, MANIFEST, Failure, error_rows, read_manifest, schema
from tilezoo.training_ids import TRAINING_IDS

_SEGMENTS = ".segments"
_GROUP_BYTES = 4 << 20  # of a part in memory at once, and so of a row group, about
_PARTS = "part-[0-9][0-9][0-9][0-9][0-9].parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Tiles `first` to `last` (exclusive) of the plan, all of one part."""

    part: int
    number: int
    first: int
    last: int


@dataclass
class Store:
    """One table's folder while it is written.

    Attributes:
        path: The folder.
        manifest: As far as it is known.
    """

    path: Path
    manifest: dict[str, Any]
    _counts: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the table is finished."""
        return bool(self.manifest["complete"])

    def begin(self, training_ids: Path | None = None) -> None:
        """Put the manifest down, so that a killed run knows its own request.

        Args:
            training_ids: The model's list of tiles it was trained on, kept beside the vectors for
                leakage audits; models of others have none.
        """
        (self.path / _SEGMENTS).mkdir(exist_ok=True)
        for stale in self.path.glob(".*.tmp"):  # of a killed run; this one holds the lock
            stale.unlink()
        write_json(self.path / MANIFEST, self.manifest)
        if training_ids and training_ids.is_file():
            with whole_file(self.path / TRAINING_IDS) as temporary:
                shutil.copyfile(training_ids, temporary)

    def missing(self) -> Iterator[Segment]:
        """Segments that are still to be made, in order."""
        for segment in self._segments():
            made = self._part(segment.part).is_file() or self._rows_of(segment).is_file()
            if not made:
                yield segment

    def add(self, segment: Segment, rows: pa.Table, failures: Sequence[Failure]) -> None:
        """Keep a segment; when its part has all of them, make the part."""
        self._errors_of(segment).unlink(missing_ok=True)
        if failures:
            self._write(error_rows(failures), self._errors_of(segment))
        self._write(rows, self._rows_of(segment))
        self._make_part(segment.part)

    def finish(self) -> None:
        """Make what parts and errors are due, the final manifest, and clear up."""
        for part in range(self.part_count):
            self._make_part(part)
        errors = self._gather_errors()
        parts = [self._described(self._part(part)) for part in range(self.part_count)]
        rows = sum(part["rows"] for part in parts)
        self.manifest.update(
            parts=parts,
            rows=rows,
            failed=errors.num_rows,
            empty_windows=_empty_windows(errors),
            complete=True,
        )
        write_json(self.path / MANIFEST, self.manifest)
        shutil.rmtree(self.path / _SEGMENTS)

    @property
    def part_count(self) -> int:
        """Number of parts; one at least, so that an empty table has its columns."""
        return max(1, -(-int(self.manifest["tiles"]) // int(self.manifest["part_rows"])))

    def done_tiles(self) -> int:
        """Tiles of finished segments."""
        return int(self.manifest["tiles"]) - sum(s.last - s.first for s in self.missing())

    def _segments(self, part: int | None = None) -> Iterator[Segment]:
        tiles, part_rows = int(self.manifest["tiles"]), int(self.manifest["part_rows"])
        step = int(self.manifest["segment_tiles"])
        for which in range(self.part_count) if part is None else [part]:
            end = min((which + 1) * part_rows, tiles)
            for number, first in enumerate(range(which * part_rows, end, step)):
                yield Segment(part=which, number=number, first=first, last=min(first + step, end))

    def _make_part(self, part: int) -> None:
        """Put a part together if all its segments are there and it is not."""
        segments = list(self._segments(part))
        if self._part(part).is_file() or not all(self._rows_of(s).is_file() for s in segments):
            return
        columns = schema(self.manifest["dimension"], self.manifest["request"]["dtype"])
        columns = columns.with_metadata(file_keys(self.manifest, self._geo_keys(segments)))
        with (
            whole_file(self._part(part)) as temporary,
            pq.ParquetWriter(temporary, columns, **self._layout) as writer,
        ):
            for rows in self._groups(segments):
                writer.write_table(rows.cast(columns), row_group_size=len(rows) or 1)
        for segment in segments:
            self._rows_of(segment).unlink()

    def _geo_keys(self, segments: Iterable[Segment]) -> list[dict[str, Any]]:
        places = (self._read(segment, ["geometry"]) for segment in segments)
        return [geo_key(rows) for rows in places if rows["geometry"].null_count < len(rows)]

    def _groups(self, segments: Iterable[Segment]) -> Iterator[pa.Table]:
        """Go through the segments' rows, some megabytes at a time."""
        group: list[pa.Table] = []
        for segment in segments:
            group.append(self._read(segment))
            if sum(rows.nbytes for rows in group) >= _GROUP_BYTES:
                yield pa.concat_tables(group)
                group = []
        if group:
            yield pa.concat_tables(group)

    def _read(self, segment: Segment, columns: list[str] | None = None) -> pa.Table:
        with pq.ParquetFile(self._rows_of(segment)) as file:
            return file.read(columns, use_threads=False)

    def _gather_errors(self) -> pa.Table:
        """Write errors.parquet in the plan's order, if anything failed."""
        found = [path for s in self._segments() if (path := self._errors_of(s)).is_file()]
        (self.path / ERRORS).unlink(missing_ok=True)
        errors = pa.concat_tables([ERROR_SCHEMA.empty_table(), *map(pq.read_table, found)])
        if found:
            self._write(errors, self.path / ERRORS)
        return errors

    def _write(self, table: pa.Table, path: Path) -> None:
        with whole_file(path) as temporary:
            pq.write_table(table, temporary, **self._layout, row_group_size=len(table) or 1)

    @property
    def _layout(self) -> dict[str, Any]:
        """How Parquet lays values out (benchmarks/README.md, "Parquet").

        Vectors by bytes, first all signs and exponents: faster and smaller than by a dictionary.
        DuckDB reads that of float32 alone.
        """
        wide = self.manifest["request"]["dtype"] == "float32"
        split = ["embedding.list.element"] if wide else False
        return {
            "compression": "zstd",
            "use_dictionary": ["crs"],
            "use_byte_stream_split": split,
        }

    def _described(self, path: Path) -> dict[str, Any]:
        rows = pq.read_metadata(path).num_rows
        return {"file": path.name, "rows": rows, "sha256": sha256_file(path)}

    def _part(self, part: int) -> Path:
        return self.path / f"part-{part:05d}.parquet"

    def _rows_of(self, segment: Segment) -> Path:
        return self.path / _SEGMENTS / f"{segment.part:05d}-{segment.number:05d}.parquet"

    def _errors_of(self, segment: Segment) -> Path:
        return self.path / _SEGMENTS / f"{segment.part:05d}-{segment.number:05d}.errors.parquet"


def _empty_windows(errors: pa.Table) -> int:
    """Count windows of scenes without any data: told in errors.parquet, but no fault."""
    nodata = pc.equal(errors["kind"], "nodata")
    return int(pc.sum(pc.and_(nodata, pc.is_valid(errors["pixel_bbox"]))).as_py() or 0)


def locked(path: Path) -> AbstractContextManager[None]:
    """Hold a table's folder for one writer.

    Raises:
        TableError: Another process holds it, or the folder or disk cannot be written.
    """
    return one_writer(path, "table", TableError)


def open_store(path: Path, manifest: dict[str, Any], *, overwrite: bool) -> Store:
    """Start a table, or go on with the one that the same request began.

    Args:
        path: Its folder.
        manifest: Of the run that is asked for.
        overwrite: Throw away what is there.

    Raises:
        TableError: The folder holds another run's table, or files that are no table.
    """
    found = None if overwrite else read_manifest(path)
    if overwrite:
        _clear(path)
    elif found is None:
        refuse_foreign(path, "table", TableError)
    else:
        _refuse_other_run(path, found, manifest)
    return Store(path, manifest if found is None else found)


def _clear(path: Path) -> None:
    """Remove a table's own files and nothing else, in an order that may be cut short."""
    own = [path / ERRORS, path / TRAINING_IDS, *path.glob(_PARTS)]
    if _is_table(path):
        shutil.rmtree(path / "index", ignore_errors=True)
        own.insert(0, path / MANIFEST)
    else:
        refuse_foreign(path, "table", TableError, leftovers={file.name for file in own})
    for file in own:
        file.unlink(missing_ok=True)
    shutil.rmtree(path / _SEGMENTS, ignore_errors=True)


def _is_table(path: Path) -> bool:
    manifest = path / MANIFEST
    return manifest.is_file() and b'"tilezoo_table"' in manifest.read_bytes()


def _refuse_other_run(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Compare what decides the rows of two runs."""
    differs = differing(found["request"], wanted["request"])
    if found["space"]["fingerprint"] != wanted["space"]["fingerprint"]:
        there, now = found["model"]["name"], wanted["model"]["name"]
        differs.insert(0, f"model: {there} there, {now} now (another space)")
    if not differs and found["tiles_sha256"] != wanted["tiles_sha256"]:
        differs = [f"tiles: {found['tiles']} there, {wanted['tiles']} now, or files have changed"]
    if differs:
        fix = "choose another -o, or --overwrite to start anew"
        raise TableError(f"{path} is the table of another run ({'; '.join(differs)}); {fix}")
