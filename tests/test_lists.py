"""Lists of paths: text as it is written, each row told or read, ids as the list writes them."""

import csv
import os
from pathlib import Path

import making
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilezoo.embed import embed
from tilezoo.errors import SourceError, TooManyFailedError
from tilezoo.sources import SourceList, discover


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"II*\0")
    return path


def listed(folder: Path, text: str | bytes, name: str = "list.csv") -> SourceList:
    content = text.encode() if isinstance(text, str) else text
    (folder / name).write_bytes(content)
    return discover([folder / name])


def ids(found: SourceList) -> list[str]:
    return [source.id for source in found]


def problems(found: SourceList) -> dict[str, str]:
    return {source.id: source.problem[1] for source in found if source.problem}


# Names of files: no divider of folders, no zero byte, nothing that a file system refuses.
NAMES = st.text(
    st.characters(exclude_characters="/\0\\", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda name: name.strip() == name and name not in {".", ".."} and len(name.encode()) < 80)
LOOKING_LIKE_NUMBERS = st.sampled_from(
    ["00012", "1e5", "2020-02-23", "1,5", "TRUE", "nan", "None", "NA", "0x1f", "12:30", "#1", "-"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(NAMES | LOOKING_LIKE_NUMBERS, min_size=1, max_size=5), st.sampled_from(",;\t|"))
def test_paths_are_text_whatever_they_look_like(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], divider: str
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=divider)
        writer.writerow(["label", "path"])
        writer.writerows([7, f"d/{name}.tif"] for name in names)
    pq.write_table(pa.table({"path": [f"d/{name}.tif" for name in names]}), folder / "list.parquet")
    expected = sorted({f"d/{name}.tif" for name in names})
    assert ids(discover([folder / "list.csv"])) == expected
    assert ids(discover([folder / "list.parquet"])) == expected


@pytest.mark.parametrize("name", ["00012", "1e5", "2020-02-23", "1_000", "0.10"])
@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_a_scene_whose_name_looks_like_a_number_is_found(
    tmp_path: Path, name: str, suffix: str
) -> None:
    for band in ("B02", "B03"):
        touch(tmp_path / name / f"{band}.tif")
    head = "path\n" if suffix == ".csv" else ""
    (source,) = listed(tmp_path, f"{head}{name}\n", f"list{suffix}")
    assert (source.id, len(source.files)) == (name, 2)


def test_a_row_without_a_path_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    touch(tmp_path / "a.tif")
    expected = {"list.csv:2": "row 2 has no path", "list.csv:4": "row 4 has no path"}
    assert problems(listed(tmp_path, 'n,path\n1,a.tif\n2,\n3,a.tif\n4,"  "\n')) == expected
    assert problems(listed(tmp_path, 'path\na.tif\n""\n')) == {"list.csv:2": "row 2 has no path"}
    assert problems(listed(tmp_path, "path\na.tif\n\n\n")) == {}  # blank lines are no rows
    pq.write_table(pa.table({"path": ["a.tif", None, ""]}), tmp_path / "n.parquet")
    assert problems(discover([tmp_path / "n.parquet"])) == {
        "n.parquet:2": "row 2 has no path",
        "n.parquet:3": "row 3 has no path",
    }


def test_an_empty_row_is_told_in_errors_beside_the_list(vit: Path, tmp_path: Path) -> None:
    making.write_tiles(tmp_path, 1)
    (tmp_path / "list.csv").write_text("path,x\ntile_0000.tif,1\n,2\n")
    with pytest.raises(TooManyFailedError, match="1 of 2 tiles failed"):
        embed(tmp_path / "list.csv", out=tmp_path / "t", model=vit, device="cpu")
    (row,) = making.errors_of(tmp_path / "t")
    assert (row["kind"], row["message"]) == ("missing", "row 2 has no path")
    assert row["source_uri"] == str(tmp_path / "list.csv")


def test_ids_are_paths_as_the_list_writes_them(tmp_path: Path) -> None:
    for name in ("data/img/a.tif", "data/img/deep/b.tif", "other/c.tif"):
        touch(tmp_path / name)
    here = tmp_path / "data"
    assert ids(listed(here, "path\nimg/a.tif\nimg/deep/b.tif\n")) == ["img/a.tif", "img/deep/b.tif"]
    assert ids(listed(here, f"path\n{here}/img/deep/b.tif\n")) == ["img/deep/b.tif"]
    assert ids(listed(here, "path\nimg/a.tif\n../other/c.tif\n")) == ["../other/c.tif", "img/a.tif"]
    outside = "".join(f"{tmp_path}/{name}\n" for name in ("data/img/a.tif", "other/c.tif"))
    (tmp_path / "lists").mkdir()
    assert ids(listed(tmp_path / "lists", f"path\n{outside}")) == ["data/img/a.tif", "other/c.tif"]


def test_paths_that_are_not_beside_the_list_start_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "work/img/a.tif")
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (source,) = listed(tmp_path / "lists", "path\nimg/a.tif\n")
    assert (source.id, source.path) == ("img/a.tif", str(tmp_path / "work/img/a.tif"))


