"""The table of products, and what metadata beside scenes say."""

import json
import os
import runpy
import shutil
import sys
import tomllib
import zipfile
from dataclasses import fields
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import rasterio
import scenes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilezoo.products.facts import Facts, read_facts
from tilezoo.products.metadata import find_text, parse_groups, parse_json, parse_xml, read_first
from tilezoo.products.product import Layout, Product, ProductBand, find_product, products

ROOT = Path(__file__).parent.parent
ENTRIES = tomllib.loads(files("tilezoo.products").joinpath("products.toml").read_text("utf-8"))
# Scenes whose metadata say no time: their names do.
TIMED_BY_NAME = {
    "bigearthnet-s2", "bigearthnet-s2: v1", "bigearthnet-s1", "sentinel-2-l2a: mirror",
    "sentinel-2-l2a: mirror, collection 1", "sentinel-2", "sentinel-1-rtc",
    "landsat-8-9-l1: old id, no MTL", "hls-s30: no tags", "naip", "naip: RGB",
    "maxar: four bands, no IMD", "maxar-ard", "maxar-visual", "modis-sr",
}  # fmt: skip
# The same physical bands in all of an instrument's products (agencies' handbooks; micrometres).
MSI = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "B8A": "nir08", "B11": "swir16",
       "B12": "swir22"}  # fmt: skip
TM = {1: "blue", 2: "green", 3: "red", 4: "nir08", 5: "swir16", 7: "swir22"}
OLI = {1: "coastal", 2: "blue", 3: "green", 4: "red", 5: "nir08", 6: "swir16", 7: "swir22"}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, scenes.Written]:
    """One scene of each kind, for tests that only read them."""
    root = tmp_path_factory.mktemp("scenes")
    kinds = enumerate(scenes.SCENES)
    return {name: scenes.write_scene(name, root / str(place)) for place, name in kinds}


def images(scene: scenes.Written) -> list[Path]:
    """A scene's image files, side files too."""
    paths = [scene.path] if scene.path.is_file() else sorted(scene.path.rglob("*"))
    return [p for p in paths if p.suffix.lower() in {".tif", ".tiff", ".jp2"}]


def bands_of(product: Product, path: Path) -> tuple[str, ...] | None:
    """The band of a file of one band, all of one that holds several; None for no file of it."""
    for layout in product.layouts:
        folder = layout.folder_pattern
        if folder is not None and not any(folder.fullmatch(up.name) for up in path.parents):
            continue
        match = layout.file_pattern.fullmatch(path.name)
        if match is None:
            continue
        if "band" not in match.groupdict():
            return tuple(band.name for band in product.bands)
        band = product.find_band(match["band"])
        if band is not None:
            return (band.name,)
    return None


def facts_of(scene: scenes.Written) -> Facts:
    product = find_product(scene.product)
    by_band = {}
    for path in images(scene):
        for name in bands_of(product, path) or ():
            if name in scene.stored:
                by_band.setdefault(name, str(path))
    return read_facts(product, str(scene.path), by_band)


# --- the table ------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ENTRIES["product"], ids=lambda entry: entry["key"])
def test_an_entry_has_no_key_that_is_not_known(entry):
    assert set(entry) <= {field.name for field in fields(Product)}
    for kind, key in ((Layout, "layouts"), (ProductBand, "bands")):
        known = {field.name for field in fields(kind)}
        assert all(set(each) <= known for each in entry[key])


