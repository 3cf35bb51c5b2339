"""Reading packs: rows as they were packed, and damage told by name."""

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import making
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilezoo.errors import PackError
from tilezoo.io import sha256_file
from tilezoo.pretrain.packs.shards import PACK_VERSION, Pack, is_pack, open_pack
from tilezoo.training_ids import ids_sha256

COUNTS = (7, 5, 1)
TOTAL = sum(COUNTS)
SHAPE = (3, 8, 8)


def pixels_of(dtype: str) -> NDArray[Any]:
    """Other pixels in each tile, shape (13, 3, 8, 8)."""
    top = np.iinfo(dtype).max + 1
    return np.random.default_rng(0).integers(0, top, (TOTAL, *SHAPE)).astype(dtype)


def write_pack(folder: Path, *, dtype: str = "uint8", splits: bool = False) -> Path:
    """Write a pack by hand, as docs/architecture.md describes it."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum(COUNTS)
    shards = []
    for number, part in enumerate(np.split(pixels_of(dtype), ends[:-1])):
        file = folder / f"shard-{number:05d}.npy"
        np.save(file, part)
        shards.append({"file": file.name, "tiles": len(part), "sha256": sha256_file(file)})
    ids = [f"t{i:02d}" for i in range(TOTAL)]
    names = [("train", "validation", None)[i % 3] if splits else None for i in range(TOTAL)]
    table = pa.table({"id": ids, "split": pa.array(names, pa.string())})
    pq.write_table(table, folder / "tiles.parquet")
    manifest = {
        "tilezoo_pack": PACK_VERSION, "complete": True, "bands": ["red", "green", "blue"],
        "dtype": dtype, "size_px": 8, "unit": "uint8", "value_range": [0, 255],
        "quantized": False, "tiles": TOTAL, "ids_sha256": ids_sha256(ids),
        "splits": {"train": 5, "validation": 4} if splits else {}, "gsd_m": None,
        "mean": [0.5] * 3, "std": [0.2] * 3, "shards": shards,
    }  # fmt: skip
    (folder / "pack.json").write_text(json.dumps(manifest))
    return folder


def change(folder: Path, **fields: object) -> None:
    """Change fields of a manifest."""
    manifest = json.loads((folder / "pack.json").read_text())
    (folder / "pack.json").write_text(json.dumps({**manifest, **fields}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pack(tmp_path / "p")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return open_pack(write_pack(tmp_path_factory.mktemp("packs") / "p", splits=True))


@given(rows=st.lists(st.integers(0, TOTAL - 1), max_size=40))
@settings(deadline=None)
def test_rows_come_in_the_order_asked_with_repeats(shards: Pack, rows: list[int]) -> None:
    found = shards.read(np.array(rows, np.int64))
    assert found.shape == (len(rows), *SHAPE)
    assert np.array_equal(found, pixels_of("uint8")[rows])


def test_what_is_read_is_a_copy(shards: Pack) -> None:
    rows = np.array([3])
    shards.read(rows)[:] = 0
    assert np.array_equal(shards.read(rows), pixels_of("uint8")[rows])


def test_an_array_to_fill_is_filled(shards: Pack) -> None:
    rows = np.array([12, 0, 7])
    large = np.zeros((6, *SHAPE), np.uint8)
    out = large[::2]  # any array of the shape will do
    assert shards.read(rows, out) is out
    assert np.array_equal(large[[0, 2, 4]], pixels_of("uint8")[rows])


def test_uint16_comes_as_it_was_packed(tmp_path: Path) -> None:
    shards = open_pack(write_pack(tmp_path / "p", dtype="uint16"))
    rows = np.arange(TOTAL)[::-1]
    assert np.array_equal(shards.read(rows), pixels_of("uint16")[rows])
    assert shards.read(rows).dtype == np.uint16


@pytest.mark.parametrize("row", [-1, TOTAL])
def test_a_row_of_no_tile_is_an_error(shards: Pack, row: int) -> None:
    with pytest.raises(IndexError, match=f"no row {row}; there are {TOTAL}"):
        shards.read(np.array([0, row]))


@pytest.mark.parametrize(
    "out",
    [np.zeros((1, *SHAPE), np.uint8), np.zeros((2, 3, 8, 9), np.uint8), np.zeros((2, *SHAPE))],
    ids=["too few", "too wide", "floats"],
)
def test_an_array_of_another_kind_is_not_filled(shards: Pack, out: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"the tiles are uint8 of shape \(2, 3, 8, 8\)"):
        shards.read(np.array([0, 1]), out)


def test_threads_may_share_a_pack(shards: Pack) -> None:
    expected, wrong = pixels_of("uint8"), []
    fresh = open_pack(shards.path)

    def reads(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            rows = rng.integers(0, TOTAL, 9)
            wrong.extend([seed] * (not np.array_equal(fresh.read(rows), expected[rows])))

    threads = [threading.Thread(target=reads, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_another_process_gets_the_pack_and_not_its_pixels(shards: Pack) -> None:
    shards.read(np.arange(TOTAL))  # memory maps are open now
    sent = pickle.dumps(shards)
    assert len(sent) < 4000
    assert np.array_equal(pickle.loads(sent).read(np.array([4])), pixels_of("uint8")[[4]])


def test_splits_are_rows_in_order(shards: Pack, folder: Path) -> None:
    assert shards.where_split("train").tolist() == [0, 3, 6, 9, 12]
    assert shards.where_split("test").tolist() == []
    assert shards.where_split("all").tolist() == list(range(TOTAL))
    assert open_pack(folder).where_split("train").tolist() == list(range(TOTAL))
    assert shards.where_split("train").dtype == np.int64


def test_columns_are_those_of_the_rows(shards: Pack) -> None:
    assert shards.column("id").to_pylist() == [f"t{i:02d}" for i in range(TOTAL)]
    with pytest.raises(PackError, match=r"no column 'labels'; there are id, split"):
        shards.column("labels")


def test_a_whole_pack_passes_its_check_and_stays_as_it_is(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    open_pack(folder).check()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_changed_pixel_is_found_by_its_hash_and_named(folder: Path) -> None:
    file = folder / "shard-00001.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    shards = open_pack(folder)
    with pytest.raises(PackError, match=r"shard-00001.npy: not the bytes that were packed; copy"):
        shards.check()


def test_changed_ids_are_found_by_their_hash(folder: Path) -> None:
    table = pq.read_table(folder / "tiles.parquet")
    turned = table.set_column(0, "id", pa.array([f"u{i}" for i in range(TOTAL)]))
    pq.write_table(turned, folder / "tiles.parquet")
    with pytest.raises(PackError, match=r"tiles.parquet: not the ids that were packed"):
        open_pack(folder).check()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def objects(file: Path) -> None:
    np.save(file, np.array([{}] * 5, object), allow_pickle=True)


def turned(file: Path) -> None:
    np.save(file, np.asfortranarray(np.load(file)))


def fewer(file: Path) -> None:
    np.save(file, np.load(file)[:-1])


def other_dtype(file: Path) -> None:
    np.save(file, np.load(file).astype(np.int8))


DAMAGES = {
    "missing": (Path.unlink, "the shard is missing"),
    "empty": (lambda file: file.write_bytes(b""), "damaged or cut short"),
    "text": (lambda file: file.write_text("text" * 99), "damaged or cut short"),
    "cut": (cut, "damaged or cut short"),
    "longer": (lengthen, "bytes are not the shard's"),
    "pickled": (objects, "damaged or cut short"),
    "fewer": (fewer, r"uint8 of shape \(4, 3, 8, 8\), not uint8 of \(5, 3, 8, 8\)"),
    "turned": (turned, "uint8 of shape"),
    "dtype": (other_dtype, "int8 of shape"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_refused_by_name_with_the_fix(folder: Path, damage: str) -> None:
    make, message = DAMAGES[damage]
    make(folder / "shard-00001.npy")
    fix = r"copy it anew, or pack again with `tilezoo pack … -o .* --overwrite`"
    with pytest.raises(PackError, match=f"shard-00001.npy: .*{message}.*; {fix}"):
        open_pack(folder)


@pytest.mark.filterwarnings("ignore:Reading `.npy`")  # NumPy's, on heads as Python 2 wrote them
@given(place=st.integers(0, 127), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=150)
def test_a_shards_head_of_any_bytes_is_told(
    shards: Pack, tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("p") / "p"
    write_pack(folder)
    file = folder / "shard-00000.npy"
    content = bytearray(file.read_bytes())
    content[place] = byte
    file.write_bytes(content)
    try:
        found = open_pack(folder).read(np.arange(TOTAL))
    except PackError as error:
        told = str(error)
        found = shards.read(np.arange(TOTAL))
    else:  # another way to write the same
        told = file.name
    assert file.name in told
    assert np.array_equal(found, shards.read(np.arange(TOTAL)))


def test_a_shard_that_vanishes_after_opening_is_told(folder: Path) -> None:
    shards = open_pack(folder)
    (folder / "shard-00002.npy").unlink()
    with pytest.raises(PackError, match=r"shard-00002.npy: the shard is missing"):
        shards.read(np.array([0]))
    with pytest.raises(PackError, match=r"shard-00002.npy: No such file"):
        shards.check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tilezoo_pack": 2}, "version 2 of the format, this program knows 1; update"),
        ({"tilezoo_pack": "1"}, "version 1 of the format"),
        ({"complete": False}, "fields are missing or wrong"),
        ({"tiles": 14}, "fields are missing or wrong"),
        ({"tiles": "13"}, "fields are missing or wrong"),
        ({"tiles": 0, "shards": []}, "an empty pack"),
        ({"dtype": "object"}, "fields are missing or wrong"),
        ({"mean": [0.5]}, "fields are missing or wrong"),
        ({"std": "abc"}, "fields are missing or wrong"),
        ({"std": None}, "fields are missing or wrong"),
        ({"value_range": [1, 0]}, "fields are missing or wrong"),
        ({"value_range": [0]}, "fields are missing or wrong"),
        ({"bands": [1, 2, 3]}, "fields are missing or wrong"),
        ({"bands": "rgb"}, "fields are missing or wrong"),
        ({"splits": None}, "fields are missing or wrong"),
        ({"shards": [{"file": "../../etc/passwd", "tiles": 13, "sha256": ""}]}, "missing or wrong"),
        ({"shards": [{"file": "/dev/zero", "tiles": 13, "sha256": ""}]}, "missing or wrong"),
        ({"shards": [13]}, "fields are missing or wrong"),
        ({"shards": None}, "fields are missing or wrong"),
    ],
    ids=str,
)
def test_a_manifest_that_contradicts_itself_is_refused(
    folder: Path, fields: dict[str, object], message: str
) -> None:
    change(folder, **fields)
    with pytest.raises(PackError, match=message):
        open_pack(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "{}", '"tilezoo_pack"', "[" * 100_000, "\xff"]
)
def test_a_manifest_of_other_bytes_is_refused(folder: Path, text: str) -> None:
    (folder / "pack.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(PackError, match=r"pack.json: not a pack's manifest; copy it anew, or pack"):
        open_pack(folder)


@pytest.mark.parametrize(
    "field", ["bands", "dtype", "size_px", "unit", "gsd_m", "splits", "shards"]
)
def test_a_manifest_without_a_field_is_refused(folder: Path, field: str) -> None:
    manifest = json.loads((folder / "pack.json").read_text())
    del manifest[field]
    (folder / "pack.json").write_text(json.dumps(manifest))
    with pytest.raises(PackError, match="fields are missing or wrong"):
        open_pack(folder)


def test_rows_that_are_missing_damaged_or_too_few_are_refused(folder: Path) -> None:
    tiles = folder / "tiles.parquet"
    pq.write_table(pq.read_table(tiles).slice(1), tiles)
    with pytest.raises(PackError, match=r"tiles.parquet: 12 rows for 13 tiles"):
        open_pack(folder)
    tiles.write_text("text")
    with pytest.raises(PackError, match=r"tiles.parquet: missing or damaged"):
        open_pack(folder)
    tiles.unlink()
    with pytest.raises(PackError, match=r"tiles.parquet: missing or damaged"):
        open_pack(folder)


def test_no_pack_and_an_unfinished_one_are_told_apart(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(PackError, match=r"no pack here; make one with `tilezoo pack … -o"):
        open_pack(tmp_path / "nowhere")
    (tmp_path / "begun/.packing").mkdir(parents=True)
    with pytest.raises(PackError, match=r"an unfinished pack; run its `tilezoo pack` again"):
        open_pack(tmp_path / "begun")
    found = [is_pack(path) for path in (tmp_path / "nowhere", tmp_path / "begun", folder)]
    assert found == [False, True, True]


def test_the_reader_loads_nothing_that_a_training_container_lacks(folder: Path) -> None:
    heavy = ("rasterio", "geopandas", "faiss", "pyproj", "shapely", "torch", "PIL", "filelock")
    code = (
        "import sys, numpy as np; from tilezoo.pretrain.packs.shards import open_pack\n"
        "pack = open_pack(sys.argv[1]); pack.read(np.arange(3)); pack.check()\n"
        "pack.where_split('train')\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    said = making.python(code, folder).communicate(timeout=60)[0]
    assert said.strip() == "[]"
