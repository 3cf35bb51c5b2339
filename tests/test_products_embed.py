"""Scenes of products in their real layouts, from a folder to rows: right bands, values and times."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path

import making
import numpy as np
import pytest
import scenes
from numpy.typing import NDArray

from tilezoo.bands import BandRequest, parse_bands
from tilezoo.image import Image
from tilezoo.opening import gdal
from tilezoo.products.product import find_product
from tilezoo.sources import Source, discover, source_at
from tilezoo.tiles import TileRef

# A scene of each product; of Sentinel-2 and Landsat their other layouts, too.
WHOLE = [name for name in scenes.SCENES if ":" not in name]
COLOURS = ("red", "green", "blue")


def source_of(path: Path) -> Source:
    (source,) = discover([path])
    return source


@contextmanager
def opened(source: Source, bands: Sequence[str], **how: object) -> Iterator[Image]:
    request = BandRequest(wanted=tuple(bands), values_stated=True, **how)
    with warnings.catch_warnings(), gdal(), Image(source, request) as image:
        yield image


def read(source: Source, bands: Sequence[str], *, top: float = 4500, **how: object) -> NDArray:
    """Pixels of bands, (C, h, w), as a model of these bands is fed them but for the range."""
    contract = making.contract(bands=tuple(bands), unit="dn", value_range=(0.0, top))
    with opened(source, bands, **how) as image:
        return image.read(TileRef(source=source), contract).pixels


def is_in_bytes(scene: scenes.Written) -> bool:
    return all(pixels.dtype == np.uint8 for pixels in scene.stored.values())


def wanted_of(scene: scenes.Written) -> tuple[str, ...]:
    """Red, green and blue where a product has them, else what it has."""
    bands = [find_product(scene.product).find_band(name) for name in scene.stored]
    names = [band.common or band.name for band in bands]
    return COLOURS if set(COLOURS) <= set(names) else tuple(names)[:3]


@pytest.mark.parametrize("name", scenes.SCENES)
def test_every_band_is_the_one_that_it_is_called(tmp_path, name):
    scene = scenes.write_scene(name, tmp_path)
    source = source_of(scene.path)
    product = find_product(scene.product)
    assert source.product == scene.product
    for own, values in scene.values.items():
        band = product.find_band(own)
        for word in filter(None, {own, band.common, *band.aliases}):
            given = parse_bands(word)
            top = 255 if is_in_bytes(scene) else 4500
            pixels = read(source, ("any",), given=given, top=top)
            assert np.allclose(pixels[0], values, atol=0.51), f"{word} is not {own}"


@pytest.mark.parametrize("name", [n for n in scenes.SCENES if n.partition(":")[0] != "naip"])
def test_numbers_are_a_product_s_own(tmp_path, name):
    scene = scenes.write_scene(name, tmp_path)
    source = source_of(scene.path)
    bands = [b for b in find_product(scene.product).bands if b.name in scene.stored]
    stacked = not source.files
    numbers = {own: place for place, own in enumerate(scene.stored, 1)} if stacked else {
        b.name: b.number for b in bands if b.number is not None
    }  # fmt: skip
    top = 255 if is_in_bytes(scene) else 4500
    for own, number in numbers.items():
        pixels = read(source, ("any",), given=(str(number),), top=top)
        assert np.allclose(pixels[0], scene.values[own], atol=0.51), f"{number} is not {own}"


@pytest.mark.parametrize("name", [
    name for name in scenes.SCENES
    if not name.startswith("sentinel-2-") and not name.endswith("COGs")
])  # fmt: skip
def test_scenes_whose_files_lie_in_one_folder_are_found_apart(tmp_path, name):
    """But for those that have the same names of files in each scene's folder, or need that."""
    flat = tmp_path / "flat"
    flat.mkdir()
    written = [scenes.write_scene(name, tmp_path / "in", number=n) for n in range(3)]
    for scene in written:
        below = [path for path in scene.path.rglob("*") if path.is_file()]
        for path in below or [scene.path]:
            path.rename(flat / path.name)
    found = discover([flat])
    assert len(found) == 3
    for source in found:
        assert source.product == written[0].product
        assert set(source.files) in ({*written[0].stored}, set())
        assert source_at(source.uri).files == source.files
        assert source_at(source.uri).product == source.product


