"""Leakage audit: were test tiles among those that a backbone was pretrained on?"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from tilezoo.centres import HALF_TURN
from tilezoo.errors import ProbeError
from tilezoo.geoparquet import read_boxes
from tilezoo.probe.results import Leakage, LeakageStatus
from tilezoo.table import Table
from tilezoo.training_ids import TRAINING_IDS, ids_sha256, read_training_ids

# Bounds in degrees of neighbours on a UTM grid overlap a little, because meridians converge: by up
# to a tenth of a tile. More than a fifth is common ground.
_COMMON_GROUND = 0.2
_CHUNK = 4096


def audit(
    name: str, table: Table, test_ids: pa.Array, test_boxes: NDArray[np.float64] | None
) -> Leakage:
    """Compare a table's list of pretraining tiles, if it holds one, with the test set.

    Args:
        name: What the table is called.
        table: May hold `pretraining_ids.parquet`.
        test_ids: Strings, shape (N,).
        test_boxes: Bounds in degrees, shape (N, 4); None without footprints.

    Raises:
        ProbeError: The list is not the one that the manifest names.
        TableError: The list cannot be read.
    """
    path = table.path / TRAINING_IDS
    if not path.is_file():
        said = f"{name}: leakage unknown, the table holds no list of pretraining tiles"
        return Leakage(status="unknown", test_tiles=len(test_ids), said=said)
    seen = read_training_ids(path)
    digest = ids_sha256(seen["id"].to_pylist())
    stated = table.manifest.pretraining.get("ids_sha256")
    if stated not in (None, digest):
        raise ProbeError(
            f"{name}: {path} is not the list of pretraining tiles that manifest.json names; "
            "embed the tiles again"
        )
    by_id = pc.is_in(test_ids, value_set=seen["id"].combine_chunks()).to_numpy(zero_copy_only=False)
    by_place = _by_place(seen["bbox"].combine_chunks(), test_boxes)
    either = by_id if by_place is None else by_id | by_place
    status: LeakageStatus = "overlap" if either.any() else "none_found"
    found = Leakage(
        status=status,
        test_tiles=len(test_ids),
        pretraining_tiles=seen.num_rows,
        ids_sha256=digest,
        same_id=int(by_id.sum()),
        same_place=None if by_place is None else int(by_place.sum()),
        examples=tuple(test_ids[int(row)].as_py() for row in np.flatnonzero(either)[:3]),
        said="",
    )
    return replace(found, said=_say(name, found))


def _say(name: str, found: Leakage) -> str:
    place = found.same_place
    by_place = "footprints unknown" if place is None else f"{place:,} by footprint"
    verdict = "LEAKAGE" if found.status == "overlap" else "no leakage found"
    return (
        f"{name}: {verdict}, {found.same_id:,} of {found.test_tiles:,} test tiles seen in "
        f"pretraining by id, {by_place}"
    )


def _by_place(
    structs: pa.StructArray, test: NDArray[np.float64] | None
) -> NDArray[np.bool_] | None:
    """Mark test tiles on common ground with a pretraining tile; None where that is not known.

    Of what was trained on no tile at all it is known: on none.
    """
    known = structs.drop_null()
    if test is None or len(structs) > len(known) == 0:
        return None
    seen = read_boxes(known)
    seen = seen[seen[:, 2] - seen[:, 0] <= HALF_TURN]  # round a pole or the globe tells nothing
    found = np.zeros(len(test), bool)
    if not len(seen):
        return found
    tree, (west, east) = shapely.STRtree(shapely.box(*seen.T)), (seen[:, 0].min(), seen[:, 2].max())
    for turn in (-360.0, 0.0, 360.0):  # those across the antimeridian are beyond ±180
        turned = np.add(test, [turn, 0, turn, 0])
        usable = (test[:, 2] - test[:, 0] <= HALF_TURN) & (turned[:, 0] < east)  # nor NaN
        _mark_common(found, turned, np.flatnonzero(usable & (turned[:, 2] > west)), seen, tree)
    return found


def _mark_common(
    found: NDArray[np.bool_],
    test: NDArray[np.float64],
    usable: NDArray[np.int64],
    seen: NDArray[np.float64],
    tree: shapely.STRtree,
) -> None:
    for first in range(0, len(usable), _CHUNK):
        rows = usable[first : first + _CHUNK]
        mine, theirs = tree.query(shapely.box(*test[rows].T), predicate="intersects")
        found[rows[mine[_covered(test[rows[mine]], seen[theirs]) >= _COMMON_GROUND]]] = True


def _covered(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Find the share of each box that another covers, both of shape (P, 4)."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, 2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.asarray(common / np.where(area > 0, area, np.inf))