@pytest.mark.parametrize("product", products(), ids=lambda product: product.key)
def test_an_entry_is_consistent(product):
    for layout in product.layouts:
        assert set(layout.file_pattern.groupindex) <= {"band", "scene", "more", "gsd"}
        assert layout.folder_pattern or not layout.container
        assert layout.file_pattern.fullmatch(Path(layout.example).name), layout.example
        folders = [up.name for up in Path(layout.example).parents]
        assert not layout.folder or any(map(layout.folder_pattern.fullmatch, folders))
        assert bool(product.stacks) != ("band" in layout.file_pattern.groupindex)
    assert product.beside_pattern.fullmatch("") is None
    assert all(product.beside_pattern.fullmatch(name) for name in product.side_files)
    assert bool(product.side_files) == (
        "beside" in {e["key"]: e for e in ENTRIES["product"]}[product.key]
    )
    names = [
        name
        for band in product.bands
        for name in {word.lower() for word in (band.name, band.common, *band.aliases) if word}
    ]
    assert len(names) == len(set(names)), "a name means two bands"
    numbers = [band.number for band in product.bands if band.number is not None]
    assert len(numbers) == len(set(numbers)), "a number means two bands"
    assert len({len(stack) for stack in product.stacks}) == len(product.stacks)
    for stack in product.stacks:
        assert all(
            band.name == name for band, name in zip(product.stack(len(stack)), stack, strict=True)
        )
    assert product.sources
    assert all(source.startswith(("https://", "http://")) for source in product.sources)
    assert (product.scale is None) == (product.offset is None)


def test_keys_and_titles_are_unique():
    assert len({product.key for product in products()}) == len(products())
    assert len({product.title for product in products()}) == len(products())


def test_bands_of_one_instrument_mean_the_same_in_all_its_products():
    for key in ("bigearthnet-s2", "sentinel-2-l2a", "sentinel-2-l1c", "sentinel-2", "hls-s30"):
        assert {n: find_product(key).find_band(n).common for n in MSI} == MSI
    for key in ("landsat-8-9-c2-l2", "landsat-8-9-c1-l2", "landsat-8-9-l1", "hls-l30"):
        by_number = {b.number: b.common for b in find_product(key).bands}
        assert {n: by_number[n] for n in OLI} == OLI
    for key in ("landsat-4-7-c2-l2", "landsat-4-7-c1-l2", "landsat-7-l1", "landsat-4-5-l1"):
        by_number = {b.number: b.common for b in find_product(key).bands}
        assert {n: by_number[n] for n in TM} == TM


# Red, green and blue, written down a second time from agencies' documents: names, and places in
# files of so many bands.
RED_GREEN_BLUE = {
    "cbers-mux": "BAND7 BAND6 BAND5", "cbers-wfi": "BAND15 BAND14 BAND13",
    "cbers-wpm": "BAND3 BAND2 BAND1", "modis-sr": "sur_refl_b01 sur_refl_b04 sur_refl_b03",
}  # fmt: skip
PLACES = {
    ("naip", 3): (1, 2, 3), ("naip", 4): (1, 2, 3),
    ("planetscope-sr", 4): (3, 2, 1), ("planetscope-sr", 8): (6, 4, 2),
    ("planetscope", 3): (1, 2, 3), ("planetscope", 4): (3, 2, 1), ("planetscope", 8): (6, 4, 2),
    ("planetscope-visual", 3): (1, 2, 3), ("skysat-visual", 3): (1, 2, 3),
    ("skysat-sr", 4): (3, 2, 1), ("skysat", 4): (3, 2, 1),
    ("pleiades", 3): (1, 2, 3), ("pleiades", 4): (1, 2, 3), ("spot-6-7", 3): (1, 2, 3),
    ("spot-6-7", 4): (1, 2, 3), ("pleiades-neo", 3): (1, 2, 3), ("pleiades-neo", 4): (1, 2, 3),
    ("pleiades-neo", 6): (1, 2, 3), ("maxar", 4): (3, 2, 1), ("maxar", 8): (5, 3, 2),
    ("maxar-ard", 4): (3, 2, 1), ("maxar-ard", 8): (5, 3, 2), ("maxar-visual", 3): (1, 2, 3),
}  # fmt: skip


