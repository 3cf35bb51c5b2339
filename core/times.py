"""When a tile was taken: from the file's tags, else from its name or its folders' names.

Null beats wrong: the time of an export, a scan or a processing is none, nor is one of two dates of
which nothing says which is meant.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

# Tags that mean acquisition, the most exact first; a day and its time of day may be two tags.
_ACQUISITION_TAGS: tuple[tuple[str, ...], ...] = (
    ("ACQUISITIONDATETIME",),  # GDAL's IMAGERY domain
    ("ACQUISITION_DATETIME",),
    ("DATATAKE_1_DATATAKE_SENSING_START",),  # GDAL's Sentinel-2 driver
    ("ACQUISITION_START_TIME",),  # GDAL's Sentinel-1 driver
    ("PRODUCT_START_TIME",),
    ("SENSING_TIME",),  # HLS: one or more times
    ("DATETIME",),  # STAC's word, as tags written by rio-stac and friends carry it
    ("DATE_ACQUIRED", "SCENE_CENTER_TIME"),  # Landsat MTL
    ("IMAGING_DATE", "IMAGING_TIME"),  # DIMAP: Pléiades, SPOT
    ("RANGEBEGINNINGDATE", "RANGEBEGINNINGTIME"),  # MODIS and VIIRS
    ("FIRSTLINETIME",),  # Maxar IMD
    ("TLCTIME",),  # older IMD
    ("ACQUISITION_DATE", "ACQUISITION_TIME"),
    ("ACQUISITION_TIME",),  # ENVI headers
    ("NITF_IDATIM",),
    ("TIME_COVERAGE_START",),  # netCDF (ACDD)
)
# Words of programs that scan paper and film: what they call the original's time is the scan's.
_SCANNER = re.compile(r"scan|silverfast|plustek|perfection", re.IGNORECASE)
# What a clock says that was never set, and GDAL of a NITF file that it writes without a time.
_UNSET = {datetime(1970, 1, 1, tzinfo=UTC), datetime(2002, 12, 16, 15, 16, 29, tzinfo=UTC)}
_FIRST_YEAR = 1858  # Nadar's balloon over the Bièvre; a tag's year 1 means nothing
_WIDEST_ZONE = timedelta(hours=14)

_SEVERAL = re.compile(r"\s*[;|]\s*")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<word>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sep(?:t|tember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_DAY = rf"{_YEAR}(?P<month>\d\d)(?P<of_month>\d\d)"
_HHMM = r"(?P<hour>\d\d)(?P<minute>\d\d)"
_CLOCK = rf"{_HHMM}(?P<second>\d\d)"
_DAY_T_CLOCK = rf"(?<!\d){_DAY}T(?P<hour>\d\d?)(?P<minute>\d\d)(?P<second>\d\d)(?!\d)"

# What tags and metadata write: ISO 8601 and its like, ESA's 23-FEB-2020, each with its clock.
_STAMPS = tuple(
    re.compile(
        day
        + r"(?:[T _]*(?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d+))?)?)?"
        r"\s*(?P<zone>Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)?",
        re.IGNORECASE,
    )
    for day in (
        r"(?P<year>\d{4})[-:/.]?(?:(?P<of_year>\d{3})|(?P<month>\d\d)[-:/.]?(?P<of_month>\d\d))",
        rf"(?P<of_month>\d\d)-{_MONTH}-(?P<year>\d{{4}})",
    )
)

# Names that agencies give; each has several dates, or one in a form of its own.
_PRODUCT_NAMES = tuple(
    re.compile(rf"(?<![a-z0-9]){pattern}", re.IGNORECASE)
    for pattern in (
        # Sentinel-2 until 2016: V is validity, the other time that of making.
        # https://sentinels.copernicus.eu/documents/247904/685211/Sentinel-2-Product-Specifications-Document
        rf"S2[A-D]_OPER_.*_V{_DAY}T{_CLOCK}",
        r"S2A_OPER_.*_A(?P<orbit>\d{6})_",
        # Sentinel-1 to 6, Sentinel-2 from 2016, BigEarthNet: sensing comes first.
        rf"S\d[A-DP][_-](?!OPER_).*?{_DAY_T_CLOCK}",
        # Earth Engine's names of Sentinel-2 scenes: sensing, then making.
        rf"{_DAY}T{_CLOCK}_\d{{8}}T\d{{6}}_T\d\d[A-Z]{{3}}",
        rf"(?:OPERA_|ENMAP\d).*?{_DAY_T_CLOCK}",  # then the time of processing
        rf"HLS\.[LS]30\.T\w{{5}}\.{_YEAR}(?P<of_year>\d{{3}})(?:T{_CLOCK})?",
        rf"(?:M[OYC]D|V[NJ][P\d])\w+\.A{_YEAR}(?P<of_year>\d{{3}})\.(?:{_HHMM}\.)?",
        # AppEEARS: MOD09GA.061_sur_refl_b01_1_doy2020001_aid0001.
        rf"(?:M[OYC]D|V[NJ][P\d])\w+\.\d{{3}}_\w+?_doy{_YEAR}(?P<of_year>\d{{3}})(?:\d{{6}})?_aid\d",
        # Sentinel-2 as Earth Engine calls it: sensing, then the time of making.
        rf"{_DAY_T_CLOCK}_\d{{8}}T\d{{6}}_T\d\d[A-Z]{{3}}(?![a-z0-9])",
        # Landsat: collections (and tiles of ARD), orders of ESPA, scene ids, NLAPS.
        # https://www.usgs.gov/landsat-missions/landsat-collection-2-level-1-data
        rf"L[COTEM]\d\d_(?:L\w{{3}}|[A-Z]{{2}})_\d{{6}}_{_DAY}",
        rf"L[COTEM]\d\d\d{{6}}{_DAY}\d\d(?:T1|T2|RT)",
        rf"L[COTEM]\d\d{{6}}{_YEAR}(?P<of_year>\d{{3}})[A-Z]{{3}}\d\d",
        rf"L[1-57]\d?\d{{6}}_\d{{3}}{_DAY}",
        rf"EO1[AH]\d{{6}}{_YEAR}(?P<of_year>\d{{3}})",
        # Maxar: 10DEC12181235-M2AS.
        rf"(?P<short>\d\d){_MONTH}(?P<of_month>\d\d){_CLOCK}-[A-Z]\d[A-Z]S",
        rf"(?:PHR1[AB]|SPOT\d|PNEO\d)\w*?_{_DAY}{_CLOCK}\d(?!\d)",
        rf"m_\d{{7}}_[ns][ew]_\d\d_\w+?_{_DAY}(?!\d)",  # NAIP; a second date is the publication's
        rf"AST(?:_\w+?|\d\w*)_\d{{3}}(?P<month>\d\d)(?P<of_month>\d\d){_YEAR}{_CLOCK}",
        rf"OR_ABI.*_s{_YEAR}(?P<of_year>\d{{3}}){_CLOCK}",
        # Planet: PlanetScope (with hundredths since 2020), SkySat.
        rf"{_DAY}_{_CLOCK}_(?:\d\d_[0-9a-f]{{4}}|[0-9a-f]{{4}}|ssc\d+(?:d\d)?)(?![a-z0-9])",
    )
)
_MADE_ALONE = re.compile(r"(?<![a-z0-9])S2[A-D]_OPER_", re.IGNORECASE)  # tells its making, else

# Days in any other name, and the clocks that may stand right behind one.
_DAYS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<!\d){_DAY}",
        rf"(?<!\d){_YEAR}(?P<sep>[-_.])(?P<month>\d\d)(?P=sep)(?P<of_month>\d\d)(?!\d)",
        rf"(?<![a-z0-9])(?P<of_month>\d\d?)[-_ ]?{_MONTH}[-_ ]?{_YEAR}(?!\d)",
        rf"(?<!\d){_YEAR}[-_ ]?{_MONTH}[-_ ]?(?P<of_month>\d\d)(?!\d)",
    )
)
_CLOCKS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"[T ](?P<hour>\d\d)(?P<sep>[-:_.]?)(?P<minute>\d\d)(?:(?P=sep)(?P<second>\d\d))?(?!\d)",
        # Names of BigEarthNet v1 drop the hour's leading zero (S2B_MSIL2A_20170924T93020_69_24).
        r"T(?P<hour>\d)(?P<minute>\d\d)(?P<second>\d\d)(?!\d)",
        r"(?P<hour>\d\d)(?P<minute>\d\d)(?:(?P<second>\d\d)\d{0,3})?(?!\d)",
        # Six digits that begin with 00 may well be a number of a tile.
        r"[-_.](?!00)(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d)(?:\d{3})?(?!\d)",
        r"[-_.](?P<hour>\d\d)(?P<sep>[-_:.])(?P<minute>\d\d)(?P=sep)(?P<second>\d\d)(?!\d)",
    )
)
# Words before a day (`export_20240101`), or behind one that begins a name (`2024-01-01_download`),
# that say what was done on it.
_DONE = (
    r"(?<![a-z])(?:exp(?:ort(?:s|ed|ing)?|eriment)?|down-?load(?:s|ed)?"
    r"|(?:re-?)?proc(?:ess(?:ed|ing)?)?|creat(?:ed|ion)|generat(?:ed|ion)|made|writ(?:ten|e)"
    r"|saved?|publi(?:shed|cation)|pub|updated?|deliver(?:ed|y)|order(?:s|ed)?|upload(?:s|ed)?"
    r"|modified|backup|cop(?:y|ied)|print(?:ed)?|scan(?:s|ned)?|archived?|render(?:ed)?"
    r"|produc(?:ed|tion)|ingest(?:ed)?|release(?:d)?|v(?:er(?:sion)?)?|dump|run|job|outputs?"
    r"|results?|pred(?:iction)?s?|batch)"
)
_DONE_WORD = re.compile(rf"{_DONE}(?![a-z])")
_LINK = r"(?:[^a-z0-9]*(?:on|at|of|the|date|time|day|from))*[^a-z0-9]*$"
_WRITTEN = re.compile(_DONE + _LINK)
_ACQUIRED = re.compile(
    r"(?<![a-z])(?:acq(?:uired|uisition)?|sens(?:ed|ing)|taken|captured?|shot|flown|flight"
    r"|obs(?:erved|ervation)?|recorded|survey(?:ed)?|datatake)" + _LINK
)
_WRITTEN_BEHIND = re.compile(
    r"[^a-z0-9]*(?:exports?|exported|downloads?|downloaded|backup|copy|delivery|uploads?|archive"
    r"|scans?|scanned|results?|outputs?)(?![a-z])"
)
_ONE_TAKE = timedelta(hours=1)  # what is longer than that is a period

# Relative orbit = (absolute + 2) mod 143 + 1, and R022 began the datatake of 2017-06-13T101031, so
# that was orbit 10315; 143 of them take ten days. Sentinel-2 User Handbook (ESA, 2015), 1.4.
_S2A_ORBIT, _S2A_NODE = 10315, datetime(2017, 6, 13, 9, 40, tzinfo=UTC)
_ORBIT = timedelta(days=10) / 143


@dataclass(frozen=True, slots=True)
class _Moment:
    """A time, or a day of which the time is not known (`exact` is false, `at` its midnight)."""

    at: datetime
    exact: bool


_NO_TIME = {"AREA_OR_POINT", "INTERLEAVE", "COLOR_SPACE"}  # tags that nearly every file has
# A year of four digits, or Maxar's 10DEC12: without either a name says no time. Most tiles' do not.
_MAY_BE_DATED = re.compile(r"(?:19|20)\d\d|\d\d[A-Za-z]{3}\d\d")


@dataclass(frozen=True, slots=True)
class _Dated:
    """A moment found in a name, and what the words around it say was done then."""

    moment: _Moment
    meant: Literal["acquired", "written", "unsaid"]


def acquisition_time(
    tags: Mapping[str, str], names: Iterable[str], folders: Iterable[str] = ()
) -> datetime | None:
    """Find the acquisition time in UTC, or None.

    What tags say goes before what names say, and names of known products before others; a day is
    made exact by what says its time. TIFFTAG_DATETIME, most often the time of writing, comes last
    and counts only where no program is named that wrote the file, and no word says so.

    Args:
        tags: The file's tags, any case. Times without a zone are taken as UTC.
        names: File and folder names to look in, the most telling first. Of a path only the last
            part is dated, but words before it count (`exports/20240101`).
        folders: Further names, of which only those of known products count.
    """
    known = {key.upper().rpartition("#")[2].replace(" ", "_"): tags[key] for key in tags}
    names = tuple(names)
    dated = tuple(filter(_MAY_BE_DATED.search, names))
    around = tuple(filter(_MAY_BE_DATED.search, folders))
    if not dated and not around and known.keys() <= _NO_TIME:
        return None
    found = [
        *_list_tagged(known),
        *_list_some(map(_find_in_product, (*dated, *around))),
        *_list_some([_find_in_names(dated)]),
        *_list_some([_find_written(known, names)]),
    ]
    if not found:
        return None
    first = found[0]
    same = (m.at for m in found if m.exact and m.at.date() == first.at.date())
    return first.at if first.exact else next(same, first.at)


def time_in_name(name: str) -> datetime | None:
    """Read when the image of this name was taken, as UTC; None where it does not say so.

    Knows names of products (their acquisition, not their processing), and any name with one date
    in it: `2020-02-23`, `20200223_103015`, `23FEB2020`. Of several dates, one that a word marks as
    the acquisition's is taken, and none that a word marks as an export's; starts and ends within
    an hour or a day are one.
    """
    found = _find_in_product(name) or _find_in_names([name])
    return None if found is None else found.at


def parse_time(text: str) -> datetime | None:
    """Read a date or time in ISO 8601 or a form like it (23-FEB-2020 too); without a zone it is UTC.

    Day of year (`2020-276T01:37:01`), EXIF's colons (`2019:01:31 09:00:00-07:00`), digits alone
    (`20200223103015`), any number of decimals, and the first of several (`…Z; …Z`).
    """
    moment = _parse(text)
    return None if moment is None else moment.at


def _list_some(found: Iterable[_Moment | None]) -> list[_Moment]:
    return [moment for moment in found if moment is not None]


def _list_tagged(tags: Mapping[str, str]) -> list[_Moment]:
    stated = [[tags[tag].strip(" \t\"'") for tag in pair if tag in tags]
              for pair in _ACQUISITION_TAGS if pair[0] in tags]  # fmt: skip
    found = [_parse(" ".join(values)) or _parse(values[0]) for values in stated]
    plausible = [moment for moment in _list_some(found) if _is_plausible(moment)]
    return [*plausible, *_list_some([_find_in_exif(tags)])]


def _is_plausible(moment: _Moment) -> bool:
    return moment.at.year >= _FIRST_YEAR and moment.at not in _UNSET


def _find_in_exif(tags: Mapping[str, str]) -> _Moment | None:
    """When a camera took the picture: by its own zone, else by GPS, else as if it were UTC."""
    makers = ("EXIF_SOFTWARE", "EXIF_MAKE", "EXIF_MODEL", "TIFFTAG_SOFTWARE")
    scanned = any(_SCANNER.search(tags.get(maker, "")) for maker in makers)
    original = _parse(tags.get("EXIF_DATETIMEORIGINAL", ""))
    if scanned or original is None or not _is_plausible(original):
        return None
    zone = tags.get("EXIF_OFFSETTIMEORIGINAL", "").strip()
    zoned = _parse(f"{tags['EXIF_DATETIMEORIGINAL'].strip()}{zone}") if zone else None
    return zoned or _find_by_gps(tags, original) or original


def _find_by_gps(tags: Mapping[str, str], original: _Moment) -> _Moment | None:
    """GPS's own time, which is UTC, if it can be that of a local time."""
    clock = re.findall(r"\d+", re.sub(r"\.\d+", "", tags.get("EXIF_GPSTIMESTAMP", "")))
    padded = ":".join(part.zfill(2) for part in clock)
    found = _parse(f"{tags.get('EXIF_GPSDATESTAMP', '').strip()} {padded}")
    near = found is not None and abs(found.at - original.at) <= _WIDEST_ZONE
    return found if near else None


