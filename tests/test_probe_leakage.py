"""Test tiles that a backbone was pretrained on are found, by id and by place."""

import json

import numpy as np
import pyarrow as pa
import pytest
import tables

from tilezoo.errors import ProbeError, TableError
from tilezoo.probe.leakage import audit
from tilezoo.table import MANIFEST, open_table
from tilezoo.training_ids import TRAINING_IDS, ids_sha256, write_training_ids

TEST_IDS = pa.array(["t0", "t1", "t2", "t3"])
# A row of tiles of 0.1° side by side.
TEST_BOXES = np.array([[x, 50.0, x + 0.1, 50.1] for x in (10.0, 10.1, 10.2, 10.3)])


@pytest.fixture
def table(tmp_path):
    return open_table(tables.write_table(tmp_path / "table", tables.clustered(6)))


def keep(table, ids, boxes=None, told=None):
    """Put a list of pretraining tiles beside a table, and its hash into the manifest."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    structs = boxes and pa.array(
        [box and dict(zip(sides, box, strict=True)) for box in boxes],
        pa.struct([(side, pa.float64()) for side in sides]),
    )
    write_training_ids(table.path / TRAINING_IDS, pa.array(ids), structs)
    if told:
        path = table.path / MANIFEST
        manifest = json.loads(path.read_text())
        manifest["pretraining"] = {"ids_sha256": told, "tiles": len(ids)}
        path.write_text(json.dumps(manifest))
    return open_table(table.path)


def test_without_a_list_leakage_is_unknown_and_that_is_said(table):
    found = audit("ours", table, TEST_IDS, TEST_BOXES)
    assert found.status == "unknown"
    assert found.said.startswith("ours: leakage unknown")
    assert found.same_id is None


def test_test_tiles_in_the_list_are_counted(table):
    found = audit(
        "ours", keep(table, ["t1", "t3", "x"], told=ids_sha256(["t1", "t3", "x"])), TEST_IDS, None
    )
    assert (found.status, found.same_id, found.same_place) == ("overlap", 2, None)
    assert found.examples == ("t1", "t3")
    assert "LEAKAGE, 2 of 4 test tiles" in found.said
    assert "footprints unknown" in found.said


def test_the_same_ground_under_another_name_is_found(table):
    moved = [10.02, 50.01, 10.12, 50.11]  # mostly tile 0, a corner of tile 1
    found = audit("ours", keep(table, ["x", "y"], [moved, None]), TEST_IDS, TEST_BOXES)
    assert (found.status, found.same_id, found.same_place) == ("overlap", 0, 1)
    assert found.examples == ("t0",)


def test_what_was_trained_on_nothing_has_seen_no_place(table):
    found = audit("random", keep(table, pa.array([], pa.string())), TEST_IDS, TEST_BOXES)
    assert (found.status, found.same_id, found.same_place) == ("none_found", 0, 0)


def test_neighbours_that_touch_or_hardly_overlap_are_no_leak(table):
    sliver = [10.39, 50.005, 10.49, 50.105]  # a tenth of tile 3, as UTM's neighbours overlap
    below = [10.0, 49.9, 10.1, 50.0]
    found = audit("ours", keep(table, ["x", "y"], [sliver, below]), TEST_IDS, TEST_BOXES)
    assert (found.status, found.same_id, found.same_place) == ("none_found", 0, 0)
    assert found.said == (
        "ours: no leakage found, 0 of 4 test tiles seen in pretraining by id, 0 by footprint"
    )


def test_boxes_across_the_antimeridian_cover_nothing_by_mistake(table):
    found = audit("ours", keep(table, ["x"], [[-180.0, 40, 180, 60]]), TEST_IDS, TEST_BOXES)
    assert found.same_place == 0


@pytest.mark.parametrize(
    ("seen", "count"),
    [
        ([179.96, 0, 180.07, 0.1], 2),  # most of tile 1, and of tile 2 more than a fifth
        ([-180.04, 0, -179.93, 0.1], 2),
        ([-179.95, 0, -179.85, 0.1], 1),
        ([179.85, 0, 179.95, 0.1], 1),
        ([180.15, 0, 180.25, 0.1], 0),
        ([-0.05, 0, 0.05, 0.1], 0),
    ],
)
def test_common_ground_is_found_across_the_antimeridian(table, seen, count):
    boxes = [[179.85, 0, 179.95, 0.1], [179.95, 0, 180.05, 0.1], [-179.96, 0, -179.86, 0.1]]
    boxes = np.array([*boxes, [np.nan] * 4])
    found = audit("ours", keep(table, ["x"], [seen]), TEST_IDS, boxes)
    assert found.same_place == count


def test_test_tiles_without_footprints_are_compared_by_id_alone(table):
    boxes = TEST_BOXES.copy()
    boxes[0] = np.nan
    found = audit("ours", keep(table, ["x"], [[10.0, 50, 10.2, 50.1]]), TEST_IDS, boxes)
    assert found.same_place == 1


def test_many_tiles_are_compared_in_pieces_as_at_once(table, monkeypatch):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 5, (300, 2))
    boxes, ids = np.hstack([corner, corner + 0.1]), pa.array([f"t{n}" for n in range(300)])
    seen = keep(table, ["x", "y"], [[1.0, 1, 3, 3], [4.0, 4, 4.2, 4.2]])
    whole = audit("ours", seen, ids, boxes)
    monkeypatch.setattr("tilezoo.probe.leakage._CHUNK", 7)
    assert audit("ours", seen, ids, boxes) == whole
    assert whole.same_place


def test_a_list_that_the_manifest_does_not_tell_of_is_refused(table):
    with pytest.raises(ProbeError, match=r"is not the list .* manifest\.json names"):
        audit("ours", keep(table, ["t1"], told="0" * 64), TEST_IDS, None)


def test_a_damaged_list_is_refused(table):
    (table.path / TRAINING_IDS).write_text("no list")
    with pytest.raises(TableError, match="not a list of training tiles"):
        audit("ours", table, TEST_IDS, None)
