"""Formats: what one file can hold safely is read, the rest is refused with what to do."""

import gzip
import os
import tarfile
import zipfile
from pathlib import Path

import making
import numpy as np
import pytest
import rasterio
import rasterio.shutil
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from tilezoo.embed import embed
from tilezoo.errors import ContractError, SourceError, TileError, TooManyFailedError
from tilezoo.image import Image, read_tile
from tilezoo.opening import gdal, open_dataset
from tilezoo.sources import discover, source_at
from tilezoo.tiff import read_pages
from tilezoo.tiles import TileRef

PIXELS = making.texture(0)


def read(path: str | Path, bands: str = "123") -> np.ndarray:
    """The pixels of the one image that a name stands for."""
    (source,) = discover([path])
    given = making.request(given=tuple(bands), stated=True)
    return read_tile(TileRef(source=source), making.contract(), given).pixels


def refusal(path: str | Path) -> str:
    with gdal(), pytest.raises(TileError) as error:
        open_dataset(str(path))
    return str(error.value)


def tiff(path: Path, seed: int = 0, **how: object) -> Path:
    return making.write_tiff(path, making.texture(seed, **how), photometric="RGB")


FORMATS = {"x.img": "HFA", "x.dat": "ENVI", "x.bmp": "BMP", "x.ntf": "NITF", "x.bil": "EHdr",
           "x.webp": "WEBP", "x": "ENVI", "x.jp2": "JP2OpenJPEG", "x.gpkg": "GPKG"}  # fmt: skip
LOSSLESS = {"WEBP": {"lossless": True}, "JP2OpenJPEG": {"quality": 100, "reversible": True},
            "GPKG": {"tile_format": "PNG"}}  # fmt: skip


@pytest.mark.parametrize(("name", "driver"), FORMATS.items())
def test_each_format_of_one_file_is_read_as_a_tiff_is(
    tmp_path: Path, name: str, driver: str
) -> None:
    source = tiff(tmp_path / "from/a.tif")
    (tmp_path / "in").mkdir()
    rasterio.shutil.copy(source, tmp_path / "in" / name, driver=driver, **LOSSLESS.get(driver, {}))
    assert np.array_equal(read(tmp_path / "in" / name), PIXELS)
    if driver != "GPKG":  # is of several images as a rule, and so named
        assert [found.id for found in discover([tmp_path / "in"])] == [name]


def test_grids_in_text_are_read(tmp_path: Path) -> None:
    grey = making.write_tiff(tmp_path / "a.tif", PIXELS[:1])
    (tmp_path / "in").mkdir()
    rasterio.shutil.copy(grey, tmp_path / "in/x.asc", driver="AAIGrid")
    assert [found.id for found in discover([tmp_path / "in"])] == ["x.asc"]
    with gdal(), open_dataset(str(tmp_path / "in/x.asc")) as dataset:
        assert np.array_equal(dataset.read(), PIXELS[:1])


