"""Tables and labels brought together: the same tiles in the same order, with their classes.

Then the vectors of one table in that order, ready to be learnt from.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilezoo.errors import LabelsError, ProbeError
from tilezoo.labels import folder_labels, read_labels, refuse_strangers
from tilezoo.probe.linear import chunks
from tilezoo.probe.options import Task
from tilezoo.probe.scores import Labels
from tilezoo.table import Table, open_table

PRIOR = "prior"  # the control that is always there
FOLDER = "folder"  # `--labels folder`
_NAME = re.compile(r"[\w-][\w.-]*")  # it becomes part of a file's name
_CONSTANT = 1e-6  # share of a feature's size under which its spread is rounding


def open_named(texts: Sequence[str | Path], taken: Sequence[str] = ()) -> dict[str, Table]:
    """Open tables by `NAME=TABLE` or `TABLE`.

    Args:
        texts: As the user wrote them.
        taken: Names that are in use.

    Raises:
        ProbeError: Two tables have one name, or a name cannot be part of a file's.
        TableError: A table cannot be opened.
    """
    found: dict[str, Table] = {}
    used = {name.casefold() for name in (*taken, PRIOR)}
    for text in texts:
        name, path = parse_named(str(text))
        if name.casefold() in used:
            raise ProbeError(
                f"two tables are called {name!r} ({path} is the second); name them: "
                f"NAME={path}{' (prior is the control of labels alone)' * (name == PRIOR)}"
            )
        used.add(name.casefold())
        found[name] = open_table(path)
    return found


def parse_named(text: str) -> tuple[str, str]:
    """Read `NAME=PATH`, or a path whose last part is the name.

    Raises:
        ProbeError: The name cannot be part of a file's.
    """
    given, equals, rest = text.partition("=")
    if equals and not Path(text).exists():
        name, path = given.strip(), rest
    else:
        name, path = Path(text).resolve().name, text
    if not _NAME.fullmatch(name):
        raise ProbeError(
            f"{name!r} cannot name a table or model: letters, digits, '.', '_' and '-' can; "
            f"write NAME={path}"
        )
    return name, path


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Labelled tiles that every table holds, sorted by id.

    Attributes:
        ids: Strings, shape (N,).
        y: 1 where a class applies, shape (N, C).
        classes: Names of the columns of `y`, sorted.
        task: Whether a tile may have several classes.
        splits: Names of splits as labels give them, null where they do not, shape (N,).
        groups: Number of the scene, flight or sheet each tile comes from, as labels name it, from
            0, shape (N,); a tile without one is its own group. None where no tile has one.
        boxes: Footprints' bounds (xmin, ymin, xmax, ymax), degrees, shape (N, 4); xmax is beyond
            180 across the antimeridian; NaN for tiles without one; None when no tile has one.
        lonlat: Their centres, degrees, shape (N, 2), where `boxes` are.
        unlabelled: Tiles of the tables that have no labels, and are left out.
        unmatched: Labels of tiles that the tables do not hold.
    """

    ids: pa.Array
    y: Labels
    classes: tuple[str, ...]
    task: Task
    splits: pa.Array
    groups: NDArray[np.int64] | None
    boxes: NDArray[np.float64] | None
    lonlat: NDArray[np.float64] | None
    unlabelled: int
    unmatched: int

    def with_classes(self, kept: NDArray[np.bool_]) -> Self:
        """Keep some classes only."""
        names = tuple(name for name, keep in zip(self.classes, kept, strict=True) if keep)
        return replace(self, y=self.y[:, kept], classes=names)


def join(tables: Mapping[str, Table], labels: str | Path, task: Task | None) -> Joined:
    """Find the tiles that have labels, in all tables alike.

    Args:
        tables: By name; the first one's footprints count.
        labels: A file for `read_labels`, or `folder`.
        task: What the labels are; None to see by them.

    Raises:
        LabelsError: No label is of any tile, or labels do not fit the task.
        ProbeError: Tables hold different tiles, or one holds an id twice.
    """
    ids_of = {name: _ids(name, table) for name, table in tables.items()}
    first, own_ids = next(iter(ids_of.items()))
    is_folder = str(labels) == FOLDER
    read = folder_labels(own_ids.to_pylist()) if is_folder else read_labels(labels)
    known = read.filter(pc.is_valid(read["labels"]))
    here = known.filter(pc.is_in(known["id"], value_set=own_ids))
    if not here.num_rows:
        refuse_strangers(labels, known["id"].combine_chunks(), [own_ids], first)
    _refuse_other_tiles(known["id"].combine_chunks(), ids_of)
    here = here.sort_by("id").combine_chunks()
    boxes, lonlat = _places(tables[first], own_ids, here["id"].combine_chunks())
    y, classes = _multi_hot(here["labels"].combine_chunks())
    return Joined(
        ids=here["id"].combine_chunks(),
        y=y,
        classes=classes,
        task=_task(y, task),
        splits=here["split"].combine_chunks(),
        groups=_groups(here["group"].combine_chunks(), here["id"].combine_chunks()),
        boxes=boxes,
        lonlat=lonlat,
        unlabelled=len(own_ids) - here.num_rows,
        unmatched=known.num_rows - here.num_rows,
    )


def _ids(name: str, table: Table) -> pa.Array:
    ids = table.column("id").combine_chunks()
    counts = ids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise ProbeError(
            f"{name}: {table.path} holds {len(repeated)} ids more than once "
            f"({repeated[0]['values'].as_py()!r}, say); embed the tiles again, each once"
        )
    return ids


