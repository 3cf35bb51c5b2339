"""The main path of packing: sources → tiles → shards for training."""

import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tilezoo.bands import parse_bands
from tilezoo.decoding import letting_go
from tilezoo.errors import InterruptedRunError, PackError, TileError, TooManyFailedError
from tilezoo.hints import give_hints, spread
from tilezoo.image import MIN_SIDE_PX, Image
from tilezoo.meaning import tell_scalings, tell_way_out
from tilezoo.opening import gdal
from tilezoo.option_texts import parse_value_range
from tilezoo.options import verb
from tilezoo.pretrain.options import PackOptions
from tilezoo.pretrain.packs.choice import Choice, Labels, choose, find_labels
from tilezoo.pretrain.packs.pixels import Shaping, band_request
from tilezoo.pretrain.packs.segment import Segment, ShardForm
from tilezoo.pretrain.packs.shards import PackManifest
from tilezoo.pretrain.packs.store import Job, PackStore, Settled, lock_pack, open_pack_store
from tilezoo.progress import Advance, progress, say
from tilezoo.reading import Outcome, Reader, make_plan, read_ahead, refuse_hopeless
from tilezoo.sources import discover
from tilezoo.table import ERRORS, tell_first_fault
from tilezoo.tiles import TileRef

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


@verb(PackOptions)
def pack(options: PackOptions) -> PackResult:
    """Pack tiles into memory-mapped shards; run again, it goes on where it was stopped.

    Raises:
        TooManyFailedError: More than `max_errors` tiles failed (those left out for `max_nodata` are
            no failures); the pack is complete for the others.
        PackError: The folder is another run's, or not one tile could be packed.
        TilezooError: The run cannot start, or was interrupted.
    """
    shaping = _shaping(options)
    sources = discover(options.source_list)
    for note in sources.notes:
        say(note)
    plan = make_plan(
        sources,
        request=shaping.request,
        cut=options.cut,
        limit=None,
        shard=(0, 1),
        workers=options.threads,
    )
    labels = find_labels(options.labels, plan)
    choice = choose(plan, labels, options.splits, options.limit)
    refuse_hopeless(plan, shaping.request, shaping.check)
    for scaling in tell_scalings(plan.sources, shaping.request):
        say(tell_way_out(scaling))
    job = Job(
        request=options.request(labels.digest if labels else None),
        tiles=len(choice),
        tiles_sha256=plan.digest(),
    )
    with lock_pack(Path(options.out)), letting_go():
        store = open_pack_store(Path(options.out), job, overwrite=options.overwrite, choice=choice)
        if store.manifest is not None:
            store.clear_up()
            say(f"{options.out}: finished already, nothing to do (--overwrite makes it anew)")
            return _report(store.path, store.manifest, 0.0, options.max_errors)
        started = time.monotonic()
        manifest = _fill(store, choice, labels, shaping, options)
        return _report(store.path, manifest, time.monotonic() - started, options.max_errors)


def _shaping(options: PackOptions) -> Shaping:
    """What becomes of a tile's pixels, as far as options settle it."""
    return Shaping(
        request=replace(
            band_request(parse_bands(options.bands)),
            nodata=options.nodata_value,
            values=options.values or "harmonized",
            value_range=parse_value_range(options.value_range),
        ),
        dtype=options.dtype,
        value_range=parse_value_range(options.value_range),
        resized=options.size_px is not None,
        max_nodata=options.max_nodata,
        size_px=options.size_px or options.tile_px,
    )


