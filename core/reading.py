"""Reading ahead: threads read tiles while others use them, in order and in bounded number."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice

from tilezoo.bands import BandRequest
from tilezoo.errors import TileError
from tilezoo.image import Image
from tilezoo.opening import gdal
from tilezoo.space import Contract
from tilezoo.table import Failure
from tilezoo.tiles import Tile, TileRef

# Windows of one source that one thread reads in a row, from a source it opens once.
_WINDOWS_PER_JOB = 16
_MOST_THREADS = 8  # more contend for the interpreter

Outcome = Tile | Failure


def reading_threads(workers: int | None) -> int:
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
        """Read tiles of one source, in a thread with GDAL's settings."""
        try:
            with Image(refs[0].source, self._request) as image:
                return [self._one(image, ref) for ref in refs]
        except TileError as error:
            return [_failure(ref, error) for ref in refs]

    def _one(self, image: Image, ref: TileRef) -> Outcome:
        try:
            return self._finish(image.read(ref, self._contract, self._request))
        except TileError as error:
            return _failure(ref, error)


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
    jobs = _jobs(refs, windows_per_job)
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


def _jobs(refs: Iterable[TileRef], windows_per_job: int) -> Iterator[list[TileRef]]:
    for _, of_source in groupby(refs, key=lambda ref: ref.source.path):
        while job := list(islice(of_source, windows_per_job)):
            yield job


def _failure(ref: TileRef, error: TileError) -> Failure:
    return Failure(ref=ref, kind=error.kind, message=str(error))
