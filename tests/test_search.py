"""Search: by row, by place, by image; answers as values, files and pictures."""

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import making
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import tables
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tilezoo.embed import embed
from tilezoo.errors import (
    OptionError,
    SourceError,
    SpaceError,
    TileError,
    TilezooError,
    VectorIndexError,
)
from tilezoo.options import options_of
from tilezoo.search import build_index, search
from tilezoo.search import index as indexing_module
from tilezoo.search.options import SearchOptions
from tilezoo.search.page import write_page, write_sheet


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "tiles"
    making.write_tiles(folder, 12)
    return folder


@pytest.fixture(scope="module")
def table(tiles, vit) -> Path:
    out = tiles.parent / "table"
    embed(tiles, out=out, model=vit, precision="fp32")
    build_index(out)
    return out


@pytest.fixture(scope="module")
def globe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors that follow their longitude, at places all around the equator."""
    lon = np.arange(-179.5, 180, 1.0)
    vectors = np.stack([np.cos(np.radians(lon)), np.sin(np.radians(lon))], axis=1)
    lonlat = np.stack([lon, np.zeros_like(lon)], axis=1)
    path = tmp_path_factory.mktemp("globe") / "table"
    return tables.write_table(path, vectors.astype(np.float32), lonlat=lonlat)


def test_a_row_finds_its_neighbours_and_not_itself(globe):
    answers = search(globe, "tile_000100", k=4)
    assert answers.query.row == 100
    assert {hit.row for hit in answers.hits} == {98, 99, 101, 102}
    cosine = np.cos(np.radians([1, 1, 2, 2]))
    np.testing.assert_allclose([hit.score for hit in answers.hits], cosine, atol=1e-6)


def test_a_place_means_the_tile_that_holds_it(globe):
    assert search(globe, at="-79.52,0.03", k=1).query.row == 100


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of 0.1° on both sides of the antimeridian and across it, at a pole and at Greenwich."""
    lonlat = np.array([[179.85, 0], [180, 0], [-179.85, 0], [0, 0], [30, 89.95], [0, -60.0]])
    path = tmp_path_factory.mktemp("edges") / "table"
    return tables.write_table(path, np.eye(len(lonlat), dtype=np.float32), lonlat=lonlat)


@pytest.mark.parametrize(
    ("at", "row"),
    [
        ("180,0", 1), ("-180,0.04", 1), ("179.98,0", 1), ("-179.96,0", 1), ("179.86,0", 0),
        ("-179.86,0", 2), ("30,90", 4), ("-120,90", 4),
    ],
)  # fmt: skip
def test_a_place_is_found_on_both_edges_of_a_map(edges, at, row):
    assert search(edges, at=at, k=1).query.row == row


@pytest.mark.parametrize(
    ("at", "row", "km"),
    [("180,1", 1, 111), ("-179.99,-0.5", 1, 56), ("-179.7,0.1", 2, 20), ("-150,89.9", 4, 17),
     ("0,-90", 5, 3336), ("1,0", 3, 111)],
)  # fmt: skip
def test_the_nearest_tile_is_not_on_the_other_side_of_the_globe(edges, at, row, km):
    with pytest.raises(SourceError, match=rf"the nearest is tile_00000{row}, {km} km off"):
        search(edges, at=at)


def test_hits_across_the_antimeridian_lie_there_and_their_map_is_narrow(tmp_path):
    rows = np.array([[179.85, 0], [180, 0], [-179.85, 0]])
    fiji = tables.write_table(tmp_path / "fiji", np.eye(3, dtype=np.float32), lonlat=rows)
    answers = search(fiji, "tile_000000", k=2)
    assert {abs(round(hit.lon, 2)) for hit in answers.hits} == {180.0, 179.85}
    write_page(tmp_path / "a.html", [answers], "Fiji")
    page = (tmp_path / "a.html").read_text()
    degrees = re.search(r'<g class="degrees">(.*?)</g>', page, re.DOTALL)[1]
    assert {"179.9°E", "180°E", "179.9°W"} <= set(re.findall(r"[\d.]+°[EW]", degrees))


