"""The plan of a run: every tile, in order, before any is read."""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain

from tilezoo.bands import BandRequest
from tilezoo.errors import ContractError, TileError
from tilezoo.opening import gdal
from tilezoo.raster import Image
from tilezoo.sources import Source
from tilezoo.tiles import Cut, TileRef

_Grid = tuple[int, int]  # width, height in pixels
_LOOKED_AT = 32  # headers read before a run that cannot succeed is refused


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Tiles `start` to `stop` of all the windows of all the sources, sorted by source id.

    Attributes:
        sources: Sorted.
        grids: Size of each source where it is cut into windows; empty where files are tiles.
        cut: How sources are cut; None for whole files.
        start: First tile of this run (its shard).
        stop: One past its last tile.
    """

    sources: Sequence[Source]
    grids: Sequence[_Grid | None]
    cut: Cut | None
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def tiles(self, first: int, last: int) -> Iterator[TileRef]:
        """Tiles `first` to `last` (exclusive), counted from the run's own first."""
        for position in range(self.start + first, self.start + last):
            place = bisect_right(self._ends, position)
            begin = self._ends[place - 1] if place else 0
            yield self._tile(place, position - begin)

    def digest(self) -> str:
        """Hash of all tiles' ids and their files' sizes; 64 hex digits."""
        digest = hashlib.sha256(f"{self.start},{self.stop},{self.cut}".encode())
        for source, grid in zip(
            self.sources, self.grids or [None] * len(self.sources), strict=True
        ):
            digest.update(f"{source.id}\0{_size(source)}\0{grid}\n".encode())
        return digest.hexdigest()

    @cached_property
    def _ends(self) -> Sequence[int]:
        """How many tiles there are up to and with each source."""
        if not self.grids:
            return range(1, len(self.sources) + 1)
        return list(accumulate(_count(grid, self.cut) for grid in self.grids))

    def _tile(self, place: int, number: int) -> TileRef:
        grid = self.grids[place] if self.grids else None
        if self.cut is None or grid is None:
            return TileRef(source=self.sources[place])
        return TileRef(source=self.sources[place], window=self.cut.window(number, grid[0]))


def make_plan(
    sources: Sequence[Source],
    *,
    request: BandRequest,
    cut: Cut | None,
    limit: int | None,
    shard: tuple[int, int],
    workers: int,
) -> Plan:
    """Count the tiles, keep the first `limit`, and take this shard's share of consecutive ones.

    Only with `cut` are files opened, for their headers; one that cannot be opened counts as
    one tile and becomes an error when it is read.
    """
    grids = _grids(sources, request, workers) if cut else []
    total = sum(_count(grid, cut) for grid in grids) if cut else len(sources)
    kept = total if limit is None else min(limit, total)
    index, count = shard
    return Plan(
        sources=sources,
        grids=grids,
        cut=cut,
        start=kept * index // count,
        stop=kept * (index + 1) // count,
    )


def refuse_hopeless(plan: Plan, request: BandRequest, check: Callable[[Image], None]) -> None:
    """Stop before the first tile is read if every one looked at is of the wrong kind.

    Args:
        plan: Of which some tiles, evenly spread, are opened for their headers.
        request: Which bands are asked for.
        check: Raises `TileError` where an image does not fit.

    Raises:
        ContractError: With the first wrong one's fix.
    """
    step = max(1, len(plan) // _LOOKED_AT)
    looked_at = chain.from_iterable(plan.tiles(i, i + 1) for i in range(0, len(plan), step))
    wrong: list[str] = []
    for ref in looked_at:
        try:
            with gdal(), Image(ref.source, request) as image:
                check(image)
        except TileError as error:
            if error.kind == "contract":
                wrong.append(f"{ref.source.uri}: {error}")
        else:
            return
    if wrong:
        raise ContractError(wrong[0])


def _grids(sources: Sequence[Source], request: BandRequest, workers: int) -> list[_Grid | None]:
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda source: _grid(source, request), sources))


def _grid(source: Source, request: BandRequest) -> _Grid | None:
    try:
        with gdal(), Image(source, request) as image:
            return image.size
    except TileError:
        return None


def _count(grid: _Grid | None, cut: Cut | None) -> int:
    return 1 if grid is None or cut is None else cut.count(*grid)


def _size(source: Source) -> int:
    """Bytes of a source's files, 0 for what is not there: tells changed imagery from unchanged."""
    paths = source.files.values() if source.endings else [source.path]
    return sum(os.path.getsize(path) for path in paths if os.path.exists(path))
