"""Train, validation and test: as given, at random by class, or by whole blocks of ground."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tilezoo.errors import ProbeError
from tilezoo.probe.data import Joined
from tilezoo.probe.options import Probing, Rare, SplitKind
from tilezoo.probe.scores import Labels

_RADIUS_KM = 6371.0088  # mean radius of the Earth, IUGG
_ROUNDING = 1e-9  # degrees, a tenth of a millimetre


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Rows of latitude, each cut into equal blocks around the globe.

    Attributes:
        height_deg: Of a row, degrees.
        width_km: Blocks are at least so wide all over; None where degrees count.
        width_deg: Blocks are at least so wide, degrees; None where kilometres count.
    """

    height_deg: float
    width_km: float | None = None
    width_deg: float | None = None

    def columns(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many blocks a row of latitude has.

        In kilometres: so many that two points of one row (or of it and the next towards the
        equator) whose longitudes differ by a block are at least `width_km` apart: the distance of
        a point at latitude φ from a meridian Δλ away is asin(cos φ sin Δλ) R, and the side nearer
        to the pole is the worst.
        """
        if self.width_km is None:
            return np.full(len(rows), max(1, math.floor(360 / (self.width_deg or 360) + 1e-9)))
        edges = np.stack([rows, rows + 1]) * self.height_deg - 90
        poleward = np.cos(np.radians(np.minimum(np.abs(edges).max(axis=0), 90)))
        angle = math.sin(self.width_km / _RADIUS_KM)
        sine = np.divide(angle, poleward, out=np.ones_like(poleward), where=poleward > angle)
        columns = np.floor(2 * np.pi / np.arcsin(sine)).astype(np.int64)
        return np.where(sine < 1, columns, 1)

    def place(self, lonlat: NDArray[np.float64]) -> NDArray[np.int64]:
        """Find the row and column of points, shape (N, 2), both counted from south-west."""
        rows = np.floor((lonlat[:, 1] + 90) / self.height_deg).astype(np.int64)
        columns = self.columns(rows)
        turned = np.mod((lonlat[:, 0] + 180) / 360, 1.0)
        return np.stack([rows, np.minimum(np.floor(turned * columns), columns - 1)], 1).astype(
            np.int64
        )

    def near(self, cells: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark cells, shape (N, 2), that are among some others or within one block of them."""
        unique, inverse = np.unique(cells, axis=0, return_inverse=True)
        marked = np.zeros(len(unique), bool)
        west, width = self._span(unique)
        for row in np.unique(others[:, 0]):
            here = np.abs(unique[:, 0] - row) <= 1
            there = others[others[:, 0] == row]
            their_west, their_width = self._span(there)
            marked[here] |= _are_near(west[here], width[here], their_west, their_width[0])
        return marked[inverse.ravel()]

    def _span(self, cells: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        width = 360 / self.columns(cells[:, 0])
        return cells[:, 1] * width, width


def _are_near(
    west: NDArray[np.float64],
    width: NDArray[np.float64],
    theirs: NDArray[np.float64],
    their_width: float,
) -> NDArray[np.bool_]:
    """Mark spans of longitude less than one block (the wider of the two) from any of theirs."""
    gap = np.maximum(width, their_width)[:, None]
    ahead = np.mod(theirs[None] - (west + width)[:, None], 360)
    behind = np.mod(west[:, None] - (theirs + their_width)[None], 360)
    # Of spans that overlap, one gap is negative and so comes out a turn too long.
    disjoint = ahead + behind <= 360 - width[:, None] - their_width + _ROUNDING
    apart = disjoint & (np.minimum(ahead, behind) >= gap - _ROUNDING)
    return np.asarray(~apart.all(axis=1))


def grid(*, block_deg: float | None, block_km: float | None, times: int = 1) -> Grid:
    """Make the grid of `--block-deg` or `--block-km`, or of blocks so many times as large."""
    if block_km is not None:
        side = min(block_km * times, 5000.0)
        return Grid(height_deg=math.degrees(side / _RADIUS_KM), width_km=side)
    if block_deg is None:
        raise ProbeError("no side of a block is given; add --block-km or --block-deg")
    side = min(block_deg * times, 90.0)
    return Grid(height_deg=side, width_deg=side)


def centres(joined: Joined) -> NDArray[np.float64]:
    """The centres of footprints, longitude and latitude, shape (N, 2).

    Raises:
        ProbeError: A tile has no footprint.
    """
    found = joined.lonlat
    missing = 0 if found is None else int(np.isnan(found).any(axis=1).sum())
    if found is None or missing:
        which = "the tiles have" if found is None else f"{missing} tiles have"
        raise ProbeError(
            f"{which} no footprint, so there are no blocks of ground; leave the blocks' side out, "
            "or embed georeferenced tiles"
        )
    return found


def refuse_small_blocks(grid: Grid, boxes: NDArray[np.float64]) -> None:
    """Refuse blocks that are smaller than a tile: neighbours would share pixels across blocks."""
    tallest_deg = float((boxes[:, 3] - boxes[:, 1]).max())
    if tallest_deg > grid.height_deg:
        in_km = grid.width_km is not None
        side, tile = (
            f"{math.radians(deg) * _RADIUS_KM:.4g} km" if in_km else f"{deg:.4g}°"
            for deg in (grid.height_deg, tallest_deg)
        )
        raise ProbeError(
            f"blocks of {side} are smaller than the largest tile ({tile} high); give them a "
            f"longer side, --block-{'km' if in_km else 'deg'}"
        )


PARTS = ("train", "validation", "test")
_TEST_SHARE = _VALIDATION_SHARE = 0.2
_FROM_TRAIN = 0.1  # share of train that chooses strengths where no validation is given
_REGION_SIDES = (5, 4, 3, 2, 1)  # blocks along a region, the largest that leaves enough regions
_ENOUGH_REGIONS = 10

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which tiles are learnt from, chosen by, and tested on: numbers into `Joined`, rising.

    Attributes:
        kind: How it was made.
        train: The train set.
        validation: Strengths are chosen by it.
        test: Scores are of it.
        blocks: Block or group of each test tile, from 0, shape (len(test),); None without.
        near_test: Tiles left out because they lie within one block of a test tile.
        unnamed: Tiles left out because no split is given for them.
        carved: Validation was taken from train, because none is given.
    """

    kind: SplitKind
    train: Rows
    validation: Rows
    test: Rows
    blocks: Rows | None = None
    near_test: int = 0
    unnamed: int = 0
    carved: bool = False

    @property
    def order(self) -> Rows:
        """Train, validation, test, one after the other."""
        return np.concatenate([self.train, self.validation, self.test])

    def where(self, kept: NDArray[np.bool_]) -> "Split":
        """Keep some tiles only."""
        blocks = None if self.blocks is None else self.blocks[kept[self.test]]
        return replace(
            self,
            train=self.train[kept[self.train]],
            validation=self.validation[kept[self.validation]],
            test=self.test[kept[self.test]],
            blocks=None if blocks is None else _from_zero(blocks),
        )


def make_split(joined: Joined, options: Probing, kind: SplitKind) -> Split:
    """Split tiles in the way that is asked.

    Raises:
        ProbeError: Labels name no splits or others, tiles have no footprints, or one of train,
            validation and test is left without tiles.
    """
    if kind == "given":
        split = _given(joined, options)
    elif kind == "random":
        split = _random(joined, options.seed)
    else:
        split = _by_blocks(joined, options)
    for part in PARTS:
        if not len(getattr(split, part)):
            raise ProbeError(
                f"the {kind} split leaves no tile for {part}; give more tiles, "
                f"{'smaller blocks, ' if kind == 'blocks' else ''}or another split"
            )
    return replace(split, blocks=_test_blocks(joined, options, split.test))


def choose_kind(joined: Joined, options: Probing) -> SplitKind:
    """Take the split that is asked; else the one given, or else a random one."""
    given = joined.splits.null_count < len(joined.splits)
    if options.split == "given" and not given:
        raise ProbeError("the labels hold no splits; make them: --split random, or --split blocks")
    return options.split or ("given" if given else "random")


def _given(joined: Joined, options: Probing) -> Split:
    names = joined.splits
    odd = pc.value_counts(names.filter(pc.invert(pc.is_in(names, pa.array([*PARTS, None])))))
    if len(odd):
        found = ", ".join(f"{o['values'].as_py()!r} ({o['counts'].as_py()} tiles)" for o in odd)
        raise ProbeError(
            f"unknown split {found}; splits are train, validation (or val) and test: change the "
            "labels, or make splits with --split random"
        )
    train, validation, test = (
        np.flatnonzero(pc.equal(names, part).fill_null(False)) for part in PARTS
    )
    split = Split(
        kind="given", train=train, validation=validation, test=test, unnamed=names.null_count
    )
    if len(split.validation) or len(split.train) < 2:
        return split
    carved = _stratified(joined.y[split.train], (_FROM_TRAIN,), options.seed)[0]
    return replace(
        split,
        train=split.train[~np.isin(np.arange(len(split.train)), carved)],
        validation=split.train[carved],
        carved=True,
    )


def _random(joined: Joined, seed: int) -> Split:
    """Deal out tiles by class; where they come in groups, whole groups."""
    if joined.groups is not None:
        part = _parts_of_regions(joined.groups, seed)
        train, validation, test = (np.flatnonzero(part == number) for number in range(3))
        return Split(kind="random", train=train, validation=validation, test=test)
    test, validation = _stratified(joined.y, (_TEST_SHARE, _VALIDATION_SHARE), seed)
    taken = np.concatenate([test, validation])
    train = np.setdiff1d(np.arange(len(joined.y)), taken, assume_unique=True)
    return Split(kind="random", train=train, validation=validation, test=test)


def _stratified(y: Labels, shares: tuple[float, ...], seed: int) -> list[Rows]:
    """Draw parts in which each class has its share.

    A tile of several classes counts for its rarest, so rare ones are spread first; every part
    gets at least one tile of a stratum that has enough.
    """
    # scikit-learn's StratifiedShuffleSplit takes one class a tile and refuses a class of one tile;
    # and its draws are others, so results.json would change for every probe with a random split.
    rng = np.random.default_rng(seed)
    rarity = np.argsort(np.argsort(y.sum(axis=0), kind="stable"))
    stratum = np.where(y > 0, rarity, y.shape[1]).min(axis=1)  # tiles without a class are the last
    parts: list[list[Rows]] = [[] for _ in shares]
    for number in np.unique(stratum):
        tiles = rng.permutation(np.flatnonzero(stratum == number))
        for part, share in zip(parts, shares, strict=True):
            count = min(max(1, round(share * (stratum == number).sum())), max(0, len(tiles) - 1))
            part.append(tiles[:count])
            tiles = tiles[count:]
    return [np.sort(np.concatenate(part)) for part in parts]


def _by_blocks(joined: Joined, options: Probing) -> Split:
    """Give whole regions of blocks to one side, and leave out what lies within a block of test.

    Regions of up to 5 x 5 blocks, not single ones, so that not everything is near a test tile.
    """
    lonlat = centres(joined)
    fine = grid(block_deg=options.block_deg, block_km=options.block_km)
    if joined.boxes is not None:
        refuse_small_blocks(fine, joined.boxes)
    cells = fine.place(lonlat)
    part = _parts_of_regions(_regions(fine, cells, options), options.seed)
    near = fine.near(cells, np.unique(cells[part == 2], axis=0)) & (part != 2)
    part[near] = 3
    numbers = [np.flatnonzero(part == number) for number in range(3)]
    return Split(
        kind="blocks",
        train=numbers[0],
        validation=numbers[1],
        test=numbers[2],
        near_test=int(near.sum()),
    )


def _regions(fine: Grid, cells: Rows, options: Probing) -> Rows:
    """Number the region of each tile, shape (N,); all tiles of a block are of one region."""
    width = 360 / fine.columns(cells[:, 0])
    middle = np.stack(
        [(cells[:, 1] + 0.5) * width - 180, (cells[:, 0] + 0.5) * fine.height_deg - 90], axis=1
    )
    middle[:, 1] = middle[:, 1].clip(-90, 90)
    for side in _REGION_SIDES:
        coarse = grid(block_deg=options.block_deg, block_km=options.block_km, times=side)
        places = cells if side == 1 else coarse.place(middle)
        names, region = np.unique(places, axis=0, return_inverse=True)
        if len(names) >= _ENOUGH_REGIONS or side == 1:
            break
    return np.asarray(region.ravel(), np.int64)


def _parts_of_regions(region: Rows, seed: int) -> Rows:
    """Deal regions out in random order: test until it has its share, validation, then train.

    A region that would take a part far over its share goes on to the next part.
    """
    # scikit-learn's GroupShuffleSplit takes a share of the groups, however large each is.
    sizes = np.bincount(region)
    total, given = sizes.sum(), np.zeros(3)
    share = {2: _TEST_SHARE * total, 1: _VALIDATION_SHARE * total}
    part_of = np.zeros(len(sizes), np.int64)
    for number in np.random.default_rng(seed).permutation(len(sizes)):
        size = sizes[number]
        for part, wanted in share.items():
            first = not given[part] and size <= total / 2
            fits = first or given[part] + size <= 1.5 * wanted
            if given[part] < wanted and fits:
                part_of[number] = part
                break
        given[part_of[number]] += size
    return part_of[region]


def _test_blocks(joined: Joined, options: Probing, test: Rows) -> Rows | None:
    if not options.has_blocks:
        return None if joined.groups is None else _from_zero(joined.groups[test])
    lonlat = centres(joined)
    cells = grid(block_deg=options.block_deg, block_km=options.block_km).place(lonlat[test])
    return _from_zero(np.unique(cells, axis=0, return_inverse=True)[1])


def _from_zero(numbers: Rows) -> Rows:
    """Renumber, so that numbers are 0, 1, … without gaps."""
    return np.asarray(np.unique(numbers, return_inverse=True)[1].ravel(), np.int64)


_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Usable:
    """What is left to probe.

    Attributes:
        joined: With the classes that are left.
        split: With the tiles that are left.
        dropped: Classes that were left out.
    """

    joined: Joined
    split: Split
    dropped: tuple[str, ...]


def leave_out_rare(joined: Joined, split: Split, rare: Rare) -> Usable:
    """See that every class has tiles with and without it in train, and with it in test.

    Tiles of a class that is left out go with it where a tile has one class only.

    Raises:
        ProbeError: A class has none, and `rare` is `error`; or fewer than two classes are left.
    """
    lacking = _find_lacking(joined.y, split)
    if not lacking.any():
        return Usable(joined=joined, split=split, dropped=())
    if rare == "error":
        raise ProbeError(_message(joined, split, np.flatnonzero(lacking)))
    left = joined.with_classes(~lacking)
    if left.y.shape[1] < 2:
        raise ProbeError(
            f"{_message(joined, split, np.flatnonzero(lacking))}; without them fewer than two are "
            "left"
        )
    if joined.task == "multiclass":
        split = split.where(left.y.sum(axis=1) > 0)
    names = zip(joined.classes, lacking, strict=True)
    return Usable(joined=left, split=split, dropped=tuple(name for name, is_ in names if is_))


def _find_lacking(y: Labels, split: Split) -> NDArray[np.bool_]:
    train, test = y[split.train], y[split.test]
    return np.asarray(~train.any(axis=0) | train.all(axis=0) | ~test.any(axis=0))


def _message(joined: Joined, split: Split, lacking: NDArray[np.int64]) -> str:
    sentences = []
    for number in lacking[:_MOST_NAMED]:
        column = joined.y[:, number]
        counts = [f"{int(column[rows].sum())} of {len(rows)}" for rows in (split.train, split.test)]
        sentences.append(
            f"{joined.classes[number]!r} is on {counts[0]} tiles of train, {counts[1]} of test"
        )
    more = f" and {len(lacking) - _MOST_NAMED} more classes" * (len(lacking) > _MOST_NAMED)
    return (
        f"{'; '.join(sentences)}{more}: a class is learnt from tiles with and without it, and tested on "
        "some with it; give more tiles, another split, or --rare drop to leave such classes out"
    )