@pytest.mark.parametrize(
    "other", ["./img/a.tif", "img//a.tif", "img/../img/a.tif", "img\\a.tif", ".\\img\\a.tif", "{}"]
)
def test_one_image_named_in_two_ways_is_one_and_that_is_told(tmp_path: Path, other: str) -> None:
    touch(tmp_path / "img/a.tif")
    again = other.format(tmp_path / "img/a.tif")
    found = listed(tmp_path, f"path\nimg/a.tif\n{again}\nimg/a.tif\n")
    assert ids(found) == ["img/a.tif"]
    assert found.notes == ("list.csv: 2 of its paths are repeats; each image is taken once",)


def test_band_files_that_are_repeated_make_one_scene(tmp_path: Path) -> None:
    for band in ("B02", "B03"):
        touch(tmp_path / f"s1/{band}.tif")
    (source,) = listed(tmp_path, "path\ns1/B02.tif\ns1/B03.tif\ns1/B02.tif\n")
    assert (source.id, list(source.files)) == ("s1", ["B02", "B03"])


@settings(max_examples=30, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=3))
def test_separators_of_windows_lead_to_the_same_files(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    touch(folder.joinpath(*parts).with_suffix(".x.tif"))
    (expected,) = [path.relative_to(folder).as_posix() for path in folder.rglob("*.x.tif")]
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "n"], [expected.replace("/", "\\"), 1]])
    (source,) = discover([folder / "list.csv"])
    assert (source.id, source.problem) == (expected, None)


def test_a_file_whose_name_holds_a_backslash_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path / "img\\a.tif")
    touch(tmp_path / "img/a.tif")
    assert ids(listed(tmp_path, "path\nimg\\a.tif\n")) == ["img\\a.tif"]


FOREIGN = {
    "s3://bucket/y.tif": r"download it first \(aws s3 cp",
    "gs://bucket/y.tif": r"download it first \(gcloud storage cp",
    "https://example.org/x.tif": r"download it first \(curl -O https://example.org/x.tif\)",
    "HTTP://example.org/x.tif": r"download it first \(curl",
    "az://container/x.tif": "download it first",
    "hf://datasets/x/y": r"download it first \(hf download",
    "/vsizip/img.zip/a.tif": "virtual paths are not read; unpack",
    "/vsicurl/https://example.org/x.tif": "virtual paths are not read",
    "C:\\tiles\\a.tif": "a path of Windows; name the folder as this machine sees it",
    "d:/tiles/a.tif": "a path of Windows",
    "\\\\server\\share\\a.tif": "a path of Windows",
}


@pytest.mark.parametrize(("name", "told"), FOREIGN.items())
def test_what_is_no_path_of_this_machine_gets_a_word_of_its_own(
    tmp_path: Path, name: str, told: str
) -> None:
    with pytest.raises(SourceError, match=told) as error:
        discover([name])
    assert str(error.value).startswith(name)
    with pytest.raises(SourceError, match=told):  # nothing else in it
        listed(tmp_path, f"path,n\n{name},1\n")
    touch(tmp_path / "a.tif")
    found = listed(tmp_path, f"path,n\na.tif,1\n{name},1\n")
    assert ids(found) == sorted(["a.tif", name])
    assert making.found(f"row 2: .*{told}", problems(found)[name])


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    path = touch(tmp_path / "a b.tif")
    assert ids(discover([path.as_uri()])) == ["a b.tif"]
    assert ids(listed(tmp_path, f"path\n{path.as_uri()}\n")) == ["a b.tif"]


MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
DIALECTS = [
    ("path\nimg/a.tif\nimg/b.tif\n", ""),
    ("Path,label\nimg/a.tif,1\nimg/b.tif,2\n", ""),
    ('n,"path"\n1,"img/a.tif"\n2,"img/b.tif"\n', ""),
    ("path;label\nimg/a.tif;1\nimg/b.tif;2\n", "semicolons between columns"),
    ("n\tpath\n1\timg/a.tif\n2\timg/b.tif\n", "tabs between columns"),
    ("n|file\n1|img/a.tif\n2|img/b.tif\n", "bars between columns"),
    ("img/a.tif\nimg/b.tif\n", "one path a line"),
    ("img/a.tif,1\nimg/b.tif,2\n", "no header, paths in column 1"),
    ("1;img/a.tif\n2;img/b.tif\n", "semicolons between columns, no header, paths in column 2"),
]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("text", "told"), DIALECTS)
def test_each_dialect_is_read_and_told(
    tmp_path: Path, text: str, told: str, newline: str, suffix: str
) -> None:
    for name in ("a", "b"):
        touch(tmp_path / f"img/{name}.tif")
    content = text.replace("\n", newline)
    found = listed(tmp_path, content, f"l{suffix}")
    assert ids(found) == ["img/a.tif", "img/b.tif"]
    assert found.notes == ((f"l{suffix}: read with {told}",) if told else ())
    for mark, encoding in MARKS.items():
        again = listed(tmp_path, mark + content.encode(encoding), f"l{suffix}")
        assert ids(again) == ["img/a.tif", "img/b.tif"]
        assert making.found("a byte order mark|UTF-16", again.notes[0])


def test_a_text_file_holds_paths_whatever_is_in_them(tmp_path: Path) -> None:
    names = ["a,b.tif", "c;d.tif", 'e"f.tif', " g.tif", "h#.tif"]
    for name in names:
        touch(tmp_path / name)
    assert ids(listed(tmp_path, "\n".join(names) + "\n\n", "l.txt")) == sorted(names)
    assert ids(listed(tmp_path, "path\na,b.tif\nc;d.tif\n")) == ["a,b.tif", "c;d.tif"]


def test_a_row_of_other_columns_than_the_header_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "a.tif")
    found = listed(tmp_path, "path,n\na.tif,1\nb,c.tif,2\na.tif,3,\n")
    assert making.found("row 2 has other columns", problems(found)["list.csv:2"])
    assert ids(found) == ["a.tif", "list.csv:2"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "lists no path"),
        ("\n \n", "lists no path"),
        ("path\n", "lists no path"),
        ("image,label\nimg/a.tif,1\n", "no column of paths; name it path .*'image', 'label'"),
        ("id;label\nx;1\n", "no column of paths; .*'id', 'label'"),
        ("00012\n00013\n", "no column of paths; .*'00012'"),
        (b"path\nimg/\xfc.tif\n", "line 2 is not UTF-8; save the list as UTF-8"),
        ("path\n" + '"' + "x" * 200_000 + "\n", "line 2 cannot be read"),
    ],
)
def test_what_is_no_list_of_paths_is_refused(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        listed(tmp_path, text)


def test_a_text_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no column of paths"):
        listed(tmp_path, "Read me first.\nThese are tiles of 2019.\n", "README.txt")


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"product_id": ["x"], "B04": [b"II*"], "thumbnail": [b"x"]}, r"\(B04, thumbnail\), not p"),
        ({"image": [{"bytes": b"x", "path": "a.png"}], "label": [1]}, r"images in its .*\(image\)"),
        ({"id": ["a"], "label": [1]}, "no column of paths; .*'id', 'label'"),
        ({"path": [1, 2]}, "its column 'path' holds int64, no paths"),
        ({"path": [b"a.tif"]}, "its column 'path' holds binary, no paths"),
        ({"path": pa.array([], pa.string())}, "lists no path"),
    ],
)
def test_a_parquet_file_without_paths_is_refused_by_what_it_holds(
    tmp_path: Path, columns: dict[str, object], told: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    with pytest.raises(SourceError, match=told):
        discover([tmp_path / "l.parquet"])


def test_dictionaries_of_paths_are_paths(tmp_path: Path) -> None:
    touch(tmp_path / "a.tif")
    column = pa.array(["a.tif", "a.tif"]).dictionary_encode()
    pq.write_table(pa.table({"source_uri": column}), tmp_path / "l.parquet")
    assert ids(discover([tmp_path / "l.parquet"])) == ["a.tif"]


def test_a_path_with_a_zero_byte_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "a.tif")
    pq.write_table(pa.table({"path": ["a.tif", "b\0.tif"]}), tmp_path / "l.parquet")
    found = discover([tmp_path / "l.parquet"])
    assert problems(found) == {"l.parquet:2": "row 2: a path with a zero byte"}


