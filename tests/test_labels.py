"""Labels are read as they stand, or refused with what was found."""

import json
import subprocess
import sys
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.errors import LabelsError
from tilezoo.labels import LABELS_SCHEMA, folder_labels, read_labels

PASTURES, WATERS = "Pastures", "Inland waters"
AGRICULTURE = (
    "Land principally occupied by agriculture, with significant areas of natural vegetation"
)


@pytest.fixture
def csv(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding=encoding)
        return path

    return write


@pytest.fixture
def parquet(tmp_path):
    def write(**columns):
        path = tmp_path / "labels.parquet"
        pq.write_table(pa.table(columns), path)
        return path

    return write


def test_a_csv_of_one_class_a_tile_is_read(csv):
    found = read_labels(csv("id,label\na.tif,forest\nb.tif,river\n"))
    assert found.schema == LABELS_SCHEMA
    assert found.to_pydict() == {
        "id": ["a.tif", "b.tif"],
        "labels": [["forest"], ["river"]],
        "split": [None, None],
        "group": [None, None],
    }


@pytest.mark.parametrize("header", ["id,label,group", "group,id,split,label"])
def test_groups_are_read_wherever_their_column_stands(csv, header):
    row = {"id": "a.tif", "label": "forest", "group": "sheet 1", "split": "test"}
    cells = ",".join(row[name] for name in header.split(","))
    found = read_labels(csv(f"{header}\n{cells}\n"))
    assert found["group"].to_pylist() == ["sheet 1"]
    assert found["split"].to_pylist() == (["test"] if "split" in header else [None])


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("a;b", ["a", "b"]),
        ("a | b", ["a", "b"]),
        ("a", ["a"]),
        ('"[""a"", ""b;c""]"', ["a", "b;c"]),
        ("[]", []),
        ("", None),
        ('""', None),
        ("[1]", ["1"]),
        (f'"{AGRICULTURE};{WATERS}"', [AGRICULTURE, WATERS]),
        ("a;a", ["a"]),
        ("NA", None),
        ("01", ["01"]),
    ],
)
def test_a_cell_of_labels_is_a_json_list_or_divided(csv, cell, labels):
    found = read_labels(csv(f"id,labels\nt,{cell}\nother,x\n"))
    assert found["labels"][0].as_py() == labels


def test_label_is_one_class_whatever_divides_it(csv):
    found = read_labels(csv("id,label\nt,a;b\n"))
    assert found["labels"].to_pylist() == [["a;b"]]


def test_bigearthnet_v1_metadata_gives_its_nineteen_classes_and_splits(parquet):
    path = parquet(
        name=["p1", "p2", "p3"],
        labels=[["Discontinuous urban fabric"], ["Water bodies"], ["Burnt areas"]],
        # as the helper package's old2new_labels makes them: a class may come twice
        new_labels=[["Urban fabric", "Urban fabric"], [WATERS], None],
        original_split=["train", "validation", None],
    )
    found = read_labels(path)
    assert found["id"].to_pylist() == ["p1", "p2", "p3"]
    assert found["labels"].to_pylist() == [["Urban fabric"], [WATERS], None]
    assert found["split"].to_pylist() == ["train", "validation", None]


def test_bigearthnet_v2_metadata_is_read_by_patch_id(parquet):
    path = parquet(patch_id=["p1"], labels=[[PASTURES, WATERS]], split=["test"], country=["FI"])
    assert read_labels(path).to_pylist() == [
        {"id": "p1", "labels": [PASTURES, WATERS], "split": "test", "group": None}
    ]


