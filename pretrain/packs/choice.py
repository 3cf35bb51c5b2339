"""Which tiles go into a pack, and what they are labelled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tilezoo.errors import LabelsError, OptionError
from tilezoo.io import sha256_file
from tilezoo.labels import folder_labels, read_labels, refuse_strangers, split_name
from tilezoo.reading import TilePlan
from tilezoo.tiles import TileRef

FOLDER = "folder"  # `--labels folder`: a tile's class is the folder it lies in
_IDS_PER_LOOK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels and splits of tiles, found by id.

    Attributes:
        name: As `--labels` gave it.
        digest: Of the labels file; `folder` where classes are folders.
        table: `id`, `labels`, `split`; None where classes are folders.
    """

    name: str
    digest: str
    table: pa.Table | None

    def of(self, ids: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Find labels and splits of some tiles, null where nothing is known."""
        if self.table is None:
            found = folder_labels(ids.to_pylist())
        else:
            found = self.table.take(pc.index_in(ids, value_set=self.table["id"].combine_chunks()))
        return found["labels"].combine_chunks(), found["split"].combine_chunks()

    def of_splits(self, splits: Sequence[str]) -> pa.Array:
        """List the ids of these splits.

        Raises:
            LabelsError: The labels have no such split, or no splits at all.
        """
        column = pa.chunked_array([], pa.string()) if self.table is None else self.table["split"]
        known = sorted(filter(None, column.unique().to_pylist()))
        if missing := [split for split in splits if split not in known]:
            there = f"there are {', '.join(known)}" if known else "they have no splits"
            raise LabelsError(f"--split {missing[0]}: not in the labels {self.name}; {there}")
        chosen = pc.is_in(column, value_set=pa.array(splits))
        return self.table.filter(chosen)["id"].combine_chunks()  # type: ignore[union-attr]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Tiles of a plan that are packed, in the plan's order.

    Attributes:
        plan: All tiles.
        positions: Those that are packed; None for all.
    """

    plan: TilePlan
    positions: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.plan) if self.positions is None else len(self.positions)

    def mark(self, tiles: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Marks of the plan's tiles as those of the choice's."""
        return tiles if self.positions is None else tiles[self.positions]

    def tiles(self, first: int) -> Iterator[TileRef]:
        """Yield tiles from number `first` of the choice on."""
        if self.positions is None:
            yield from self.plan.tiles(first, len(self.plan))
            return
        for position in self.positions[first:].tolist():
            yield from self.plan.tiles(position, position + 1)


def parse_splits(text: str | None) -> tuple[str, ...]:
    """Read `--split train,validation`; empty where all are wanted."""
    if text is None:
        return ()
    names = tuple(filter(None, map(split_name, text.split(","))))
    if not names:
        raise OptionError("--split is empty; write train, validation or test")
    return names


def find_labels(name: str | Path | None, plan: TilePlan) -> Labels | None:
    """Read what `--labels` names, and see that it belongs to the tiles.

    Raises:
        LabelsError: The file cannot be read, no tile has its id in it, or tiles lie in no folder.
    """
    if name is None:
        return None
    if str(name) == FOLDER:
        folder_labels(source.id for source in plan.sources)  # refuses what lies in none
        return Labels(name=FOLDER, digest=FOLDER, table=None)
    table = read_labels(name)
    refuse_strangers(name, table["id"].combine_chunks(), _ids(plan), "the sources")
    return Labels(name=str(name), digest=f"sha256:{sha256_file(Path(name))}", table=table)


def choose(
    plan: TilePlan, labels: Labels | None, splits: Sequence[str], limit: int | None
) -> Choice:
    """Keep the tiles of some splits, and of these the first `limit`.

    Raises:
        OptionError: Splits are asked for without labels.
        LabelsError: No tile is of these splits.
    """
    if not splits:
        positions = None if limit is None else np.arange(min(limit, len(plan)))
        return Choice(plan=plan, positions=positions)
    if labels is None:
        raise OptionError(f"--split {','.join(splits)} needs --labels FILE with a column of splits")
    wanted = labels.of_splits(splits)
    masks = [pc.is_in(ids, value_set=wanted).to_numpy(zero_copy_only=False) for ids in _ids(plan)]
    positions = np.flatnonzero(np.concatenate(masks))[:limit]
    if not len(positions):
        raise LabelsError(f"{labels.name}: no tile is of split {','.join(splits)}")
    return Choice(plan=plan, positions=positions)


def _ids(plan: TilePlan) -> Iterator[pa.Array]:
    refs = plan.tiles(0, len(plan))
    while part := [ref.id for ref in islice(refs, _IDS_PER_LOOK)]:
        yield pa.array(part, pa.string())