def _refuse_other_tiles(known: pa.Array, ids_of: Mapping[str, pa.Array]) -> None:
    """Refuse tables whose labelled tiles are not those of the first."""
    (first, own), *others = ids_of.items()
    ours = known.filter(pc.is_in(known, value_set=own))
    for name, ids in others:
        theirs = known.filter(pc.is_in(known, value_set=ids))
        lacking = ours.filter(pc.invert(pc.is_in(ours, value_set=theirs)))
        extra = theirs.filter(pc.invert(pc.is_in(theirs, value_set=ours)))
        if len(lacking) or len(extra):
            example = (lacking if len(lacking) else extra)[0].as_py()
            raise ProbeError(
                f"{first} and {name} hold different tiles: {len(lacking)} labelled ones only in "
                f"{first}, {len(extra)} only in {name} ({example!r}, say); embed the same SOURCE "
                "with both models (see errors.parquet), or leave those tiles out of the labels"
            )


def _multi_hot(lists: pa.Array) -> tuple[Labels, tuple[str, ...]]:
    """Turn lists of class names into columns."""
    names = lists.flatten()
    classes = pc.unique(names).sort()
    y = np.zeros((len(lists), len(classes)), np.uint8)
    tile = pc.list_parent_indices(lists).to_numpy()
    y[tile, pc.index_in(names, value_set=classes).to_numpy(zero_copy_only=False)] = 1
    if len(classes) < 2:
        only = f"only the class {classes[0].as_py()!r}" if len(classes) else "no class at all"
        raise LabelsError(f"the labels of these tiles hold {only}; a probe tells two or more apart")
    return y, tuple(classes.to_pylist())


def _task(y: Labels, wanted: Task | None) -> Task:
    counts = y.sum(axis=1)
    single = bool((counts == 1).all())
    if wanted == "multiclass" and not single:
        raise LabelsError(
            f"--task multiclass, but {int((counts != 1).sum())} tiles have no class or several; "
            "leave --task out, or give each tile one class"
        )
    return wanted or ("multiclass" if single else "multilabel")


def _groups(names: pa.Array, ids: pa.Array) -> NDArray[np.int64] | None:
    """Number groups; `/` keeps the id of a tile without one apart from every group's name."""
    if names.null_count == len(names):
        return None
    alone = pc.binary_join_element_wise("/", ids, "")
    named = pc.coalesce(names, alone).dictionary_encode()
    return np.asarray(named.indices.to_numpy(), np.int64)


def _places(
    table: Table, own: pa.Array, ids: pa.Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | tuple[None, None]:
    """Bounds and centres of tiles in the order of `ids`; None and None where none has a place."""
    boxes = table.find_boxes()
    if np.isnan(boxes).all():
        return None, None
    rows = pc.index_in(ids, value_set=own).to_numpy()
    return boxes[rows], table.find_centres()[rows]


def load_vectors(
    name: str, table: Table, ids: pa.Array, advance: Callable[[int], None] = lambda _: None
) -> Tensor:
    """Read the vectors of some tiles, streamed into place.

    Args:
        name: What the table is called.
        table: Holds every one of these tiles.
        ids: The order that is wanted, shape (N,).
        advance: Called with the number of rows that are read.

    Returns:
        Raw vectors, float32, shape (N, D).

    Raises:
        ProbeError: A vector is not finite or zero, or all are equal.
    """
    where = _targets(table, ids)
    x = np.empty((len(ids), table.dimension), np.float32)
    first = 0
    for vectors in table.vectors():
        place = where[first : first + len(vectors)]
        x[place[place >= 0]] = vectors[place >= 0]
        first += len(vectors)
        advance(len(vectors))
    _refuse_unusable(name, x, ids)
    return torch.from_numpy(x)


def _refuse_unusable(name: str, x: NDArray[np.float32], ids: pa.Array) -> None:
    bad, zero, equal = [], [], True
    for rows in chunks(len(x)):
        bad += (rows.start + np.flatnonzero(~np.isfinite(x[rows]).all(axis=1))).tolist()
        zero += (rows.start + np.flatnonzero(~x[rows].any(axis=1))).tolist()
        equal = equal and bool((x[rows] == x[0]).all())
    for found, what in ((bad, "not finite"), (zero, "zero")):
        if found:
            raise ProbeError(
                f"{name}: {len(found)} of {len(x)} vectors are {what} "
                f"({ids[found[0]].as_py()!r}, say); embed these tiles again, or leave them out of "
                "the labels"
            )
    if equal:
        raise ProbeError(f"{name}: all {len(x)} vectors are equal; is the model's input right?")


def _targets(table: Table, ids: pa.Array) -> NDArray[np.int64]:
    """Say for each row of a table where its id stands in `ids`; -1 where it does not."""
    places = pc.fill_null(pc.index_in(table.column("id"), value_set=ids), -1)
    return np.asarray(places.to_numpy(), np.int64)


def standardise(x: Tensor, train: int) -> None:
    """Give every feature mean 0 and deviation 1 over the first `train` rows, in place.

    Features that do not vary there become 0.
    """
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for rows in chunks(train):
        total += x[rows].sum(dim=0, dtype=torch.float64)
    mean = total / train
    squares = torch.zeros_like(total)
    for rows in chunks(train):
        squares += ((x[rows].double() - mean) ** 2).sum(dim=0)
    deviation = (squares / train).sqrt()
    varies = deviation > _CONSTANT * mean.abs().clamp_min(1e-30)
    scale = torch.where(varies, 1 / deviation, torch.zeros_like(deviation))
    for rows in chunks(len(x)):
        x[rows] = ((x[rows].double() - mean) * scale).float()