@pytest.mark.parametrize("kind", [pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_lists_of_any_arrow_type_are_lists(parquet, kind):
    path = parquet(id=["a"], labels=pa.array([["x", "y"]], kind))
    assert read_labels(path)["labels"].to_pylist() == [["x", "y"]]


@pytest.mark.parametrize(
    "column",
    [pa.array([3, 4]), pa.array(["3", "4"]).dictionary_encode(), pa.array(["3", "4"])],
)
def test_classes_may_be_numbers_or_dictionaries(parquet, column):
    found = read_labels(parquet(ID=pa.array([10, 11]), Label=column))
    assert found.to_pydict()["labels"] == [["3"], ["4"]]
    assert found["id"].to_pylist() == ["10", "11"]


def test_parquet_is_known_by_its_bytes_not_its_name(parquet):
    path = parquet(id=["a"], label=["x"])
    assert read_labels(path.rename(path.with_suffix(".dat"))).num_rows == 1


def test_a_byte_order_mark_is_no_part_of_a_column(csv):
    assert read_labels(csv("id,label\na,x\n", encoding="utf-8-sig")).num_rows == 1


@pytest.mark.parametrize(
    ("written", "read"),
    [("val", "validation"), ("VALID", "validation"), (" Train ", "train"), ("", None)],
)
def test_splits_have_one_spelling(csv, written, read):
    assert read_labels(csv(f"id,label,split\na,x,{written}\n"))["split"].to_pylist() == [read]


def test_labels_may_lack_every_split(parquet):
    path = parquet(id=["a"], label=["x"], split=pa.nulls(1))
    assert read_labels(path)["split"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tile,label\na,x\n", r"no column of ids \(id, name, patch_id\); there are: tile, label"),
        ("id,class\na,x\n", r"no column of labels .* there are: id, class"),
        ("id;label\na;x\n", "there are: id;label"),
        ("id,label\n", "holds no rows"),
        ("id,label\na,x\nb,y\na,x\n", r"1 ids come more than once \('a' 2 times\)"),
        ("id,label\na,x\n,y\n", "row 2 has no id"),
        ("id,label\na,\n", "no row of 1 has a label"),
        ("id,labels\na,['x' 'y']\n", r"the labels \['x' 'y'\] are no JSON list"),
        ('id,labels\na,"[[1]]"\n', r"the labels \[\[1\]\] are no JSON list"),
        ("id,ID,label\na,b,x\n", "2 columns are called 'id'"),
        ("id,labels\na,x;;y\n", "'a' has a class without a name"),
        ("id,label\na,x,extra\n", "not a Parquet or CSV file"),
        ("", "not a Parquet or CSV file"),
    ],
)
def test_what_cannot_be_labels_is_refused_with_what_was_found(csv, text, told):
    with pytest.raises(LabelsError, match=told):
        read_labels(csv(text))


@pytest.mark.parametrize("name", ["marks.gpkg", "marks.shp", "marks.geojson"])
def test_labels_that_were_marked_on_a_map_are_read(tmp_path, name):
    import geopandas

    columns = {"id": ["a", "b", "c"], "label": ["water", None, "01"], "split": ["train", "", "val"]}
    places = geopandas.points_from_xy([0, 1, 2], [0, 1, 2], crs="OGC:CRS84")
    geopandas.GeoDataFrame(columns, geometry=places).to_file(tmp_path / name)
    read = read_labels(tmp_path / name)
    assert read["labels"].to_pylist() == [["water"], None, ["01"]]
    assert read["split"].to_pylist() == ["train", None, "validation"]


def test_a_damaged_vector_file_is_refused(tmp_path):
    (tmp_path / "marks.gpkg").write_text("no database")
    with pytest.raises(LabelsError, match="not a gpkg file of labels"):
        read_labels(tmp_path / "marks.gpkg")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(LabelsError, match=r"nowhere\.csv: .*No such file"):
        read_labels(tmp_path / "nowhere.csv")
    with pytest.raises(LabelsError, match="not a Parquet or CSV file"):
        read_labels(tmp_path)


def test_text_of_another_encoding_is_refused(csv):
    with pytest.raises(LabelsError, match="not a Parquet or CSV file"):
        read_labels(csv("id,label\na,Äcker\n", encoding="latin-1"))


def test_multi_hot_vectors_are_not_read_as_classes(parquet):
    with pytest.raises(LabelsError, match="multi-hot"):
        read_labels(parquet(id=["a"], labels=[[0, 1, 0, 1]]))


@pytest.mark.parametrize("column", [[0.5], [{"a": 1}], [[0.1, 0.2]], [[{"a": 1}]]])
def test_labels_of_other_kinds_are_refused(parquet, column):
    with pytest.raises(LabelsError, match="column 'labels' is of type"):
        read_labels(parquet(id=["a"], labels=column))


def test_damaged_parquet_is_refused(parquet):
    path = parquet(id=["a"], label=["x"])
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(LabelsError, match="not a Parquet or CSV file"):
        read_labels(path)


def test_a_tiles_folder_is_its_class():
    found = folder_labels(["x/forest/a.tif", "river/b.tif#0,0,64,64"])
    assert found.schema == LABELS_SCHEMA
    assert found["labels"].to_pylist() == [["forest"], ["river"]]
    assert found["id"].to_pylist() == ["x/forest/a.tif", "river/b.tif#0,0,64,64"]


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (["a.tif"], "'a.tif' has no folder"),
        ([], "there are no tiles"),
        (["f/a", "f/a"], "more than once"),
    ],
)
def test_tiles_without_folders_have_no_labels_by_folder(ids, told):
    with pytest.raises(LabelsError, match=told):
        folder_labels(ids)


