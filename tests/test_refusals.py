"""No refusal sends a reader in circles: what each one names is done, to the letter, and leads on."""

import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import making
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.shutil
import scenes
from PIL import Image as Pillow
from rasterio.transform import from_origin

_MOST_STEPS = 4
_OPTION = re.compile(r"(--(?:bands|value-range|tile-px|nodata)) ([^\s;:()]+)")
_EXAMPLE = re.compile(r"\(([-\d.,]+) for ")


@dataclass
class Try:
    """One command: sources, options, and what a step may need of the refusal's making."""

    folder: Path
    sources: list[Path | str]
    options: dict[str, str] = field(default_factory=dict)
    step: Callable[["Try", str], None] | None = None

    def follow(self, refusal: str) -> None:
        """Do what a refusal names: an option with its value, else the step in words."""
        said = _OPTION.findall(refusal.partition("; tilezoo inspect")[0])
        new = [(o, v) for o, v in said if v not in {self.options.get(o), "names", "is"}]
        if new:
            option, value = new[-1]
            example = _EXAMPLE.search(refusal)
            self.options[option] = example[1] if value == "LOW,HIGH" and example else value
        else:
            assert self.step is not None, f"nothing to do in: {refusal}"
            self.step(self, refusal)
            self.step = None


def tiff(folder: Path, *, bands: int = 3, name: str = "a.tif", **how: object) -> Path:
    values = {"dtype": how.pop("dtype", "uint8"), "high": how.pop("high", 255)}
    return making.write_tiff(folder / name, making.texture(1, bands=bands, **values), **how)


def rgb(folder: Path, name: str = "a.tif", **how: object) -> Path:
    return tiff(folder, name=name, photometric="RGB", **how)


CASES: dict[str, Callable[[Path], Try]] = {}


def case(make: Callable[[Path], Try]) -> Callable[[Path], Try]:
    CASES[make.__name__.replace("_", " ")] = make
    return make


# Bands


@case
def four_bands_without_names(folder: Path) -> Try:
    return Try(folder, [tiff(folder, bands=4, dtype="uint16", high=4000)])


@case
def two_bands_without_names(folder: Path) -> Try:
    return Try(folder, [tiff(folder, bands=2)])


@case
def one_grey_band(folder: Path) -> Try:
    making.as_pillow(making.texture(1)).convert("L").save(folder / "grey.png")
    return Try(folder, [folder / "grey.png"])


@case
def a_band_that_is_not_there(folder: Path) -> Try:
    return Try(folder, [tiff(folder, names=("nir", "red", "green"))])


@case
def a_radar_product(folder: Path) -> Try:
    return Try(folder, [scenes.write_scene("sentinel-1-grd", folder).path])


@case
def a_panchromatic_product(folder: Path) -> Try:
    return Try(folder, [scenes.write_scene("cbers-pan", folder).path])


@case
def a_product_in_reflectance(folder: Path) -> Try:
    return Try(folder, [scenes.write_scene("landsat-8-9-c2-l2", folder).path])


@case
def numbers_beyond_the_file(folder: Path) -> Try:
    return Try(folder, [rgb(folder)], {"--bands": "9,8,7"})


@case
def numbers_beyond_the_file_with_names(folder: Path) -> Try:
    return Try(folder, [tiff(folder, bands=4)], {"--bands": "red=5,green=4,blue=3"})


@case
def numbers_that_a_product_has_not(folder: Path) -> Try:
    scene = scenes.write_scene("landsat-8-9-c2-l2", folder).path
    return Try(folder, [scene], {"--bands": "14,13,12"})


@case
def numbers_of_bands_that_have_names(folder: Path) -> Try:
    for band in ("VV", "VH"):
        tiff(folder, bands=1, name=f"site_{band}.tif")
    return Try(folder, [folder], {"--bands": "1,2,1"})


@case
def too_few_bands_are_named(folder: Path) -> Try:
    return Try(folder, [rgb(folder)], {"--bands": "red,green"})


@case
def some_bands_have_numbers_and_some_names(folder: Path) -> Try:
    return Try(folder, [rgb(folder)], {"--bands": "red=1,green,blue=3"})


