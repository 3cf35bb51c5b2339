"""Reading ahead: threads read tiles while the network works, in order and in bounded number."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice

from tilezoo.errors import TileError
from tilezoo.raster import Image, gdal
from tilezoo.table import Failure
from tilezoo.tiles import Tile, TileRef
from tilezoo.zoo.backbone import Backbone

# Windows of one source that one thread reads in a row, from a source it opens once.
_WINDOWS_PER_JOB = 16

Outcome = Tile | Failure


class Reader:
    """Reads tiles for one backbone, a tile that fails becoming a `Failure`."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def read(self, refs: list[TileRef]) -> list[Outcome]:
        """Read tiles of one source, in a thread with GDAL's settings."""
        try:
            with Image(refs[0].source, self._backbone.request) as image:
                return [self._one(image, ref) for ref in refs]
        except TileError as error:
            return [_failure(ref, error) for ref in refs]

    def _one(self, image: Image, ref: TileRef) -> Outcome:
        try:
            contract, request = self._backbone.space.contract, self._backbone.request
            return self._backbone.shrink(image.read(ref, contract, request))
        except TileError as error:
            return _failure(ref, error)


def read_ahead(
    refs: Iterable[TileRef], reader: Reader, *, workers: int, ahead: int
) -> Generator[Outcome, None, None]:
    """Read tiles with `workers` threads, at most `ahead` tiles before they are asked for.

    The order is kept. Closing the iterator stops the threads after the tile in hand.
    """
    jobs = _jobs(refs)
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


def _jobs(refs: Iterable[TileRef]) -> Iterator[list[TileRef]]:
    for _, of_source in groupby(refs, key=lambda ref: ref.source.path):
        while job := list(islice(of_source, _WINDOWS_PER_JOB)):
            yield job


def _failure(ref: TileRef, error: TileError) -> Failure:
    return Failure(ref=ref, kind=error.kind, message=str(error))