def test_red_green_and_blue_are_where_documents_say():
    for key, names in RED_GREEN_BLUE.items():
        common = [find_product(key).find_band(name).common for name in names.split()]
        assert common == ["red", "green", "blue"], key
    found = {}
    for product in products():
        for names in product.stacks:
            common = [product.find_band(name).common for name in names]
            if {"red", "green", "blue"} <= set(common):
                places = (common.index(colour) + 1 for colour in ("red", "green", "blue"))
                found[product.key, len(names)] = tuple(places)
    assert found == PLACES
    pan = find_product("cbers-pan")
    assert [band.common for band in pan.bands] == ["pan", "green", "red", "nir"]
    mss = {key: [b.common for b in find_product(key).bands][:2]
           for key in ("landsat-4-5-mss", "landsat-1-3-mss")}  # fmt: skip
    assert set(map(tuple, mss.values())) == {("green", "red")}


def test_every_product_has_a_scene_here():
    assert {name.partition(":")[0] for name in scenes.SCENES} == {p.key for p in products()}


def test_the_page_about_imagery_says_what_the_table_says():
    page = runpy.run_path(str(ROOT / "docs" / "imagery.py"), run_name="imagery")["render"]()
    assert (ROOT / "docs" / "imagery.md").read_text("utf-8") == page, "run `make cards`"


@pytest.mark.parametrize("name", scenes.SCENES)
def test_a_file_of_a_scene_is_one_of_its_bands_or_is_passed_over(written, name):
    scene = written[name]
    own = find_product(scene.product)
    found = set()
    for path in images(scene):
        first = next((p for p in products() if bands_of(p, path)), None)
        if first is None:
            assert own.beside_pattern.fullmatch(path.name), path.name
        else:
            assert first.key == own.key, path.name
            found |= set(bands_of(own, path))
    assert set(scene.stored) <= found


@pytest.mark.parametrize("name", [
    "scene.tif", "B04.tif", "ortho_B4.tif", "tile_A1.tif", "red.tif", "LC08.tif", "image_band4.tif",
    "T32TQM.tif", "m_1.tif", "IMG_0001.JPG", "IMG_20200101_101010.jpg", "export_20200101_SR_B4.tif",
    "IMG_PHR1A_PMS-X_202108151541301_ORT_5881313101_R1C1.TIF",  # false colours: the order varies
    "18OCT02025047-A1BS-502541534010_01_P003.TIF",  # WorldView-3's short-wave bands
    "2023-05-06-08-05-24_UMBRA-05_CSI.tif", "CAPELLA_C02_SM_SLC_HH_20201126192221_20201126192225.tif",
])  # fmt: skip
def test_a_name_that_settles_nothing_is_no_product(name):
    assert all(bands_of(product, Path("/data/some") / name) is None for product in products())


# --- facts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", scenes.SCENES)
def test_facts_lead_from_stored_values_to_the_ground(written, name):
    scene = written[name]
    facts = facts_of(scene)
    for band, stored in scene.stored.items():
        scale, offset = facts.scales.get(band, (1.0, 0.0))
        assert np.allclose(stored * float(scale) + offset, scene.values[band], atol=1e-6), band


@pytest.mark.parametrize("name", scenes.SCENES)
def test_the_time_is_that_of_the_acquisition(written, name):
    time = facts_of(written[name]).datetime
    assert (time is None) == (name in TIMED_BY_NAME)
    assert time is None or time.replace(microsecond=0) == written[name].time


@pytest.mark.parametrize(("name", "stack"), [
    ("pleiades-neo", ("red", "green", "blue", "nir")),
    ("pleiades-neo-ned", ("nir", "rededge", "deepblue")),
    ("maxar", ("coastal", "blue", "green", "yellow", "red", "rededge", "nir1", "nir2")),
    ("maxar: natural colours", ("red", "green", "blue")),
    ("maxar: infrared colours", ("nir1", "red", "green")),
    ("maxar: four bands, no IMD", None),
    ("pleiades", None),
])  # fmt: skip
def test_the_order_of_bands_is_that_of_the_metadata(written, name, stack):
    assert facts_of(written[name]).stack == stack


SAFE = "S2A_MSIL2A_20220414T110751_{}_R108_T26EMU_{}T165533.SAFE"