@pytest.mark.parametrize("name", WHOLE)
def test_a_scene_is_a_row_and_three_are_three(tmp_path, run, model_of, name):
    written = [scenes.write_scene(name, tmp_path / "in", number=n) for n in range(3)]
    top = 255 if is_in_bytes(written[0]) else 4500
    model = model_of(wanted_of(written[0]))
    for source, expected in ((written[0].path, written[:1]), (tmp_path / "in", written)):
        table = tmp_path / f"table-{len(expected)}"
        done = run(
            "embed",
            source,
            "-m",
            model,
            "-o",
            table,
            "--value-range",
            f"0,{top}",
            "--precision",
            "fp32",
        )
        assert done.returncode == 0, done.stderr
        rows = making.rows_of(table).to_pylist()
        times = [row["datetime"].replace(microsecond=0).astimezone(UTC) for row in rows]
        assert sorted(times) == [scene.time for scene in expected]
        assert making.errors_of(table) == []


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory):
    """A small model that takes these bands."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def write(bands: tuple[str, ...]) -> Path:
        if bands not in made:
            path = root / "-".join(bands)
            made[bands] = making.write_vit(
                path, depth=1, bands=bands, unit="dn", value_range=(0.0, 4500.0)
            )
        return made[bands]

    return write


def test_landsat_and_sentinel_of_one_ground_have_its_colours(tmp_path):
    ground = scenes.ground()
    names = ("landsat-4-7-c2-l2: Landsat 5", "landsat-4-7-c2-l2", "landsat-8-9-c2-l2",
             "landsat-8-9-c2-l2: Landsat 9", "landsat-4-5-l1", "landsat-7-l1", "landsat-8-9-l1",
             "sentinel-2-l2a", "sentinel-2-l2a: baseline 02.14", "sentinel-2-l1c", "hls-l30", "hls-s30")  # fmt: skip
    expected = np.stack([ground[name] for name in COLOURS])
    for place, name in enumerate(names):
        scene = scenes.write_scene(name, tmp_path / str(place), given=ground)
        pixels = read(source_of(scene.path), COLOURS, given=COLOURS)
        assert np.abs(pixels - expected).max() <= 0.51, name


def test_it_is_told_where_an_offset_is_not_known(tmp_path, run, model_of):
    scene = scenes.write_scene("sentinel-2-l2a: mirror", tmp_path)
    folder = scene.path.rename(tmp_path / "S2A_26EMU_20230420_0_L2A")
    table = tmp_path / "table"
    done = run("embed", folder, "-m", model_of(COLOURS), "-o", table, "--value-range", "0,4500")
    assert done.returncode == 0
    assert "not known whether the mirror subtracted 1,000" in done.stderr


def test_old_and_new_baselines_of_one_ground_have_one_vector(tmp_path, run, model_of):
    ground, folder = scenes.ground(), tmp_path / "in"
    for number, name in enumerate(("sentinel-2-l2a: baseline 02.14", "sentinel-2-l2a")):
        scenes.write_scene(name, folder, number=number, given=ground)
    table = tmp_path / "table"
    how = ("-m", model_of(COLOURS), "--value-range", "0,4500", "--precision", "fp32")
    done = run("embed", folder, "-o", table, *how)
    assert done.returncode == 0, done.stderr
    first, second = making.vectors_of(table)
    assert making.cosines(first[None], second[None])[0] >= 0.99999
    said = "processing baseline 05.09: 1,000 subtracted (BOA_ADD_OFFSET)"
    assert said in done.stderr
    assert said in (table / "manifest.json").read_text("utf-8")
    stored = tmp_path / "stored"
    assert run("embed", folder, "-o", stored, *how, "--values", "stored").returncode == 0
    first, second = making.vectors_of(stored)
    assert making.cosines(first[None], second[None])[0] < 0.999
