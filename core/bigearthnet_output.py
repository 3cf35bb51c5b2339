"""What `tilezoo prepare bigearthnet` makes: one GeoParquet file, one of failures, and counts."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tilezoo.bigearthnet_rows import SCHEMA
from tilezoo.geoparquet import geo_key, merged_geo_key
from tilezoo.io import whole_file
from tilezoo.table import ERROR_SCHEMA, Failure, error_rows

_GROUPED = ("original_split", "country", "season")
_FLAGS = ("recommended", "snow", "cloud_or_shadow")

Group = tuple[str | None, str | None, str | None]  # split, country, season


@dataclass(frozen=True, kw_only=True)
class PrepareResult:
    """What was made of a BigEarthNet.

    Attributes:
        path: The GeoParquet file.
        rows: Patches in it.
        errors: The Parquet file of patches that gave no row; None where all did.
        failed: How many those are.
        recommended: Patches without snow, cloud and shadow that have a label of the 19.
        snow: Patches under seasonal snow.
        cloud_or_shadow: Patches under cloud or shadow.
        unlisted: Patches called like v1's that the official lists do not know.
        groups: How many patches each split, country and season has, None where unknown.
        seconds: It took.
    """

    path: Path
    rows: int
    errors: Path | None
    failed: int
    recommended: int
    snow: int
    cloud_or_shadow: int
    unlisted: int
    groups: Mapping[Group, int]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The numbers for programs; patches without a split, country or season are `none`."""
        counts = ("rows", "failed", "recommended", "snow", "cloud_or_shadow", "unlisted")
        return {
            "metadata": str(self.path),
            "errors": self.errors and str(self.errors),
            **{name: getattr(self, name) for name in counts},
            **{name: self._by(place) for place, name in enumerate(("splits", "countries", "seasons"))},
            "seconds": round(self.seconds, 1),
        }  # fmt: skip

    def _by(self, place: int) -> dict[str, int]:
        counted: Counter[str] = Counter()
        for group, count in self.groups.items():
            counted[group[place] or "none"] += count
        return dict(counted.most_common())


def errors_path(out: Path) -> Path:
    """Where failures are told: `metadata.errors.parquet` beside `metadata.parquet`."""
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
def written(out: Path) -> Iterator[Output]:
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
