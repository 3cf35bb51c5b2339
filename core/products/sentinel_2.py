"""What is known of a Sentinel-2 scene: its time, and the offset of its values.

Since baseline 04.00 of 25 January 2022 values are reflectance × 10,000 plus 1,000
(https://sentiwiki.copernicus.eu/web/s2-processing): which scenes have it is said by their XML, else
by names, by a mirror's tags, or by nothing.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from xml.etree.ElementTree import Element

from tilezoo.products.metadata import (
    find_text,
    parse_json,
    parse_xml,
    read_first,
    read_tags,
    to_number,
    to_time,
)
from tilezoo.products.product import Product, ProductBand

_MOST_ABOVE = 6  # folders above an image where metadata and telling names are looked for
_FIRST_BASELINE, _FIRST_DAY = 400, "20220125"
_OWN_BASELINE = 9000  # 99.99 is of those who process by themselves: their XML says, or nothing does
_BASELINE = re.compile(r"_N(\d{4})_R\d{3}_")
_OLD_FORMAT = re.compile(r"S2[A-D]_(?:OPER|USER)_PRD_MSI(L1C|L2A)_.*", re.IGNORECASE)
_GENERATED = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_.*_(\d{8})T\d{6}(?:\.SAFE)?(?:\.zip)?")
# Element 84's mirror names tile, day and number; its collection 1 tile and time
# (https://github.com/Element84/earth-search).
_MIRROR = re.compile(r"(S2[A-D]_\d{1,2}[A-Z]{3}_(\d{8})_\d+_L(?:1C|2A))(?:[_.-].*)?")
_MIRROR_C1 = re.compile(r"S2[A-D]_T\d\d[A-Z]{3}_\d{8}T\d{6}_L(?:1C|2A)(?:[_.-].*)?")
_OFFSETS = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
_QUANTITIES = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE")
_MSI = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
_Scaling = tuple[Mapping[str, tuple[float, float]], str]


def read_sentinel_2(
    product: Product, path: Path, bands: Mapping[str, ProductBand]
) -> tuple[datetime | None, Mapping[str, tuple[float, float]], str]:
    """Find a scene's time, its bands' scales and offsets, and what to tell of these.

    Args:
        product: L1C or L2A.
        path: One of the scene's files.
        bands: The scene's bands by name.

    Returns:
        Scale and offset lead from stored values to reflectance × 10,000; none where nothing says.
    """
    folders = tuple(path.parents)[:_MOST_ABOVE]
    root = next((r for folder in folders if (r := _open(folder)) is not None), None)
    start = find_text(root, "DATATAKE_SENSING_START"), find_text(root, "PRODUCT_START_TIME")
    time = to_time(*start) or _read_tile_time(folders)
    scales, told = _read_offsets(root, product, bands) or _infer_offsets(path, bands)
    return time, scales, told


def _open(folder: Path) -> Element | None:
    names = ["MTD_MSIL2A.xml", "MTD_MSIL1C.xml"]
    base = folder.name.removesuffix(".SAFE")
    if match := _OLD_FORMAT.fullmatch(base):
        names = [base.replace(f"PRD_MSI{match[1]}", f"MTD_SAF{match[1]}") + ".xml"]
    return parse_xml(read_first(*(folder / name for name in names)))


def _read_tile_time(folders: Iterable[Path]) -> datetime | None:
    tiles = (parse_xml(read_first(folder / "MTD_TL.xml")) for folder in folders)
    return to_time(*(find_text(tile, "SENSING_TIME") for tile in tiles))


def _read_offsets(
    root: Element | None, product: Product, bands: Mapping[str, ProductBand]
) -> _Scaling | None:
    """What the product's XML says: an offset for each band_id, none before baseline 04.00."""
    baseline = find_text(root, "PROCESSING_BASELINE")
    tag = next((tag for tag in _OFFSETS if find_text(root, tag)), None)
    if root is None or not (baseline or tag):  # it may be cut short
        return None
    factor = 10_000 / (to_number(find_text(root, *_QUANTITIES)) or 10_000)
    if tag is None:
        return dict.fromkeys(bands, (factor, 0.0)), ""
    offsets = _list_offsets(root, tag, product)
    found = {n: offsets[band.name] for n, band in bands.items() if band.name in offsets}
    why = f"processing baseline {baseline}" if baseline else "metadata"
    scales = {name: (factor, offset * factor) for name, offset in found.items()}
    return scales, _tell_offsets(found.values(), why, tag)