def test_files_that_are_only_called_like_images_are_passed_over(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif")
    (tmp_path / "disk.img").write_bytes(b"\xeb\x3c\x90" * 99)
    (tmp_path / "key.asc").write_text("-----BEGIN PGP SIGNATURE-----\n")
    (tmp_path / "log.dat").write_bytes(b"12")
    (tmp_path / "sky.hdr").write_bytes(b"#?RADIANCE\n")
    (tmp_path / "sky.dat").write_bytes(b"12")
    found = discover([tmp_path])
    assert [source.id for source in found] == ["a.tif"]
    told = found.notes[0].removeprefix("passed over ").split(", ")
    assert set(told) == {"2 .dat", "1 .img", "1 .asc"}


def write_archives(folder: Path) -> dict[str, str]:
    """Write files that hold images and are none: name → what the refusal says."""
    folder.mkdir()
    source = tiff(folder.parent / "one.tif")
    with zipfile.ZipFile(folder / "a.zip", "w") as file:
        file.write(source, "a.tif")
    with tarfile.open(folder / "a.tar", "w") as file:
        file.add(source, "a.tif")
    with tarfile.open(folder / "a.tgz", "w:gz") as file:
        file.add(source, "a.tif")
    (folder / "a.tif.gz").write_bytes(gzip.compress(source.read_bytes()))
    (folder / "a.jxl").write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n")
    (folder / "b.jxl").write_bytes(b"\xff\x0a\x01\x02")
    (folder / "a.avif").write_bytes(b"\0\0\0\x20ftypavif\0\0\0\0")
    (folder / "a.pdf").write_bytes(b"%PDF-1.7\n")
    (folder / "a.mbtiles").write_bytes(b"SQLite format 3\0" + b"\0" * 99)
    (folder / "a.hdf").write_bytes(b"\x0e\x03\x13\x01" + b"\0" * 99)
    (folder / "a.zarr/B04").mkdir(parents=True)
    (folder / "a.zarr/B04/.zarray").write_text("{}")
    return {
        "a.zip": "a zip archive; unpack it and name the folder",
        "a.tar": "a tar archive; unpack it",
        "a.tgz": "packed by gzip; unpack it",
        "a.tif.gz": "packed by gzip; unpack it",
        "a.jxl": "JPEG XL; write it as PNG first",
        "b.jxl": "JPEG XL; write it as PNG first",
        "a.avif": "AVIF or HEIF; write it as PNG first",
        "a.pdf": "a PDF; write its pages as images",
        "a.mbtiles": "a database; write it as GeoTIFF first",
        "a.hdf": "HDF4; write what it holds as GeoTIFFs first",
        "a.zarr": """a Zarr store; .*gdal_translate 'ZARR:"/.*/a.zarr":/B04' OUT.tif""",
    }


def test_archives_and_formats_that_are_not_read_are_refused_with_the_next_step(
    tmp_path: Path,
) -> None:
    told = write_archives(tmp_path / "in")
    for name, expected in told.items():
        with pytest.raises(SourceError, match=expected) as error:
            discover([tmp_path / "in" / name])
        assert str(error.value).startswith(str(tmp_path / "in" / name))
    with pytest.raises(SourceError, match=r"No image under .*passed over 2 .jxl, "):
        discover([tmp_path / "in"])
    tiff(tmp_path / "in/good.tif")
    found = discover([tmp_path / "in"])
    assert [source.id for source in found] == ["good.tif"]


def test_an_archive_in_a_list_is_an_error_row(vit: Path, tmp_path: Path) -> None:
    write_archives(tmp_path / "in")
    tiff(tmp_path / "in/good.tif")
    (tmp_path / "in/list.csv").write_text("path\ngood.tif\na.zip\n")
    with pytest.raises(TooManyFailedError, match=r"1 of 2 .* the first: .*a.zip: a zip archive"):
        embed(tmp_path / "in/list.csv", out=tmp_path / "t", model=vit, device="cpu")


def save_pages(path: Path, *images: np.ndarray) -> Path:
    first, *rest = map(making.as_pillow, images)
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest)
    return path


PAGES = [making.texture(seed, side=64 + seed) for seed in range(3)]


def test_a_file_of_several_pages_is_refused_with_their_list_and_read_by_name(
    vit: Path, tmp_path: Path
) -> None:
    path = save_pages(tmp_path / "in/p.tif", *PAGES)
    listed = r"1 \(64x64 px\), 2 \(65x65 px\), 3 \(66x66 px\); name one: /.*/p.tif:3"
    assert making.found(f"holds several images: {listed}", refusal(path))
    with pytest.raises(ContractError, match=rf"p.tif: holds several images: {listed}"):
        embed(tmp_path / "in", out=tmp_path / "t", model=vit, device="cpu")
    for number, pixels in enumerate(PAGES, 1):
        assert np.array_equal(read(f"{path}:{number}"), pixels)
    (source,) = discover([f"{path}:2"])
    assert (source.id, source_at(source.uri).path) == ("p.tif:2", f"{path}:2")
    assert "has no part '4'; there are 1 (64x64 px), 2" in refusal(f"{path}:4")
    embed(f"{path}:2", out=tmp_path / "t", model=vit, device="cpu", precision="fp32")
    save_pages(tmp_path / "alone/q.png", PAGES[1])
    embed(tmp_path / "alone", out=tmp_path / "u", model=vit, device="cpu", precision="fp32")
    assert np.allclose(making.vectors_of(tmp_path / "t"), making.vectors_of(tmp_path / "u"))


def test_pages_are_named_in_lists_too(tmp_path: Path) -> None:
    save_pages(tmp_path / "img/p.tif", *PAGES)
    (tmp_path / "l.csv").write_text("path\nimg/p.tif:1\nimg\\p.tif:3\n")
    assert [source.id for source in discover([tmp_path / "l.csv"])] == [
        "img/p.tif:1",
        "img/p.tif:3",
    ]


