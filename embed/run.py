"""The main path: sources → tiles → vectors → table."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tilezoo.embed.precision import choose_precision
from tilezoo.embed.store import Segment, Store, locked, open_store
from tilezoo.errors import InterruptedRunError, ModelError, TooManyFailedError
from tilezoo.options import check_least, parse_shard
from tilezoo.plan import Plan, make_plan, refuse_hopeless
from tilezoo.progress import Advance, progress, say
from tilezoo.reading import Outcome, Reader, read_ahead, reading_threads
from tilezoo.sources import discover
from tilezoo.space import Pooling
from tilezoo.table import TABLE_VERSION, Dtype, Failure, rows, schema
from tilezoo.tiles import Tile, cut_from
from tilezoo.training_ids import TRAINING_IDS
from tilezoo.zoo.backbone import Backbone
from tilezoo.zoo.catalog import OFFLINE_DEFAULT
from tilezoo.zoo.downloader import load
from tilezoo.zoo.options import Precision

_BATCH = {"cpu": 64, "cuda": 256, "mps": 64}
_SEGMENT_TILES = 1024  # what a killed run can lose, and has to make again
_PART_BYTES = 128 << 20
_ROW_BYTES = 300  # of a row beside its vector, about
_LOOKED_AT = 32  # tiles that the first ones are looked for in
_TRIED = 8  # tiles that bf16 is tried on
_FAR_LARGER = 4  # times the side it is resized to, from where a file deserves a hint


@dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """What a run made.

    Attributes:
        table: The table's folder.
        rows: Tiles with a vector.
        failed: Tiles without one, each a row of errors.parquet.
        precision: In which the vectors were computed.
        seconds: This run took; 0 when the table was finished already.
    """

    table: Path
    rows: int
    failed: int
    precision: Precision
    seconds: float


def embed(
    sources: Sequence[str | Path] | str | Path,
    *,
    out: str | Path,
    model: str | Path | Backbone = OFFLINE_DEFAULT,
    bands: str | None = None,
    value_range: str | None = None,
    tile_px: int | None = None,
    stride_px: int | None = None,
    pooling: Pooling | None = None,
    batch_size: int | None = None,
    precision: Literal["auto"] | Precision = "auto",
    device: str = "auto",
    workers: int | None = None,
    dtype: Dtype = "float32",
    max_errors: int = 0,
    shard: str | None = None,
    limit: int | None = None,
    part_rows: int | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> EmbedResult:
    """Embed every tile of the sources into a table; run again, it goes on where it was stopped.

    Args:
        sources: Files, folders, globs, or Parquet/CSV lists of paths.
        out: The table's folder.
        model: A model directory, a name from `tilezoo models`, or a backbone that was loaded with
            the same `bands`, `value_range`, `pooling` and `device`.
        bands: `B04,B03,B02`: the bands to feed, or the names of a file's unnamed ones.
        value_range: `LOW,HIGH`: pixel values that become black and white.
        tile_px: Cut sources into windows of this side, pixels; whole files are tiles without.
        stride_px: Step between windows, pixels; `tile_px` unless given.
        pooling: Other than the model's own.
        batch_size: Tiles per batch.
        precision: `auto` takes bf16 where it is faster and agrees with fp32.
        device: `auto`, `cpu`, `cuda`, …
        workers: Threads that read.
        dtype: Of the stored vectors.
        max_errors: Tiles that may fail before the finished run counts as failed.
        shard: `I/N`: only this one of N equal shares of the sorted tiles.
        limit: Only the first so many tiles (before they are shared out).
        part_rows: Tiles per Parquet part; about 128 MB unless given.
        overwrite: Throw away a table that is there.
        show_progress: Show a bar (or lines) on stderr.

    Raises:
        TooManyFailedError: More than `max_errors` tiles failed; the table is complete for the
            others.
        TilezooError: The run cannot start, or was interrupted.
    """
    _check_counts(batch_size, workers, limit, part_rows, max_errors)
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    cut = cut_from(tile_px, stride_px)
    share = parse_shard(shard)
    threads = reading_threads(workers)
    backbone = (
        model
        if isinstance(model, Backbone)
        else load(
            model,
            device=device,
            pooling=pooling,
            bands=bands,
            value_range=value_range,
        )
    )
    plan = make_plan(
        discover(named),
        request=backbone.request,
        cut=cut,
        limit=limit,
        shard=share,
        workers=threads,
    )
    request = {
        "bands": bands,
        "value_range": value_range,
        "tile_px": tile_px,
        "stride_px": cut and cut.stride_px,
        "batch_size": batch_size or _BATCH.get(backbone.device.type, 64),
        "precision": precision,
        "dtype": dtype,
        "shard": shard,
        "limit": limit,
        "part_rows": part_rows,
    }
    contract, wanted = backbone.space.contract, backbone.request
    refuse_hopeless(plan, wanted, lambda image: image.check(contract, wanted))
    with locked(Path(out)):
        store = open_store(Path(out), _manifest(backbone, plan, request), overwrite=overwrite)
        started = time.monotonic()
        if store.complete:
            say(f"{out}: finished already, nothing to do (--overwrite makes it anew)")
        else:
            _start(store, plan, backbone, threads)
            _fill(store, plan, backbone, threads, show_progress=show_progress)
            store.finish()
        return _result(store, time.monotonic() - started, max_errors)


def _check_counts(
    batch_size: int | None,
    workers: int | None,
    limit: int | None,
    part_rows: int | None,
    max_errors: int,
) -> None:
    check_least("--batch-size", batch_size, 1)
    check_least("--workers", workers, 1)
    check_least("--limit", limit, 0)
    check_least("--part-rows", part_rows, 1)
    check_least("--max-errors", max_errors, 0)


def _manifest(backbone: Backbone, plan: Plan, request: dict[str, Any]) -> dict[str, Any]:
    width = 2 if request["dtype"] == "float16" else 4
    batch = request["batch_size"]
    segment = batch * max(1, _SEGMENT_TILES // batch)
    whole_segments = _PART_BYTES // (segment * (backbone.dimension * width + _ROW_BYTES))
    part_rows = request["part_rows"] or segment * max(1, whole_segments)
    packages = ("tilezoo", "torch", "timm", "numpy", "pyarrow", "rasterio")
    return {
        "tilezoo_table": TABLE_VERSION,
        "complete": False,
        "rows": 0,
        "failed": 0,
        "empty_windows": 0,
        "tiles": len(plan),
        "dimension": backbone.dimension,
        "space": backbone.space.to_json(),
        "model": {"name": backbone.model.name, "source": str(backbone.model.path)},
        "pretraining": dict(backbone.model.pretraining),
        "request": request,
        "precision": request["precision"],
        "device": backbone.device.type,
        "georeferenced": False,
        "tiles_sha256": plan.digest(),
        "part_rows": part_rows,
        "segment_tiles": min(segment, part_rows),
        "parts": [],
        "versions": {package: version(package) for package in packages},
    }


def _start(store: Store, plan: Plan, backbone: Backbone, threads: int) -> None:
    """Settle the precision on the first tiles (once a table), and put the manifest down."""
    first = _first_tiles(plan, backbone, threads)
    if store.manifest["precision"] == "auto":
        store.manifest["precision"] = choose_precision(backbone, first) if first else "fp32"
    store.manifest["georeferenced"] = any(tile.footprint for tile in first)
    backbone.use(store.manifest["precision"])
    _hint(first, backbone, cut=plan.cut is not None)
    store.begin(training_ids=backbone.model.path / TRAINING_IDS)


def _first_tiles(plan: Plan, backbone: Backbone, threads: int) -> list[Tile]:
    refs = plan.tiles(0, min(len(plan), _LOOKED_AT))
    reader = _reader(backbone)
    with closing(read_ahead(refs, reader, workers=threads, ahead=_TRIED)) as outcomes:
        return list(islice((o for o in outcomes if isinstance(o, Tile)), _TRIED))


def _reader(backbone: Backbone) -> Reader:
    return Reader(backbone.space.contract, backbone.request, backbone.shrink)


def _hint(tiles: Sequence[Tile], backbone: Backbone, *, cut: bool) -> None:
    contract = backbone.space.contract
    side = max((max(tile.pixel_bbox[2:]) for tile in tiles), default=0)
    if not cut and side > _FAR_LARGER * contract.resize_px:
        fix = f"--tile-px {contract.size_px} cuts them into tiles"
        say(f"hint: files of {side} px are shrunk to the model's {contract.size_px} px; {fix}")
    known = [tile.footprint.gsd_m for tile in tiles if tile.footprint]
    if contract.gsd_m and known and not contract.gsd_m[0] / 2 <= known[0] <= contract.gsd_m[1] * 2:
        made_for = "-".join(f"{gsd:g}" for gsd in dict.fromkeys(contract.gsd_m))
        say(f"hint: pixels are {known[0]:.3g} m, the model was made for {made_for} m")


def _fill(
    store: Store, plan: Plan, backbone: Backbone, threads: int, *, show_progress: bool
) -> None:
    """Make the missing segments; reading runs ahead across them."""
    missing = list(store.missing())
    refs = chain.from_iterable(plan.tiles(s.first, s.last) for s in missing)
    reader = _reader(backbone)
    ahead = 2 * int(store.manifest["request"]["batch_size"])
    total = sum(segment.last - segment.first for segment in missing)
    with (
        closing(read_ahead(refs, reader, workers=threads, ahead=ahead)) as outcomes,
        progress(total, "embedding", shown=show_progress) as advance,
    ):
        try:
            for segment in missing:
                _make_segment(store, segment, outcomes, backbone, advance)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"stopped; {store.done_tiles()} of {len(plan)} tiles are kept in {store.path}: "
                "run the same command to go on"
            ) from None


def _make_segment(
    store: Store,
    segment: Segment,
    outcomes: Iterator[Outcome],
    backbone: Backbone,
    advance: Advance,
) -> None:
    dtype: Dtype = store.manifest["request"]["dtype"]
    size = int(store.manifest["request"]["batch_size"])
    made: list[pa.RecordBatch] = []
    failures: list[Failure] = []
    batches = _batches(islice(outcomes, segment.last - segment.first), size, failures)
    for batch, vectors in backbone.encode_all(batches):
        _check_vectors(vectors, backbone, dtype)
        made.append(rows(batch, vectors, dtype))
        advance(len(batch))
    advance(len(failures))
    table = pa.Table.from_batches(made, schema=schema(backbone.dimension, dtype))
    store.add(segment, table, failures)


def _check_vectors(vectors: NDArray[np.float32], backbone: Backbone, dtype: Dtype) -> None:
    """Refuse vectors that cannot be stored: NaN, infinity, or beyond what `dtype` holds."""
    if not (np.abs(vectors) <= np.finfo(dtype).max).all():
        fix = "take --precision fp32 --dtype float32, or another model"
        raise ModelError(f"{backbone.model.name}: vectors hold NaN or exceed {dtype}; {fix}")


def _batches(
    outcomes: Iterable[Outcome], size: int, failures: list[Failure]
) -> Iterator[list[Tile]]:
    """Put good tiles into batches and the others into `failures`."""
    batch: list[Tile] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            failures.append(outcome)
            continue
        batch.append(outcome)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _result(store: Store, seconds: float, max_errors: int) -> EmbedResult:
    counted = int(store.manifest["failed"]) - int(store.manifest["empty_windows"])
    if counted > max_errors:
        rows_made = store.manifest["rows"]
        raise TooManyFailedError(
            f"{counted} of {store.manifest['tiles']} tiles failed, --max-errors is {max_errors}: "
            f"see {store.path / 'errors.parquet'}; the other {rows_made} are embedded"
        )
    return EmbedResult(
        table=store.path,
        rows=int(store.manifest["rows"]),
        failed=int(store.manifest["failed"]),
        precision=store.manifest["precision"],
        seconds=seconds,
    )
