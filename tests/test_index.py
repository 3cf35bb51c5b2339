"""The index: measured on its own table, tied to one state of it."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss
import numpy as np
import pytest
import tables
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tilezoo.errors import OptionError, TableError, VectorIndexError
from tilezoo.io import sha256_file, to_builtins
from tilezoo.search import build_index
from tilezoo.search.index import open_index
from tilezoo.search.recall import Queries
from tilezoo.search.vectors import exact, rows_at, unit
from tilezoo.table import open_table

VECTORS = tables.clustered(3000)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.write_table(tmp_path_factory.mktemp("index") / "table", VECTORS)


@pytest.fixture
def table(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "table"))


def true_neighbours(row: int, k: int) -> list[int]:
    """By NumPy alone, in double precision, the row itself left out."""
    units = VECTORS.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    return [n for n in np.argsort(-(units @ units[row])) if n != row][:k]


def test_exact_answers_are_those_of_a_full_product(finished):
    opened = open_table(finished)
    scores, rows = exact(opened, unit(VECTORS[[5, 2999]]), 4)
    assert rows[0].tolist() == [5, *true_neighbours(5, 3)]
    assert rows[1].tolist() == [2999, *true_neighbours(2999, 3)]
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-6)


def test_rows_are_gathered_across_parts(finished):
    wanted = np.array([0, 999, 1000, 2500])
    np.testing.assert_allclose(rows_at(open_table(finished), wanted), unit(VECTORS[wanted]))


def test_zero_vectors_stay_zero():
    assert not unit(np.zeros((1, 4), np.float32)).any()


def test_auto_is_exact_for_a_small_table_and_says_so(table):
    facts = build_index(table)
    assert facts.kind == "flat"
    assert facts.recall_at_10 == 1
    assert facts.rows == 3000
    assert 0 < facts.p50_ms <= facts.p95_ms
    assert json.loads((table / "index" / "index.json").read_text()) == to_builtins(facts)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_the_stated_recall_is_the_recall_one_finds(table, kind):
    facts = build_index(table, kind=kind, recall=0.95)
    index = open_index(open_table(table))
    assert facts.recall_at_10 >= 0.95
    rows = list(range(0, 3000, 60))
    _, found = index.nearest(unit(VECTORS[rows]), 11)
    kept = [[n for n in near if n != row][:10] for row, near in zip(rows, found, strict=True)]
    true = [true_neighbours(row, 10) for row in rows]
    shares = [len(set(a) & set(b)) / 10 for a, b in zip(kept, true, strict=True)]
    assert np.mean(shares) > 0.93


def test_a_harder_recall_searches_more_lists(table):
    easy = build_index(table, kind="ivf", recall=0.5).parameters["nprobe"]
    assert build_index(table, kind="ivf", recall=1.0).parameters["nprobe"] > easy


def test_a_table_made_anew_makes_its_index_stale(table, tmp_path):
    build_index(table)
    other = tables.write_table(tmp_path / "other", VECTORS + np.float32(0.1))
    shutil.copytree(table / "index", other / "index")
    with pytest.raises(VectorIndexError, match=r"stale.*tilezoo index"):
        open_index(open_table(other))


def test_an_index_of_another_space_is_refused(table, tmp_path):
    build_index(table)
    other = tables.write_table(tmp_path / "other", VECTORS, weights="b" * 64)
    shutil.copytree(table / "index", other / "index")
    with pytest.raises(VectorIndexError, match="space"):
        open_index(open_table(other))


@pytest.mark.parametrize("name", ["index.faiss", "index.json"])
def test_a_damaged_index_is_refused_with_the_fix(table, name):
    build_index(table)
    path = table / "index" / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(VectorIndexError, match="damaged; build it anew with `tilezoo index"):
        open_index(open_table(table))


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_no_flipped_bit_goes_unnoticed(table, kind):
    build_index(table, kind=kind)
    path = table / "index" / "index.faiss"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(60), *rng.integers(0, len(good), 60)]
    for place in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(VectorIndexError, match="damaged; build it anew with `tilezoo index"):
            open_index(open_table(table))
    for other in (good[:-1], good[: len(good) // 2], b"", good + b"x", good[::-1]):
        path.write_bytes(other)
        with pytest.raises(VectorIndexError, match="damaged; build it anew with `tilezoo index"):
            open_index(open_table(table))
    path.write_bytes(good)
    assert open_index(open_table(table)).facts.sha256 == sha256_file(path)


def forget_hash(table: Path) -> None:
    """Make index.json what it was before it kept a hash."""
    facts = json.loads((table / "index/index.json").read_text())
    del facts["sha256"], facts["open_ms"]
    (table / "index/index.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_an_index_without_a_hash_is_opened_and_told(table, kind, capsys):
    build_index(table, kind=kind)
    query = unit(VECTORS[:1])
    before = open_index(open_table(table)).nearest(query, 5)
    forget_hash(table)
    after = open_index(open_table(table)).nearest(query, 5)
    np.testing.assert_array_equal(before, after)
    assert "has no hash; build it anew with `tilezoo index" in capsys.readouterr().err


@pytest.mark.parametrize("value", [3.9e37, -1.002, np.inf])
def test_a_cosine_that_cannot_be_is_refused(table, value):
    build_index(table, kind="flat")
    units = unit(VECTORS).copy()
    units[77] = 0
    units[77, 0] = value
    index = faiss.IndexFlatIP(units.shape[1])
    index.add(units)
    faiss.write_index(index, str(table / "index/index.faiss"))
    forget_hash(table)
    query = np.eye(1, units.shape[1], dtype=np.float32)
    with pytest.raises(
        VectorIndexError, match=r"row 77, cosine .*build it anew with `tilezoo index"
    ):
        open_index(open_table(table)).nearest(query, len(units))


@pytest.mark.parametrize(("kind", "name"), [("ivf", "nprobe"), ("hnsw", "ef_search")])
@pytest.mark.parametrize("value", [0, -1, 10**6, 2**70])
def test_parameters_that_cannot_be_are_refused(table, kind, name, value):
    build_index(table, kind=kind)
    facts = json.loads((table / "index/index.json").read_text())
    facts["parameters"][name] = value
    (table / "index/index.json").write_text(json.dumps(facts))
    with pytest.raises(VectorIndexError, match="damaged"):
        open_index(open_table(table))


def test_lists_that_hold_too_few_rows_are_not_all_that_is_searched(table):
    assert build_index(table, kind="ivf", recall=0.1).parameters["nprobe"] == 1
    _, rows = open_index(open_table(table)).nearest(unit(VECTORS[:1]), len(VECTORS))
    assert sorted(rows[0]) == list(range(len(VECTORS)))


@pytest.mark.parametrize("copies", [2, 30, 400])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_of_equal_vectors_any_is_right(tmp_path, kind, copies):
    alike = np.repeat(tables.clustered(2400 // copies), copies, axis=0)
    scaled = alike * np.random.default_rng(0).uniform(0.5, 2, (len(alike), 1)).astype(np.float32)
    facts = build_index(tables.write_table(tmp_path / "t", scaled), kind=kind)
    assert facts.recall_at_10 >= 0.99
    if kind == "ivf":
        assert facts.parameters["nprobe"] <= facts.parameters["nlist"] // 4


def test_one_vector_in_all_rows_needs_one_list(tmp_path):
    facts = build_index(
        tables.write_table(tmp_path / "t", np.ones((500, 8), np.float32)), kind="ivf"
    )
    assert (facts.recall_at_10, facts.parameters["nprobe"]) == (1, 1)


@settings(max_examples=25, deadline=None)
@given(
    choice=arrays(np.int64, st.integers(2, 60), elements=st.integers(0, 11)),
    kept=st.sets(st.integers(0, 59), min_size=1),
)
def test_recall_is_the_share_of_answers_with_the_scores_of_the_truth(choice, kept):
    """An index that knows some rows alone, over few vectors with many copies."""
    units = unit(VECTORS[choice]).astype(np.float64)
    known = np.array(sorted(n for n in kept if n < len(units)) or [0])
    index = faiss.IndexIDMap(faiss.IndexFlatIP(units.shape[1]))
    index.add_with_ids(units[known].astype(np.float32), known)
    with TemporaryDirectory() as folder:
        table = tables.write_table(Path(folder) / "t", VECTORS[choice])
        found = Queries.of(open_table(table)).recall(index)
    cosines, wanted = units @ units.T, min(10, len(units) - 1)
    shares = []
    for row in range(len(units)):
        least = np.sort(np.delete(cosines[row], row))[-wanted] - 1e-6
        answers = np.sort(cosines[row, known[known != row]])[::-1][:wanted]
        shares.append((answers >= least).sum() / wanted)
    assert found == pytest.approx(np.mean(shares))


def test_a_missing_faiss_file_is_told(table):
    build_index(table)
    (table / "index" / "index.faiss").unlink()
    with pytest.raises(VectorIndexError, match="damaged"):
        open_index(open_table(table))


def test_an_index_is_rebuilt_over_an_old_one(table):
    build_index(table, kind="ivf")
    build_index(table, kind="flat")
    assert open_index(open_table(table)).facts.kind == "flat"


@pytest.mark.parametrize("recall", [0, 1.5, -1])
def test_a_recall_that_is_no_share_is_refused(table, recall):
    with pytest.raises(OptionError, match="--recall"):
        build_index(table, recall=recall)


def test_a_folder_without_a_table_is_told(tmp_path):
    with pytest.raises(TableError, match="no table here"):
        build_index(tmp_path)


def test_an_empty_table_cannot_be_indexed(tmp_path):
    empty = tables.write_table(tmp_path / "empty", np.empty((0, 8), np.float32))
    with pytest.raises(OptionError, match="no rows"):
        build_index(empty)


def test_a_vector_that_is_not_finite_is_named(tmp_path):
    vectors = tables.clustered(50)
    vectors[17, 3] = np.nan
    broken = tables.write_table(tmp_path / "broken", vectors, part_rows=10)
    with pytest.raises(TableError, match="row 17"):
        build_index(broken)


def test_a_table_smaller_than_k_is_indexed(tmp_path):
    assert build_index(tables.write_table(tmp_path / "t", VECTORS[:3])).recall_at_10 == 1
    assert build_index(tables.write_table(tmp_path / "one", VECTORS[:1])).recall_at_10 == 1