def test_a_preview_before_the_image_is_not_taken_for_it(tmp_path: Path) -> None:
    path = save_pages(tmp_path / "u.tif", making.texture(9, side=16), PIXELS)
    assert making.found(r"1 \(16x16 px\), 2 \(80x80 px\); name one: /.*/u.tif:2", refusal(path))
    assert np.array_equal(read(f"{path}:2"), PIXELS)
    flagged = path.with_name("v.tif")  # the same, the first said to be a reduced one
    with Pillow.open(path) as first:
        from PIL.TiffImagePlugin import ImageFileDirectory_v2

        tags = ImageFileDirectory_v2()
        tags[254] = 1
        first.save(flagged, save_all=True, append_images=[making.as_pillow(PIXELS)], tiffinfo=tags)
    pages = read_pages(str(flagged))
    if [page.reduced for page in pages] == [True, False]:
        assert making.found(
            r"1 \(16x16 px, reduced\), 2 \(80.*; name one: /.*/v.tif:2", refusal(flagged)
        )


@pytest.mark.parametrize("bigtiff", ["NO", "YES"])
@pytest.mark.parametrize("endianness", ["LITTLE", "BIG"])
def test_overviews_and_masks_are_no_pages(tmp_path: Path, bigtiff: str, endianness: str) -> None:
    path = tmp_path / "o.tif"
    how = {"photometric": "RGB", "bigtiff": bigtiff, "endianness": endianness}
    making.write_tiff(path, making.texture(3, side=256), **how)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.write_mask(np.eye(256, dtype=np.uint8) * 255 == 0)
        file.build_overviews([2, 4])
    assert [page.reduced for page in read_pages(str(path))] == [False, True, True]
    assert read(path).shape == (3, 256, 256)


def test_a_cog_is_one_image(tmp_path: Path) -> None:
    plain = tiff(tmp_path / "a.tif", side=600)
    rasterio.shutil.copy(
        plain, tmp_path / "cog.tif", driver="COG", compress="deflate", blocksize=128
    )
    assert len(read_pages(str(tmp_path / "cog.tif"))) > 1
    assert np.array_equal(read(tmp_path / "cog.tif"), making.texture(0, side=600))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=8)), max_size=5))