def test_a_place_in_no_tile_is_told_with_the_nearest(globe):
    with pytest.raises(SourceError, match=r"lies in no tile; the nearest is tile_000100, 111 km"):
        search(globe, at="-79.5,1.0")


@pytest.mark.parametrize("at", ["91", "a,b", "200,0", "0,95", "nan,1", "1,2,3"])
def test_a_place_that_is_none_is_refused(globe, at):
    with pytest.raises(OptionError, match="--at"):
        search(globe, at=at)


def test_a_table_without_places_cannot_be_asked_by_place(tmp_path):
    path = tables.write_table(tmp_path / "t", tables.clustered(20))
    with pytest.raises(SourceError, match="no tile has a place"):
        search(path, at="1,2")


def test_an_image_is_embedded_as_the_table_was(table, tiles):
    answers = search(table, str(tiles / "tile_0007.tif"), k=3)
    assert answers.image is not None
    assert answers.hits[0].id == "tile_0007.tif"
    assert answers.hits[0].score == pytest.approx(1, abs=1e-5)


def test_an_image_of_the_wrong_kind_is_told(table, tmp_path):
    wrong = making.write_tiff(tmp_path / "q.tif", making.texture(1, dtype="uint16", high=3000))
    with pytest.raises(TileError, match="takes red,green,blue"):
        search(table, str(wrong))


def test_the_model_is_found_again_by_its_space(table, tiles, tmp_path):
    moved = tmp_path / "moved"
    other = making.write_vit(tmp_path / "other", seed=5)
    shutil.copytree(table, moved)
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["model"]["source"] = str(other)
    (moved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SpaceError, match="weights_sha256 differ"):
        search(moved, str(tiles / "tile_0001.tif"))
    manifest["model"] = {"name": "gone", "source": str(tmp_path / "gone")}
    (moved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SpaceError, match="cannot be loaded"):
        search(moved, str(tiles / "tile_0001.tif"))
    assert search(moved, "tile_0001.tif").hits  # a row needs no model


def test_an_unknown_row_gets_near_names(table):
    with pytest.raises(SourceError, match=r"did you mean tile_00\d\d\.tif"):
        search(table, "tile_03.tif")


TILE_IDS = st.integers(0, 359).map("tile_{:06d}".format)


@settings(max_examples=15, deadline=None)
@given(tile=TILE_IDS, place=st.integers(0, 10), edit=st.sampled_from(["", "x", "77", None]))
def test_a_mistyped_row_is_among_the_near_names_and_never_its_own(globe, tile, place, edit):
    wrong = tile[:place] + (tile[place + 1 :] if edit is None else edit + tile[place:])
    if wrong == tile:
        assert search(globe, wrong, k=1).query.id == tile
        return
    with pytest.raises(SourceError, match="no such row") as told:
        search(globe, wrong, k=1)
    near = re.findall(r"tile_\d{6}(?=\?| or )", str(told.value).partition("did you mean ")[2])
    assert near
    assert wrong not in near
    if edit == "x":
        assert tile in near


def test_a_row_is_found_however_its_accents_are_written(tmp_path):
    ids = [unicodedata.normalize(form, "Zürich.tif") for form in ("NFC", "NFD")]
    for stored, asked in (ids, ids[::-1]):
        table = tables.write_table(
            tmp_path / str(len(stored)), tables.clustered(3), ids=["a", stored, "c"]
        )
        assert search(table, asked).query.row == 1
        assert search(table, f" {asked} ").query.row == 1


def test_a_search_by_id_or_place_reads_the_vectors_of_one_row(tmp_path):
    """All others' bytes may be anything."""
    lonlat = np.array([[float(n), 0.0] for n in range(-60, 60)])
    table = tables.write_table(tmp_path / "t", tables.clustered(120), lonlat=lonlat, part_rows=40)
    build_index(table)
    before = [search(table, "tile_000055", k=3), search(table, at="-5,0", k=3)]
    for number in (0, 2):
        path = table / f"part-0000{number}.parquet"
        content = bytearray(path.read_bytes())
        chunk = pq.read_metadata(path).row_group(0).column(1)
        end = chunk.data_page_offset + chunk.total_compressed_size
        content[chunk.data_page_offset : end] = bytes(chunk.total_compressed_size)
        path.write_bytes(content)
    assert [search(table, "tile_000055", k=3), search(table, at="-5,0", k=3)] == before


