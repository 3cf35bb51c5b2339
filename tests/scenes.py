"""Tiny scenes of products in their real layouts: names, metadata and side files as delivered.

`write_scene(name, folder)` writes one; `SCENES` are all names: a product's key, and after a colon
another of its layouts. Values are those of a synthetic ground, another for each band, so that a
test sees which band was read. Names and forms of metadata are of real deliveries (agencies'
handbooks; test data of sertit/eoreader, Terradue/Stars and stactools-packages on GitHub).
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image as Pillow
from rasterio.control import GroundControlPoint
from rasterio.transform import from_origin

from tilezoo.products.product import Product, ProductBand, find_product

SIDE = 60  # pixels; whole thirds and sixths of it are the coarser bands
Pixels = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Written:
    """One scene on disk.

    Attributes:
        product: Key of what it is.
        path: What a user names: a folder, or a file where a scene is one file.
        time: Acquisition to the second; midnight where only the day is told.
        stored: Band, by the product's own name → values in the file, on the file's own grid.
        values: Band → reflectance × 10,000 where the product's facts lead to it, else as stored.
    """

    product: str
    path: Path
    time: datetime
    stored: Mapping[str, Pixels]
    values: Mapping[str, NDArray[np.float64]]


def picture(name: str, number: int = 0, side: int = SIDE) -> NDArray[np.float64]:
    """Smooth ground, another for each name and number: reflectance × 10,000 in 200..4200."""
    dice = np.random.default_rng(zlib.crc32(f"{name} {number}".encode()))
    coarse = Pillow.fromarray(dice.uniform(0, 1, (6, 6)).astype(np.float32))
    fine = np.asarray(coarse.resize((side, side), Pillow.Resampling.BILINEAR), np.float64)
    return np.round(200 + 4000 * fine)


def ground(number: int = 0, side: int = SIDE) -> dict[str, NDArray[np.float64]]:
    """Red, green, blue and nir of one ground; pass it to scenes of several products."""
    return {name: picture(name, number, side) for name in ("red", "green", "blue", "nir")}


def element(tag: str, *inner: str) -> str:
    """An XML element; the tag may have attributes."""
    return f"<{tag}>{''.join(inner)}</{tag.split()[0]}>"


@dataclass(kw_only=True)
class _Scene:
    """What a writer of scenes works with."""

    product: Product
    folder: Path
    number: int
    given: Mapping[str, NDArray[np.float64]]
    stored: dict[str, Pixels] = field(default_factory=dict)
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    side: int = SIDE
    origin: tuple[float, float] = (500_000, 4_500_000)

    @property
    def start(self) -> datetime:
        """A time of its own for each number."""
        first = datetime(2022, 4, 14, 11, 7, 51, tzinfo=UTC)
        return first + timedelta(days=self.number, seconds=self.number)

    def after(self, seconds: int) -> datetime:
        """The time some seconds later."""
        return self.start + timedelta(seconds=seconds)

    @property
    def day(self) -> datetime:
        """The time where only the day is told."""
        return self.start.replace(hour=0, minute=0, second=0)

    def at(self, form: str) -> str:
        """The time, written."""
        return self.start.strftime(form)

    def values_of(self, name: str, side: int = SIDE) -> NDArray[np.float64]:
        """Reflectance × 10,000 of a band of this ground."""
        band = self.product.find_band(name)
        assert band is not None, name
        words = {band.common, *band.aliases, band.name}
        word = "nir" if words & {"nir", "nir08"} and band is self._infrared() else band.common
        whole = self.given.get(word or "", picture(word or band.name, self.number, self.side))
        if side > len(whole):
            return np.kron(whole, np.ones((side // len(whole),) * 2))
        step = len(whole) // side
        return whole[::step, ::step]

    def _infrared(self) -> ProductBand | None:
        return self.product.find_band("nir") or self.product.find_band("nir08")

    def store(
        self, name: str, *, side: int = SIDE, scale: float = 1, offset: float = 0,
        dtype: str = "uint16", known: bool = True,
    ) -> Pixels:  # fmt: skip
        """Stored values of a band, remembered as what a reader must find.

        Args:
            name: The product's own.
            side: Pixels.
            scale: With `offset`, what leads back from stored values to reflectance × 10,000.
            offset: See `scale`.
            dtype: Of the file.
            known: A reader can find scale and offset.
        """
        raw = (self.values_of(name, side) - offset) / scale
        self.stored[name] = np.round(raw).astype(dtype)
        self.scales[name] = (scale, offset) if known else (1, 0)
        return self.stored[name]

    def tiff(self, path: str, pixels: Pixels, *, gsd_m: float = 10, **profile: object) -> Path:
        """Write a GeoTIFF, or where the path says so JPEG 2000 without loss, in a zone of UTM."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        bands = pixels if pixels.ndim == 3 else pixels[None]
        tags, points = profile.pop("tags", {}), profile.pop("points", None)
        how = {"crs": "EPSG:32633", "transform": from_origin(*self.origin, gsd_m, gsd_m)}
        if points is not None:
            how = {"crs": "EPSG:4326", "gcps": points}
        how |= {"driver": "GTiff", "count": len(bands), "dtype": bands.dtype.name}
        how |= {"height": bands.shape[1], "width": bands.shape[2]}
        if path.lower().endswith(".jp2"):
            how |= {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
        with rasterio.open(file, "w", **(how | profile)) as dataset:
            dataset.write(bands)
            if tags:
                dataset.update_tags(**tags)
        file.with_name(f"{file.name}.aux.xml").unlink(missing_ok=True)
        return file

    def xml(self, path: str, root: str, *inner: str) -> None:
        """Write an XML file; the root may have attributes."""
        self.text(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{element(root, *inner)}\n')

    def text(self, path: str, text: str) -> None:
        """Write a text file."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def preview(self, path: str) -> None:
        """Write a small picture, as agencies put it beside their imagery."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(file)

    def done(self, path: str, *, time: datetime | None = None) -> Written:
        """What was written; `time` where it is not the scene's start."""
        known = {n: self.stored[n] * float(s) + o for n, (s, o) in self.scales.items()}
        return Written(
            product=self.product.key,
            path=self.folder / path,
            time=time or self.start,
            stored=self.stored,
            values=known,
        )


def write_scene(
    name: str,
    folder: Path,
    *,
    number: int = 0,
    given: Mapping[str, NDArray[np.float64]] | None = None,
) -> Written:
    """Write a scene into a folder.

    Args:
        name: One of `SCENES`.
        folder: Where its own folder or files come to lie.
        number: 0, 1, 2 …: another day, place and ground for each.
        given: Ground by common name (`red`, `green`, `blue`, `nir`), (SIDE, SIDE) each.
    """
    product = find_product(name.partition(":")[0])
    scene = _Scene(product=product, folder=folder, number=number, given=given or {})
    scene.origin = (500_000 + number * 10_000, 4_500_000)
    return SCENES[name](scene)


# --- Sentinel-2 and BigEarthNet -------------------------------------------------------------------

_STEPS = {"B02": 1, "B03": 1, "B04": 1, "B08": 1, "B01": 6, "B09": 6, "B10": 6}
_MSI = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]


def _offsets_xml(scene: _Scene, level: str, baseline: str) -> str:
    tag, bands = {"L2A": ("BOA", 13), "L1C": ("RADIO", 13)}[level]
    rows = "".join(
        f'<{tag}_ADD_OFFSET band_id="{n}">-1000</{tag}_ADD_OFFSET>' for n in range(bands)
    )
    groups = {"L2A": "BOA_ADD_OFFSET_VALUES_LIST", "L1C": "Radiometric_Offset_List"}
    offsets = f"<{groups[level]}>{rows}</{groups[level]}>" if baseline >= "04.00" else ""
    quantity = "BOA_QUANTIFICATION_VALUE" if level == "L2A" else "QUANTIFICATION_VALUE"
    url = f"https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{level[1:]}.xsd"
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{level[1:]}_User_Product xmlns:n1="{url}">
  <n1:General_Info>
    <Product_Info>
      <PRODUCT_START_TIME>{scene.at("%Y-%m-%dT%H:%M:%S.024Z")}</PRODUCT_START_TIME>
      <PROCESSING_LEVEL>Level-{level[1:]}</PROCESSING_LEVEL>
      <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
      <GENERATION_TIME>2023-01-01T00:00:00.000000Z</GENERATION_TIME>
      <Datatake datatakeIdentifier="GS2A_20220414T110751_035569_N{baseline}">
        <SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME>
        <DATATAKE_SENSING_START>{scene.at("%Y-%m-%dT%H:%M:%S.024Z")}</DATATAKE_SENSING_START>
      </Datatake>
    </Product_Info>
    <Product_Image_Characteristics>
      <{quantity} unit="none">10000</{quantity}>{offsets}
    </Product_Image_Characteristics>
  </n1:General_Info>
</n1:Level-{level[1:]}_User_Product>
"""


def _safe(level: str, baseline: str, suffix: str = "jp2") -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        tile = f"T{26 + scene.number}EMU"
        start, number = scene.at("%Y%m%dT%H%M%S"), f"N{baseline.replace('.', '')}"
        safe = f"S2A_MSI{level}_{start}_{number}_R108_{tile}_20230414T165533.SAFE"
        granule = f"{safe}/GRANULE/{level}_{tile}_A035569_{scene.at('%Y%m%dT110747')}"
        offset = -1000.0 if baseline >= "04.00" else 0.0
        levels = _write_l2a if level == "L2A" else _write_l1c
        levels(scene, f"{granule}/IMG_DATA", f"{tile}_{start}", offset, suffix)
        mask = np.zeros((SIDE // 2, SIDE // 2), np.uint8)
        scene.tiff(f"{granule}/QI_DATA/MSK_CLDPRB_20m.{suffix}", mask, gsd_m=20)
        scene.tiff(f"{granule}/QI_DATA/{tile}_{start}_PVI.{suffix}", np.stack([mask] * 3), gsd_m=20)
        scene.text(f"{safe}/MTD_MSI{level}.xml", _offsets_xml(scene, level, baseline))
        scene.text(
            f"{granule}/MTD_TL.xml",
            "<n1:Tile xmlns:n1='x'><SENSING_TIME>2022-04-14T11:07:59.8Z</SENSING_TIME></n1:Tile>",
        )
        scene.text(f"{safe}/manifest.safe", "<xfdu:XFDU xmlns:xfdu='urn:ccsds'/>")
        scene.preview(f"{safe}/HTML/banner_1.png")
        return scene.done(safe)

    return write


def _write_l2a(scene: _Scene, folder: str, stem: str, offset: float, suffix: str) -> None:
    """R10m, R20m and R60m; coarser files of a band hold other values, so that a test sees them."""
    for band in _MSI:
        step = _STEPS.get(band, 2)
        if band == "B10":
            continue
        pixels = scene.store(band, side=SIDE // step, offset=offset)
        scene.tiff(f"{folder}/R{step}0m/{stem}_{band}_{step}0m.{suffix}", pixels, gsd_m=10.0 * step)
        for coarser in {2, 6} - set(range(step + 1)):
            ratio = coarser // step
            name = f"{folder}/R{coarser}0m/{stem}_{band}_{coarser}0m.{suffix}"
            scene.tiff(name, pixels[::ratio, ::ratio] // 2, gsd_m=10.0 * coarser)
    for step in (1, 2, 6):
        grey = np.full((SIDE // step, SIDE // step), 77, np.uint8)
        where = f"{folder}/R{step}0m/{stem}"
        scene.tiff(f"{where}_AOT_{step}0m.{suffix}", grey, gsd_m=10.0 * step)
        scene.tiff(f"{where}_WVP_{step}0m.{suffix}", grey, gsd_m=10.0 * step)
        scene.tiff(f"{where}_TCI_{step}0m.{suffix}", np.stack([grey] * 3), gsd_m=10.0 * step)
        if step > 1:
            scene.tiff(f"{where}_SCL_{step}0m.{suffix}", grey, gsd_m=10.0 * step)


def _write_l1c(scene: _Scene, folder: str, stem: str, offset: float, suffix: str) -> None:
    for band in _MSI:
        step = _STEPS.get(band, 2)
        pixels = scene.store(band, side=SIDE // step, offset=offset)
        scene.tiff(f"{folder}/{stem}_{band}.{suffix}", pixels, gsd_m=10.0 * step)
    grey = np.full((3, SIDE, SIDE), 77, np.uint8)
    scene.tiff(f"{folder}/{stem}_TCI.{suffix}", grey)


def _long_names(scene: _Scene) -> Written:
    """A product of before December 2016; its granule's name has the time of processing."""
    start = scene.at("%Y%m%dT%H%M%S")
    safe = f"S2A_OPER_PRD_MSIL1C_PDMC_20160725T224217_R122_V{start}_{start}.SAFE"
    tile = f"S2A_OPER_MSI_L1C_TL_SGS__20160725T134133_A005696_T{30 + scene.number}TQM"
    _write_l1c(scene, f"{safe}/GRANULE/{tile}_N02.04/IMG_DATA", tile, 0, "jp2")
    xml = _offsets_xml(scene, "L1C", "02.04")
    scene.text(f"{safe}/{safe.replace('PRD_MSIL1C', 'MTD_SAFL1C').removesuffix('.SAFE')}.xml", xml)
    scene.preview(f"{safe}/{safe.replace('PRD_MSIL1C', 'BWI_MSIL1C').removesuffix('.SAFE')}.png")
    return scene.done(safe)


def _mirror(collection: int) -> Callable[[_Scene], Written]:
    """Element 84's mirror; of its first collection scenes before 2022 only are certain."""

    def write(scene: _Scene) -> Written:
        day = scene.day.replace(year=2020)
        tile = f"{26 + scene.number}EMU"
        folder = f"S2A_{tile}_{day:%Y%m%d}_0_L2A"
        if collection == 1:
            folder = f"S2A_T{tile}_{scene.at('%Y%m%dT%H%M%S')}_L2A"
        for band in _MSI:
            step = _STEPS.get(band, 2)
            if band != "B10":
                pixels = scene.store(band, side=SIDE // step, offset=-1000 * collection)
                scene.tiff(f"{folder}/{band}.tif", pixels, gsd_m=10.0 * step, nodata=0)
        grey = np.full((SIDE // 2, SIDE // 2), 77, np.uint8)
        for name in ("SCL", "AOT", "WVP"):
            scene.tiff(f"{folder}/{name}.tif", grey, gsd_m=20)
        scene.tiff(f"{folder}/TCI.tif", np.full((3, SIDE, SIDE), 77, np.uint8))
        scene.tiff(f"{folder}/L2A_PVI.tif", np.stack([grey] * 3), gsd_m=20)
        scene.preview(f"{folder}/thumbnail.jpg")
        return scene.done(folder, time=None if collection else day)

    return write


def _earth_engine(scene: _Scene) -> Written:
    folder = f"gee_{scene.number}"
    stem = f"{scene.at('%Y%m%dT%H%M%S')}_{scene.at('%Y%m%dT165533')}_T{30 + scene.number}TWN"
    for band in ("B02", "B03", "B04", "B08"):
        scene.tiff(f"{folder}/{stem}.B{int(band[1:])}.tif", scene.store(band))
    scene.tiff(f"{folder}/{stem}.QA60.tif", np.zeros((SIDE, SIDE), np.uint16))
    return scene.done(folder)


def _patch(version: int) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        middle = "_N9999_R022_T33UUP" if version == 2 else ""
        name = f"S2A_MSIL2A_{scene.at('%Y%m%dT%H%M%S')}{middle}_26_{57 + scene.number}"
        for band in _MSI:
            step = _STEPS.get(band, 2)
            if band != "B10":
                pixels = scene.store(band, side=SIDE // step)
                scene.tiff(f"{name}/{name}_{band}.tif", pixels, gsd_m=10.0 * step)
        if version == 1:
            labels = json.dumps(
                {"labels": ["Pastures"], "acquisition_date": scene.at("%Y-%m-%d %H:%M:%S")}
            )
            scene.text(f"{name}/{name}_labels_metadata.json", labels)
        return scene.done(name)

    return write


def _radar_patch(scene: _Scene) -> Written:
    name = f"S1A_IW_GRDH_1SDV_{scene.at('%Y%m%dT%H%M%S')}_33UUP_26_{57 + scene.number}"
    for band in ("VV", "VH"):
        pixels = scene.store(band, scale=400, offset=8000, dtype="float32", known=False)
        scene.tiff(f"{name}/{name}_{band}.tif", pixels)
    return scene.done(name)


# --- Sentinel-1 -----------------------------------------------------------------------------------


def _points(side: int) -> list[GroundControlPoint]:
    rows = (0, side // 2, side)
    return [
        GroundControlPoint(r, c, 12 + c * 1e-4, 42 - r * 1e-4, 100.0) for r in rows for c in rows
    ]


def _grd(layout: str) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        start, end = (t.strftime("%Y%m%dT%H%M%S") for t in (scene.start, scene.after(25)))
        orbit, start_time = f"0{17_013 + scene.number}_01C5A4", scene.at("%Y-%m-%dT%H:%M:%S.368922")
        safe = f"S1A_IW_GRDH_1SDV_{start}_{end}_{orbit}_0D5F"
        safe += ".SAFE" if layout == "safe" else ""
        for place, band in enumerate(("VV", "VH"), start=1):
            pixels = scene.store(band, scale=4, known=False)
            stem = f"s1a-iw-grd-{band}-{start}-{end}-{orbit.replace('_', '-')}-00{place}".lower()
            name = f"{stem}.tiff" if layout == "safe" else f"iw-{band.lower()}.tiff"
            scene.tiff(f"{safe}/measurement/{name}", pixels, points=_points(SIDE))
            header = element("adsHeader", element("startTime", start_time))
            scene.xml(f"{safe}/annotation/{stem}.xml", "product", header)
        period = element("safe:acquisitionPeriod", element("safe:startTime", start_time))
        spaces = "xmlns:xfdu='urn:ccsds' xmlns:safe='http://www.esa.int/safe/sentinel-1.0'"
        scene.xml(f"{safe}/manifest.safe", f"xfdu:XFDU {spaces}", period)
        scene.preview(f"{safe}/preview/quick-look.png")
        return scene.done(safe)

    return write


def _rtc(scene: _Scene) -> Written:
    stem = f"S1A_IW_{scene.at('%Y%m%dT%H%M%S')}_DVP_RTC30_G_gpuned_3B1{'DEF'[scene.number]}"
    for band in ("VV", "VH"):
        pixels = scene.store(band, scale=10_000, dtype="float32", known=False)
        scene.stored[band] = (scene.values_of(band) / 10_000).astype(np.float32)
        scene.tiff(f"{stem}/{stem}_{band}.tif", scene.stored[band], gsd_m=30, nodata=0)
        assert pixels.shape == (SIDE, SIDE)
    for name in ("inc_map", "ls_map", "dem"):
        scene.tiff(f"{stem}/{stem}_{name}.tif", np.ones((SIDE, SIDE), np.float32), gsd_m=30)
    scene.tiff(f"{stem}/{stem}_rgb.tif", np.ones((3, SIDE, SIDE), np.uint8), gsd_m=30)
    return scene.done(stem)


# --- Landsat and HLS ------------------------------------------------------------------------------

_SUN = 45.0


def _mtl(scene: _Scene, groups: Mapping[str, Mapping[str, object]]) -> str:
    """Landsat's list of groups, in the form of a text."""
    own = {
        "IMAGE_ATTRIBUTES": {
            "DATE_ACQUIRED": scene.at("%Y-%m-%d"),
            "SCENE_CENTER_TIME": scene.at('"%H:%M:%S.1234560Z"'),
            "SUN_ELEVATION": _SUN,
        }
    }
    lines = ["GROUP = LANDSAT_METADATA_FILE"]
    for group, keys in (own | dict(groups)).items():
        lines += [f"  GROUP = {group}", *(f"    {k} = {v}" for k, v in keys.items())]
        lines += [f"  END_GROUP = {group}"]
    return "\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END", ""])


def _landsat_l2(sensor: str) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        stem = f"{sensor}_L2SP_008029_{scene.at('%Y%m%d')}_20230411_02_T1"
        for band in scene.product.bands:
            pixels = scene.store(band.name, scale=0.275, offset=-2000, known=band.rescaled)
            scene.tiff(f"{stem}/{stem}_{band.name}.TIF", pixels, gsd_m=30, nodata=0)
        thermal = (
            "ST_ATRAN",
            "ST_CDIST",
            "ST_DRAD",
            "ST_EMIS",
            "ST_EMSD",
            "ST_QA",
            "ST_TRAD",
            "ST_URAD",
        )
        for name in (*thermal, "QA_PIXEL", "QA_RADSAT", "SR_QA_AEROSOL"):
            scene.tiff(f"{stem}/{stem}_{name}.TIF", np.ones((SIDE, SIDE), np.int16), gsd_m=30)
        scene.text(f"{stem}/{stem}_MTL.txt", _mtl(scene, {}))
        scene.preview(f"{stem}/{stem}_thumb_large.jpeg")
        scene.preview(f"{stem}/{stem}.jpg")
        return scene.done(stem)

    return write


def _landsat_l1(
    stem_of: Callable[[_Scene], str], *, with_mtl: bool = True
) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        stem, sine = stem_of(scene), float(np.sin(np.radians(_SUN)))
        rescaling: dict[str, object] = {}
        for band in scene.product.bands:
            mult, add = 4e-5, -0.1
            if band.rescaled and band.number is not None:
                rescaling |= {f"REFLECTANCE_MULT_BAND_{band.number}": mult}
                rescaling |= {f"REFLECTANCE_ADD_BAND_{band.number}": add}
            scale, offset = mult * 10_000 / sine, add * 10_000 / sine
            side = SIDE * 2 if band.common == "pan" else SIDE
            pixels = scene.store(
                band.name, side=side, scale=scale, offset=offset, known=with_mtl and band.rescaled
            )
            scene.tiff(f"{stem}/{stem}_{band.name}.TIF", pixels, gsd_m=30 * SIDE / side)
        scene.tiff(f"{stem}/{stem}_BQA.TIF", np.ones((SIDE, SIDE), np.uint16), gsd_m=30)
        if with_mtl:
            text = _mtl(scene, {"LEVEL1_RADIOMETRIC_RESCALING": rescaling})
            scene.text(f"{stem}/{stem}_MTL.txt", text)
            return scene.done(stem)
        return scene.done(stem, time=scene.day)

    return write


def _collection(sensor: str) -> Callable[[_Scene], str]:
    return lambda scene: f"{sensor}_L1TP_020038_{scene.at('%Y%m%d')}_20221103_02_T1"


def _old_id(sensor: str, station: str) -> Callable[[_Scene], str]:
    return lambda scene: f"{sensor}008029{scene.at('%Y%j')}{station}00"


def _espa(sensor: str) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        stem = f"{sensor}_L1TP_035033_{scene.at('%Y%m%d')}_20220504_01_T1"
        for band in scene.product.bands:
            if band.name.startswith("sr_"):
                pixels = scene.store(band.name, dtype="int16")
                scene.tiff(f"{stem}/{stem}_{band.name}.tif", pixels, gsd_m=30, nodata=-9999)
        for name in ("pixel_qa", "radsat_qa", "sr_ndvi"):
            scene.tiff(f"{stem}/{stem}_{name}.tif", np.ones((SIDE, SIDE), np.uint16), gsd_m=30)
        day = element("acquisition_date", scene.at("%Y-%m-%d"))
        hour = element("scene_center_time", scene.at("%H:%M:%S.123456Z"))
        root = "espa_metadata xmlns='http://espa.cr.usgs.gov/v2'"
        scene.xml(f"{stem}/{stem}.xml", root, element("global_metadata", day, hour))
        return scene.done(stem)

    return write


def _hls(kind: str, *, tagged: bool = True) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        stem = f"HLS.{kind}.T{50 + scene.number}SMS.{scene.at('%Y%jT%H%M%S')}.v2.0"
        tags = {
            "SENSING_TIME": scene.at("%Y-%m-%dT%H:%M:%S.1234567Z; 2022-04-20T16:45:37.0129060Z")
        }
        for band in scene.product.bands:
            pixels = scene.store(band.name, dtype="int16")
            name = f"{stem}/{stem}.{band.name}.tif"
            scene.tiff(name, pixels, gsd_m=30, nodata=-9999, tags=tags if tagged else {})
        scene.tiff(
            f"{stem}/{stem}.Fmask.tif", np.zeros((SIDE, SIDE), np.uint8), gsd_m=30, nodata=255
        )
        for name in ("SAA", "SZA", "VAA", "VZA"):
            scene.tiff(
                f"{stem}/{stem}.{name}.tif", np.full((SIDE, SIDE), 4000, np.uint16), gsd_m=30
            )
        scene.preview(f"{stem}/{stem}.jpg")
        return scene.done(stem)

    return write


# --- CBERS, NAIP, MODIS ---------------------------------------------------------------------------


def _cbers(
    satellite: str, camera: str, gsd_m: float, middle: str = ""
) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        stem = f"CBERS_{satellite}_{camera}_{scene.at('%Y%m%d')}_003_073_L4"
        begin, center = "2022-01-01T00:00:00.9", scene.at("%Y-%m-%dT%H:%M:%S.854295")
        stamps = element("timeStamp", element("begin", begin), element("center", center))
        kept = {"PAN5M": ("BAND1",), "PAN10M": ("BAND2", "BAND3", "BAND4")}.get(camera)
        for band in scene.product.bands:
            if kept and band.name not in kept:
                continue
            side = SIDE * 4 if band.name == "BAND0" else SIDE
            pixels = scene.store(band.name, side=side, scale=20, dtype="uint8", known=False)
            scene.tiff(f"{stem}/{stem}{middle}_{band.name}.tif", pixels, gsd_m=gsd_m * SIDE / side)
            scene.text(
                f"{stem}/{stem}_{band.name}.xml",
                f"<prdf xmlns='http://www.gisplan.com.br/xmlsat'><image>{stamps}</image></prdf>",
            )
        scene.preview(f"{stem}/{stem}_thumbnail.jpg")
        return scene.done(stem)

    return write


def _stack(scene: _Scene, path: str, names: str, *, gsd_m: float = 3, **how: object) -> None:
    """Write bands of these own names into one file."""
    profile = {"photometric": how.pop("photometric", "MINISBLACK")}
    bands = (scene.product.find_band(name) for name in names.split())
    pixels = np.stack([scene.store(band.name, **how) for band in bands if band])
    if path.endswith((".JP2", ".jp2")):
        profile = {}
    scene.tiff(path, pixels, gsd_m=gsd_m, **profile)


def _naip(names: str) -> Callable[[_Scene], Written]:
    """As GDAL writes four bytes a pixel: the fourth is tagged alpha."""

    def write(scene: _Scene) -> Written:
        day = scene.day
        path = f"m_341203{scene.number}_nw_10_060_{day:%Y%m%d}.tif"
        _stack(
            scene, path, names, gsd_m=0.6, scale=20, dtype="uint8", known=False, photometric="RGB"
        )
        return scene.done(path, time=day)

    return write


def _modis(scene: _Scene) -> Written:
    day = scene.day
    folder, tail = f"modis_{scene.number}", f"doy{day:%Y%j}_aid0001"
    for band in scene.product.bands:
        pixels = scene.store(band.name, dtype="int16")
        name = f"{folder}/MOD09GA.061_{band.name}_1_{tail}.tif"
        scene.tiff(name, pixels, gsd_m=500, nodata=-28672)
    for name in ("QC_500m_1", "state_1km_1", "sur_refl_qc_500m"):
        scene.tiff(
            f"{folder}/MOD09GA.061_{name}_{tail}.tif", np.ones((SIDE, SIDE), np.uint32), gsd_m=500
        )
    return scene.done(folder, time=day)


# --- Planet, Airbus, Maxar ------------------------------------------------------------------------

_FOUR, _EIGHT = "blue green red nir", "coastal_blue blue green_i green yellow red rededge nir"


def _planet(kind: str, names: str, *, clip: str = "", **how: object) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        item = f"{scene.at('%Y%m%d_%H%M%S')}_64_24a3"
        stem = f"{item}/{item}_3B"
        _stack(scene, f"{stem}_{kind}{clip}.tif", names, **how)
        plain = kind.replace("_SR", "").replace("_harmonized", "")
        acquired = element("ps:acquisitionDateTime", scene.at("%Y-%m-%dT%H:%M:%S+00:00"))
        root = "ps:EarthObservation xmlns:ps='http://schemas.planet.com/ps/v1'"
        scene.xml(f"{stem}_{plain}_metadata{clip}.xml", root, acquired)
        properties = {"acquired": scene.at("%Y-%m-%dT%H:%M:%S.49Z")}
        scene.text(f"{item}/{item}_metadata.json", json.dumps({"properties": properties}))
        scene.tiff(f"{stem}_udm2{clip}.tif", np.ones((8, SIDE, SIDE), np.uint8), gsd_m=3)
        return scene.done(item)

    return write


def _skysat(kind: str, names: str, **how: object) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        item = f"{scene.at('%Y%m%d_%H%M%S')}_ssc4_u000{1 + scene.number}"
        _stack(scene, f"{item}/{item}_{kind}.tif", names, gsd_m=0.5, **how)
        scene.text(
            f"{item}/{item}_metadata.json",
            json.dumps({"properties": {"acquired": scene.at("%Y-%m-%dT%H:%M:%S.49Z")}}),
        )
        scene.tiff(f"{item}/{item}_{kind}_udm2.tif", np.ones((8, SIDE, SIDE), np.uint8), gsd_m=0.5)
        return scene.done(item)

    return write


def _dimap(
    sensor: str, kind: str, names: str, suffix: str, tail: str = ""
) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        neo, time = sensor.startswith("PNEO"), scene.at("%Y%m%d%H%M%S1")
        stem = f"{sensor}_{kind}_{time}_ORT_548158610{scene.number}"
        folder = f"IMG_{sensor}_{kind}_00{scene.number}"
        if neo:
            stem = f"{sensor}_{time}_{kind}_ORT_PWOI_00011510{scene.number}_1_1_F_1"
            folder = f"IMG_0{scene.number}_{sensor}_{kind}"
        file = f"IMG_{stem}{tail}_R1C1.{suffix}"
        _stack(scene, f"{folder}/{file}", names, gsd_m=0.5, known=False)
        indexes = [
            element("Raster_Index", element("BAND_ID", name), element("BAND_INDEX", str(place)))
            for place, name in enumerate(names.split(), start=1)
        ]
        order = element("Raster_Index_List", *indexes) if neo else ""
        image = element("Data_File", element(f"DATA_FILE_PATH href='{file}'"))
        day = element("IMAGING_DATE", scene.at("%Y-%m-%d"))
        strip = element("Strip_Source", day, element("IMAGING_TIME", scene.at("%H:%M:%S.1Z")))
        files = element("Data_Files", image, order)
        scene.xml(f"{folder}/DIM_{stem}.XML", "Dimap_Document", files, strip)
        for preview in (f"PREVIEW_{stem}", f"ICON_{stem}", "LIBRARY/LOGO"):
            scene.preview(f"{folder}/{preview}.JPG")
        return scene.done(folder)

    return write


def _maxar(code: str, band_id: str, names: str, *, imd: bool = True) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        stem = f"{scene.at('%y%b%d%H%M%S').upper()}-{code}-50254153401{scene.number}_01_P003"
        folder = f"50254153401{scene.number}_01_P003_MUL"
        _stack(scene, f"{folder}/{stem}.TIF", names, gsd_m=2, known=False)
        if imd:
            lines = [f'bandId = "{band_id}";']
            for name in names.split():
                lines += [f"BEGIN_GROUP = BAND_{name}", "\tabsCalFactor = 1.0e-02;"]
                lines += [f"END_GROUP = BAND_{name}"]
            lines += ["BEGIN_GROUP = IMAGE_1", '\tsatId = "WV03";']
            lines += [f"\tfirstLineTime = {scene.at('%Y-%m-%dT%H:%M:%S.704850Z')};"]
            lines += ["END_GROUP = IMAGE_1", "END;", ""]
            scene.text(f"{folder}/{stem}.IMD", "\n".join(lines))
        scene.preview(f"{folder}/{stem}-BROWSE.JPG")
        return scene.done(folder)

    return write


def _ard(kind: str, names: str, **how: object) -> Callable[[_Scene], Written]:
    def write(scene: _Scene) -> Written:
        day = scene.day
        folder = f"{day:%Y-%m-%d}"
        _stack(scene, f"{folder}/10300100D674090{scene.number}-{kind}.tif", names, gsd_m=0.5, **how)
        return scene.done(folder, time=day)

    return write


# --- Radar in the X band --------------------------------------------------------------------------


def _umbra(scene: _Scene) -> Written:
    stem = f"{scene.at('%Y-%m-%d-%H-%M-%S')}_UMBRA-05"
    _stack(
        scene,
        f"{stem}/{stem}_GEC.tif",
        "magnitude",
        gsd_m=0.5,
        scale=20,
        dtype="uint8",
        known=False,
    )
    scene.preview(f"{stem}/{stem}.png")
    scene.tiff(f"{stem}/{stem}_CSI.tif", np.ones((3, SIDE, SIDE), np.uint8), gsd_m=0.5)
    collect = {"startAtUTC": scene.at("%Y-%m-%dT%H:%M:%S.214000+00:00")}
    scene.text(f"{stem}/{stem}_METADATA.json", json.dumps({"collects": [collect]}))
    return scene.done(stem)


def _capella(scene: _Scene) -> Written:
    end = (scene.start + timedelta(seconds=4)).strftime("%Y%m%d%H%M%S")
    stem = f"CAPELLA_C02_SM_GEO_HH_{scene.at('%Y%m%d%H%M%S')}_{end}"
    pixels = scene.store("HH", known=False)
    scene.tiff(f"{stem}/{stem}.tif", pixels, gsd_m=0.8)
    scene.tiff(f"{stem}/{stem}_preview.tif", np.ones((SIDE // 2, SIDE // 2), np.uint8), gsd_m=1.6)
    scene.text(
        f"{stem}/{stem}_extended.json",
        json.dumps({"collect": {"start_timestamp": scene.at("%Y-%m-%dT%H:%M:%S.103Z")}}),
    )
    return scene.done(stem)


_BYTES = {"scale": 20, "dtype": "uint8", "known": False, "photometric": "RGB"}
_RAW = {"known": False}
_ALL_WV = "C B G Y R RE N N2"

SCENES: dict[str, Callable[[_Scene], Written]] = {
    "bigearthnet-s2": _patch(2),
    "bigearthnet-s2: v1": _patch(1),
    "bigearthnet-s1": _radar_patch,
    "sentinel-2-l2a": _safe("L2A", "05.09"),
    "sentinel-2-l2a: baseline 02.14": _safe("L2A", "02.14"),
    "sentinel-2-l2a: GeoTIFFs in a SAFE": _safe("L2A", "04.00", "tif"),
    "sentinel-2-l2a: mirror": _mirror(0),
    "sentinel-2-l2a: mirror, collection 1": _mirror(1),
    "sentinel-2-l1c": _safe("L1C", "04.00"),
    "sentinel-2-l1c: baseline 02.06": _safe("L1C", "02.06"),
    "sentinel-2-l1c: before December 2016": _long_names,
    "sentinel-2": _earth_engine,
    "sentinel-1-rtc": _rtc,
    "sentinel-1-grd": _grd("safe"),
    "sentinel-1-grd: COGs": _grd("cog"),
    "landsat-8-9-c2-l2": _landsat_l2("LC08"),
    "landsat-8-9-c2-l2: Landsat 9": _landsat_l2("LC09"),
    "landsat-4-7-c2-l2": _landsat_l2("LE07"),
    "landsat-4-7-c2-l2: Landsat 5": _landsat_l2("LT05"),
    "landsat-8-9-c1-l2": _espa("LC08"),
    "landsat-4-7-c1-l2": _espa("LT05"),
    "landsat-8-9-l1": _landsat_l1(_collection("LC08")),
    "landsat-8-9-l1: old id, no MTL": _landsat_l1(_old_id("LC8", "LGN"), with_mtl=False),
    "landsat-7-l1": _landsat_l1(_collection("LE07")),
    "landsat-4-5-l1": _landsat_l1(_collection("LT05")),
    "landsat-4-5-l1: old id": _landsat_l1(_old_id("LT5", "PAC")),
    "landsat-4-5-mss": _landsat_l1(_collection("LM05")),
    "landsat-1-3-mss": _landsat_l1(_collection("LM01")),
    "hls-l30": _hls("L30"),
    "hls-s30": _hls("S30"),
    "hls-s30: no tags": _hls("S30", tagged=False),
    "cbers-mux": _cbers("4", "MUX", 20),
    "cbers-mux: 4A": _cbers("4A", "MUX", 16),
    "cbers-wfi": _cbers("4A", "WFI", 55, "_LEFT"),
    "cbers-wfi: AWFI": _cbers("4", "AWFI", 64),
    "cbers-pan": _cbers("4", "PAN10M", 10),
    "cbers-pan: 5 m": _cbers("4", "PAN5M", 5),
    "cbers-wpm": _cbers("4A", "WPM", 8),
    "naip": _naip("red green blue nir"),
    "naip: RGB": _naip("red green blue"),
    "planetscope-sr": _planet("AnalyticMS_SR_8b", _EIGHT, clip="_clip"),
    "planetscope-sr: four bands": _planet("AnalyticMS_SR", _FOUR),
    "planetscope-sr: harmonized": _planet("AnalyticMS_SR_8b_harmonized", _EIGHT, clip="_clip"),
    "planetscope": _planet("AnalyticMS", _FOUR, **_RAW),
    "planetscope: eight bands": _planet("AnalyticMS_8b", _EIGHT, **_RAW),
    "planetscope: three bands": _planet("Analytic", "red green blue", **_RAW),
    "planetscope-visual": _planet("Visual", "red green blue", **_BYTES),
    "skysat-sr": _skysat("analytic_SR", _FOUR),
    "skysat": _skysat("analytic", _FOUR, **_RAW),
    "skysat: pansharpened": _skysat("pansharpened", _FOUR, **_RAW),
    "skysat: panchromatic": _skysat("panchromatic", "pan", **_RAW),
    "skysat-visual": _skysat("visual", "red green blue", **_BYTES),
    "pleiades-neo-ned": _dimap("PNEO4", "MS-FS", "NIR RE DB", "TIF", "_NED"),
    "pleiades-neo": _dimap("PNEO4", "PMS", "R G B NIR", "JP2", "_RGBN"),
    "pleiades-neo: panchromatic": _dimap("PNEO3", "PAN", "PAN", "TIF", "_P"),
    "pleiades": _dimap("PHR1A", "PMS", "B2 B1 B0 B3", "JP2"),
    "pleiades: panchromatic": _dimap("PHR1B", "P", "P", "TIF"),
    "spot-6-7": _dimap("SPOT7", "MS", "B2 B1 B0 B3", "TIF"),
    "maxar": _maxar("M1BS", "Multi", _ALL_WV),
    "maxar: four bands, no IMD": _maxar("M2AS", "", "B G R N", imd=False),
    "maxar: natural colours": _maxar("S2AS", "RGB", "R G B"),
    "maxar: infrared colours": _maxar("S3DS", "NRG", "N R G"),
    "maxar: panchromatic": _maxar("P2AS", "P", "P"),
    "maxar-ard": _ard("ms", _ALL_WV, **_RAW),
    "maxar-visual": _ard("visual", "red green blue", **_BYTES),
    "modis-sr": _modis,
    "umbra": _umbra,
    "capella": _capella,
}