def _find_written(tags: Mapping[str, str], names: Iterable[str]) -> _Moment | None:
    """The time of the file, where neither a program nor a word (`scan_01.tif`) says it was made."""
    programs = ("TIFFTAG_SOFTWARE", "TIFFTAG_HOSTCOMPUTER")
    if any(tags.get(program, "").strip() for program in programs):
        return None
    if any(_DONE_WORD.search(name.lower()) for name in names):
        return None
    found = _parse(tags.get("TIFFTAG_DATETIME", ""))
    return found if found is not None and _is_plausible(found) else None


@lru_cache(maxsize=4096)  # tiles of one folder ask again and again
def _find_in_product(name: str) -> _Moment | None:
    for pattern in _PRODUCT_NAMES:
        match = pattern.search(name)
        found = match and _read_moment(match.groupdict())
        if found:
            return found
    return None


def _find_in_names(names: Iterable[str]) -> _Moment | None:
    for name in names:
        dated = [] if _MADE_ALONE.search(name) else list(_list_dates(name))
        acquired = [one.moment for one in dated if one.meant == "acquired"]
        unsaid = [one.moment for one in dated if one.meant == "unsaid"]
        if acquired or unsaid:
            return _agree(acquired or unsaid)
    return None


def _agree(moments: list[_Moment]) -> _Moment | None:
    """The one moment that all tell: the start of a take, or the day; None if they contradict."""
    exact = sorted(moment.at for moment in moments if moment.exact)
    if len(exact) == len(moments) and exact[-1] - exact[0] <= _ONE_TAKE:
        return _Moment(exact[0], exact=True)
    days = {moment.at.date() for moment in moments}
    if len(days) > 1:
        return None
    if exact and exact[-1] - exact[0] <= _ONE_TAKE:
        return _Moment(exact[0], exact=True)
    midnight = moments[0].at.replace(hour=0, minute=0, second=0)
    return _Moment(midnight, exact=False)