@pytest.mark.parametrize(("folder", "offset"), [
    (SAFE.format("N0400", "20220414"), -1000),
    (SAFE.format("N0511", "20240414"), -1000),
    (SAFE.format("N0301", "20220115"), 0),
    (SAFE.format("N0214", "20230414"), 0),
    (SAFE.format("N9999", "20230414"), None),  # somebody's own processing
    (SAFE.format("N0400", "20220414").replace("_N0400", ""), None),
    (SAFE.format("N0400", "20200414").replace("_N0400", ""), 0),
    ("S2A_26EMU_20211220_0_L2A", 0),
    ("S2A_26EMU_20220420_0_L2A", None),  # the mirror subtracted it for some scenes only
    ("S2A_T26EMU_20180420T110751_L2A", -1000),
])  # fmt: skip
def test_the_offset_of_sentinel_2_is_inferred_where_its_xml_is_not_there(tmp_path, folder, offset):
    path = tmp_path / folder / "B04.tif"
    facts = read_facts(find_product("sentinel-2-l2a"), str(path.parent), {"B04": str(path)})
    assert facts.scales == ({} if offset is None else {"B04": (1.0, float(offset))})
    assert ("1,000 subtracted" in facts.told) == (offset == -1000)


def test_a_file_s_own_tags_go_before_a_mirror_s_name(tmp_path):
    scene = scenes.write_scene("sentinel-2-l2a: mirror", tmp_path)
    path = scene.path.rename(tmp_path / "S2A_26EMU_20220420_0_L2A") / "B04.tif"
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.0001,), (-0.1,)
    facts = read_facts(find_product("sentinel-2-l2a"), str(path.parent), {"B04": str(path)})
    assert facts.scales == {"B04": (1.0, -1000.0)}


@pytest.mark.parametrize(("said", "scales"), [(True, {"B04": (1.0, 0.0)}), (False, {})])
def test_a_mirror_is_believed_where_it_says_that_it_subtracted(tmp_path, said, scales):
    item = tmp_path / "S2A_26EMU_20220420_0_L2A" / "S2A_26EMU_20220420_0_L2A.json"
    item.parent.mkdir()
    item.write_text(f'{{"properties": {{"earthsearch:boa_offset_applied": {str(said).lower()}}}}}')
    files = {"B04": str(item.with_name("B04.tif"))}
    facts = read_facts(find_product("sentinel-2-l2a"), str(item.parent), files)
    assert facts.scales == scales
    assert bool(facts.told) is not said


def test_offsets_may_differ_by_band(written, tmp_path):
    safe = shutil.copytree(
        written["sentinel-2-l2a"].path, tmp_path / written["sentinel-2-l2a"].path.name
    )
    xml = safe / "MTD_MSIL2A.xml"
    xml.write_text(xml.read_text().replace('band_id="8">-1000', 'band_id="8">-500'))
    files = {b: str(safe / "GRANULE" / "g" / "IMG_DATA" / f"{b}.jp2") for b in ("B04", "B8A")}
    facts = read_facts(find_product("sentinel-2-l2a"), str(safe), files)
    assert facts.scales == {"B04": (1.0, -1000.0), "B8A": (1.0, -500.0)}
    assert "500 to 1,000 subtracted" in facts.told


def test_landsat_s_metadata_are_one_in_all_three_forms(written):
    scene = written["landsat-8-9-l1"]
    text = next(scene.path.glob("*_MTL.txt")).read_text()
    groups = parse_groups(text.encode())
    xml = "".join(
        scenes.element(group, *(scenes.element(k, v) for k, v in keys.items() if " " not in k))
        for group, keys in groups.items() if group
    )  # fmt: skip
    kept = {group: keys for group, keys in groups.items() if group}
    for data in (json.dumps({"LANDSAT_METADATA_FILE": kept}), scenes.element("M", xml)):
        read = parse_groups(data.encode())
        assert {group: read[group] for group in kept} == kept


