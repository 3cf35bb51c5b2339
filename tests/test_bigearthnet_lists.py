"""The official lists of v1, and joining them to names."""

import bz2
import time
from pathlib import Path

import bigearthnet as ben
import making
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tilezoo.bigearthnet import listings
from tilezoo.bigearthnet.labels import patch_version
from tilezoo.bigearthnet.listings import LISTS_SCHEMA, join_lists, read_lists
from tilezoo.bigearthnet.metadata import prepare_bigearthnet
from tilezoo.errors import LabelsError

A, B, C = (f"S2A_MSIL2A_20170613T101031_{n}_1" for n in range(3))
OFFICIAL = {"train": 269_695, "validation": 123_723, "test": 125_866}


@pytest.fixture(scope="module")
def lists() -> pa.Table:
    ben.need_package()
    return read_lists()


def test_the_packaged_lists_have_the_official_splits(lists: pa.Table) -> None:
    assert lists.schema == LISTS_SCHEMA
    assert lists.num_rows == 590_326
    counted = (
        lists["original_split"].combine_chunks().dictionary_decode().value_counts().to_pylist()
    )
    assert {c["values"]: c["counts"] for c in counted} == {**OFFICIAL, None: 590_326 - 519_284}
    flags = [pc.sum(lists[flag]).as_py() for flag in ("snow", "cloud_or_shadow", "labelled")]
    assert flags == [61_707, 9_280, 590_326 - 57]


def test_the_three_splits_are_the_patches_without_snow_cloud_and_with_a_label(
    lists: pa.Table,
) -> None:
    clear = pc.invert(pc.or_(lists["snow"], lists["cloud_or_shadow"]))
    recommended = pc.and_(clear, lists["labelled"])
    assert pc.sum(recommended).as_py() == 519_284
    assert recommended.equals(pc.is_valid(lists["original_split"]))


def test_every_official_name_is_a_v1_patchs(lists: pa.Table) -> None:
    assert {patch_version(name) for name in lists["name"].to_pylist()} == {1}


def test_a_join_keeps_the_order_of_the_names_and_knows_no_stranger(lists: pa.Table) -> None:
    names = pa.array([ben.SNOWY, C, ben.SUMMER])
    found = join_lists(names, lists).drop_columns("s1_name").to_pylist()
    unknown = dict.fromkeys(found[0])
    snowy = {"country": "Finland", "season": "Winter", "original_split": None}
    summer = {"country": "Austria", "season": "Summer", "original_split": "test"}
    flags = {"snow": False, "cloud_or_shadow": False, "labelled": True}
    assert found == [{**flags, **snowy, "snow": True}, unknown, {**flags, **summer}]


@pytest.mark.slow
def test_all_590_326_names_are_joined_within_two_minutes(lists: pa.Table, tmp_path: Path) -> None:
    names = lists["name"].to_pylist()
    listing = tmp_path / "names.txt"
    listing.write_text("\n".join(reversed(names)))
    started = time.monotonic()
    made = prepare_bigearthnet(listing, out=tmp_path / "all.parquet")
    assert time.monotonic() - started < 120
    numbers = made.to_json()
    assert numbers["splits"] == {**OFFICIAL, "none": 71_042}
    assert (made.rows, made.recommended, made.unlisted) == (590_326, 519_284, 0)
    assert numbers["countries"]["Finland"] == 233_030
    assert sum(numbers["seasons"].values()) == 590_326


def test_the_package_is_not_imported() -> None:
    ben.need_package()
    code = (
        "import sys; from tilezoo.bigearthnet.listings import read_lists\n"
        "print(read_lists().num_rows, 'bigearthnet_common' in sys.modules)"
    )
    out, _ = making.python(code).communicate()
    assert out.split() == ["590326", "False"]


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "_PACKAGE", "bigearthnet_nowhere")
    with pytest.raises(LabelsError, match=r"pip install --no-deps bigearthnet-common.*--lists DIR"):
        read_lists()


def test_lists_of_ones_own_may_be_packed_or_not(tmp_path: Path) -> None:
    folder = ben.write_lists(tmp_path / "lists", train=[A], snow=[B])
    plain = folder / "train.csv"
    plain.with_suffix(".csv.bz2").write_bytes(bz2.compress(plain.read_bytes()))
    plain.unlink()
    found = join_lists(pa.array([A, B]), read_lists(folder))
    assert found["original_split"].to_pylist() == ["train", None]
    assert found["snow"].to_pylist() == [False, True]
    assert found["s1_name"].to_pylist() == [f"S1_of_{A}", f"S1_of_{B}"]


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    folder = ben.write_lists(tmp_path / "lists")
    (folder / "val.csv").unlink()
    with pytest.raises(LabelsError, match=r"no val\.csv\.bz2 or \.csv"):
        read_lists(folder)


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    folder = ben.write_lists(tmp_path / "lists")
    (folder / "val.csv").rename(folder / "val.csv.bz2")
    with pytest.raises(LabelsError, match=r"val\.csv\.bz2: damaged"):
        read_lists(folder)


def test_lists_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=f"'{A}' is in two of the three splits"):
        read_lists(ben.write_lists(tmp_path / "twice", train=[A], test=[A]))
    folder = ben.write_lists(tmp_path / "stranger")
    (folder / "test.csv").write_text(f"{C}\n")
    with pytest.raises(LabelsError, match=rf"test\.csv: '{C}' is not in s1_s2_name"):
        read_lists(folder)
    listing = folder / "s1_s2_name_country_season.csv"
    listing.write_text(listing.read_text().replace("country", "land"))
    with pytest.raises(LabelsError, match="no column 'country'"):
        read_lists(folder)


def test_a_patch_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    folder = ben.write_lists(tmp_path / "lists", others=[A])
    listing = folder / "s1_s2_name_country_season.csv"
    listing.write_text(listing.read_text() + f"S1,{A},Austria,Summer\n")
    with pytest.raises(LabelsError, match="listed twice"):
        read_lists(folder)