def _fill(
    store: PackStore,
    choice: Choice,
    labels: Labels | None,
    shaping: Shaping,
    options: PackOptions,
) -> PackManifest:
    """Make the segments that are missing, and the manifest; reading runs ahead across segments."""
    shaping = _settle_shaping(store, choice, shaping)
    form = _shard_form(shaping, options.shard_mb)
    done, number = store.skip(0, 0)
    refs = [next(choice.tiles(place)) for place in spread(len(choice))]
    give_hints(refs, shaping.contract, shaping.request, workers=options.threads)
    left = len(choice) - store.kept()
    with progress(left, "packing", shown=options.show_progress) as advance:
        try:
            while done < len(choice):
                tiles = choice.tiles(done)
                with closing(_read_tiles(tiles, shaping, form, options.threads)) as outcomes:
                    while done < len(choice):
                        with store.segment(number, done, form, labels) as segment:
                            _fill_segment(segment, outcomes, advance)
                        place = (done + segment.outcomes, number + 1)
                        done, number = store.skip(*place)
                        if (done, number) != place:  # tiles of finished segments are not read
                            break
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"stopped; {store.kept()} of {len(choice)} tiles are kept in {store.path}: "
                "run the same command to go on"
            ) from None
    return store.finish(shaping, form, number)


def _settle_shaping(store: PackStore, choice: Choice, shaping: Shaping) -> Shaping:
    """Settle size and unit by the first tile that fits, once a pack, and put the job down."""
    if known := store.settled:
        settled = replace(shaping, size_px=known.size_px, unit=known.unit)
        if store.changed and _settle_by_first(choice, shaping) != settled:
            what = "the first tile has another size or unit since its file changed"
            raise PackError(f"{store.path}: {what}; --overwrite starts anew")
    else:
        settled = _settle_by_first(choice, shaping)
    store.begin(Settled(size_px=settled.size_px, unit=settled.unit))
    return settled


def _settle_by_first(choice: Choice, shaping: Shaping) -> Shaping:
    for ref in choice.tiles(0):
        try:
            with gdal(), Image(ref.source, shaping.request) as image:
                shaping.check(image)
                return shaping.settle(image)
        except TileError:  # becomes an error when the tile is read
            continue
    return shaping


def _shard_form(shaping: Shaping, shard_mb: int) -> ShardForm:
    side = shaping.size_px or MIN_SIDE_PX  # where no tile fits, the pack ends empty
    return ShardForm(
        shape=(len(shaping.request.wanted), side, side),
        dtype=shaping.dtype,
        shard_bytes=shard_mb << 20,
        value_range=(0.0, 255.0) if shaping.dtype == "uint8" else shaping.stored_range,
    )


def _read_tiles(
    tiles: Iterator[TileRef], shaping: Shaping, form: ShardForm, threads: int
) -> Generator[Outcome]:
    ahead = min(_WAITING_TILES, max(threads, _WAITING_BYTES // form.tile_bytes))
    return read_ahead(
        tiles,
        Reader(shaping.contract, shaping.request, shaping.finish),
        workers=threads,
        ahead=ahead,
        windows_per_job=max(1, min(_WINDOWS_PER_JOB, ahead // threads)),
    )


def _fill_segment(segment: Segment, outcomes: Iterator[Outcome], advance: Advance) -> None:
    for outcome in outcomes:
        segment.add(outcome)
        advance(1)
        if segment.full:
            return


def _report(path: Path, pack: PackManifest, seconds: float, max_errors: int) -> PackResult:
    """Say what a finished pack holds, or that too little came of it."""
    faults = pack.failed - pack.nodata
    see = f"see {path / ERRORS}"
    if faults > max_errors:
        raise TooManyFailedError(
            f"{faults} of {pack.tiles + pack.failed} tiles failed, --max-errors is {max_errors}: "
            f"{see}; the other {pack.tiles} are packed; "
            f"the first: {tell_first_fault(path / ERRORS, nodata=False)}"
        )
    if not pack.tiles:
        why = tell_first_fault(path / ERRORS, nodata=False) if faults else "too little data"
        msg = f"not one of {pack.failed} tiles could be packed; {see}; the first: {why}"
        raise PackError(f"{path}: {msg}")
    return PackResult(path=path, tiles=pack.tiles, failed=pack.failed, seconds=seconds)
