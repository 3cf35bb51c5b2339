"""Discovery: sorted, stable, complete, and never lost in links."""

import os
from dataclasses import replace
from pathlib import Path

import making
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.errors import SourceError
from tilezoo.sets import name_set
from tilezoo.sources import Source, discover, gather_sources, source_at


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"II*\0")
    return path


def ids(*named: str | Path) -> list[str]:
    return [source.id for source in discover(named)]


def test_ids_are_paths_relative_to_the_named_folder_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.tif", "a/z.png", "a/b/c.jpg", "C.TIFF", "a.jp2"):
        touch(tmp_path / name)
    assert ids(tmp_path) == sorted(["b.tif", "a/z.png", "a/b/c.jpg", "C.TIFF", "a.jp2"])


def test_naming_the_same_images_in_other_ways_finds_them_once_and_in_the_same_order(
    tmp_path: Path,
) -> None:
    files = [touch(tmp_path / f"t{i}.tif") for i in (3, 1, 2)]
    expected = ["t1.tif", "t2.tif", "t3.tif"]
    assert ids(*files) == expected
    assert ids(f"{tmp_path}/*.tif") == expected
    assert ids(tmp_path, files[0], f"{tmp_path}/t*.tif") == expected


def test_other_files_and_hidden_ones_are_no_images(tmp_path: Path) -> None:
    for name in ("a.tif", "a.tif.aux.xml", "notes.txt", ".hidden.tif", ".hidden/b.tif"):
        touch(tmp_path / name)
    assert ids(tmp_path) == ["a.tif"]


