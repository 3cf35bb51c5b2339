"""When a tile was taken: from the file's tags, else from a name of a known kind."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

# Tags that mean acquisition. TIFFTAG_DATETIME is often the time the file was written, so it
# comes last, after the names.
_ACQUISITION_TAGS = (
    "ACQUISITIONDATETIME",  # GDAL's IMAGERY domain
    "ACQUISITION_DATETIME",
    "DATATAKE_1_DATATAKE_SENSING_START",  # GDAL's Sentinel-2 driver
    "PRODUCT_START_TIME",
    "SENSING_TIME",
    "DATETIME",  # STAC's word, as tags written by rio-stac and friends carry it
    "ACQUISITION_DATE",
    "DATE_ACQUIRED",  # Landsat MTL
    "EXIF_DATETIMEORIGINAL",
)
_WRITTEN_TAGS = ("TIFFTAG_DATETIME", "EXIF_DATETIME")

# Sentinel-1/2 and BigEarthNet: 20170613T101031; real BigEarthNet v1 names drop the hour's
# leading zero (S2B_MSIL2A_20170924T93020_69_24).
_DATE_T_TIME = re.compile(r"(?<!\d)((?:19|20)\d{6})T(\d{5,6})(?!\d)")
_DATE_DASHED = re.compile(r"(?<!\d)((?:19|20)\d\d)-(\d\d)-(\d\d)(?!\d)")
_DATE_PLAIN = re.compile(r"(?<!\d)((?:19|20)\d{6})(?!\d)")
_TAG_FORMATS = ("%Y:%m:%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y%m%d")


def acquisition_time(tags: Mapping[str, str], names: Iterable[str]) -> datetime | None:
    """Find the acquisition time in UTC, or None.

    Args:
        tags: The file's tags, any case. Times without a zone are taken as UTC.
        names: File and folder names to look in, the most telling first.
    """
    upper = {key.upper(): value for key, value in tags.items()}
    from_tags = (_parse_tag(upper[tag]) for tag in _ACQUISITION_TAGS if tag in upper)
    from_names = (time_in_name(name) for name in names)
    written = (_parse_tag(upper[tag]) for tag in _WRITTEN_TAGS if tag in upper)
    for group in (from_tags, from_names, written):
        for found in group:
            if found is not None:
                return found
    return None


def time_in_name(name: str) -> datetime | None:
    """Read the first date (and time) in a file or folder name, as UTC.

    Knows Sentinel-1/2 and BigEarthNet names (five-digit times too), Landsat scene ids (the
    first date is the acquisition), and plain `2020-02-23` or `20200223`.
    """
    if match := _DATE_T_TIME.search(name):
        clock = match[2].zfill(6)
        # A real name says T94161, its metadata 09:41:56: seconds beyond the minute are cut to 59.
        seconds = "59" if clock[4:] in {"60", "61"} else clock[4:]
        return _parse_form(match[1] + clock[:4] + seconds, "%Y%m%d%H%M%S")
    if match := _DATE_DASHED.search(name):
        return _parse_form("".join(match.groups()), "%Y%m%d")
    if match := _DATE_PLAIN.search(name):
        return _parse_form(match[1], "%Y%m%d")
    return None


def parse_time(text: str) -> datetime | None:
    """Read an ISO 8601 date or time; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text.strip())
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):  # overflow: a zone that leads out of years 1 to 9999
        return None


def _parse_tag(text: str) -> datetime | None:
    iso = parse_time(text)
    if iso is not None:
        return iso
    return next((t for form in _TAG_FORMATS if (t := _parse_form(text.strip(), form))), None)


def _parse_form(text: str, form: str) -> datetime | None:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return None