def test_a_search_by_id_loads_no_more_than_it_needs(tmp_path):
    table = tables.write_table(tmp_path / "t", tables.clustered(20))
    build_index(table)
    code = (
        "import sys; from tilezoo.search import search\n"
        "table = sys.argv[1]; search(table, 'tile_000003')\n"
        "heavy = ('torch', 'pandas', 'rasterio', 'shapely', 'pyproj')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(table)], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_search_tells_how_long_all_of_it_took(globe, run):
    took = search(globe, "tile_000003").took
    assert 0 < took.index_s < took.whole_s
    told = re.search(
        r"(\S+) s in all, (\S+) s of it to search \((\S+) ms in the open index\)",
        run("search", globe, "tile_000003", "--json").stderr,
    )
    whole_s, searching_s, index_ms = map(float, told.groups())
    rounded = 0.005  # seconds are told to hundredths, milliseconds to tenths: both may be 0
    assert whole_s + rounded >= searching_s
    assert searching_s + rounded >= index_ms / 1000


OWN_FLAGS = {one.flag for one in options_of(SearchOptions)}


@settings(max_examples=40, deadline=None)
@given(
    bands=st.sampled_from([1, 2, 3, 4, 7]),
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32", "complex64"]),
    side=st.sampled_from([1, 5, 64, 80]),
    names=st.sampled_from([(), ("B02", "B03", "B04"), ("nir", "swir", "vh")]),
    which=st.sampled_from(["rgb", "dn", "numbers", "exact"]),
)
def test_what_is_wrong_with_an_image_names_no_option_that_search_lacks(
    asked, bands, dtype, side, names, which
):
    pixels = np.ones((bands, side, side), dtype)
    names = names if len(names) == bands else ()
    image = making.write_tiff(asked / "query.tif", pixels, names=names)
    try:
        found = search(asked / which, str(image), k=1)
    except TilezooError as error:
        told = str(error)
        assert set(re.findall(r"--[a-z][a-z-]*", told)) <= OWN_FLAGS
        assert "query.tif" in told
    else:
        assert found.hits


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of models that take 8-bit colours, 16-bit bands, bands by number, one size alone."""
    folder = tmp_path_factory.mktemp("asked")
    making.write_tiles(folder / "tiles", 2, side=64)
    making.write_tiles(folder / "deep", 2, bands=4, dtype="uint16", high=3000, photometric=None)
    making.write_vit(folder / "vit", depth=1)
    making.write_vit(folder / "vit-dn", depth=1, **making.SENTINEL2)
    making.write_vit(folder / "vit-exact", depth=1, resize="none", resize_px=64)
    how = {"device": "cpu", "precision": "fp32"}
    embed(folder / "tiles", out=folder / "rgb", model=folder / "vit", **how)
    embed(folder / "tiles", out=folder / "exact", model=folder / "vit-exact", **how)
    numbered = {"bands": "4,2,1", **how}
    embed(folder / "deep", out=folder / "dn", model=folder / "vit-dn", **numbered)
    embed(
        folder / "deep",
        out=folder / "numbers",
        model=folder / "vit",
        value_range="0,3000",
        **numbered,
    )
    return folder


def test_one_query_it_is(table):
    with pytest.raises(OptionError, match="one QUERY"):
        search(table)
    with pytest.raises(OptionError, match="one QUERY"):
        search(table, "tile_0001.tif", at="1,2")


def test_a_small_table_needs_no_index_and_a_large_one_is_told(globe, monkeypatch, capsys):
    assert search(globe, "tile_000003", k=2).hits
    assert "no index" in capsys.readouterr().err
    monkeypatch.setattr("tilezoo.search.run.FLAT_ROWS", 10)
    with pytest.raises(VectorIndexError, match="no index; make it: `tilezoo index"):
        search(globe, "tile_000003")
    assert indexing_module.FLAT_ROWS == 100_000


def test_asking_for_more_than_there_is_gives_all(table):
    assert len(search(table, "tile_0000.tif", k=99).hits) == 11


def test_geojson_holds_the_footprints(table):
    answers = search(table, "tile_0000.tif", k=3)
    collection = json.loads(json.dumps(answers.to_geojson()))
    assert collection["type"] == "FeatureCollection"
    for feature, hit in zip(collection["features"], answers.hits, strict=True):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.contains(shapely.Point(hit.lon, hit.lat))
        assert feature["properties"]["score"] == hit.score


def test_json_of_answers_is_plain(table):
    told = json.loads(json.dumps(search(table, "tile_0000.tif", k=2).to_json()))
    assert told["query"]["id"] == "tile_0000.tif"
    assert [r["rank"] for r in told["results"]] == [1, 2]
    assert {"id", "score", "lon", "lat", "datetime", "source_uri"} <= set(told["results"][0])


def test_the_page_needs_no_other_file(table, tmp_path):
    answers = search(table, "tile_0000.tif", k=5)
    write_page(tmp_path / "page.html", [answers], "a <title> & more")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "a &lt;title&gt; &amp; more" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count('class="hit"') == 5


def test_the_page_survives_tiles_that_are_gone(table, tiles, tmp_path):
    answers = search(table, "tile_0000.tif", k=11)
    hidden = tiles.rename(tiles.with_name("hidden"))
    write_page(tmp_path / "page.html", [answers], "gone")
    write_sheet(tmp_path / "sheet.png", [answers])
    hidden.rename(tiles)
    assert (tmp_path / "page.html").read_text().count("pixels are gone") == 12


def test_a_page_of_tiles_without_places_says_so(tmp_path):
    path = tables.write_table(tmp_path / "t", tables.clustered(20))
    write_page(tmp_path / "page.html", [search(path, "tile_000001")], "nowhere")
    assert "No tile has a place" in (tmp_path / "page.html").read_text()


def test_the_sheet_shows_the_query_and_each_answer(table, tiles, tmp_path):
    answers = search(table, str(tiles / "tile_0003.tif"), k=7)
    write_sheet(tmp_path / "sheet.png", [answers, answers])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (4 * (160 + 34 + 12) + 12, 6 * 172 + 12, 3)
    expected = np.asarray(making.as_pillow(making.texture(3)).resize((160, 160)), float)
    shown = sheet[12:172, 184:344].astype(float)  # the first answer is the query's own tile
    assert np.abs(shown - expected).mean() < 2


def test_windows_are_shown_as_windows(vit, tmp_path):
    scene = making.texture(4, side=128)
    making.write_tiff(tmp_path / "scene.tif", scene, photometric="RGB")
    embed(tmp_path / "scene.tif", out=tmp_path / "t", model=vit, tile_px=64)
    answers = search(tmp_path / "t", "scene.tif#64,0,64,64", k=3)
    write_sheet(tmp_path / "sheet.png", [answers])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"), float)
    expected = np.asarray(making.as_pillow(scene[:, :64, 64:]).resize((160, 160)), float)
    assert np.abs(sheet[12:172, 12:172] - expected)[4:-4, 4:-4].mean() < 2


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_terminal_table_fits_and_keeps_the_scores(table, width):
    from dataclasses import replace

    from rich.console import Console

    answers = search(table, "tile_0000.tif", k=2)
    long = tuple(replace(hit, id="a/" * 99 + hit.id) for hit in answers.hits)
    console = Console(width=width, record=True)
    console.print(replace(answers, hits=long).to_terminal(console.width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert f"{long[0].score:.4f}" in lines[2]
    assert "…" in lines[2]
    assert long[0].id[-8:] in lines[2]
    assert long[0].place in lines[2]