@case
def no_band_is_named(folder: Path) -> Try:
    return Try(folder, [rgb(folder)], {"--bands": " "})


@case
def numbers_that_mean_other_bands(folder: Path) -> Try:
    scene = scenes.write_scene("landsat-4-7-c2-l2", folder / "scene").path
    model = making.write_vit(folder / "model", **making.SENTINEL2)
    return Try(folder, [scene], {"--bands": "B04,B03,B02", "-m": str(model)})


@case
def band_files_of_no_known_product(folder: Path) -> Try:
    for band in (2, 3, 4):
        tiff(folder, bands=1, name=f"site_B{band}.tif")
    return Try(folder, [folder])


@case
def a_model_for_more_bands(folder: Path) -> Try:
    many = making.write_vit(folder / "many", bands=tuple(f"B{n:02d}" for n in range(1, 9)))

    def take_another(tried: Try, refusal: str) -> None:
        assert "take a model of fewer bands" in refusal
        del tried.options["-m"]

    return Try(folder, [rgb(folder / "tiles")], {"-m": str(many)}, take_another)


# Sets of band files


def write_set(folder: Path, **of_red: object) -> Path:
    for band in ("B02", "B03"):
        tiff(folder, bands=1, name=f"site_{band}.tif")
    return tiff(folder, bands=1, name="site_B04.tif", **of_red)


def put_on_one_grid(tried: Try, refusal: str) -> None:
    assert "warp them to one grid" in refusal
    tiff(tried.folder, bands=1, name=re.search(r"(site_B04\.tif)", refusal)[1])


@case
def bands_of_another_extent(folder: Path) -> Try:
    write_set(folder, transform=from_origin(500_030, 4_500_000, 10, 10))
    return Try(folder, [folder], step=put_on_one_grid)


@case
def bands_of_another_zone(folder: Path) -> Try:
    write_set(folder, crs="EPSG:32634")
    return Try(folder, [folder], step=put_on_one_grid)


@case
def a_band_twice(folder: Path) -> Try:
    write_set(folder)
    tiff(folder, bands=1, name="site_B4.tif")

    def take_away(_: Try, refusal: str) -> None:
        (folder / re.search(r"and (\S+); take one of them away", refusal)[1]).unlink()

    return Try(folder, [folder], step=take_away)


# Values


@case
def pixels_of_16_bits(folder: Path) -> Try:
    return Try(folder, [rgb(folder, dtype="uint16", high=3000)])


@case
def pixels_of_floats(folder: Path) -> Try:
    return Try(folder, [rgb(folder, dtype="float32", high=1)])


@case
def a_range_that_8_bits_cannot_reach(folder: Path) -> Try:
    return Try(folder, [rgb(folder)], {"--value-range": "0,2000"})


@case
def complex_numbers(folder: Path) -> Try:
    values = making.texture(1).astype("complex64")
    path = making.write_tiff(folder / "a.tif", values, names=making.RGB)

    def write_magnitude(_: Try, refusal: str) -> None:
        assert "write their magnitude first" in refusal
        making.write_tiff(path, np.abs(values), names=making.RGB)

    return Try(folder, [path], step=write_magnitude)


@case
def numbers_that_are_none(folder: Path) -> Try:
    values = making.texture(1, dtype="float32", high=1)
    values[:, :9] = np.nan
    path = making.write_tiff(folder / "a.tif", values, names=making.RGB)
    return Try(folder, [path], {"--value-range": "0,1"})


