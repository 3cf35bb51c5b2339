"""What would be read is told before it is, and the command that is printed works."""

import json
import shlex
from pathlib import Path

import making
import numpy as np
import pytest
import scenes
from PIL import Image as Pillow

from tilezoo.bands import canonical
from tilezoo.embed import inspect
from tilezoo.embed.inspection.advice import propose_range
from tilezoo.embed.inspection.terminal import to_terminal
from tilezoo.errors import SourceError
from tilezoo.table import open_table


def write_pngs(folder: Path, count: int = 5) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        making.as_pillow(making.texture(number)).save(folder / f"t{number}.png")
    return folder


def write_four_bands(folder: Path) -> Path:
    pixels = making.texture(3, bands=4, side=300, low=200, high=4000, dtype="uint16")
    return making.write_tiff(folder / "it's four.tif", pixels)


def write_radar(folder: Path) -> Path:
    pixels = making.texture(4, bands=1, low=-25, high=0, dtype="float32")
    return making.write_tiff(folder / "grey.tif", pixels)


def write_product(key: str) -> object:
    return lambda folder: scenes.write_scene(key, folder).path


WRITERS = {
    "a folder of PNGs": lambda folder: write_pngs(folder / "tiles"),
    "four bands without names": write_four_bands,
    "a grey radar image": write_radar,
    **{
        key: write_product(key)
        for key in (
            "landsat-8-9-c2-l2", "landsat-4-5-mss", "sentinel-2-l2a", "sentinel-1-grd", "naip",
            "planetscope-sr", "maxar", "umbra",
        )
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("inspected")
    found = {}
    for number, (name, write) in enumerate(WRITERS.items()):
        (root / str(number)).mkdir()
        found[name] = write(root / str(number))
    return found


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("model", ["vit", "sentinel_vit"])
def test_the_printed_command_run_as_printed_works(
    name, model, written, run, request, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shown = run("inspect", written[name], "-m", request.getfixturevalue(model))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert max(len(line) for line in shown.stdout.splitlines()[:-1]) <= 80
    words = shlex.split(shown.stdout.splitlines()[-1])
    assert words[:2] == ["tilezoo", "embed"]
    done = run(*words[1:])
    assert done.returncode == 0, done.stderr
    table = open_table(Path(words[words.index("--out") + 1]))
    expected = inspect(written[name], model=request.getfixturevalue(model)).advised
    assert table.manifest.rows == expected.tiles


@pytest.mark.parametrize("key", [name for name in scenes.SCENES if ":" not in name])
def test_each_product_is_told_and_works_by_some_command(key, tmp_path, vit):
    scene = scenes.write_scene(key, tmp_path)
    found = inspect(tmp_path, model=vit)
    (kind,) = found.kinds
    assert (kind.images, kind.product.key) == (1, key)
    assert {time.replace(microsecond=0) for time in kind.times} == {scene.time}
    assert {band.name for band in kind.bands} == {canonical(name) for name in scene.stored}
    assert found.advised.refusal is None
    assert all(len(fed.bands) == 3 for fed in found.advised.fed)
    assert not any("hint" in note for note in found.advised.notes)


def test_a_kind_is_told_as_its_files_say_it(tmp_path, vit):
    names = ("red", "green", "blue", "nir")
    for number in range(3):
        pixels = making.texture(number, bands=4, side=60 + 20 * number, high=255)
        making.write_tiff(
            tmp_path / f"{number}.tif", pixels, names=names, nodata=0, photometric="MINISBLACK",
            tags={"DATETIME": f"2020-02-{number + 1:02d}T10:00:00Z"}, alpha="no",
        )  # fmt: skip
    found = inspect(tmp_path, model=vit)
    (kind,) = found.kinds
    assert (kind.images, kind.looked_at, found.images) == (3, 3, 3)
    assert kind.product is None
    assert [band.name for band in kind.bands] == list(names)
    assert [band.number for band in kind.bands] == [1, 2, 3, 4]
    assert {band.dtype for band in kind.bands} == {"uint8"}
    assert (kind.smallest_px, kind.largest_px) == ((60, 60), (100, 100))
    assert (kind.crs, kind.nodata) == ((making.UTM,), ("0",))
    assert kind.gsd_m == pytest.approx((10, 10), rel=0.01)
    assert [time.day for time in kind.times] == [1, 3]
    west, south, east, north = kind.bbox
    assert (west, north) == pytest.approx((15, 40.651), abs=0.001)
    assert east - west > 0.01 > north - south > 0
    assert found.asked.refusal is None


def test_percentiles_are_those_of_the_pixels(tmp_path, vit):
    pixels = making.texture(1, bands=3, side=200, low=-3, high=2000, dtype="int16")
    making.write_tiff(tmp_path / "a.tif", pixels, names=making.RGB)
    (kind,) = inspect(tmp_path, model=vit).kinds
    for band, own in zip(kind.bands, pixels, strict=True):
        assert band.percentiles == pytest.approx(np.percentile(own, [0, 2, 50, 98, 100]), abs=25)
        assert (band.percentiles[0], band.percentiles[-1]) == (own.min(), own.max())


def test_shares_beyond_the_range_and_without_data_are_those_of_the_pixels(tmp_path, sentinel_vit):
    pixels = np.full((3, 80, 80), 100, np.uint16)
    pixels[:, :20] = 0  # a quarter has no data
    pixels[0, 20:50] = 3000  # half of the B04 that has
    making.write_tiff(tmp_path / "a.tif", pixels, names=("B04", "B03", "B02"), nodata=0)
    found = inspect(tmp_path / "a.tif", model=sentinel_vit)
    assert found.kinds[0].nodata_share == 0.25
    red, green, _ = found.advised.fed[0].bands
    assert (red.model, red.source) == ("B04", "B04")
    assert (red.below, red.above) == (0.0, 0.5)
    assert (green.below, green.above) == (0.0, 0.0)
    assert any("17% of the first tiles' values are white" in n for n in found.advised.notes)


def test_what_is_refused_is_told_in_the_words_of_a_run(tmp_path, vit, run):
    file = write_four_bands(tmp_path)
    refused = run("embed", file, "-m", vit, "-o", tmp_path / "t")
    assert refused.returncode == 1
    asked = inspect(file, model=vit).asked
    assert asked.refusal is not None
    assert asked.refusal in refused.stderr


def test_files_that_are_passed_over_and_broken_ones_are_counted(tmp_path, vit):
    write_pngs(tmp_path / "tiles", 3)
    (tmp_path / "tiles" / "a.txt").write_text("")
    (tmp_path / "tiles" / "b.txt").write_text("")
    (tmp_path / "tiles" / "broken.tif").write_text("no image")
    scenes.write_scene("landsat-8-9-c2-l2", tmp_path / "tiles")
    found = inspect(tmp_path, model=vit)
    passed = {one.what: one.files for one in found.passed_over}
    assert passed[".txt"] >= 2
    assert passed["side files of Landsat 8 and 9, collection 2, level 2"] > 3
    (broken,) = found.unreadable
    assert (broken.kind, broken.images) == ("unreadable", 1)
    assert sorted(kind.images for kind in found.kinds) == [1, 3]


def test_a_large_scene_is_cut_and_its_tiles_are_counted(tmp_path, vit):
    making.write_tiff(tmp_path / "a.tif", making.texture(0, side=600), photometric="RGB")
    found = inspect(tmp_path / "a.tif", model=vit)
    assert found.asked.tiles == 1
    assert "--tile-px 64" in found.advised.command
    assert found.advised.tiles == 100


def test_of_many_images_some_are_looked_at(tmp_path, vit):
    folder = tmp_path / "many"
    folder.mkdir()
    Pillow.new("RGB", (8, 8), (9, 90, 200)).save(folder / "0.png")
    for number in range(1, 1000):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    found = inspect(folder, model=vit)
    assert (found.images, found.kinds[0].images) == (1000, 1000)
    assert found.looked_at < 100
    assert found.advised.tiles == 1000


def test_the_picture_shows_tiles_as_the_model_is_fed_them(tmp_path, sentinel_vit):
    pixels = np.zeros((3, 64, 64), np.uint16)
    pixels[0], pixels[1] = 2000, 1000  # B04 white, B03 half
    making.write_tiff(tmp_path / "a.tif", pixels, names=("B04", "B03", "B02"))
    found = inspect(tmp_path / "a.tif", model=sentinel_vit, png=tmp_path / "seen.png")
    assert found.png == tmp_path / "seen.png"
    colours = Pillow.open(found.png).getcolors(1 << 20)
    _, most = max(count for count in colours if count[1] != (255, 255, 255))
    assert most == (255, 128, 0)


def test_json_holds_what_the_function_gives(tmp_path, vit, run):
    file = write_radar(tmp_path)
    shown = json.loads(run("inspect", file, "-m", vit, "--json").stdout)
    found = inspect(file, model=vit)
    assert shown["images"] == 1
    assert shown["kinds"][0]["bands"][0]["percentiles"] == list(found.kinds[0].bands[0].percentiles)
    assert shown["advised"]["command"] == found.advised.command


def test_a_model_for_more_bands_than_there_are_is_told(tmp_path):
    bands = tuple(f"B{n:02d}" for n in range(1, 9))
    many = making.write_vit(tmp_path / "many", bands=bands)
    file = making.write_tiff(tmp_path / "a.tif", making.texture(0), photometric="RGB")
    found = inspect(file, model=many)
    assert found.advised.refusal is None
    assert "dino-vitt16-overhead" in found.advised.notes[0]


def test_most_images_of_a_mixed_folder_are_served_and_the_others_told(
    tmp_path, vit, run, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    making.write_tiff(tmp_path / "tiles" / "8bit.tif", making.texture(9), photometric="RGB")
    for number in range(3):
        pixels = making.texture(number, dtype="uint16", low=300, high=3000)
        making.write_tiff(tmp_path / "tiles" / f"{number}.tif", pixels, names=making.RGB)
    found = inspect("tiles", model=vit)
    assert [kind.images for kind in found.kinds] == [3, 1]
    assert [fed.refusal is None for fed in found.advised.fed] == [True, False]
    assert any(
        "1 of the images fail" in note and "8bit.tif" in note for note in found.advised.notes
    )
    words = shlex.split(found.advised.command)
    assert words[words.index("--max-errors") + 1] == "1"
    assert run(*words[1:]).returncode == 0


def test_images_of_a_kind_that_fail_are_counted(tmp_path, vit, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        for band in ("B02", "B03", "B04"):
            crs = "EPSG:32634" if (number, band) == (1, "B04") else making.UTM
            file = tmp_path / "s" / f"{number}_{band}.tif"
            making.write_tiff(file, making.texture(number, bands=1), crs=crs)
    found = inspect("s", model=vit)
    (fed,) = found.advised.fed
    assert (fed.failing, len(fed.bands)) == (1, 3)
    assert "in two CRS" in fed.refusal
    assert run(*shlex.split(found.advised.command)[1:]).returncode == 0


def test_a_file_that_is_called_a_bands_and_holds_several_is_shown_whole(tmp_path, vit):
    name = "CAPELLA_C02_SM_GEO_HH_20201126192221_20201126192225.tif"
    making.write_tiff(tmp_path / name, making.texture(1), photometric="RGB")
    (kind,) = inspect(tmp_path, model=vit).kinds
    assert [band.name for band in kind.bands] == ["red", "green", "blue"]


def test_nan_that_nothing_declares_is_taken_for_no_data(tmp_path, vit, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = making.texture(1, dtype="float32", high=1)
    pixels[:, :10] = np.nan
    making.write_tiff(tmp_path / "a.tif", pixels, names=making.RGB)
    found = inspect("a.tif", model=vit)
    assert found.kinds[0].broken_share == pytest.approx(1 / 8)
    assert "--nodata nan" in found.advised.command
    assert run(*shlex.split(found.advised.command)[1:]).returncode == 0


def test_padding_that_nothing_declares_is_hinted_at(tmp_path, vit):
    pixels = making.texture(1, low=1)
    pixels[:, :20] = 0
    making.write_tiff(tmp_path / "a.tif", pixels, photometric="RGB")
    notes = inspect(tmp_path / "a.tif", model=vit).advised.notes
    assert any(
        "25% of the first tiles' pixels are 0 in all bands" in n and "--nodata 0" in n
        for n in notes
    )
    assert not any("in all bands" in n for n in inspect(
        tmp_path / "a.tif", model=vit, nodata="0").advised.notes)  # fmt: skip


def test_of_a_file_of_several_pages_one_is_named(tmp_path, vit, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pages = [making.as_pillow(making.texture(number)) for number in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    found = inspect("a.tif", model=vit)
    assert "holds several images" in found.asked.refusal
    assert found.kinds[0].images == 1
    assert run(*shlex.split(found.advised.command)[1:]).returncode == 0


def test_where_nothing_can_be_read_no_command_is_given(tmp_path, vit, run):
    (tmp_path / "a.tif").write_text("no image")
    shown = run("inspect", tmp_path, "-m", vit)
    assert shown.returncode == 0
    assert "not a TIFF" in shown.stdout
    assert "tilezoo embed" not in shown.stdout


@pytest.mark.parametrize("key", ["landsat-8-9-c2-l2", "sentinel-2-l2a"])
def test_a_proposed_range_is_one_of_values_as_they_are_fed(key, tmp_path, vit):
    scene = scenes.write_scene(key, tmp_path)
    found = inspect(scene.path, model=vit)
    fed = found.advised.fed[0].bands
    (low, high), red = found.advised.model.value_range, scene.values[fed[0].source].ravel()
    assert fed[0].below == pytest.approx((red <= low).mean(), abs=0.01)
    assert fed[0].above == pytest.approx((red >= high).mean(), abs=0.01)
    assert not any("hint" in note for note in found.advised.notes)


def test_stored_values_of_products_are_shown_as_stored(tmp_path, vit):
    scene = scenes.write_scene("landsat-8-9-c2-l2", tmp_path)
    for values, expected in (("stored", scene.stored), ("harmonized", scene.values)):
        kind = inspect(scene.path, model=vit, values=values).kinds[0]
        red = next(band for band in kind.bands if band.common == "red")
        assert red.percentiles[0] == pytest.approx(expected["SR_B4"].min(), abs=1)
        assert ("--values stored" in kind.rescaling) == (values == "harmonized")


def test_many_bands_and_kinds_fit_the_terminal(tmp_path, vit):
    for count in range(1, 9):
        making.write_tiff(tmp_path / f"{count}.tif", making.texture(count, bands=count, side=8))
    making.write_tiff(tmp_path / "many.tif", making.texture(1, bands=60, side=8, dtype="float32"))
    text = to_terminal(inspect(tmp_path, model=vit))
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert "more kinds of" in text


def test_nothing_to_look_at_is_said(tmp_path, vit):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(SourceError, match=r"No image under .*passed over 1 \.txt"):
        inspect(tmp_path, model=vit)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 1000], (0, 970)),
        ([-25, -10, -3], (-25, -3.2)),
        ([0.01, 0.2, 0.35], (0, 0.35)),
        ([7000, 8000, 22000], (7000, 22000)),
        ([5, 5, 5], (5, 6)),
    ],
)
def test_a_proposed_range_holds_the_middle_in_round_numbers(values, expected):
    assert propose_range(np.array(values, float)) == pytest.approx(expected)
