"""The tiles of a run: listed in order before any is read, then read ahead by threads."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, islice, repeat

import numpy as np
from numpy.typing import NDArray

from tilezoo.bands import BandRequest
from tilezoo.changes import mark_source, mark_sources
from tilezoo.errors import ContractError, TileError, where_to_look
from tilezoo.image import Image
from tilezoo.opening import gdal
from tilezoo.progress import begin_telling
from tilezoo.sources import Source
from tilezoo.space import Contract
from tilezoo.table import Failure
from tilezoo.tiles import Cut, Tile, TileRef

_LOOKED_AT = 32  # headers read before a run that cannot succeed is refused
_AT_ONCE = 4096  # sources that wait for their headers to be read
_UNKNOWN = (0, 0)  # the grid of a file that cannot be opened; a single tile by any cut
# Windows of one source that one thread reads in a row, from a source it opens once.
_WINDOWS_PER_JOB = 16
_MOST_THREADS = 8  # more contend for the interpreter

Outcome = Tile | Failure


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """Tiles `start` to `stop` of all the windows of all the sources, sorted by source id.

    Attributes:
        sources: Sorted.
        grids: Width and height of each source in pixels where it is cut into windows, (0, 0) where
            they could not be read, shape (N, 2); empty where files are tiles.
        cut: How sources are cut; None for whole files.
        start: First tile of this run (its shard).
        stop: One past its last tile.
        marks: What the files of each source were when the tiles were listed, shape (N, 2).
    """

    sources: Sequence[Source]
    grids: NDArray[np.int32]
    cut: Cut | None
    start: int
    stop: int
    marks: NDArray[np.int64]

    def __len__(self) -> int:
        return self.stop - self.start

    def tiles(self, first: int, last: int) -> Iterator[TileRef]:
        """Tiles `first` to `last` (exclusive), counted from the run's own first."""
        begin, end = self.start + first, self.start + last
        if self.cut is None:
            marks = map(tuple, self.marks[begin:end].tolist())
            for source, mark in zip(self.sources[begin:end], marks, strict=True):
                yield TileRef(source=source, mark=mark)
        else:
            yield from (self._find_window(position, self.cut) for position in range(begin, end))

    def digest(self, *, of_sizes: bool = True) -> str:
        """Hash of all tiles' ids and, unless told otherwise, their files' sizes; 64 hex digits."""
        digest = hashlib.sha256(f"{self.start},{self.stop},{self.cut}".encode())
        grids = (tuple(grid.tolist()) for grid in self.grids) if self.cut else repeat(None)
        sizes = self.marks[:, 0].tolist() if of_sizes else repeat("")
        for source, size, grid in zip(self.sources, sizes, grids, strict=False):
            digest.update(f"{source.id}\0{size}\0{grid}\n".encode())
        return digest.hexdigest()

    def find_tiles(self, sources: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the run's tiles that are of marked sources, shape (len(self),)."""
        if self.cut is None:
            return sources[self.start : self.stop]
        return np.repeat(sources, np.diff(self._ends, prepend=0))[self.start : self.stop]

    def _find_window(self, position: int, cut: Cut) -> TileRef:
        place = int(np.searchsorted(self._ends, position, side="right"))
        source, (width, height) = self.sources[place], self.grids[place].tolist()
        mark = (int(self.marks[place, 0]), int(self.marks[place, 1]))
        if (width, height) == _UNKNOWN:
            return TileRef(source=source, mark=mark)
        number = position - int(self._ends[place]) + cut.count(width, height)
        return TileRef(source=source, window=cut.window(number, width), mark=mark)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """How many windows there are up to and with each source."""
        return (
            np.cumsum(_count_windows(self.grids, self.cut)) if self.cut else np.empty(0, np.int64)
        )


def make_plan(
    sources: Sequence[Source],
    *,
    request: BandRequest,
    cut: Cut | None,
    limit: int | None,
    shard: tuple[int, int],
    workers: int,
) -> TilePlan:
    """Count the tiles, keep the first `limit`, and take this shard's share of consecutive ones.

    Only with `cut` are files opened, for their headers; one that cannot be opened counts as
    one tile and becomes an error when it is read.
    """
    begin_telling()
    marks = mark_sources(sources)  # before anything of them is read
    grids = _read_grids(sources, request, workers) if cut else np.empty((0, 2), np.int32)
    total = int(_count_windows(grids, cut).sum()) if cut else len(sources)
    kept = total if limit is None else min(limit, total)
    index, count = shard
    return TilePlan(
        sources=sources,
        grids=grids,
        cut=cut,
        start=kept * index // count,
        stop=kept * (index + 1) // count,
        marks=marks,
    )


def refuse_hopeless(plan: TilePlan, request: BandRequest, check: Callable[[Image], None]) -> None:
    """Stop before the first tile is read if every one looked at is of the wrong kind.

    Raises:
        ContractError: With the first wrong one's fix; the arguments are those of `find_refusal`.
    """
    found = find_refusal(plan, request, check)
    if found is not None:
        source, why = found
        raise ContractError(f"{source.uri}: {why}; {where_to_look(source.uri)}")


def find_refusal(
    plan: TilePlan, request: BandRequest, check: Callable[[Image], None]
) -> tuple[Source, str] | None:
    """Find why no tile is of the right kind: the first wrong source, and its fix.

    Args:
        plan: Of which some tiles, evenly spread, are opened for their headers.
        request: Which bands are asked for.
        check: Raises `TileError` where an image does not fit.
    """
    step = max(1, len(plan) // _LOOKED_AT)
    looked_at = chain.from_iterable(plan.tiles(i, i + 1) for i in range(0, len(plan), step))
    wrong: list[tuple[Source, str]] = []
    for ref in looked_at:
        try:
            with gdal(), Image(ref.source, request) as image:
                check(image)
        except TileError as error:
            if error.kind == "contract":
                wrong.append((ref.source, str(error)))
        else:
            return None
    return wrong[0] if wrong else None


def count_threads(workers: int | None) -> int:
    """How many threads read: what `--workers` says, else one a core, eight at the most."""
    return workers or min(_MOST_THREADS, os.cpu_count() or 1)


class Reader:
    """Reads tiles by one contract, a tile that fails becoming a `Failure`.

    Args:
        contract: What pixels must be like.
        request: Which bands to read.
        finish: Applied to each tile in the thread that read it; may raise `TileError`.
    """

    def __init__(
        self, contract: Contract, request: BandRequest, finish: Callable[[Tile], Tile]
    ) -> None:
        self._contract, self._request, self._finish = contract, request, finish

    def read(self, refs: list[TileRef]) -> list[Outcome]:
        """Read tiles of one source, in a thread with GDAL's settings.

        What was written to after the tiles were listed is no tile: its windows would be of two
        images, and the run would not know of which.
        """
        outcomes, mark = self._read_all(refs), refs[0].mark
        if mark is None or mark == mark_source(refs[0].source):
            return outcomes
        error = TileError(
            "changed", "changed during the run; run the same command again to read it"
        )
        return [_to_failure(ref, error) for ref in refs]

    def _read_all(self, refs: list[TileRef]) -> list[Outcome]:
        try:
            with Image(refs[0].source, self._request) as image:
                return [self._read_one(image, ref) for ref in refs]
        except TileError as error:
            return [_to_failure(ref, error) for ref in refs]

    def _read_one(self, image: Image, ref: TileRef) -> Outcome:
        try:
            return self._finish(image.read(ref, self._contract))
        except TileError as error:
            return _to_failure(ref, error)


def read_ahead(
    refs: Iterable[TileRef],
    reader: Reader,
    *,
    workers: int,
    ahead: int,
    windows_per_job: int = _WINDOWS_PER_JOB,
) -> Generator[Outcome, None, None]:
    """Read tiles with `workers` threads, at most `ahead` tiles before they are asked for.

    The order is kept. Closing the iterator stops the threads after the tile in hand.
    """
    jobs = _group_jobs(refs, windows_per_job)
    waiting: deque[tuple[int, Future[list[Outcome]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="read", initializer=_take_settings)
    pending = 0
    try:
        while True:
            while pending < ahead and (job := next(jobs, None)):
                waiting.append((len(job), pool.submit(reader.read, job)))
                pending += len(job)
            if not waiting:
                return
            size, done = waiting.popleft()
            yield from done.result()
            pending -= size
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _take_settings() -> None:
    """Put GDAL's settings in force for all of a thread's life: they cost more than a read."""
    gdal().__enter__()


def _group_jobs(refs: Iterable[TileRef], windows_per_job: int) -> Iterator[list[TileRef]]:
    for _, of_source in groupby(refs, key=lambda ref: ref.source.path):
        while job := list(islice(of_source, windows_per_job)):
            yield job


def _to_failure(ref: TileRef, error: TileError) -> Failure:
    return Failure(ref=ref, kind=error.kind, message=str(error))


def _read_grids(sources: Sequence[Source], request: BandRequest, workers: int) -> NDArray[np.int32]:
    grids = np.zeros((len(sources), 2), np.int32)
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(sources), _AT_ONCE):
            some = sources[first : first + _AT_ONCE]
            grids[first : first + len(some)] = list(pool.map(_read_grid, some, repeat(request)))
    return grids


def _read_grid(source: Source, request: BandRequest) -> tuple[int, int]:
    try:
        with gdal(), Image(source, request) as image:
            return image.size
    except TileError:
        return _UNKNOWN


def _count_windows(grids: NDArray[np.int32], cut: Cut) -> NDArray[np.int64]:
    return np.fromiter((cut.count(*grid.tolist()) for grid in grids), np.int64, len(grids))
