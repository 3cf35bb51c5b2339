"""Acquisition times: from tags, from names, never invented."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.times import acquisition_time, parse_time, time_in_name

MOMENTS = st.datetimes(datetime(1980, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001  (hypothesis wants naive bounds)
    lambda moment: moment.replace(microsecond=0)
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("S2A_MSIL2A_20170613T101031_87_48", datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)),
        # A real name of BigEarthNet v1: the hour has lost its zero.
        ("S2B_MSIL2A_20170924T93020_69_24", datetime(2017, 9, 24, 9, 30, 20, tzinfo=UTC)),
        # Another real one, with a second too many (its metadata say 09:41:56).
        ("S2B_MSIL2A_20180204T94161_57_38", datetime(2018, 2, 4, 9, 41, 59, tzinfo=UTC)),
        (
            "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43",
            datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC),
        ),
        (
            "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48",
            datetime(2017, 6, 13, 16, 50, 43, tzinfo=UTC),
        ),
        ("LC08_L1TP_193024_20200223_20200225_01_T1_B4.TIF", datetime(2020, 2, 23, tzinfo=UTC)),
        ("site-2020-02-23.tif", datetime(2020, 2, 23, tzinfo=UTC)),
        ("site_20200223.tif", datetime(2020, 2, 23, tzinfo=UTC)),
        ("tile_0001.tif", None),
        ("20209999.tif", None),
        ("120200223.tif", None),
        ("tile_20170230T101031.tif", None),
    ],
)
def test_names_of_known_kinds_tell_their_time(name: str, expected: datetime | None) -> None:
    assert time_in_name(name) == expected


@given(MOMENTS)
def test_a_sentinel_2_name_gives_back_the_time_it_was_made_of(moment: datetime) -> None:
    assert time_in_name(f"S2A_MSIL2A_{moment:%Y%m%dT%H%M%S}_12_34") == moment


@given(MOMENTS)
def test_a_dropped_leading_zero_of_the_hour_is_put_back(moment: datetime) -> None:
    written = f"{moment:%Y%m%d}T{moment.hour}{moment:%M%S}"
    assert time_in_name(f"S2B_MSIL2A_{written}_69_24") == moment


@given(MOMENTS)
def test_iso_texts_come_back_in_utc(moment: datetime) -> None:
    assert parse_time(moment.isoformat()) == moment
    assert parse_time(f"{moment:%Y-%m-%dT%H:%M:%S}") == moment


def test_a_zone_is_converted_to_utc() -> None:
    assert parse_time("2020-02-23T12:00:00+02:00") == datetime(2020, 2, 23, 10, tzinfo=UTC)


@given(st.text())
def test_no_text_breaks_the_reading_of_times(text: str) -> None:
    for found in (parse_time(text), time_in_name(text), acquisition_time({"DATETIME": text}, [])):
        assert found is None or found.tzinfo is UTC


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_beyond_the_calendar_is_no_time(text: str) -> None:
    assert parse_time(text) is None


def test_acquisition_tags_win_over_names_and_names_over_the_time_of_writing() -> None:
    tags = {"TIFFTAG_DATETIME": "2024:01:02 03:04:05"}
    named = ["S2A_MSIL2A_20170613T101031_87_48"]
    assert acquisition_time(tags, []) == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert acquisition_time(tags, named) == datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)
    tags["AcquisitionDateTime"] = "2017-06-13T10:10:40Z"
    assert acquisition_time(tags, named) == datetime(2017, 6, 13, 10, 10, 40, tzinfo=UTC)


def test_a_broken_tag_does_not_hide_the_name() -> None:
    found = acquisition_time({"DATETIME": "yesterday"}, ["tile", "scene_20200223"])
    assert found == datetime(2020, 2, 23, tzinfo=UTC)


def test_a_landsat_date_tag_is_read() -> None:
    found = acquisition_time({"DATE_ACQUIRED": "2020-02-23"}, [])
    assert found == datetime(2020, 2, 23, tzinfo=UTC)


def test_nothing_known_is_no_time() -> None:
    assert acquisition_time({}, ["tile_1", "folder"]) is None