def test_pages_of_damaged_files_are_some_or_none(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = folder / "pages.tif"
    if not good.exists():
        save_pages(good, *(making.texture(seed, side=8) for seed in range(3)))
    content = bytearray(good.read_bytes())
    for place, data in damage:
        content[place : place + len(data)] = data
    (folder / "damaged_pages.tif").write_bytes(content)
    assert all(page.number for page in read_pages(str(folder / "damaged_pages.tif")))


def test_a_chain_of_directories_that_leads_back_ends(tmp_path: Path) -> None:
    path = save_pages(tmp_path / "p.tif", PIXELS)
    content = bytearray(path.read_bytes())
    first = int.from_bytes(content[4:8], "little")
    entries = int.from_bytes(content[first : first + 2], "little")
    after = first + 2 + entries * 12
    content[after : after + 4] = first.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(read_pages(str(path))) == 1
    assert np.array_equal(read(path), PIXELS)


def write_netcdf(path: Path, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rasterio.shutil.copy(tiff(path.parent / "from.tiff"), path, driver="netCDF", **how)
    (path.parent / "from.tiff").unlink()
    return path


def test_a_variable_of_a_netcdf_file_is_named(tmp_path: Path) -> None:
    path = write_netcdf(tmp_path / "scene.nc")
    listed = f"Band1, Band2, Band3; name one: {path}:Band1"
    assert refusal(path) == f"holds several images: {listed}"
    for number in (1, 2, 3):
        with gdal(), open_dataset(f"{path}:Band{number}") as dataset:
            assert np.array_equal(dataset.read(1), PIXELS[number - 1])
    assert "has no image 'B9'; there are Band1" in refusal(f"{path}:B9")
    (source,) = discover([f"{path}:Band2"])
    assert (source.id, source.problem) == ("scene.nc:Band2", None)


def test_a_table_of_a_geopackage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scene.gpkg"
    for seed, name in enumerate(["one", "two"]):
        how = {"append_subdataset": "YES"} if seed else {}
        copied = tiff(tmp_path / f"{seed}.tif", seed=seed)
        rasterio.shutil.copy(
            copied, path, driver="GPKG", raster_table=name, tile_format="PNG", **how
        )
    assert making.found(
        "holds several images: ONE, TWO; name one: /.*/scene.gpkg:ONE", refusal(path)
    )
    assert np.array_equal(read(f"{path}:two"), making.texture(1))


@pytest.mark.parametrize("part", ["", ":Band1", "://Band1"])
def test_hdf5_is_refused_with_what_it_holds_and_how_to_write_it(tmp_path: Path, part: str) -> None:
    path = write_netcdf(tmp_path / "scene.nc", format="NC4")
    told = refusal(f"{path}{part}")
    assert making.found("HDF5, which may lead to other files", told)
    step = f"""(gdal_translate 'HDF5:"{path}"://Band1' OUT.tif)"""
    assert f"{step}; it holds Band1, Band2" in told


@pytest.mark.parametrize("start", [b"CDF\x01", b"\x89HDF\r\n\x1a\n", b"SQLite format 3\0"])
@pytest.mark.parametrize("name", ["a.nc", "a.h5", "a.gpkg", "a.tif"])
def test_damaged_containers_are_told(tmp_path: Path, start: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(start + b"\0" * 64)
    assert "\n" not in refusal(tmp_path / name)


def test_a_part_of_a_file_that_has_none_is_told(tmp_path: Path) -> None:
    making.as_pillow(PIXELS).save(tmp_path / "a.png")
    assert refusal(f"{tmp_path}/a.png:2") == "has no part '2'; it is one image"
    tiff(tmp_path / "a.tif")
    assert refusal(f"{tmp_path}/a.tif:2") == "has no part '2'; there are 1 (80x80 px)"
    with pytest.raises(SourceError, match="no such file"):
        discover([f"{tmp_path}/gone.tif:2"])


def test_a_file_whose_name_holds_a_colon_is_that_file(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", seed=1)
    path = tiff(tmp_path / "a.tif:1")
    assert np.array_equal(read(path), PIXELS)


VRT = """<VRTDataset rasterXSize="80" rasterYSize="80">{head}
  <VRTRasterBand dataType="Byte" band="1"{band}>
    <SimpleSource>{source}<SourceBand>1</SourceBand></SimpleSource>{more}
  </VRTRasterBand>
</VRTDataset>"""
INSIDE = '<SourceFilename relativeToVRT="1">a.tif</SourceFilename>'


def write_vrt(path: Path, *, source: str = INSIDE, **parts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(VRT.format(source=source, **{"head": "", "band": "", "more": "", **parts}))
    return path


def test_a_mosaic_of_files_beside_it_is_read(tmp_path: Path) -> None:
    tiff(tmp_path / "in/sub/a.tif")
    rasterio.shutil.copy(tmp_path / "in/sub/a.tif", tmp_path / "in/x.vrt", driver="VRT")
    assert np.array_equal(read(tmp_path / "in/x.vrt"), PIXELS)
    assert [source.id for source in discover([tmp_path / "in"])] == ["sub/a.tif", "x.vrt"]


def test_a_mosaic_may_be_far_larger_than_its_own_file(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", side=4000)
    path = tmp_path / "x.vrt"
    rasterio.shutil.copy(tmp_path / "a.tif", path, driver="VRT")
    (source,) = discover([path])
    with gdal(), Image(source, making.request(given=("1", "2", "3"))) as image:
        assert image.size == (4000, 4000)


def outside(name: str, relative: str = "1") -> dict[str, str]:
    return {"source": f'<SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>'}


HOSTILE: dict[str, tuple[dict[str, str], str]] = {
    "absolute": (outside("{secret}", "0"), "absolutely"),
    "absolute, said to be relative": (outside("{secret}"), "leads out of its folder"),
    "not said": ({"source": "<SourceFilename>a.tif</SourceFilename>"}, "absolutely"),
    "said twice": (
        {"source": '<SourceFilename relativetovrt="0" relativeToVRT="1">a.tif</SourceFilename>'},
        "SourceFilename, which is not read",
    ),
    "above": (outside("../secret.tif"), "leads out of its folder"),
    "above and back": (outside("sub/../../secret.tif"), "leads out of its folder"),
    "link": (outside("link.tif"), "leads out of its folder"),
    "url": (outside("https://example.org/a.tif"), "leads out of its folder"),
    "curl": (outside("/vsicurl/https://example.org/a.tif"), "leads out of its folder"),
    "zip": (outside("/vsizip/a.zip/a.tif"), "leads out of its folder"),
    "driver": (outside('NETCDF:"a.nc":x'), "leads out of its folder"),
    "gone": (outside("gone.tif"), "whose file 'gone.tif' is not there"),
    "vrt": (outside("b.vrt"), "a VRT of 'b.vrt', a VRT"),
    "erdas": (outside("b.img"), "a VRT of 'b.img', a HFA"),
    "text": (outside("notes.txt"), "not a TIFF"),
    "derived": ({"band": ' subClass="VRTDerivedRasterBand"'}, "VRTDerivedRasterBand, which is not"),
    "raw": ({"band": ' subClass="VRTRawRasterBand"'}, "VRTRawRasterBand, which is not read"),
    "raw, otherwise": ({"band": ' SUBclass="VRTRawRasterBand"'}, "VRTRawRasterBand, which is not"),
    "warped": ({"head": "<GDALWarpOptions/>"}, "GDALWarpOptions, which is not read"),
    "python": ({"more": "<PixelFunctionCode>import os</PixelFunctionCode>"}, "PixelFunctionCode"),
    "options": ({"more": "<OpenOptions><OOI key='a'>b</OOI></OpenOptions>"}, "OpenOptions"),
    "overview": (
        {"more": f"<Overview>{outside('../secret.tif')['source']}</Overview>"},
        "Overview, which is not read",
    ),
    "mask": (
        {"head": f"<MaskBand><VRTRasterBand><SimpleSource>{outside('../secret.tif')['source']}"
                 "</SimpleSource></VRTRasterBand></MaskBand>"},
        "leads out of its folder",
    ),
    "other case": ({"more": "<simplesource><sourcefilename>x</sourcefilename></simplesource>"},
                   "simplesource, which is not read"),
    "not xml": ({"more": "<SimpleSource>"}, "not a VRT's XML"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_vrt_that_leads_elsewhere_is_refused(tmp_path: Path, kind: str) -> None:
    secret = tiff(tmp_path / "secret.tif")
    tiff(tmp_path / "in/a.tif")
    (tmp_path / "in/link.tif").symlink_to(secret)
    (tmp_path / "in/notes.txt").write_text("no image")
    write_vrt(tmp_path / "in/b.vrt")
    rasterio.shutil.copy(secret, tmp_path / "in/b.img", driver="HFA")
    parts, told = HOSTILE[kind]
    path = write_vrt(
        tmp_path / "in/x.vrt",
        **{key: v.replace("{secret}", str(secret)) for key, v in parts.items()},
    )
    message = refusal(path)
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "start", ['<!DOCTYPE a [<!ENTITY b "c">]>', '<?xml version="1.0" encoding="cp037"?>']
)
def test_xml_that_two_parsers_may_read_in_two_ways_is_refused(tmp_path: Path, start: str) -> None:
    tiff(tmp_path / "a.tif")
    path = write_vrt(tmp_path / "x.vrt", source=outside("../secret.tif")["source"])
    path.write_text(start + path.read_text())
    assert refusal(path)


def test_a_vrt_beside_good_tiles_is_a_row_of_its_own(vit: Path, tmp_path: Path) -> None:
    making.write_tiles(tmp_path / "in", 2)
    write_vrt(tmp_path / "in/x.vrt", **outside("/etc/passwd"))
    with pytest.raises(
        TooManyFailedError, match=r"1 of 3 .*x.vrt: a VRT that leads out of its fold"
    ):
        embed(tmp_path / "in", out=tmp_path / "t", model=vit, device="cpu")


def test_an_erdas_file_whose_pixels_lie_elsewhere_is_refused(tmp_path: Path) -> None:
    source = tiff(tmp_path / "a.tif")
    (tmp_path / "in").mkdir()
    rasterio.shutil.copy(source, tmp_path / "in/x.img", driver="HFA", use_spill="YES")
    assert np.array_equal(read(tmp_path / "in/x.img"), PIXELS)
    os.rename(tmp_path / "in/x.ige", tmp_path / "q.ige")  # noqa: PTH104
    content = (tmp_path / "in/x.img").read_bytes()
    assert b"x.ige\0" in content
    (tmp_path / "in/x.img").write_bytes(content.replace(b"x.ige\0", b"../q.ige\0", 1))
    with gdal(), pytest.raises(TileError) as error:
        open_dataset(str(tmp_path / "in/x.img")).read()
    assert error.value.kind == "unreadable"


def test_a_gif_is_read_as_people_see_it(tmp_path: Path) -> None:
    picture = making.as_pillow(PIXELS).convert("P")
    picture.save(tmp_path / "a.gif")
    assert [source.id for source in discover([tmp_path])] == ["a.gif"]
    seen = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(read(tmp_path / "a.gif"), seen)


def test_each_refusal_names_what_is_read_then(tmp_path: Path) -> None:
    making.write_tiff(tmp_path / "one.tif", PIXELS, photometric="RGB")
    paths = [
        save_pages(tmp_path / "p.tif", *PAGES),
        write_netcdf(tmp_path / "nc/scene.nc"),
    ]
    for path in paths:
        named = refusal(path).rpartition("name one: ")[2]
        (source,) = discover([named])
        with gdal(), open_dataset(source.path) as dataset:
            assert min(dataset.shape) > 60
