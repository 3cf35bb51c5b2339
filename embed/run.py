"""The main path: sources → tiles → vectors → table; and in which numbers the vectors are computed."""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from msgspec import UNSET
from numpy.typing import NDArray

from tilezoo.bands import BandRequest
from tilezoo.decoding import letting_go
from tilezoo.embed.options import EmbedOptions
from tilezoo.embed.store import TableSegment, TableWriter, lock_table, open_writer
from tilezoo.errors import InterruptedRunError, ModelError, TooManyFailedError
from tilezoo.hints import give_hints, spread
from tilezoo.io import from_builtins
from tilezoo.meaning import tell_scalings, tell_way_out
from tilezoo.nodata import refuse_sparse
from tilezoo.option_texts import to_request
from tilezoo.options import verb
from tilezoo.progress import Advance, progress, say
from tilezoo.reading import Outcome, Reader, TilePlan, make_plan, read_ahead, refuse_hopeless
from tilezoo.sources import discover
from tilezoo.space import Precision
from tilezoo.table import (
    ERRORS,
    Failure,
    NamedModel,
    TableManifest,
    TableRequest,
    rows,
    schema,
    tell_first_fault,
)
from tilezoo.tiles import Tile, TileRef
from tilezoo.training_ids import TRAINING_IDS
from tilezoo.zoo.backbone import Backbone
from tilezoo.zoo.downloader import load

_BATCH = {"cpu": 64, "cuda": 256, "mps": 64}
_SEGMENT_TILES = 1024  # what a killed run can lose, and has to make again
_PART_BYTES = 128 << 20
_ROW_BYTES = 300  # of a row beside its vector, about
_LOOKED_AT = 32  # tiles that the first ones are looked for in
_TRIED = 8  # tiles that bf16 is tried on
_PACKAGES = ("tilezoo", "torch", "timm", "numpy", "pyarrow", "rasterio")
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