def test_two_folders_give_ids_relative_to_what_they_have_in_common(tmp_path: Path) -> None:
    touch(tmp_path / "2019/a.tif")
    touch(tmp_path / "2020/a.tif")
    assert ids(tmp_path / "2019", tmp_path / "2020") == ["2019/a.tif", "2020/a.tif"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_list_of_paths_finds_files_beside_it_and_tells_what_is_gone(
    tmp_path: Path, suffix: str
) -> None:
    touch(tmp_path / "x/a.tif")
    absolute = touch(tmp_path / "y/b.tif")
    frame = pl.DataFrame({"n": [1, 2, 3], "path": ["x/a.tif", str(absolute), "x/gone.tif"]})
    path = tmp_path / f"list.{suffix}"
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    found = discover([path])
    assert [source.id for source in found] == ["x/a.tif", "x/gone.tif", "y/b.tif"]
    assert [source.problem and source.problem[0] for source in found] == [None, "missing", None]


def test_a_link_to_a_list_is_a_list(tmp_path: Path) -> None:
    touch(tmp_path / "a.tif")
    (tmp_path / "list.csv").write_text("path\na.tif\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "list.csv")
    assert ids(tmp_path / "link.csv") == ["a.tif"]


def test_a_list_without_paths_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("name,score\na,1\n")
    with pytest.raises(SourceError, match=r"no column of paths; name it path or source_uri"):
        discover([path])
    path.with_suffix(".parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="not a readable list of paths"):
        discover([path.with_suffix(".parquet")])


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    touch(tmp_path / "a[1].tif")
    touch(tmp_path / "a1.tif")
    assert ids(tmp_path / "a[1].tif") == ["a[1].tif"]


def test_names_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    for name in ("gone", "gone/*.tif"):
        with pytest.raises(SourceError, match=r"gone.*: no such file, folder or glob"):
            discover([tmp_path / name])
    with pytest.raises(SourceError, match="No SOURCE given"):
        discover([])
    with pytest.raises(SourceError, match=r"No image under .*; looked for .jp2 .jpeg"):
        discover([tmp_path])


def test_band_files_of_a_folder_are_one_image_called_like_the_folder(tmp_path: Path) -> None:
    for band in ("B02", "B03", "B8A"):
        touch(tmp_path / f"scenes/s1/s1_{band}.tif")
    (source,) = discover([tmp_path / "scenes"])
    assert (source.id, source.uri) == ("s1", str(tmp_path / "scenes/s1"))
    assert list(source.files) == ["B02", "B03", "B8A"]
    assert [os.path.basename(path) for path in source.files.values()] == [  # noqa: PTH119
        "s1_B02.tif",
        "s1_B03.tif",
        "s1_B8A.tif",
    ]


def test_a_scene_folder_named_itself_keeps_its_own_name_as_id(tmp_path: Path) -> None:
    touch(tmp_path / "s1/B02.tif")
    touch(tmp_path / "s1/B03.tif")
    assert ids(tmp_path / "s1") == ["s1"]


def test_band_files_of_several_images_in_one_folder_are_kept_apart(tmp_path: Path) -> None:
    for scene in ("s1", "s2"):
        for band in ("B02", "B03"):
            touch(tmp_path / f"{scene}_{band}.tif")
    found = discover([tmp_path])
    assert [source.id for source in found] == ["s1", "s2"]
    assert [source.uri for source in found] == [f"{tmp_path}/s1", f"{tmp_path}/s2"]
    assert all(list(source.files) == ["B02", "B03"] for source in found)


def test_a_mask_beside_band_files_is_of_their_image(tmp_path: Path) -> None:
    for name in ("s1_B02.tif", "s1_B03.tif", "s1_SCL.tif"):
        touch(tmp_path / "s1" / name)
    (source,) = discover([tmp_path])
    assert set(source.files) == {"B02", "B03", "SCL"}


def test_a_bigearthnet_patch_is_called_by_its_name_wherever_it_lies(tmp_path: Path) -> None:
    patch = "S2B_MSIL2A_20170924T93020_69_24"
    for band in ("B02", "B03"):
        touch(tmp_path / f"deep/down/{patch}/{patch}_{band}.tif")
    assert ids(tmp_path) == [patch]


def test_one_patch_in_two_places_is_refused(tmp_path: Path) -> None:
    patch = "S2A_MSIL2A_20170613T101031_87_48"
    for place in ("one", "two"):
        touch(tmp_path / f"{place}/{patch}/{patch}_B02.tif")
    with pytest.raises(SourceError, match=rf"Two images have the id '{patch}': .*; rename one"):
        discover([tmp_path])


def test_bands_mean_what_their_own_satellite_means(tmp_path: Path) -> None:
    scenes = {"LT05": "LT05_L1TP_193024_19900223_20200223_02_T1", "LC08": ""}
    scenes["LC08"] = scenes["LT05"].replace("LT05", "LC08")
    for scene in scenes.values():
        for band in ("B3", "B4"):
            touch(tmp_path / f"{scene}_{band}.TIF")
    new, old = discover([tmp_path])
    assert [source.id for source in (new, old)] == [scenes["LC08"], scenes["LT05"]]
    meant = [[band.common for band in name_set(s.product, s.files)] for s in (new, old)]
    assert meant == [["green", "red"], ["red", "nir08"]]


def test_a_link_to_another_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere/a.tif")
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles/link").symlink_to(tmp_path / "elsewhere")
    assert ids(tmp_path / "tiles") == ["link/a.tif"]


def problems(folder: Path) -> dict[str, str]:
    return {source.id: source.problem[0] for source in discover([folder]) if source.problem}


def test_loops_and_dangling_links_are_told_and_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "sub/good.tif")
    (tmp_path / "sub/up").symlink_to(tmp_path)
    (tmp_path / "sub/here").symlink_to(".")
    (tmp_path / "self.tif").symlink_to("self.tif")
    (tmp_path / "ping.tif").symlink_to("pong.tif")
    (tmp_path / "pong.tif").symlink_to("ping.tif")
    (tmp_path / "dangling.tif").symlink_to("nowhere.tif")
    assert problems(tmp_path) == {
        "sub/up": "link_loop",
        "sub/here": "link_loop",
        "self.tif": "link_loop",
        "ping.tif": "link_loop",
        "pong.tif": "link_loop",
        "dangling.tif": "missing",
    }
    assert "sub/good.tif" in ids(tmp_path)


def test_a_dangling_link_may_be_named_itself(tmp_path: Path) -> None:
    (tmp_path / "dangling.tif").symlink_to("nowhere.tif")
    (source,) = discover([tmp_path / "dangling.tif"])
    assert source.problem == ("missing", "a link to a file that is not there")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    touch(tmp_path / "good.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    assert problems(tmp_path) == {"pipe.tif": "unreadable"}


def test_the_source_of_a_tables_row_is_found_again(tmp_path: Path) -> None:
    touch(tmp_path / "tiles/a.tif")
    for name in ("s1/s1_B02.tif", "s1/s1_B03.tif", "mixed/p_B02.tif", "mixed/q_B02.tif"):
        touch(tmp_path / "tiles" / name)
    for source in discover([tmp_path / "tiles"]):
        again = source_at(source.uri)
        assert (again.uri, again.files) == (source.uri, source.files)


def test_a_row_whose_file_is_gone_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone.tif is gone; put it back"):
        source_at(str(tmp_path / "gone.tif"))


def test_patches_share_the_endings_of_their_files(tmp_path: Path) -> None:
    for patch in ("S2A_MSIL2A_20170613T101031_87_48", "S2A_MSIL2A_20170613T101031_87_49"):
        for band in ("B02", "B03"):
            touch(tmp_path / f"{patch}/{patch}_{band}.tif")
    first, second = discover([tmp_path])
    assert first.endings is second.endings


SOURCES = st.builds(
    Source,
    id=st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    path=st.text("ab/", max_size=4),
    endings=st.lists(st.sampled_from(["B02.tif", "B03.tif"]), max_size=2).map(tuple),
    fills_folder=st.booleans(),
    problem=st.none() | st.tuples(st.just("missing"), st.text("xy", max_size=2)),
).map(lambda source: source if source.path else replace(source, path=f"base/{source.id}"))


@given(st.lists(SOURCES, max_size=12), st.slices(12))
def test_a_list_of_sources_is_the_sorted_list_without_repeats(
    sources: list[Source], part: slice
) -> None:
    first: dict[tuple[str, bool, str], Source] = {}
    for source in sources:  # of one id, the one in the base comes first
        elsewhere = source.path != f"base/{source.id}"
        first.setdefault((source.id, elsewhere, source.path), source)
    expected = [first[key] for key in sorted(first)]
    found = gather_sources(sources, "base")
    assert list(found) == expected
    assert list(found[part]) == expected[part]
    assert [found[place] for place in range(-len(found), len(found))] == expected * 2
    ids = [source.id for source in expected]
    shared = next((i for i in range(1, len(ids)) if ids[i] == ids[i - 1]), None)
    assert found.clash() == (None if shared is None else tuple(expected[shared - 1 : shared + 1]))
    with pytest.raises(IndexError):
        found[len(found)]


@pytest.mark.parametrize(("base", "more"), [("/data", 0), ("/", 18)])
def test_a_source_costs_its_names_and_twenty_bytes(base: str, more: int) -> None:
    before, count = pa.total_allocated_bytes(), 20_000
    names = (f"{number:08d}.tif" for number in range(count))
    found = gather_sources((Source(id=name, path=f"/data/{name}") for name in names), base)
    assert len(found) == count
    assert pa.total_allocated_bytes() - before < count * (12 + more + 20) + 10_000


def test_written_tiles_are_found_in_the_order_they_are_numbered(tmp_path: Path) -> None:
    making.write_tiles(tmp_path, 12)
    assert ids(tmp_path) == [f"tile_{i:04d}.tif" for i in range(12)]


def test_another_image_beside_band_files_is_its_own_source(tmp_path: Path) -> None:
    for name in ("x_B03.tif", "x_B04.tif", "x_SCL.tif", "x_1.tif", "scene.png"):
        (tmp_path / name).write_bytes(b"")
    found = {source.id: sorted(source.files) for source in discover([tmp_path])}
    assert found == {"x": ["B03", "B04", "SCL"], "x_1.tif": [], "scene.png": []}
