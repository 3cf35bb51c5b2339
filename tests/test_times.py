"""Acquisition times: from tags, from names, never invented."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tilezoo.times import acquisition_time, parse_time, time_in_name

MOMENTS = st.datetimes(datetime(1980, 1, 2), datetime(2025, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001  (hypothesis wants naive bounds)
    lambda moment: moment.replace(microsecond=0)
)
LATER = st.integers(2, 3000).map(lambda days: timedelta(days=days))


def utc(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("S2A_MSIL2A_20170613T101031_87_48", utc(2017, 6, 13, 10, 10, 31)),
        # A real name of BigEarthNet v1: the hour has lost its zero.
        ("S2B_MSIL2A_20170924T93020_69_24", utc(2017, 9, 24, 9, 30, 20)),
        # Another real one, with a second too many (its metadata say 09:41:56).
        ("S2B_MSIL2A_20180204T94161_57_38", utc(2018, 2, 4, 9, 41, 59)),
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43", utc(2017, 6, 13, 10, 10, 31)),
        ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48", utc(2017, 6, 13, 16, 50, 43)),
        (
            "s1a-iw-grd-vv-20170613t165043-20170613t165108-017013-01c5a4-001.tiff",
            utc(2017, 6, 13, 16, 50, 43),
        ),
        (
            "S2A_MSIL2A_20170613T101031_N0500_R022_T33UUP_20230920T120000.SAFE",
            utc(2017, 6, 13, 10, 10, 31),
        ),
        ("T33UUP_20170613T101031_B04_10m.jp2", utc(2017, 6, 13, 10, 10, 31)),
        (
            "S2A_OPER_PRD_MSIL1C_PDMC_20160725T215634_R036_V20160725T094032_20160725T094034.SAFE",
            utc(2016, 7, 25, 9, 40, 32),
        ),
        # Until 2016 names of granules tell their making, and the orbit, which was flown that day.
        ("S2A_OPER_MSI_L1C_TL_SGS__20160725T134133_A005696_T34UCE_TCI.jp2", utc(2016, 7, 25)),
        ("S2A_OPER_MSI_L1C_TL_SGS__20160726T134133_A005696_T34UCE_TCI.jp2", utc(2016, 7, 25)),
        ("S2A_OPER_PRD_MSIL1C_PDMC_20160725T215634_R036", None),
        ("S2A_33UUP_20170613_0_L2A", utc(2017, 6, 13)),
        ("LC08_L1TP_193024_20200223_20200225_01_T1_B4.TIF", utc(2020, 2, 23)),
        ("LC08_L2SP_008029_20230331_20230411_02_T1_SR_B4.TIF", utc(2023, 3, 31)),
        ("LC08_CU_010004_20200223_20200301_C01_V01_SR.tar", utc(2020, 2, 23)),
        ("LC80080292014118LGN00_B4.TIF", utc(2014, 4, 28)),
        ("LT50330332010123PAC01_B3.TIF", utc(2010, 5, 3)),
        ("L71034032_03220000916_B10.TIF", utc(2000, 9, 16)),
        ("LC080080292014042801T1-SC20190601123456", utc(2014, 4, 28)),
        ("HLS.S30.T53SMS.2020276T013701.v2.0.B04.tif", utc(2020, 10, 2, 1, 37, 1)),
        ("HLS.L30.T53SMS.2020276.v1.4.hdf", utc(2020, 10, 2)),
        ("MOD09GA.A2021100.h18v04.061.2021102031234.hdf", utc(2021, 4, 10)),
        ("MYD021KM.A2021100.1035.061.2021102031234.hdf", utc(2021, 4, 10, 10, 35)),
        ("MOD09GA.A2021366.h18v04.061.hdf", None),
        ("MYD09A1.061_sur_refl_b01_doy2021100000000_aid0001.tif", utc(2021, 4, 10)),
        ("20180101T100031_20180102T160025_T33TWN.B4.tif", utc(2018, 1, 1, 10, 0, 31)),
        ("20200223_103015_1013_3B_AnalyticMS_SR.tif", utc(2020, 2, 23, 10, 30, 15)),
        ("20200223_003015_82_1013_3B_AnalyticMS_SR.tif", utc(2020, 2, 23, 0, 30, 15)),
        ("20200814_162132_ssc4_u0001_visual.tif", utc(2020, 8, 14, 16, 21, 32)),
        ("2023-05-06-08-05-24_UMBRA-05_GEC.tif", utc(2023, 5, 6, 8, 5, 24)),
        (
            "CAPELLA_C02_SM_GEO_HH_20201126235958_20201127000003.tif",
            utc(2020, 11, 26, 23, 59, 58),
        ),
        ("IMG_PHR1B_PMS_202002231030151_ORT_1.tif", utc(2020, 2, 23, 10, 30, 15)),
        ("IMG_SPOT6_PMS_201303071028128_ORT_1_R1C1.JP2", utc(2013, 3, 7, 10, 28, 12)),
        ("10DEC12181235-M2AS_R1C1-052602911050_01_P001.TIF", utc(2010, 12, 12, 18, 12, 35)),
        ("m_4709963_se_14_1_20100629.tif", utc(2010, 6, 29)),
        ("m_3810001_nw_14_060_20160616_20160930.tif", utc(2016, 6, 16)),
        ("CBERS_4_MUX_20170528_090_084_L2_BAND5.tif", utc(2017, 5, 28)),
        ("OR_ABI-L1b-RadC-M6C01_G16_s20201121030159_e20201121032532.nc", utc(2020, 4, 21, 10, 30, 15)),
        ("2023-06-14-00_00_2023-06-14-23_59_Sentinel-2_L2A_True_color.tif", utc(2023, 6, 14)),
        ("2023-06-14T00:00:00_2023-06-14T23:59:59.tif", utc(2023, 6, 14)),
        ("2023-06-01-00_00_2023-06-14-23_59_Sentinel-2_L2A_True_color.tif", None),
        ("global_monthly_2018_01_mosaic_L15-0331E-1257N_1327_3160_13.tif", None),
        ("site-2020-02-23.tif", utc(2020, 2, 23)),
        ("site_20200223.tif", utc(2020, 2, 23)),
        ("site_20200223_103015.jpg", utc(2020, 2, 23, 10, 30, 15)),
        ("site_20200223_000123.tif", utc(2020, 2, 23)),  # the last six may be a number
        ("site_2020-02-23_12_34.tif", utc(2020, 2, 23)),
        ("DJI_20230506080524_0001_V.JPG", utc(2023, 5, 6, 8, 5, 24)),
        ("23FEB2020.tif", utc(2020, 2, 23)),
        ("2020-Feb-23.tif", utc(2020, 2, 23)),
        ("chip_20009999_20200223.tif", utc(2020, 2, 23)),
        ("export_19991231_of_scene_2020-02-23.tif", utc(2020, 2, 23)),
        ("scene_acq20200223_proc20200301.tif", utc(2020, 2, 23)),
        ("a_20200223_20200301.tif", None),  # which one?
        ("tile_0001.tif", None),
        ("20209999.tif", None),
        ("120200223.tif", None),
        ("tile_20170230T101031.tif", None),
        ("tile_20991231.tif", None),
    ],
)  # fmt: skip
def test_names_of_known_kinds_tell_their_time(name: str, expected: datetime | None) -> None:
    assert time_in_name(name) == expected


PRODUCTS = [
    "S2A_MSIL2A_{t:%Y%m%dT%H%M%S}_N0500_R022_T33UUP_{later:%Y%m%dT%H%M%S}",
    "S1A_IW_GRDH_1SDV_{t:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}_017013_01C5A4_0D5F.SAFE",
    "s1b-ew-grd-hh-{t:%Y%m%dt%H%M%S}-{end:%Y%m%dt%H%M%S}-017013-01c5a4-001.tiff",
    "S2A_OPER_PRD_MSIL1C_PDMC_{later:%Y%m%dT%H%M%S}_R036_V{t:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}",
    "HLS.S30.T53SMS.{t:%Y%jT%H%M%S}.v2.0.B04.tif",
    "{t:%Y%m%d_%H%M%S}_1013_3B_AnalyticMS_SR.tif",
    "{t:%Y%m%d_%H%M%S}_82_24b9_3B_AnalyticMS_SR_8b.tif",
    "{t:%Y%m%d_%H%M%S}_ssc12_u0001_visual.tif",
    "{t:%Y-%m-%d-%H-%M-%S}_UMBRA-05_GEC.tif",
    "CAPELLA_C02_SM_GEO_HH_{t:%Y%m%d%H%M%S}_{end:%Y%m%d%H%M%S}.tif",
    "IMG_PHR1A_P_{t:%Y%m%d%H%M%S}7_SEN_1.TIF",
    "OPERA_L3_DSWx-HLS_T05VPJ_{t:%Y%m%dT%H%M%S}Z_{later:%Y%m%dT%H%M%S}Z_S2A_30_v0.1.tif",
    "scene_{t:%Y-%m-%dT%H:%M:%S}Z.tif",
    "{t:%Y%m%dT%H%M%S}_{later:%Y%m%dT%H%M%S}_T33UUP.tif",
    "ENMAP01-____L2A-DT0000001234_{t:%Y%m%dT%H%M%S}Z_001_V010302_{later:%Y%m%dT%H%M%S}Z.TIF",
    "AST_L1T_003{t:%m%d%Y%H%M%S}_{later:%Y%m%d%H%M%S}_1.tif",
    "{t:%Y%m%d_%H%M%S}_ssc4d1_0001_analytic.tif",
    "PRS_L2D_STD_{t:%Y%m%d%H%M%S}_{end:%Y%m%d%H%M%S}_0001.he5",
    "SENTINEL2A_{t:%Y%m%dT%H%M%S}-123_L2A_T31TCJ_C_V2-2",
]
DAYS = [
    "LC09_L2SP_008029_{t:%Y%m%d}_{later:%Y%m%d}_02_T1_SR_B4.TIF",
    "LE70080292014{t:%j}EDC00_B4.TIF".replace("2014", "{t:%Y}"),
    "MYD09GA.A{t:%Y%j}.h18v04.061.{later:%Y%j%H%M%S}.hdf",
    "m_4709963_se_14_1_{t:%Y%m%d}_{later:%Y%m%d}.tif",
    "CBERS_4A_WPM_{t:%Y%m%d}_200_139_L4_BAND3.tif",
    "S2B_33UUP_{t:%Y%m%d}_1_L2A",
    "exported_{later:%Y%m%d}_flight_{t:%Y-%m-%d}.tif",
    "field {t:%d%b%Y}.tif",
]


@given(MOMENTS, LATER, st.sampled_from(PRODUCTS))
def test_a_name_gives_back_the_time_it_was_made_of(
    moment: datetime, later: timedelta, form: str
) -> None:
    end = moment + timedelta(seconds=20)
    assert time_in_name(form.format(t=moment, end=end, later=moment + later)) == moment


@given(MOMENTS, LATER, st.sampled_from(DAYS))
def test_a_name_gives_back_the_day_it_was_made_of(
    moment: datetime, later: timedelta, form: str
) -> None:
    day = moment.replace(hour=0, minute=0, second=0)
    name = form.format(t=moment, later=moment + later)
    assume(moment + later < datetime.now(UTC) or "exported" not in form)
    assert time_in_name(name) == day


@given(MOMENTS)
def test_a_dropped_leading_zero_of_the_hour_is_put_back(moment: datetime) -> None:
    written = f"{moment:%Y%m%d}T{moment.hour}{moment:%M%S}"
    assert time_in_name(f"S2B_MSIL2A_{written}_69_24") == moment


WRITTEN = ["export", "Exported", "download", "processed", "created_on", "scan", "run", "results-of"]


@given(
    MOMENTS,
    st.sampled_from(WRITTEN),
    st.sampled_from("_- ./"),
    st.sampled_from(["%Y%m%d", "%Y-%m-%d", "%Y%m%dT%H%M%S", "%d%b%Y"]),
)
def test_a_day_of_an_export_a_scan_or_a_run_is_no_acquisition(
    moment: datetime, word: str, gap: str, form: str
) -> None:
    assert time_in_name(f"{word}{gap}{moment.strftime(form)}") is None
    folder = f"{word}{gap}{moment.strftime(form)}".rpartition("/")
    assert acquisition_time({}, ["tile.tif", "".join(folder)]) is None


@given(MOMENTS, LATER)
def test_two_days_of_which_nothing_says_which_are_no_time(
    moment: datetime, later: timedelta
) -> None:
    name = f"a_{moment:%Y%m%d}_{moment + later:%Y%m%d}.tif"
    assume(moment + later < datetime.now(UTC))
    assert time_in_name(name) is None
    assert acquisition_time({}, [name, f"x/{moment:%Y-%m-%d}"]) is None


@given(MOMENTS, st.integers(-14 * 60, 14 * 60), st.integers(0, 9))
def test_iso_texts_come_back_in_utc(moment: datetime, zone: int, decimals: int) -> None:
    assert parse_time(moment.isoformat()) == moment
    assert parse_time(f"{moment:%Y-%m-%dT%H:%M:%S}") == moment
    assert parse_time(f"{moment:%Y-%jT%H:%M:%S}Z") == moment
    assert parse_time(f"{moment:%Y%m%d%H%M%S}") == moment
    assert parse_time(f"{moment:%d-%b-%Y %H:%M:%S}".upper()) == moment
    fraction = "." + "0" * decimals if decimals else ""
    ahead = f"{'-' if zone < 0 else '+'}{abs(zone) // 60:02d}:{abs(zone) % 60:02d}"
    local = moment + timedelta(minutes=zone)
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y:%m:%d %H:%M:%S"):
        assert parse_time(f"{local.strftime(form)}{fraction}{ahead}") == moment


def test_decimals_beyond_microseconds_are_cut() -> None:
    assert parse_time("2023-03-31T15:05:10.1234569Z") == utc(2023, 3, 31, 15, 5, 10, 123456)
    assert parse_time("2023-03-31T15:05:10.5") == utc(2023, 3, 31, 15, 5, 10, 500_000)


def test_of_several_times_the_first_is_read() -> None:
    expected = utc(2020, 10, 2, 1, 37, 1)
    assert parse_time("2020-10-02T01:37:01Z; 2020-10-02T01:37:25Z") == expected


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2020-02-30", "2020-366T25:00:00",
     "2020-02", "2020", "2020-W08", "0000:00:00 00:00:00", "", "; "],
)  # fmt: skip
def test_what_is_no_day_is_no_time(text: str) -> None:
    assert parse_time(text) is None


def test_a_zone_is_converted_to_utc() -> None:
    assert parse_time("2020-02-23T12:00:00+02:00") == datetime(2020, 2, 23, 10, tzinfo=UTC)


@given(st.text())
def test_no_text_breaks_the_reading_of_times(text: str) -> None:
    tags = dict.fromkeys(("DATETIME", "EXIF_GPSTimeStamp", "EXIF_DateTimeOriginal"), text)
    for found in (parse_time(text), time_in_name(text), acquisition_time(tags, [text])):
        assert found is None or found.tzinfo is UTC


def test_acquisition_tags_win_over_names_and_names_over_the_time_of_writing() -> None:
    tags = {"TIFFTAG_DATETIME": "2024:01:02 03:04:05"}
    named = ["S2A_MSIL2A_20170613T101031_87_48"]
    assert acquisition_time(tags, []) == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert acquisition_time(tags, named) == datetime(2017, 6, 13, 10, 10, 31, tzinfo=UTC)
    tags["AcquisitionDateTime"] = "2017-06-13T10:10:40Z"
    assert acquisition_time(tags, named) == datetime(2017, 6, 13, 10, 10, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"DATE_ACQUIRED": "2023-03-31"}, utc(2023, 3, 31)),
        (
            {"DATE_ACQUIRED": "2023-03-31", "SCENE_CENTER_TIME": '"15:05:10.1234560Z"'},
            utc(2023, 3, 31, 15, 5, 10, 123456),
        ),
        ({"DATE_ACQUIRED": "2023-03-31", "SCENE_CENTER_TIME": "noon"}, utc(2023, 3, 31)),
        (
            {"IMAGING_DATE": "2020-02-23", "IMAGING_TIME": "10:30:15.1Z"},
            utc(2020, 2, 23, 10, 30, 15, 100_000),
        ),
        ({"ACQUISITION_DATE": "2020-02-23T10:30:15+05:30"}, utc(2020, 2, 23, 5, 0, 15)),
        (
            {"SENSING_TIME": "2020-10-02T01:37:01.5Z; 2020-10-02T01:37:25Z"},
            utc(2020, 10, 2, 1, 37, 1, 500_000),
        ),
        ({"NC_GLOBAL#time_coverage_start": "2020-02-23T10:30:15Z"}, utc(2020, 2, 23, 10, 30, 15)),
        ({"NITF_IDATIM": "20200223103015"}, utc(2020, 2, 23, 10, 30, 15)),
        ({"NITF_IDATIM": "20021216151629"}, None),  # GDAL's own, where it is told none
        ({"DATETIME": "0001-01-01T00:00:00"}, None),
        ({"EXIF_DateTimeOriginal": "1970:01:01 00:00:00"}, None),
    ],
)
def test_tags_of_acquisition_are_read(tags: dict[str, str], expected: datetime | None) -> None:
    assert acquisition_time(tags, []) == expected


PROGRAMS = ["Adobe Photoshop 25.0 (Windows)", "GIMP 2.10", "tifffile.py", "EPSON Scan", "GDAL 3.9"]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("zone", ["", "-07:00"])
def test_the_time_at_which_a_program_wrote_a_file_is_no_acquisition(
    program: str, zone: str
) -> None:
    tags = {"TIFFTAG_DATETIME": f"2024:05:06 07:08:09{zone}", "TIFFTAG_SOFTWARE": program}
    assert acquisition_time(tags, ["scan.tif"]) is None


@pytest.mark.parametrize("name", ["scan_01.tif", "export (2).tif", "field_processed.tif"])
def test_the_time_of_a_file_that_is_called_an_export_or_a_scan_is_no_acquisition(name: str) -> None:
    assert acquisition_time({"TIFFTAG_DATETIME": "2024:05:06 07:08:09"}, [name]) is None


def test_the_time_of_a_tiff_has_its_zone() -> None:
    tags = {"TIFFTAG_DATETIME": "2019:01:31 09:00:00-07:00"}
    assert acquisition_time(tags, ["a.tif"]) == utc(2019, 1, 31, 16)


CAMERA = {"EXIF_DateTimeOriginal": "2025:11:30 16:43:51", "EXIF_DateTime": "2025:12:01 08:00:00"}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"EXIF_OffsetTimeOriginal": "+09:00"}, utc(2025, 11, 30, 7, 43, 51)),
        ({"EXIF_OffsetTimeOriginal": "-03:30"}, utc(2025, 11, 30, 20, 13, 51)),
        ({"EXIF_OffsetTimeOriginal": "   :  "}, utc(2025, 11, 30, 16, 43, 51)),
        ({"EXIF_OffsetTime": "+01:00"}, utc(2025, 11, 30, 16, 43, 51)),  # of the file's change
        ({}, utc(2025, 11, 30, 16, 43, 51)),
        (
            {"EXIF_GPSDateStamp": "2025:11:30", "EXIF_GPSTimeStamp": "(7) (43) (51.5)"},
            utc(2025, 11, 30, 7, 43, 51),
        ),
        (
            {"EXIF_GPSDateStamp": "2019:01:01", "EXIF_GPSTimeStamp": "(7) (43) (51)"},
            utc(2025, 11, 30, 16, 43, 51),
        ),
        ({"EXIF_Software": "Adobe Lightroom"}, utc(2025, 11, 30, 16, 43, 51)),
        ({"EXIF_Software": "EPSON Scan"}, None),
        ({"EXIF_Model": "CanoScan 9000F"}, None),
    ],
)
def test_a_camera_tells_when_it_took_a_picture_and_a_scanner_does_not(
    more: dict[str, str], expected: datetime | None
) -> None:
    assert acquisition_time(CAMERA | more, ["DJI_0001.JPG"]) == expected


def test_the_day_of_a_change_alone_is_no_acquisition() -> None:
    assert acquisition_time({"EXIF_DateTime": "2025:12:01 08:00:00"}, []) is None


def test_a_broken_tag_does_not_hide_the_name() -> None:
    found = acquisition_time({"DATETIME": "yesterday"}, ["tile", "scene_20200223"])
    assert found == datetime(2020, 2, 23, tzinfo=UTC)


def test_a_day_is_made_exact_by_what_says_its_time() -> None:
    granule = "S2A_OPER_MSI_L1C_TL_SGS__20160725T134133_A005696_T34UCE_B04.jp2"
    product = "S2A_OPER_PRD_MSIL1C_PDMC_20160725T215634_R036_V20160725T094032_20160725T094034.SAFE"
    assert acquisition_time({}, [granule], ["IMG_DATA", product]) == utc(2016, 7, 25, 9, 40, 32)
    other = product.replace("V20160725", "V20160724")
    assert acquisition_time({}, [granule], [other]) == utc(2016, 7, 25)
    day = {"DATE_ACQUIRED": "2017-06-13"}
    assert acquisition_time(day, ["S2A_MSIL2A_20170613T101031_1_2"]) == utc(2017, 6, 13, 10, 10, 31)


def test_folders_further_up_count_only_by_names_of_products() -> None:
    assert acquisition_time({}, ["a.tif"], ["2020-02-23", "data"]) is None
    product = "LC80080292014118LGN00"
    assert acquisition_time({}, ["a.tif"], ["x", product]) == utc(2014, 4, 28)


def test_nothing_known_is_no_time() -> None:
    assert acquisition_time({}, ["tile_1", "folder"]) is None