NAMES = st.text(min_size=1).map(lambda text: unicodedata.normalize("NFC", text.strip()))


@given(
    st.lists(
        st.none() | st.lists(NAMES.filter(bool), unique=True),
        min_size=1,
    ).filter(lambda rows: any(row is not None for row in rows))
)
def test_labels_survive_csv_and_parquet_alike(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("labels")
    ids = [f"t{number}" for number in range(len(rows))]
    lists = pa.array(rows, pa.list_(pa.string()))
    pq.write_table(pa.table({"id": ids, "labels": lists}), folder / "labels.parquet")
    cells = ["" if row is None else json.dumps(row).replace('"', '""') for row in rows]
    lines = [f'{tile},"{cell}"' for tile, cell in zip(ids, cells, strict=True)]
    (folder / "labels.csv").write_text("\n".join(["id,labels", *lines]))
    for name in ("labels.parquet", "labels.csv"):
        assert read_labels(folder / name)["labels"].to_pylist() == rows


def test_reading_labels_loads_nothing_heavy():
    code = (
        "import sys, tilezoo.labels; "
        "print([m for m in ('torch', 'rasterio', 'shapely', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "word", ["NA", "null", "nan", "None", "NaN", "NULL", "N/A", "<NA>", "#N/A", " NA "]
)
@pytest.mark.parametrize("column", ["label", "labels"])
def test_words_for_nothing_are_missing_and_told_with_a_count(csv, capsys, word, column):
    rows = f"a,forest,train,g1\nb,{word},test,g2\nc,river,{word},{word}\nd,{word},train,{word}\n"
    found = read_labels(csv(f"id,{column},split,group\n{rows}")).to_pydict()
    assert found["labels"] == [["forest"], None, ["river"], None]
    assert found["split"] == ["train", "test", None, "train"]
    assert found["group"] == ["g1", "g2", None, None]
    told = capsys.readouterr().err
    for name, count in ((column, 2), ("split", 1), ("group", 2)):
        assert f"{count} cells of '{name}' are {word.strip()}: taken as missing" in told


def test_words_for_nothing_in_parquet_are_missing_too(parquet, capsys):
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        column = pa.array(["forest", "nan", "None", None, "none"]).cast(kind)
        found = read_labels(parquet(id=list("abcde"), label=column))
        assert found["labels"].to_pylist() == [["forest"], None, None, None, ["none"]]
        assert "2 cells of 'label' are nan, None" in capsys.readouterr().err


def test_ids_lists_and_folders_are_taken_as_they_are_written(parquet, csv, capsys):
    """A tile, a listed class or a folder may well be called NA: nothing there stands for nothing."""
    assert read_labels(csv("id,label\nNA,forest\nnan,river\n"))["id"].to_pylist() == ["NA", "nan"]
    listed = parquet(id=["a", "b"], labels=[["NA", "KE"], []])
    assert read_labels(listed)["labels"].to_pylist() == [["NA", "KE"], []]
    assert read_labels(csv('id,labels\na,"[""NA""]"\n'))["labels"].to_pylist() == [["NA"]]
    assert folder_labels(["NA/1.tif"])["labels"].to_pylist() == [["NA"]]
    assert capsys.readouterr().err == ""


def test_labels_that_are_all_missing_are_refused(csv):
    with pytest.raises(LabelsError, match="no row of 2 has a label"):
        read_labels(csv("id,label\na,NA\nb,nan\n"))


@pytest.mark.parametrize("name", ["Häuser", "Café", "Ångström", "가시나무", "Ñandú"])
def test_a_name_is_the_same_however_its_accents_are_encoded(csv, parquet, name):
    both = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    assert both[0] != both[1]
    ids = ["a", "b"]
    cells = "".join(f"{i},{one},{one},{one}\n" for i, one in zip(ids, both, strict=True))
    found = read_labels(csv(f"id,label,split,group\n{cells}")).to_pydict()
    assert found["labels"] == [[both[0]], [both[0]]]
    assert len(set(found["split"])) == len(set(found["group"])) == 1
    listed = read_labels(parquet(id=ids, labels=[both, [both[1]]]))
    assert listed["labels"].to_pylist() == [[both[0]], [both[0]]]
    folders = folder_labels([f"{one}/{i}.tif" for i, one in zip(ids, both, strict=True)])
    assert folders["labels"].to_pylist() == [[both[0]], [both[0]]]
