"""Band names: written in one way, matched, chosen from a file, refused."""

import re

import making
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.bands import BAND_SUFFIX, canonical, name_bands, parse_bands, same
from tilezoo.errors import ContractError, TileError

BAND_NAMES = st.sampled_from(
    ["B01", "B02", "B03", "B04", "B8A", "B11", "b4", "Band 4", "red", "Green", "BLUE", "nir", "VV"]
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("b4", "B04"),
        ("B04", "B04"),
        ("Band 4", "B04"),
        ("band_12", "B12"),
        ("b8a", "B8A"),
        ("B08A", "B8A"),
        ("Red", "red"),
        ("r", "red"),
        ("grey", "gray"),
        ("VV", "VV"),
        ("nir08", "nir08"),
    ],
)
def test_a_band_is_written_in_one_way(written: str, expected: str) -> None:
    assert canonical(written) == expected


@given(st.text(max_size=12))
def test_writing_a_band_canonically_twice_changes_nothing(name: str) -> None:
    assert canonical(canonical(name)) == canonical(name)


def test_sentinel_2_colours_are_the_same_bands_by_either_name() -> None:
    assert same("B04", "red")
    assert same("b2", "Blue")
    assert same("band 3", "g")
    assert not same("B08", "red")
    assert not same("B8A", "B08")


@pytest.mark.parametrize("text", ["B04,B03,B02", "b4 b3 b2", " B4, b03 ,Band_2 "])
def test_bands_are_read_with_commas_or_spaces(text: str) -> None:
    assert parse_bands(text) == ("B04", "B03", "B02")


def test_no_bands_option_is_no_bands_and_an_empty_one_is_refused() -> None:
    assert parse_bands(None) is None
    with pytest.raises(ContractError, match=r"--bands is empty; .* --bands B04,B03,B02"):
        parse_bands(" , ")


@given(st.lists(BAND_NAMES, min_size=1, max_size=6))
def test_bands_survive_being_written_and_parsed(names: list[str]) -> None:
    canonical_names = tuple(canonical(name) for name in names)
    assert parse_bands(",".join(canonical_names)) == canonical_names


@pytest.mark.parametrize(
    ("stem", "band"),
    [
        ("S2A_MSIL2A_20171221T112501_56_35_B8A", "B8A"),
        ("B04", "B04"),
        ("LC08_L2SP_193024_20200223_SR_B4", "B4"),
        ("scene_band1", "band1"),
        ("S1A_IW_33UUP_87_48_VV", "VV"),
        ("scene4b1", None),
        ("tile_0001", None),
        ("cloud_mask", None),
    ],
)
def test_a_file_name_tells_its_band_only_after_a_separator(stem: str, band: str | None) -> None:
    found = BAND_SUFFIX.search(stem)
    assert (found["band"] if found else None) == band


@given(st.permutations(["B02", "B03", "B04", "B08", "B11"]))
def test_chosen_bands_come_in_the_models_order_whatever_the_files(names: list[str]) -> None:
    chosen = making.request("B04", "B03", "B02").choose(name_bands(names))
    assert [names[i] for i in chosen] == ["B04", "B03", "B02"]


def test_a_model_of_colours_takes_sentinel_2_bands() -> None:
    assert making.request().choose(name_bands(["B02", "B03", "B04"])) == (2, 1, 0)


def test_a_band_of_exactly_that_name_wins_over_one_of_that_colour() -> None:
    assert making.request("B04", "B03", "B02").choose(
        name_bands(["red", "green", "blue", "B04"])
    ) == (
        0,
        1,
        2,
    )
    everything = ["red", "green", "blue", "B02", "B03", "B04"]
    assert making.request("B04", "B03", "B02").choose(name_bands(everything)) == (5, 4, 3)


def test_numbers_count_a_files_bands_from_one() -> None:
    by_number = making.request("B04", "B03", "B02", given=("4", "3", "2"))
    assert by_number.choose(name_bands([""] * 12)) == (3, 2, 1)
    assert by_number.effective == ("B04", "B03", "B02")


@pytest.mark.parametrize("numbers", [("0", "1", "2"), ("1", "2", "9")])
def test_numbers_beyond_the_file_are_refused(numbers: tuple[str, ...]) -> None:
    with pytest.raises(TileError, match="counts beyond the file's 4 bands; numbers start at 1"):
        making.request(given=numbers).choose(name_bands([""] * 4))


def test_names_from_the_user_name_a_files_unnamed_bands() -> None:
    named = making.request("B04", "B03", "B02", given=("B02", "B03", "B04"))
    assert named.choose(name_bands([""] * 3)) == (2, 1, 0)


def test_names_from_the_user_do_not_rename_bands_that_the_file_names() -> None:
    asked = making.request("B04", "B03", "B02", given=("B04", "B03", "B02"))
    with pytest.raises(TileError, match="has bands B05,B06,B07, the model takes B04,B03,B02"):
        asked.choose(name_bands(["B05", "B06", "B07"]))


def test_other_bands_than_the_models_are_fed_in_their_place() -> None:
    false_colour = making.request(given=("B08", "B04", "B03"))
    assert false_colour.effective == ("B08", "B04", "B03")
    assert false_colour.choose(name_bands(["B03", "B04", "B08"])) == (2, 1, 0)


def test_a_wrong_number_of_bands_is_refused_before_any_file_is_read() -> None:
    expected = (
        "--bands names 2 bands (B08,B04), the model takes 3: name these (--bands red,green,blue)"
    )
    with pytest.raises(ContractError, match=re.escape(expected)):
        making.request(given=("B08", "B04"))


def test_a_file_without_band_names_is_refused_with_the_option_that_names_them() -> None:
    with pytest.raises(
        TileError, match=r"has 2 unnamed bands, .*; name them with --bands"
    ) as error:
        making.request().choose(name_bands([""] * 2))
    assert error.value.kind == "contract"


@given(
    st.lists(BAND_NAMES.map(canonical), max_size=6),
    st.lists(BAND_NAMES.map(canonical), min_size=3, max_size=5),
    st.integers(1, 6),
)
def test_choosing_gives_a_place_in_the_file_for_each_band_or_says_why_not(
    names: list[str], given_names: list[str], count: int
) -> None:
    try:
        asked = making.request(given=tuple(given_names))
        chosen = asked.choose(name_bands(names or [""] * count))
    except (ContractError, TileError) as refused:
        message = str(refused)
    else:
        message = "chosen with --bands"
        assert len(chosen) == len(asked.effective) == 3
        assert all(0 <= place < (len(names) or count) for place in chosen)
    assert "--bands" in message


@pytest.mark.parametrize("count", [3, 4, 8])
def test_unnamed_bands_are_never_proposed_as_colours_by_name(count: int) -> None:
    with pytest.raises(TileError) as refused:
        making.request().choose(name_bands([""] * count))
    assert "--bands red=1,green=2,blue=3 if they come in this order" in str(refused.value)
