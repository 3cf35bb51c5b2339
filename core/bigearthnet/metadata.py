"""`tilezoo prepare bigearthnet`: every patch of v1 or v2 as a row of one GeoParquet file."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tilezoo.bigearthnet.labels import patch_version
from tilezoo.bigearthnet.listings import (
    LISTS_SCHEMA,
    find_v2_metadata,
    is_metadata,
    join_lists,
    read_lists,
    read_metadata,
)
from tilezoo.bigearthnet.options import PrepareOptions
from tilezoo.bigearthnet.patches import (
    Patches,
    PatchFacts,
    failure,
    find_patches,
    read_patch_list,
    read_patches,
)
from tilezoo.bigearthnet.rows import (
    Group,
    Output,
    errors_path,
    footprints,
    make_rows,
    write_rows,
)
from tilezoo.errors import (
    InterruptedRunError,
    LabelsError,
    OptionError,
    SourceError,
    TooManyFailedError,
)
from tilezoo.options import verb
from tilezoo.progress import Advance, progress, say
from tilezoo.table import Failure


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
            **{name: self._count_by(place) for place, name in enumerate(("splits", "countries", "seasons"))},
            "seconds": round(self.seconds, 1),
        }  # fmt: skip

    def _count_by(self, place: int) -> dict[str, int]:
        counted: Counter[str] = Counter()
        for group, count in self.groups.items():
            counted[group[place] or "none"] += count
        return dict(counted.most_common())


_ROWS = 32_768  # of a row group: about 15 MB in memory
_PER_JOB = 256  # patches that one thread reads in a row

_Patch = tuple[str, str]  # name, path
_Outcome = PatchFacts | Failure


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Patches, and what is known of them before any of their files is read.

    Attributes:
        patches: Sorted by name.
        official: What the lists say, rows as `patches`, null where they say nothing.
        older: Tables of patches that exist already (`METADATA_SCHEMA`).
        row_of: The row of `older` that is each patch's, null where none is, shape (N,).
        files: Of `older`.
        unlisted: Patches of v1 that the lists should name and do not.
    """

    patches: Patches
    official: pa.Table
    older: pa.Table
    row_of: pa.Array
    files: Sequence[Path]
    unlisted: int


@verb(PrepareOptions)
def prepare_bigearthnet(options: PrepareOptions) -> PrepareResult:
    """Write BigEarthNet's metadata, v1's or v2's, as one GeoParquet file.

    It has the columns of `tilezoo.bigearthnet.rows.SCHEMA`, sorted by name.

    Raises:
        TooManyFailedError: More than `max_errors` patches failed; the file is complete for the
            others.
        TilezooError: The run cannot start, or was interrupted.
    """
    started = time.monotonic()
    root, out = Path(options.root), Path(options.out)
    _refuse_out(out, [root, *map(Path, options.metadata)])
    patches, files = _find(root, list(map(Path, options.metadata)))
    _refuse_out(out, files)
    known = _join(patches, files, options.lists, no_lists=options.no_lists)
    output = _write(out, known, options)
    result = _sum_up(out, output, known, time.monotonic() - started)
    _refuse_failures(result, output.first_failure, options.max_errors)
    return result