@verb(EmbedOptions)
def embed(options: EmbedOptions) -> EmbedResult:
    """Embed every tile of the sources into a table; run again, it goes on where it was stopped.

    A `model` may be a backbone that was loaded with the same `bands`, `value_range`, `pooling` and
    `device`.

    Raises:
        TooManyFailedError: More than `max_errors` tiles failed; the table is complete for the
            others.
        TilezooError: The run cannot start, or was interrupted.
    """
    out = Path(options.out)
    job = _plan_job(options)
    with lock_table(out), letting_go():
        writer = open_writer(out, _describe(job), overwrite=options.overwrite, plan=job.plan)
        started = time.monotonic()
        if writer.manifest.complete:
            say(f"{out}: finished already, nothing to do (--overwrite makes it anew)")
        else:
            _settle(writer, job)
            _fill(writer, job)
            writer.finish()
            _tell_places(writer)
        return _make_result(writer, time.monotonic() - started, options.max_errors)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is embedded, and by what."""

    options: EmbedOptions
    backbone: Backbone
    plan: TilePlan

    def read(self, refs: Iterable[TileRef], ahead: int) -> Generator[Outcome, None, None]:
        """Read tiles in threads, fitted to the backbone, some before they are asked for."""
        reader = Reader(self.backbone.space.contract, self.request, self._finish)
        return read_ahead(refs, reader, workers=self.options.threads, ahead=ahead)

    @cached_property
    def request(self) -> BandRequest:
        """What is asked of files."""
        return _ask(self.backbone, self.options)

    def _finish(self, tile: Tile) -> Tile:
        refuse_sparse(tile.nodata_fraction, self.options.max_nodata)
        return self.backbone.shrink(tile)


def _ask(backbone: Backbone, options: EmbedOptions) -> BandRequest:
    return replace(backbone.request, nodata=options.nodata_value)


def _plan_job(options: EmbedOptions) -> _Job:
    """Load the model, list the tiles, and refuse what cannot succeed."""
    backbone = options.model
    if not isinstance(backbone, Backbone):
        backbone = load(
            backbone,
            device=options.device,
            pooling=options.pooling,
            bands=options.bands,
            value_range=options.value_range,
            values=options.values,
        )
    sources = discover(options.source_list)
    for note in sources.notes:
        say(note)
    plan = make_plan(
        sources,
        request=_ask(backbone, options),
        cut=options.cut,
        limit=options.limit,
        shard=options.share,
        workers=options.threads,
    )
    job = _Job(options=options, backbone=backbone, plan=plan)
    contract = backbone.space.contract
    refuse_hopeless(plan, job.request, lambda image: image.check(contract))
    return job


def _describe(job: _Job) -> TableManifest:
    """What the manifest says before the first tile is read."""
    options, backbone = job.options, job.backbone
    batch = options.batch_size or _BATCH.get(backbone.device.type, 64)
    segment = batch * max(1, _SEGMENT_TILES // batch)
    row_bytes = backbone.dimension * np.dtype(options.dtype).itemsize + _ROW_BYTES
    part_rows = options.part_rows or segment * max(1, _PART_BYTES // (segment * row_bytes))
    cut = options.cut
    asked = to_request(options, batch_size=batch, stride_px=cut and cut.stride_px)
    return TableManifest(
        tiles=len(job.plan),
        dimension=backbone.dimension,
        space=backbone.space.state,
        model=NamedModel(name=backbone.model.name, source=str(backbone.model.path)),
        pretraining=dict(backbone.model.pretraining),
        request=from_builtins(asked, TableRequest),
        precision=options.precision,
        device=backbone.device.type,
        georeferenced=False,
        scalings=tell_scalings(job.plan.sources, backbone.request) or UNSET,
        tiles_sha256=job.plan.digest(),
        part_rows=part_rows,
        segment_tiles=min(segment, part_rows),
        versions={package: version(package) for package in _PACKAGES},
    )


def _settle(writer: TableWriter, job: _Job) -> None:
    """Settle the precision on the first tiles (once a table), and put the manifest down."""
    backbone, first = job.backbone, _read_first_tiles(job)
    precision = writer.manifest.settled_precision
    if writer.manifest.precision == "auto" and first:
        precision = settle_precision(backbone, first)
    writer.settle(precision=precision, georeferenced=any(tile.footprint for tile in first))
    backbone.use(precision)
    for scaling in writer.manifest.scalings or ():
        say(tell_way_out(scaling))
    _give_size_hints(first, backbone, cut=job.plan.cut is not None)
    _give_value_hints(job)
    writer.begin(training_ids=backbone.model.path / TRAINING_IDS)


def _read_first_tiles(job: _Job) -> list[Tile]:
    refs = job.plan.tiles(0, min(len(job.plan), _LOOKED_AT))
    with closing(job.read(refs, ahead=_TRIED)) as outcomes:
        return list(islice((o for o in outcomes if isinstance(o, Tile)), _TRIED))


def _give_value_hints(job: _Job) -> None:
    refs = [ref for at in spread(len(job.plan)) for ref in job.plan.tiles(at, at + 1)]
    contract, workers = job.backbone.space.contract, job.options.threads
    give_hints(refs, contract, job.request, workers=workers)


def _give_size_hints(tiles: Sequence[Tile], backbone: Backbone, *, cut: bool) -> None:
    contract = backbone.space.contract
    side = max((max(tile.pixel_bbox[2:]) for tile in tiles), default=0)
    if not cut and side > _FAR_LARGER * contract.resize_px:
        fix = f"--tile-px {contract.size_px} cuts them into tiles"
        say(f"hint: files of {side} px are shrunk to the model's {contract.size_px} px; {fix}")
    known = [tile.footprint.gsd_m for tile in tiles if tile.footprint]
    if contract.gsd_m and known and not contract.gsd_m[0] / 2 <= known[0] <= contract.gsd_m[1] * 2:
        made_for = "-".join(f"{gsd:g}" for gsd in dict.fromkeys(contract.gsd_m))
        say(f"hint: pixels are {known[0]:.3g} m, the model was made for {made_for} m")


def _fill(writer: TableWriter, job: _Job) -> None:
    """Make the missing segments; reading runs ahead across them."""
    missing = list(writer.missing())
    refs = chain.from_iterable(job.plan.tiles(s.first, s.last) for s in missing)
    ahead = 2 * writer.manifest.request.batch_size
    total = sum(map(len, missing))
    with (
        closing(job.read(refs, ahead)) as outcomes,
        progress(total, "embedding", shown=job.options.show_progress) as advance,
    ):
        try:
            for segment in missing:
                _make_segment(writer, segment, outcomes, job.backbone, advance)
        except KeyboardInterrupt:
            done = f"{writer.done_tiles()} of {len(job.plan)} tiles are kept in {writer.path}"
            raise InterruptedRunError(f"stopped; {done}: run the same command to go on") from None


def _make_segment(
    writer: TableWriter,
    segment: TableSegment,
    outcomes: Iterator[Outcome],
    backbone: Backbone,
    advance: Advance,
) -> None:
    request = writer.manifest.request
    made: list[pa.RecordBatch] = []
    failures: list[Failure] = []
    batches = _make_batches(islice(outcomes, len(segment)), request.batch_size, failures)
    for batch, vectors in backbone.encode_all(batches):
        _check_vectors(vectors, backbone, request.dtype)
        made.append(rows(batch, vectors, request.dtype))
        advance(len(batch))
    advance(len(failures))
    columns = schema(backbone.dimension, request.dtype)
    writer.add(segment, pa.Table.from_batches(made, schema=columns), failures)


def _make_batches(
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


def _check_vectors(vectors: NDArray[np.float32], backbone: Backbone, dtype: str) -> None:
    """Refuse vectors that cannot be stored: NaN, infinity, or beyond what `dtype` holds."""
    if not (np.abs(vectors) <= np.finfo(dtype).max).all():
        fix = "take --precision fp32 --dtype float32, or another model"
        raise ModelError(f"{backbone.model.name}: vectors hold NaN or exceed {dtype}; {fix}")


def _tell_places(writer: TableWriter) -> None:
    """Tell once how many tiles have no place, or one that is not exact."""
    found, rows = writer.places, writer.manifest.rows
    if found.missing:
        say(f"{found.missing} of {rows} tiles have no place: geometry is null")
    if found.approximate:
        how = "by control points or RPCs: crs is null"
        say(f"{found.approximate} of {rows} tiles have an approximate place, {how}")


def _make_result(writer: TableWriter, seconds: float, max_errors: int) -> EmbedResult:
    made = writer.manifest
    counted = made.failed - made.empty_windows
    if counted > max_errors:
        raise TooManyFailedError(
            f"{counted} of {made.tiles} tiles failed, --max-errors is {max_errors}: "
            f"see {writer.path / ERRORS}; the other {made.rows} are embedded; "
            f"the first: {tell_first_fault(writer.path / ERRORS, nodata=True)}"
        )
    return EmbedResult(
        table=writer.path,
        rows=made.rows,
        failed=made.failed,
        precision=made.settled_precision,
        seconds=seconds,
    )


_WORTH_IT = 1.3  # times faster a bf16 matrix product must be than an fp32 one
_AGREEMENT = 0.999  # cosine of every vector in bf16 with the same in fp32
_SIDE = 1024


def settle_precision(backbone: Backbone, tiles: Sequence[Tile]) -> Precision:
    """Take bf16 if this machine is faster with it and these tiles come out the same.

    Args:
        backbone: In fp32; it is left in the precision that is chosen.
        tiles: A few of the run's first.
    """
    gain = _measure_gain(backbone.device)
    if gain < _WORTH_IT:
        say(f"precision fp32: bf16 is {gain:.1f} times as fast here")
        return "fp32"
    exact = backbone.encode(tiles)
    backbone.use("bf16")
    agreement = float(_compare(exact, backbone.encode(tiles)).min())
    if agreement >= _AGREEMENT:
        say(f"precision bf16: {gain:.1f} times as fast here, cosine with fp32 ≥ {agreement:.5f}")
        return "bf16"
    backbone.use("fp32")
    say(f"precision fp32: bf16 agrees with it to a cosine of {agreement:.5f} only")
    return "fp32"


def _compare(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    dots = (first * second).sum(axis=1)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.where(lengths > 0, dots / np.where(lengths > 0, lengths, 1), 1.0)


def _measure_gain(device: torch.device) -> float:
    return _time_pass(device, torch.float32) / _time_pass(device, torch.bfloat16)


def _time_pass(device: torch.device, dtype: torch.dtype) -> float:
    """Best of five matrix products, after one that warms up."""
    square = torch.ones(_SIDE, _SIDE, device=device, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        float((square @ square)[0, 0])  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times[1:])