def test_a_sun_below_the_horizon_scales_nothing(written, tmp_path):
    scene = written["landsat-8-9-l1"]
    folder = shutil.copytree(scene.path, tmp_path / scene.path.name)
    mtl = next(folder.glob("*_MTL.txt"))
    mtl.write_text(mtl.read_text().replace("SUN_ELEVATION = 45.0", "SUN_ELEVATION = -8.1"))
    files = {"B4": str(folder / f"{folder.name}_B4.TIF")}
    facts = read_facts(find_product(scene.product), str(folder), files)
    assert facts.scales == {}
    assert facts.datetime is not None


def test_metadata_are_read_inside_a_zip_file(written, tmp_path):
    safe = written["sentinel-2-l2a"].path
    archive = tmp_path / f"{safe.name}.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (path for path in safe.rglob("*") if path.is_file()):
            file.write(path, path.relative_to(safe.parent))
    inner = next(safe.rglob("*_B04_10m.jp2")).relative_to(safe.parent)
    facts = read_facts(
        find_product("sentinel-2-l2a"), str(archive), {"B04": f"/vsizip/{archive}/{inner}"}
    )
    assert facts.datetime == datetime(2022, 4, 14, 11, 7, 51, 24_000, tzinfo=UTC)
    assert facts.scales == {"B04": (1.0, -1000.0)}


def test_a_product_without_metadata_costs_no_reading(monkeypatch):
    monkeypatch.setattr("tilezoo.products.facts.read_first", None)
    assert read_facts(find_product("naip"), "m.tif", {"": "m.tif"}) == Facts()


# --- damaged and hostile metadata -----------------------------------------------------------------

METADATA = {".xml", ".json", ".txt", ".imd", ".safe"}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_metadata_are_as_good_as_none(written, data):
    name = data.draw(st.sampled_from(sorted(set(scenes.SCENES) - TIMED_BY_NAME)))
    found = [p for p in written[name].path.rglob("*") if p.suffix.lower() in METADATA]
    if not found:
        return
    path = data.draw(st.sampled_from(sorted(found)))
    whole = path.read_bytes()
    cut, junk = data.draw(st.integers(0, len(whole))), data.draw(st.binary(max_size=40))
    keep = data.draw(st.sampled_from([whole[cut:], b"", whole[cut + 1 :]]))
    try:
        path.write_bytes(whole[:cut] + junk + keep)
        facts = facts_of(written[name])
    finally:
        path.write_bytes(whole)
    assert all(np.isfinite(number) for scale in facts.scales.values() for number in scale)


@given(text=st.text(max_size=200), value=st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
))  # fmt: skip
def test_readers_of_text_take_anything(text, value):
    assert parse_groups(text.encode("utf-8", "replace")) is not None
    assert parse_groups(json.dumps(value).encode()) is not None
    root = parse_xml(text.encode("utf-8", "replace"))
    assert root is None or find_text(root, "no such tag") == ""


@pytest.mark.parametrize("data", [
    b'<!DOCTYPE a [<!ENTITY b "cc"><!ENTITY d "&b;&b;&b;">]><a>&d;</a>',
    b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
    b'<?xml version="1.0" encoding="UTF-16"?><a/>',
    b'<?xml version="1.0" encoding="no-such"?><a/>',
    b"<a>" * 200 + b"</a>" * 200,
    b"<a><b></a>", b"", b"\xff\xfe<", b"plain",
])  # fmt: skip
def test_xml_with_a_document_type_or_damage_tells_nothing(data):
    assert parse_xml(data) is None


def test_json_without_end_tells_nothing():
    assert parse_json(b"[" * 100_000) is None
    assert parse_groups(b'{"a":' * 100_000) == {}


def test_a_metadata_file_that_is_too_large_or_no_file_is_not_read(tmp_path):
    large = tmp_path / "large.xml"
    with large.open("wb") as file:
        file.truncate((8 << 20) + 1)
    pipe = tmp_path / "pipe.xml"
    if sys.platform != "win32":
        os.mkfifo(pipe)
    small = tmp_path / "small.xml"
    small.write_bytes(b"<a/>")
    assert read_first(large, pipe, tmp_path, tmp_path / "none.xml") is None
    assert read_first(large, pipe, small) == b"<a/>"