def _list_dates(path: str) -> Iterator[_Dated]:
    """The dates in the last part of a path that can be."""
    first = path.rfind("/") + 1
    latest = datetime.now(UTC) + timedelta(days=1)
    for pattern in _DAYS:
        for match in pattern.finditer(path, first):
            moment = _read_with_clock(match)
            if moment is not None and moment.at <= latest:
                yield _Dated(moment, _read_words(path.lower(), first, match))


def _read_with_clock(day: re.Match[str]) -> _Moment | None:
    """Read a day and the clock right behind it; None if digits stand there that are no clock."""
    for pattern in _CLOCKS:
        clock = pattern.match(day.string, day.end())
        found = clock and _read_moment(day.groupdict() | clock.groupdict())
        if found:
            return found
    ends = not day.string[day.end() : day.end() + 1].isdigit()
    return _read_moment(day.groupdict()) if ends else None


def _read_words(
    path: str, first: int, day: re.Match[str]
) -> Literal["acquired", "written", "unsaid"]:
    before, behind = path[: day.start()], path[day.end() :]
    if _WRITTEN.search(before):
        return "written"
    if _ACQUIRED.search(before):
        return "acquired"
    begins = not re.search(r"[a-z0-9]", before[first:])
    return "written" if begins and _WRITTEN_BEHIND.match(behind) else "unsaid"