def _refuse_out(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse an `-o` that is a folder, or would overwrite what the metadata are made from."""
    if out.is_dir():
        raise OptionError(f"-o {out} is a folder; name a file in it: {out / 'metadata.parquet'}")
    for path in inputs:
        if out.exists() and path.exists() and out.samefile(path):
            raise OptionError(f"-o {out} would overwrite what is read from; choose another name")


def _find(root: Path, files: list[Path]) -> tuple[Patches, list[Path]]:
    """Find the patches, and the tables that say more of them."""
    if root.is_file():
        of_its_own = root.suffix.lower() == ".parquet" and is_metadata(root)
        return read_patch_list(root), [root, *files] if of_its_own else files
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder or list of patches; check the path")
    patches = find_patches(root)
    if files or not pc.any(_are_v2(patches)).as_py():
        return patches, files
    found = find_v2_metadata(root)
    if found:
        say(f"labels of v2 from {' and '.join(map(str, found))}")
    else:
        fix = "name it with --metadata"
        say(f"hint: no metadata.parquet of v2 in or near {root}: labels stay unknown; {fix}")
    return patches, found


def _are_v2(patches: Patches) -> pa.BooleanArray:
    return pc.match_substring_regex(patches.names, r"_R\d{3}_T\w{5}_\d+_\d+$")


def _join(
    patches: Patches, files: Sequence[Path], lists: str | Path | None, *, no_lists: bool
) -> _Known:
    """Look every patch up in the official lists and in older tables, by its name."""
    of_v1 = pc.invert(_are_v2(patches))
    older = read_metadata(files, geometry=not patches.on_disk)
    if no_lists or not pc.any(of_v1).as_py():
        fields = [field for field in LISTS_SCHEMA if field.name != "name"]
        nothing = [pa.nulls(len(patches), field.type) for field in fields]
        official, unlisted = pa.table(nothing, schema=pa.schema(fields)), 0
    else:
        official = join_lists(patches.names, read_lists(lists))
        unlisted = pc.sum(pc.and_(of_v1, pc.is_null(official["snow"]))).as_py() or 0
    return _Known(
        patches=patches,
        official=official,
        older=older,
        row_of=pc.index_in(patches.names, older["name"]),
        files=files,
        unlisted=unlisted,
    )


def _write(out: Path, known: _Known, options: PrepareOptions) -> Output:
    """Read the patches and write their rows, a row group at a time."""
    total = len(known.patches)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            write_rows(out) as output,
            ThreadPoolExecutor(options.threads, thread_name_prefix="read") as pool,
            progress(total, "reading", "patches", shown=options.show_progress) as advance,
        ):
            for first in range(0, total, _ROWS):
                last = min(first + _ROWS, total)
                output.add(*_make_group(known, first, last, pool, advance))
    except KeyboardInterrupt:
        fix = "the same command starts anew"
        raise InterruptedRunError(f"stopped, and {out} is as it was; {fix}") from None
    except OSError as error:
        reason = error.strerror or error
        raise LabelsError(f"{out}: cannot be written ({reason}); choose another -o") from error
    return output


def _make_group(
    known: _Known, first: int, last: int, pool: ThreadPoolExecutor, advance: Advance
) -> tuple[pa.Table, list[Failure]]:
    """Make the rows of patches `first` to `last` (exclusive)."""
    patches = known.patches.slice(first, last)
    outcomes: list[_Outcome] = []
    for done in pool.map(
        read_patches if known.patches.on_disk else _take_names, _split_jobs(patches)
    ):
        outcomes += done
        advance(len(done))
    older = known.older.take(known.row_of[first:last])
    polygons = footprints([o if isinstance(o, PatchFacts) else None for o in outcomes])
    checked = _check_patches(known, patches, outcomes, polygons, older)
    good = [place for place, one in enumerate(checked) if isinstance(one, PatchFacts)]
    rows = make_rows(
        [patches[place][0] for place in good],
        [one for one in checked if isinstance(one, PatchFacts)],
        polygons[good],
        known.official.slice(first, last - first).take(pa.array(good, pa.int64())),
        older.take(pa.array(good, pa.int64())),
    )
    return rows, [one for one in checked if isinstance(one, Failure)]


def _split_jobs(patches: Sequence[_Patch]) -> list[Sequence[_Patch]]:
    return [patches[i : i + _PER_JOB] for i in range(0, len(patches), _PER_JOB)]


def _take_names(patches: Sequence[_Patch]) -> list[_Outcome]:
    """Take names of patches without any files for what they are."""
    wrong = "not the name of a BigEarthNet-S2 patch (S2A_MSIL2A_20170613T101031_87_48, say)"
    return [
        PatchFacts() if patch_version(name) else failure(name, "unreadable", wrong)
        for name, _ in patches
    ]


def _check_patches(
    known: _Known,
    patches: Sequence[_Patch],
    outcomes: Sequence[_Outcome],
    polygons: NDArray[np.object_],
    older: pa.Table,
) -> list[_Outcome]:
    """Make failures of patches that have no place, no labels, or contradictory ones."""
    labelled = pc.or_(pc.is_valid(older["labels"]), pc.is_valid(older["new_labels"])).to_pylist()
    rows = zip(patches, outcomes, polygons, older["labels"].to_pylist(), labelled, strict=True)
    return [
        _find_fault(known, patch, facts, polygon, labels, has_labels) or facts
        if isinstance(facts, PatchFacts)
        else facts
        for patch, facts, polygon, labels, has_labels in rows
    ]


def _find_fault(
    known: _Known,
    patch: _Patch,
    facts: PatchFacts,
    polygon: object,
    older: list[str] | None,
    labelled: bool,
) -> Failure | None:
    name, path = patch
    if facts.box is not None and polygon is None:
        return failure(path, "unreadable", "the coordinates lie outside their projection")
    if facts.labels is None:
        return None if labelled else _refuse_unlabelled(known, name, path)
    if older is not None and set(older) != set(facts.labels):
        reason = ", ".join(sorted(set(older) ^ set(facts.labels)))
        return failure(path, "unreadable", f"its JSON and --metadata differ in labels: {reason}")
    return None


def _refuse_unlabelled(known: _Known, name: str, path: str) -> Failure | None:
    """Refuse a patch without labels, unless nobody was to know any."""
    if known.files:
        where = " and ".join(file.name for file in known.files)
        return failure(path, "missing", f"no labels: {where} names no such patch, or none of it")
    if known.patches.on_disk and patch_version(name) == 1:
        fix = "name a Parquet file of labels with --metadata"
        return failure(path, "missing", f"no labels: no {name}_labels_metadata.json; {fix}")
    return None


def _sum_up(out: Path, output: Output, known: _Known, seconds: float) -> PrepareResult:
    return PrepareResult(
        path=out,
        rows=output.row_count,
        errors=errors_path(out) if output.failed else None,
        failed=output.failed,
        recommended=output.flags["recommended"],
        snow=output.flags["snow"],
        cloud_or_shadow=output.flags["cloud_or_shadow"],
        unlisted=known.unlisted,
        groups=dict(output.groups),
        seconds=seconds,
    )


def _refuse_failures(result: PrepareResult, first: Failure | None, max_errors: int) -> None:
    if first is not None and result.failed > max_errors:
        raise TooManyFailedError(
            f"{result.failed} of {result.rows + result.failed} patches failed, --max-errors is "
            f"{max_errors}: see {result.errors}; {result.rows} are in {result.path} "
            f"(the first: {Path(first.ref.source.uri).name}: {first.message})"
        )
