"""What metadata beside a scene's images say: time, scale and offset, the order of bands."""

import datetime as dt
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element

from tilezoo.products.metadata import (
    find_text,
    parse_groups,
    parse_json,
    parse_xml,
    pick,
    read_first,
    read_tags,
    to_number,
    to_time,
)
from tilezoo.products.product import Product, ProductBand
from tilezoo.products.sentinel_2 import read_sentinel_2

Scales = Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one scene beyond its product.

    Attributes:
        datetime: Acquisition, UTC; None where metadata do not say (a name may).
        scales: Band → scale and offset: stored value × scale + offset is the reflectance × 10,000.
            Bands that are not there stay as they are stored.
        stack: Names of the bands of a file that holds several, in its order, where metadata say
            it; a name is empty where it is not known what the band is.
        told: What is done to values and why, one phrase for people; empty for nothing.
    """

    datetime: dt.datetime | None = None
    scales: Scales = field(default_factory=dict)
    stack: tuple[str, ...] | None = None
    told: str = ""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One scene: its product, the first of its files (all lie alike), and its bands by name."""

    product: Product
    path: Path
    bands: Mapping[str, ProductBand]

    @property
    def stem(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def scene(self) -> str:
        """What the names of one scene's files have in common."""
        matches = (each.file_pattern.fullmatch(self.path.name) for each in self.product.layouts)
        scenes = (match.groupdict().get("scene") for match in matches if match)
        return next(filter(None, scenes), self.stem)

    def read(self, *names: str) -> bytes | None:
        """Read the first of some files beside this one."""
        return read_first(*(self.path.parent / name for name in names))

    def rescale(self, scale: float, offset: float) -> Scales:
        """One scale and offset for all bands that are reflectances."""
        return {name: (scale, offset) for name, band in self.bands.items() if band.rescaled}


def read_facts(product: Product, root: str, files: Mapping[str, str]) -> Facts:
    """Read what lies beside a scene; a product without metadata costs nothing.

    Args:
        product: What the scene is.
        root: The scene's folder, or its file; used where `files` is empty.
        files: Band → path; a file that holds all bands has an empty name. Paths may lead into a
            zip file (`/vsizip/…`).

    Returns:
        Facts, empty where nothing is found: damaged metadata are as good as none.
    """
    names = [name for name in files if name] or [band.name for band in product.bands]
    bands = {name: band for name in names if (band := product.find_band(name)) is not None}
    asked = _Asked(product=product, path=Path(next(iter(files.values()), root)), bands=bands)
    reader = _READERS.get(product.metadata or "")
    facts = Facts() if reader is None else reader(asked)
    if facts.scales or product.scale is None or product.offset is None:
        return facts
    return Facts(
        datetime=facts.datetime,
        scales=asked.rescale(product.scale, product.offset),
        stack=facts.stack,
        told=_tell_scale(product.scale, product.offset),
    )


def _tell_scale(scale: float, offset: float) -> str:
    if (scale, offset) == (1, 0):
        return ""
    sign = "−" if offset < 0 else "+"
    return f"reflectance × 10,000 is value × {scale:g} {sign} {abs(offset):,.0f}"


def _read_sentinel_2(asked: _Asked) -> Facts:
    time, scales, told = read_sentinel_2(asked.product, asked.path, asked.bands)
    return Facts(datetime=time, scales=scales, told=told)


def _read_landsat(asked: _Asked) -> Facts:
    """The MTL file, or for ESPA's files the XML file of the scene."""
    espa = asked.scene.removesuffix("_sr").removesuffix("_toa")
    endings = ("_MTL.json", "_MTL.txt", "_MTL.xml")
    groups = parse_groups(asked.read(*(f"{espa}{ending}" for ending in endings)))
    if not groups:
        root = parse_xml(asked.read(f"{espa}.xml"))
        day, hour = find_text(root, "acquisition_date"), find_text(root, "scene_center_time")
        return Facts(datetime=to_time(f"{day}T{hour}", day))
    said = {key: value for group in groups.values() for key, value in group.items()}
    day, hour = said.get("DATE_ACQUIRED", ""), said.get("SCENE_CENTER_TIME", "")
    scales, told = _read_rescaling(groups, said, asked)
    return Facts(datetime=to_time(f"{day}T{hour}", day), scales=scales, told=told)


def _read_rescaling(
    groups: Mapping[str, Mapping[str, str]], said: Mapping[str, str], asked: _Asked
) -> tuple[Scales, str]:
    """Multiplier and addend of each band; of level 1 divided by the sine of the sun's elevation.

    Source: https://www.usgs.gov/landsat-missions/using-usgs-landsat-level-1-data-product
    """
    if asked.product.scale is not None:
        group, sun = groups.get("LEVEL2_SURFACE_REFLECTANCE_PARAMETERS", {}), 90.0
    else:
        names = ("LEVEL1_RADIOMETRIC_RESCALING", "RADIOMETRIC_RESCALING")
        group = next((groups[name] for name in names if name in groups), {})
        sun = to_number(said.get("SUN_ELEVATION")) or 0.0
    if not 0 < sun <= 90:
        return {}, ""
    factor = 10_000 / math.sin(math.radians(sun))
    scales = {}
    for name, band in asked.bands.items():
        mult = to_number(group.get(f"REFLECTANCE_MULT_BAND_{band.number}"))
        add = to_number(group.get(f"REFLECTANCE_ADD_BAND_{band.number}"))
        if band.rescaled and mult is not None and add is not None:
            scales[name] = (mult * factor, add * factor)
    return scales, _tell_rescaling(scales, sun)


def _tell_rescaling(scales: Scales, sun: float) -> str:
    if not scales:
        return ""
    if sun == 90:  # one scale for all bands
        return _tell_scale(*(round(number, 9) for number in next(iter(scales.values()))))
    return f"top-of-atmosphere reflectance × 10,000 by the MTL file (sun at {sun:.1f}°)"


def _read_hls(asked: _Asked) -> Facts:
    """The time stands in the files' tags: of two scenes of Landsat, the first."""
    return Facts(datetime=to_time(*read_tags(asked.path)[2].get("SENSING_TIME", "").split(";")))


def _read_sentinel_1(asked: _Asked) -> Facts:
    """The product's manifest, else the annotation of the file's own name."""
    product = asked.path.parent.parent  # above measurement/
    annotation = product / "annotation" / f"{asked.stem}.xml"
    roots = (parse_xml(read_first(path)) for path in (product / "manifest.safe", annotation))
    return Facts(datetime=to_time(*(find_text(root, "startTime") for root in roots)))


def _read_cbers(asked: _Asked) -> Facts:
    """The XML of a band: of the image's time stamp the centre, else of its viewing."""
    plain = re.sub(r"_(?:LEFT|RIGHT)_", "_", asked.stem)
    root = parse_xml(asked.read(f"{asked.stem}.xml", f"{plain}.xml"))
    if root is None:
        return Facts()
    stamps = [e for tag in ("timeStamp", "viewing") for e in root.iter(tag)]
    texts = (find_text(stamp, tag) for stamp in stamps for tag in ("center", "begin"))
    return Facts(datetime=to_time(*texts))


def _read_planet(asked: _Asked) -> Facts:
    """The XML of the image or of the radiance it was made from, or the scene's JSON."""
    clip = "_clip" if asked.stem.endswith("_clip") else ""
    plain = asked.stem.removesuffix("_clip").replace("_harmonized", "")
    stems = dict.fromkeys((plain, plain.replace("_SR", "")))
    names = [f"{stem}_metadata{end}.xml" for stem in stems for end in dict.fromkeys((clip, ""))]
    item = re.sub(r"_(?:[13][AB]|(?:basic_|l1a_)*(?:analytic|pan\w+)(?:_dn)?)$", "", asked.scene)
    root = parse_xml(asked.read(*names))
    found = parse_json(asked.read(f"{item}_metadata.json", f"{item}.json"))
    acquired = pick(found, "properties", "acquired"), pick(found, "properties", "datetime")
    return Facts(datetime=to_time(find_text(root, "acquisitionDateTime"), *acquired))


def _read_dimap(asked: _Asked) -> Facts:
    """The DIM file of an image: time, and the order of bands (`Raster_Index_List`)."""
    plain = re.sub(r"_R\d+C\d+$", "", asked.stem)
    stems = dict.fromkeys((plain, re.sub(r"_(?:RGBN?|NED|P|FS)$", "", plain)))
    names = [re.sub(r"^IMG", "DIM", stem) for stem in stems]
    root = parse_xml(asked.read(*(name + end for name in names for end in (".XML", ".xml"))))
    if root is None:
        return Facts()
    day, hour = find_text(root, "IMAGING_DATE"), find_text(root, "IMAGING_TIME")
    return Facts(datetime=to_time(f"{day}T{hour}", day), stack=_find_indexes(root, asked))


def _find_indexes(root: Element, asked: _Asked) -> tuple[str, ...] | None:
    """The bands of the file, by its group of data files; where there is one group, by that."""
    groups = list(root.iter("Data_Files")) or [root]
    file = asked.path.name
    own = [g for g in groups if any(e.get("href") == file for e in g.iter("DATA_FILE_PATH"))]
    chosen = own or groups
    if len(chosen) != 1:
        return None
    found = {}
    for index in chosen[0].iter("Raster_Index"):
        band = asked.product.find_band(find_text(index, "BAND_ID"))
        found[find_text(index, "BAND_INDEX")] = band.name if band else ""
    places = [str(place) for place in range(1, len(found) + 1)]
    return tuple(found[p] for p in places) if found and set(places) == set(found) else None


# bandId → bands in the file's order (DigitalGlobe's "Imagery Support Data", bandId; of MS2, the
# other four of WorldView-2, documents and files disagree).
_MAXAR = {
    "P": ("pan",),
    "RGB": ("red", "green", "blue"),
    "NRG": ("nir1", "red", "green"),
    "BGRN": ("blue", "green", "red", "nir1"),
    "MS1": ("blue", "green", "red", "nir1"),
    "MS2": ("", "", "", ""),
}
_MAXAR_KEYS = ("FIRSTLINETIME", "EARLIESTACQTIME", "BANDID", "SATID")


def _read_maxar(asked: _Asked) -> Facts:
    """The .IMD file of an image, or the .XML file, which says the same."""
    groups = parse_groups(asked.read(f"{asked.stem}.IMD", f"{asked.stem}.imd"))
    if not groups:
        root = parse_xml(asked.read(f"{asked.stem}.XML", f"{asked.stem}.xml"))
        imd = None if root is None else next(root.iter("IMD"), None)
        listed = [] if imd is None else [element.tag for element in imd]
        said = {key: find_text(imd, key) for key in _MAXAR_KEYS}
    else:
        listed = [key.removeprefix("GROUP ") for key in groups.get("", {})]
        said = {key: value for group in groups.values() for key, value in group.items()}
    time = to_time(said.get("FIRSTLINETIME", ""), said.get("EARLIESTACQTIME", ""))
    bands = [name.removeprefix("BAND_") for name in listed if name.startswith("BAND_")]
    return Facts(datetime=time, stack=_order_maxar(said, bands, asked.product))


def _order_maxar(
    said: Mapping[str, str], bands: list[str], product: Product
) -> tuple[str, ...] | None:
    """The order of bands; `Multi` is all bands, as they are listed."""
    order = _MAXAR.get(said.get("BANDID", ""))
    if order is not None or not bands:
        return order
    if said.get("SATID") == "WV04":  # documents and files disagree
        return ("",) * len(bands)
    return tuple(band.name if (band := product.find_band(name)) else "" for name in bands)


def _read_umbra(asked: _Asked) -> Facts:
    meta = parse_json(asked.read(f"{asked.scene}_METADATA.json"))
    items = (f"{asked.scene}.stac.v2.json", f"{asked.scene}.stac.json")
    item = parse_json(asked.read(*items))
    start = pick(meta, "collects", 0, "startAtUTC")
    return Facts(datetime=to_time(start, pick(item, "properties", "datetime")))


def _read_capella(asked: _Asked) -> Facts:
    extended = parse_json(asked.read(f"{asked.stem}_extended.json"))
    item = parse_json(asked.read(f"{asked.stem}.json"))
    texts = [pick(item, "properties", key) for key in ("start_datetime", "datetime")]
    return Facts(datetime=to_time(pick(extended, "collect", "start_timestamp"), *texts))


_READERS = {
    "sentinel-1": _read_sentinel_1,
    "sentinel-2": _read_sentinel_2,
    "landsat": _read_landsat,
    "hls": _read_hls,
    "cbers": _read_cbers,
    "planet": _read_planet,
    "dimap": _read_dimap,
    "maxar": _read_maxar,
    "umbra": _read_umbra,
    "capella": _read_capella,
}