def _list_offsets(root: Element, tag: str, product: Product) -> dict[str, float]:
    """Band → offset; the XML says which band has which id, else it is their order."""
    spectra = root.iter("Spectral_Information")
    said = {each.get("bandId", ""): each.get("physicalBand", "") for each in spectra}
    ids = said if len(said) == len(_MSI) else {str(n): name for n, name in enumerate(_MSI)}
    bands = ((product.find_band(ids.get(e.get("band_id", ""), "")), e.text) for e in root.iter(tag))
    numbers = ((band, to_number(text)) for band, text in bands)
    return {band.name: offset for band, offset in numbers if band and offset is not None}


def _infer_offsets(path: Path, bands: Iterable[str]) -> _Scaling:
    """What names, tags and a mirror's own word say where the product's XML is not there."""
    names = [path.name, *(folder.name for folder in path.parents)][: _MOST_ABOVE + 1]
    for name in names:
        match = _BASELINE.search(name)
        if match and int(match[1]) < _OWN_BASELINE:
            why = f"processing baseline {match[1][:2]}.{match[1][2:]}"
            return _apply_offset(bands, int(match[1]) >= _FIRST_BASELINE, why, "by the name")
        generated = _GENERATED.fullmatch(name)
        if _OLD_FORMAT.fullmatch(name) or (generated and generated[1] < _FIRST_DAY):
            return _apply_offset(bands, False)
    return _read_tags(path, bands) or _ask_mirror(path, names, bands)


def _read_tags(path: Path, bands: Iterable[str]) -> _Scaling | None:
    """Scale and offset tags of GeoTIFFs: 0.0001 and -0.1 on mirrors; None where there are none."""
    scale, offset, _ = read_tags(path)
    if (scale, offset) == (1, 0) or not 0 < scale < 1:
        return None
    scales = dict.fromkeys(bands, (round(scale * 10_000, 6), round(offset * 10_000, 6)))
    return scales, _tell_offsets([offset * 10_000], "the files' tags", "scale and offset")


def _ask_mirror(path: Path, names: Iterable[str], bands: Iterable[str]) -> _Scaling:
    """Element 84's mirror: its collection 1 holds values as they were delivered, baseline 05.00 on.

    Its first collection had the offset subtracted from some time in 2022 on; what its items say of
    that is wrong for many scenes (https://github.com/Element84/earth-search/issues/71), unless they
    say that it was.
    """
    for name in names:
        if _MIRROR_C1.fullmatch(name):
            return _apply_offset(bands, True, "collection 1 of the mirror", "baseline 05.00 on")
        if match := _MIRROR.fullmatch(name):
            if match[2] < _FIRST_DAY or _says_applied(path.with_name(f"{match[1]}.json")):
                return _apply_offset(bands, False)
            return {}, "it is not known whether the mirror subtracted 1,000: values as they are"
    return {}, ""


def _says_applied(item: Path) -> bool:
    found = parse_json(read_first(item))
    properties = found.get("properties") if isinstance(found, dict) else None
    return isinstance(properties, dict) and any(
        properties.get(f"{prefix}:boa_offset_applied") is True
        for prefix in ("earthsearch", "sentinel")
    )


def _apply_offset(bands: Iterable[str], applies: bool, why: str = "", source: str = "") -> _Scaling:
    offset = -1000.0 if applies else 0.0
    return dict.fromkeys(bands, (1.0, offset)), _tell_offsets([offset], why, source)


def _tell_offsets(offsets: Iterable[float], why: str, source: str) -> str:
    amounts = sorted({-offset for offset in offsets if offset})
    if not amounts:
        return ""
    told = dict.fromkeys(f"{amount:,.0f}" for amount in (amounts[0], amounts[-1]))
    return f"{why}: {' to '.join(told)} subtracted ({source})"
