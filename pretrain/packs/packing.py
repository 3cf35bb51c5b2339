"""The main path of packing: sources → tiles → shards for training."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilezoo.bands import parse_bands
from tilezoo.errors import (
    InterruptedRunError,
    PackError,
    TileError,
    TooManyFailedError,
)
from tilezoo.folder_writer import one_writer
from tilezoo.image import MIN_SIDE_PX, Image
from tilezoo.opening import gdal
from tilezoo.options import check_least, parse_value_range
from tilezoo.plan import make_plan, refuse_hopeless
from tilezoo.pretrain.packs.choice import Choice, Labels, choose, find_labels, parse_splits
from tilezoo.pretrain.packs.pixels import PackDtype, Shaping, band_request
from tilezoo.pretrain.packs.segment import Segment, ShardForm
from tilezoo.pretrain.packs.store import PackStore, open_store
from tilezoo.progress import Advance, progress, say
from tilezoo.reading import Outcome, Reader, read_ahead, reading_threads
from tilezoo.sources import discover
from tilezoo.table import ERRORS
from tilezoo.tiles import cut_from

_WAITING_BYTES = 64 << 20  # of tiles that are read and not yet written
_WAITING_TILES = 512
_WINDOWS_PER_JOB = 16


@dataclass(frozen=True, kw_only=True)
class PackResult:
    """What a run made.

    Attributes:
        path: The pack's folder.
        tiles: In its shards.
        failed: Tiles left out, each a row of errors.parquet.
        seconds: This run took; 0 when the pack was finished already.
    """

    path: Path
    tiles: int
    failed: int
    seconds: float


def pack(
    sources: Sequence[str | Path] | str | Path,
    *,
    out: str | Path,
    bands: str | None = None,
    value_range: str | None = None,
    dtype: PackDtype = "uint8",
    size_px: int | None = None,
    tile_px: int | None = None,
    stride_px: int | None = None,
    max_nodata: float = 1.0,
    labels: str | Path | None = None,
    split: str | None = None,
    limit: int | None = None,
    shard_mb: int = 1024,
    workers: int | None = None,
    max_errors: int = 0,
    overwrite: bool = False,
    show_progress: bool = False,
) -> PackResult:
    """Pack tiles into memory-mapped shards; run again, it goes on where it was stopped.

    Args:
        sources: Files, folders, globs, or Parquet/CSV lists of paths.
        out: The pack's folder.
        bands: `B04,B03,B02`: bands and their order, or the names of a file's unnamed ones;
            `B04=3,B03=2` names them by number. Without it, red, green and blue of RGB images.
        value_range: `LOW,HIGH`: pixel values that become 0 and 1.
        dtype: `uint8` scales the range to 8 bits; `uint16` keeps raw integers.
        size_px: Resize every tile to this side, pixels; the first tile's unless given.
        tile_px: Cut sources into windows of this side, pixels; whole files are tiles without.
        stride_px: Step between windows, pixels; `tile_px` unless given.
        max_nodata: Leave out tiles with a larger share of pixels without data.
        labels: A file of labels and splits by id, or `folder` for the folder a tile lies in.
        split: `train,validation`: pack the tiles of these splits alone.
        limit: Only the first so many tiles.
        shard_mb: Size of a shard, MiB.
        workers: Threads that read.
        max_errors: Tiles that may fail before the finished run counts as failed; those left out
            for `max_nodata` are no failures.
        overwrite: Throw away a pack that is there.
        show_progress: Show a bar (or lines) on stderr.

    Raises:
        TooManyFailedError: More than `max_errors` tiles failed; the pack is complete for the
            others.
        PackError: The folder is another run's, or not one tile could be packed.
        TilezooError: The run cannot start, or was interrupted.
    """
    _check_counts(size_px, limit, shard_mb, workers, max_errors)
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    cut, threads = cut_from(tile_px, stride_px), reading_threads(workers)
    shaping = Shaping(
        request=band_request(parse_bands(bands)),
        dtype=dtype,
        value_range=parse_value_range(value_range),
        resized=size_px is not None,
        max_nodata=max_nodata,
        size_px=size_px or tile_px,
    )
    plan = make_plan(
        discover(named),
        request=shaping.request,
        cut=cut,
        limit=None,
        shard=(0, 1),
        workers=threads,
    )
    known = find_labels(labels, plan)
    choice = choose(plan, known, parse_splits(split), limit)
    request = {
        "bands": bands,
        "value_range": value_range,
        "dtype": dtype,
        "size_px": size_px,
        "tile_px": tile_px,
        "stride_px": cut and cut.stride_px,
        "max_nodata": max_nodata,
        "labels": known and known.digest,
        "split": split,
        "limit": limit,
        "shard_mb": shard_mb,
    }
    refuse_hopeless(plan, shaping.request, shaping.check)
    job = {"request": request, "tiles": len(choice), "tiles_sha256": plan.digest()}
    with one_writer(Path(out), "pack", PackError):
        store = open_store(Path(out), job, overwrite=overwrite)
        started = time.monotonic()
        if store.manifest is not None:
            store.clear_up()
            say(f"{out}: finished already, nothing to do (--overwrite makes it anew)")
            return _result(store.path, store.manifest, 0.0, max_errors)
        shaping = _begun(store, choice, shaping)
        form = _form(shaping, shard_mb)
        _fill(store, choice, known, shaping, form, threads, show_progress=show_progress)
        manifest = store.finish(form, _described(shaping))
        return _result(store.path, manifest, time.monotonic() - started, max_errors)


def _check_counts(
    size_px: int | None, limit: int | None, shard_mb: int, workers: int | None, max_errors: int
) -> None:
    check_least("--size-px", size_px, MIN_SIDE_PX)
    check_least("--limit", limit, 1)
    check_least("--shard-mb", shard_mb, 1)
    check_least("--workers", workers, 1)
    check_least("--max-errors", max_errors, 0)


def _begun(store: PackStore, choice: Choice, shaping: Shaping) -> Shaping:
    """Settle size and unit by the first tile that fits, once a pack, and put the job down."""
    if store.begun is not None:
        settled = replace(shaping, **store.begun)
    else:
        settled = _settled(choice, shaping)
    store.begin({"size_px": settled.size_px, "unit": settled.unit})
    return settled


def _settled(choice: Choice, shaping: Shaping) -> Shaping:
    for ref in choice.tiles(0):
        try:
            with gdal(), Image(ref.source, shaping.request) as image:
                shaping.check(image)
                return shaping.settled(image)
        except TileError:  # told when the tile is read
            continue
    return shaping


def _form(shaping: Shaping, shard_mb: int) -> ShardForm:
    side = shaping.size_px or MIN_SIDE_PX  # where no tile fits, the pack ends empty
    return ShardForm(
        shape=(len(shaping.request.wanted), side, side),
        dtype=shaping.dtype,
        shard_bytes=shard_mb << 20,
        value_range=(0.0, 255.0) if shaping.dtype == "uint8" else shaping.stored_range,
    )


def _fill(
    store: PackStore,
    choice: Choice,
    labels: Labels | None,
    shaping: Shaping,
    form: ShardForm,
    threads: int,
    *,
    show_progress: bool,
) -> None:
    """Make the missing segments; reading runs ahead across them."""
    states = store.states()
    done, number = (states[-1]["next"] if states else 0), len(states)
    ahead = min(_WAITING_TILES, max(threads, _WAITING_BYTES // form.tile_bytes))
    with (
        closing(
            read_ahead(
                choice.tiles(done),
                Reader(shaping.contract, shaping.request, shaping.finish),
                workers=threads,
                ahead=ahead,
                windows_per_job=max(1, min(_WINDOWS_PER_JOB, ahead // threads)),
            )
        ) as outcomes,
        progress(len(choice) - done, "packing", shown=show_progress) as advance,
    ):
        try:
            while done < len(choice):
                with store.segment(number, done, form, labels) as segment:
                    _fill_segment(segment, outcomes, advance)
                done, number = done + segment.outcomes, number + 1
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"stopped; {done} of {len(choice)} tiles are kept in {store.path}: "
                "run the same command to go on"
            ) from None


def _fill_segment(segment: Segment, outcomes: Iterator[Outcome], advance: Advance) -> None:
    for outcome in outcomes:
        segment.add(outcome)
        advance(1)
        if segment.full:
            return


def _described(shaping: Shaping) -> dict[str, Any]:
    return {
        "bands": list(shaping.request.wanted),
        "dtype": shaping.dtype,
        "size_px": shaping.size_px or 0,
        "unit": shaping.unit or "stated",
        "value_range": list(shaping.stored_range),
        "quantized": shaping.quantized,
    }


def _result(path: Path, manifest: Mapping[str, Any], seconds: float, max_errors: int) -> PackResult:
    tiles, failed = int(manifest["tiles"]), int(manifest["failed"])
    counted = failed - int(manifest["nodata"])
    told = f"see {path / ERRORS}"
    if counted > max_errors:
        raise TooManyFailedError(
            f"{counted} of {tiles + failed} tiles failed, --max-errors is {max_errors}: {told}; "
            f"the other {tiles} are packed"
        )
    if not tiles:
        raise PackError(f"{path}: not one of {failed} tiles could be packed; {told}")
    return PackResult(path=path, tiles=tiles, failed=failed, seconds=seconds)