def test_several_lists_and_folders_have_ids_by_what_they_share(tmp_path: Path) -> None:
    for name in ("one/img/a.tif", "two/b.tif"):
        touch(tmp_path / name)
    (tmp_path / "one/l.csv").write_text("path\nimg/a.tif\n")
    found = discover([tmp_path / "one/l.csv", tmp_path / "two"])
    assert ids(found) == ["one/img/a.tif", "two/b.tif"]


def test_what_is_passed_over_is_counted_by_suffix_in_one_line(tmp_path: Path) -> None:
    names = [
        "a.tif",
        "a.tif.aux.xml",
        "a.tfw",
        "a.prj",
        "a.tif.ovr",
        "a.tif.msk",
        "a.json",
        ".x",
        "L_MTL.txt",
    ]
    passed = ["x.zip", "y.zip", "sub/z.ZIP", "notes.txt", "sub/m.nc", "LICENSE", "labels.csv"]
    for name in [*names, *passed]:
        touch(tmp_path / name)
    (tmp_path / "z.zarr/0").mkdir(parents=True)
    touch(tmp_path / "z.zarr/0/0.tif")
    found = discover([tmp_path])
    assert ids(found) == ["a.tif"]
    (note,) = found.notes
    assert note.startswith("passed over 3 .zip, 1 ")
    parts = note.removeprefix("passed over ").split(", ")
    assert set(parts) == {
        "3 .zip", "1 .txt", "1 .nc", "1 without suffix", "1 .csv", "1 .zarr",
    }  # fmt: skip
    touch(tmp_path / "v.mp4")
    assert making.found("(1 [^,]*, ){5}1 others$", discover([tmp_path]).notes[0])


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path / "tiles.zip")
    with pytest.raises(SourceError, match=r"No image under .*; passed over 1 .zip; looked for"):
        discover([tmp_path])


def test_notes_are_told_by_a_run(
    vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    making.write_tiles(tmp_path / "in", 1)
    touch(tmp_path / "in/b.zip")
    embed(tmp_path / "in", out=tmp_path / "t", model=vit, device="cpu")
    assert capsys.readouterr().err.count("passed over 1 .zip\n") == 1


def test_a_glob_finds_images_alone_unless_it_asks_for_a_suffix(tmp_path: Path) -> None:
    for name in ("a.tif", "b.txt", "c.xyz", "d.zip"):
        touch(tmp_path / name)
    assert ids(discover([f"{tmp_path}/*"])) == ["a.tif"]
    assert ids(discover([f"{tmp_path}/*.xyz"])) == ["c.xyz"]
    with pytest.raises(SourceError, match="no such file, folder or glob"):
        discover([f"{tmp_path}/b*"])


def test_files_of_one_folder_named_one_by_one_are_called_like_it(tmp_path: Path) -> None:
    files = [touch(tmp_path / f"s1/{band}.tif") for band in ("B02", "B03")]
    assert ids(discover(files)) == ["s1"]
    assert ids(listed(tmp_path / "s1", "path\nB02.tif\nB03.tif\n")) == ["s1"]
    assert os.path.basename(discover(files)[0].uri) == "s1"  # noqa: PTH119


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_lists_own_ids_are_those_of_its_tiles(tmp_path: Path, suffix: str) -> None:
    for name in ("a.tif", "sub/b.tif"):
        (tmp_path / "tiles" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiles" / name).write_bytes(b"II*\0")
    own = ["a.tif", "sub/b.tif"]
    frame = pl.DataFrame({"path": [f"tiles/{name}" for name in own], "id": own})
    path = tmp_path / f"labels.{suffix}"
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    assert [source.id for source in discover([path])] == own
    other = frame.with_columns(id=pl.lit("x"))  # no part of the paths: these are the ids
    other.write_csv(path) if suffix == "csv" else other.write_parquet(path)
    assert [source.id for source in discover([path])] == [f"tiles/{name}" for name in own]