def _parse(text: str) -> _Moment | None:
    text = _SEVERAL.split(text.strip(" \t\"'"), maxsplit=1)[0]
    match = next(filter(None, (stamp.fullmatch(text) for stamp in _STAMPS)), None)
    found = match and _read_moment(match.groupdict())
    if match is None or found is None:
        return None
    fraction = timedelta(microseconds=int((match["fraction"] or "0").ljust(6, "0")[:6]))
    try:
        return _Moment(found.at + fraction - _read_zone(match["zone"]), found.exact)
    except OverflowError:  # a zone that leads out of years 1 to 9999
        return None


def _read_zone(text: str | None) -> timedelta:
    digits = (text or "").replace(":", "")
    if digits[:1] not in {"+", "-"}:
        return timedelta(0)
    ahead = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:] or 0))
    return -ahead if digits[0] == "-" else ahead


def _read_moment(groups: Mapping[str, str | None]) -> _Moment | None:
    """Put the groups of a pattern together; None where they are no day or no time of day."""
    if orbit := groups.get("orbit"):
        return _find_day_of_orbit(int(orbit))
    day = _read_day(groups)
    hour, minute = groups.get("hour"), groups.get("minute")
    if day is None or hour is None or minute is None:
        return None if day is None else _Moment(day, exact=False)
    # A real name says T94161, its metadata 09:41:56: seconds beyond the minute are cut to 59.
    second = int(groups.get("second") or 0)
    second = 59 if second in {60, 61} else second
    if int(hour) > 23 or int(minute) > 59 or second > 59:
        return None
    return _Moment(day + timedelta(hours=int(hour), minutes=int(minute), seconds=second), True)


def _read_day(groups: Mapping[str, str | None]) -> datetime | None:
    year = int(groups.get("year") or 2000 + int(groups.get("short") or 0))
    word = groups.get("word")
    month = _MONTHS.index(word[:3].lower()) + 1 if word else int(groups.get("month") or 1)
    of_year = groups.get("of_year")
    try:
        start = datetime(year, month, int(groups.get("of_month") or 1), tzinfo=UTC)
        day = start + timedelta(days=int(of_year) - 1) if of_year else start
    except (ValueError, OverflowError):
        return None
    return day if day.year == year else None  # day 366, or 0


def _find_day_of_orbit(orbit: int) -> _Moment | None:
    """The day on which Sentinel-2A flew an orbit; None for those that span midnight."""
    start = _S2A_NODE + (orbit - _S2A_ORBIT) * _ORBIT
    day = start.replace(hour=0, minute=0, second=0, microsecond=0)
    return _Moment(day, exact=False) if (start + _ORBIT).date() == start.date() else None