@case
def a_palette_of_classes(folder: Path) -> Try:
    path = folder / "a.tif"
    classes = np.arange(64, dtype=np.uint8).reshape(1, 8, 8).repeat(8, 1).repeat(8, 2)
    making.write_tiff(path, classes)
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {n: (n, 255 - n, n // 2, 255) for n in range(64)})

    def expand(_: Try, refusal: str) -> None:
        assert "gdal_translate -expand rgb" in refusal
        colours = np.stack([classes[0], 255 - classes[0], classes[0] // 2])
        making.write_tiff(path, colours, photometric="RGB")

    return Try(folder, [path], step=expand)


# Sizes


@case
def a_scene_too_large_for_one_tile(folder: Path) -> Try:
    path = folder / "a.tif"
    shape = {"width": 9000, "height": 9000, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    place = {"crs": making.UTM, "transform": from_origin(500_000, 4_500_000, 10, 10)}
    with rasterio.open(path, "w", driver="GTiff", SPARSE_OK=True, tiled=True, **shape, **place):
        pass
    return Try(folder, [path], {"--limit": "2"})


@case
def an_image_that_a_model_would_have_to_resize(folder: Path) -> Try:
    model = making.write_vit(folder / "model", resize="none", resize_px=64)
    return Try(folder, [rgb(folder / "tiles")], {"-m": str(model)})


@case
def a_stride_without_a_size(folder: Path) -> Try:
    def give_size(tried: Try, refusal: str) -> None:
        assert "needs --tile-px" in refusal
        tried.options["--tile-px"] = "40"

    return Try(folder, [rgb(folder)], {"--stride-px": "20"}, give_size)


# Files


@case
def several_pages(folder: Path) -> Try:
    pages = [making.as_pillow(making.texture(number)) for number in range(3)]
    pages[0].save(folder / "a.tif", save_all=True, append_images=pages[1:])

    def name_one(tried: Try, refusal: str) -> None:
        tried.sources = [folder / re.search(r"name one: (\S+?)(?:;|$)", refusal)[1]]

    return Try(folder, [folder / "a.tif"], step=name_one)


@case
def a_page_that_is_not_there(folder: Path) -> Try:
    path = rgb(folder)

    def name_what_is_there(tried: Try, refusal: str) -> None:
        assert "has no part '2'; there are 1 " in refusal
        tried.sources = [f"{path}:1"]

    return Try(folder, [f"{path}:2"], step=name_what_is_there)


@case
def several_variables(folder: Path) -> Try:
    rasterio.shutil.copy(rgb(folder / "in"), folder / "a.nc", driver="netCDF")

    def name_one(tried: Try, refusal: str) -> None:
        tried.sources = [folder / re.search(r"name one: (\S+?)(?:;|$)", refusal)[1]]

    return Try(folder, [folder / "a.nc"], step=name_one)


@case
def hdf5(folder: Path) -> Try:
    path = rgb(folder / "in")
    rasterio.shutil.copy(path, folder / "a.nc", driver="netCDF", format="NC4")

    def write_as_geotiff(tried: Try, refusal: str) -> None:
        assert "write what you need as GeoTIFF first (gdal_translate" in refusal
        tried.sources = [path]

    return Try(folder, [folder / "a.nc"], step=write_as_geotiff)


@case
def a_zip_archive(folder: Path) -> Try:
    rgb(folder / "in")
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "in" / "a.tif", "tiles/a.tif")

    def unpack(tried: Try, refusal: str) -> None:
        assert "unpack it and name the folder" in refusal
        shutil.unpack_archive(folder / "a.zip", folder / "out")
        tried.sources = [folder / "out"]

    return Try(folder, [folder / "a.zip"], step=unpack)


@case
def a_mosaic_of_absolute_names(folder: Path) -> Try:
    path = rgb(folder)
    (folder / "a.vrt").write_text(
        '<VRTDataset rasterXSize="80" rasterYSize="80"><VRTRasterBand dataType="Byte" band="1">'
        f'<SimpleSource><SourceFilename relativeToVRT="0">{path}</SourceFilename></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )

    def write_as_geotiff(tried: Try, refusal: str) -> None:
        assert "write it as GeoTIFF first" in refusal
        tried.sources = [path]

    return Try(folder, [folder / "a.vrt"], step=write_as_geotiff)


@case
def an_image_of_two_pixels(folder: Path) -> Try:
    Pillow.new("RGB", (2, 2)).save(folder / "a.png")

    def write_larger(_: Try, refusal: str) -> None:
        side = int(re.search(r"a tile needs (\d+) px a side", refusal)[1])
        Pillow.new("RGB", (side, side)).save(folder / "a.png")

    return Try(folder, [folder / "a.png"], step=write_larger)


# Sources and lists


@case
def a_path_that_leads_nowhere(folder: Path) -> Try:
    def check_path(tried: Try, refusal: str) -> None:
        assert "check the path" in refusal
        tried.sources = [rgb(folder)]

    return Try(folder, [folder / "b.tif"], step=check_path)


@case
def a_folder_without_images(folder: Path) -> Try:
    (folder / "a.txt").write_text("")

    def put_image(_: Try, refusal: str) -> None:
        rgb(folder, name=f"a{re.search(r'looked for .*?([.]tiff?)', refusal)[1]}")

    return Try(folder, [folder], step=put_image)


@case
def an_address_on_the_network(folder: Path) -> Try:
    def download(tried: Try, refusal: str) -> None:
        assert "download it first (curl -O https://" in refusal
        tried.sources = [rgb(folder)]

    return Try(folder, ["https://example.org/a.tif"], step=download)


@case
def a_path_of_windows(folder: Path) -> Try:
    def name_here(tried: Try, refusal: str) -> None:
        assert "name the folder as this machine sees it" in refusal
        tried.sources = [rgb(folder)]

    return Try(folder, [r"C:\tiles"], step=name_here)


def write_list(folder: Path, text: str | bytes, step: Callable[[Try, str], None]) -> Try:
    rgb(folder)
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Try(folder, [path], step=step)


@case
def a_list_without_a_column_of_paths(folder: Path) -> Try:
    def rename(_: Try, refusal: str) -> None:
        column = re.search(r"name it (\w+) or", refusal)[1]
        (folder / "list.csv").write_text(f"{column},label\na.tif,1\n")

    return write_list(folder, "place,label\na.tif,1\n", rename)


@case
def a_list_of_nothing(folder: Path) -> Try:
    def put_one(_: Try, refusal: str) -> None:
        column = re.search(r"one on each line below '(\w+)'", refusal)[1]
        (folder / "list.csv").write_text(f"{column}\na.tif\n")

    return write_list(folder, "path\n", put_one)


@case
def a_list_in_another_encoding(folder: Path) -> Try:
    def save_as_utf8(_: Try, refusal: str) -> None:
        assert "save the list as UTF-8" in refusal
        (folder / "list.csv").write_text("path,place\na.tif,Zürich\n", encoding="utf-8")

    return write_list(folder, "path,place\na.tif,Zürich\n".encode("latin-1"), save_as_utf8)


@case
def a_list_of_addresses(folder: Path) -> Try:
    def download(_: Try, refusal: str) -> None:
        assert "download it first" in refusal
        (folder / "list.csv").write_text("path\na.tif\n")

    return write_list(folder, "path\ns3://bucket/a.tif\n", download)


@case
def a_parquet_of_pixels(folder: Path) -> Try:
    rgb(folder)
    path = folder / "list.parquet"
    pq.write_table(pa.table({"image": [b"\x89PNG"], "label": [1]}), path)

    def write_files(tried: Try, refusal: str) -> None:
        assert "write them out as files first" in refusal
        tried.sources = [folder / "a.tif"]

    return Try(folder, [path], step=write_files)


@pytest.mark.parametrize("name", CASES)
def test_what_a_refusal_names_leads_on(name, run, vit, tmp_path):
    folder = tmp_path / "case"
    folder.mkdir()
    tried = CASES[name](folder)
    told: list[str] = []
    for number in range(_MOST_STEPS):
        options = [word for pair in {"-m": vit, **tried.options}.items() for word in pair]
        words = [*tried.sources, *options, "--precision", "fp32"]
        done = run("embed", *words, "-o", tmp_path / f"table-{number}")
        if done.returncode == 0:
            break
        refusal = done.stderr.strip().splitlines()[-1]
        assert done.returncode in {1, 2, 3}, refusal
        assert refusal not in told, f"{refusal}: once more, after {told}"
        told.append(refusal)
        tried.follow(refusal)
    assert done.returncode == 0, told
    assert told, "it is refused no more: the case is none"


def test_a_refusal_of_files_says_where_to_look(run, vit, tmp_path):
    file = tiff(tmp_path, dtype="uint16", name="it's.tif")
    done = run("embed", file, "-m", vit, "-o", tmp_path / "t")
    assert done.returncode == 1
    command = re.search(r"; (tilezoo inspect .*) shows what is there$", done.stderr.strip())[1]
    assert command == f"tilezoo inspect '{tmp_path}/it'\"'\"'s.tif'"
