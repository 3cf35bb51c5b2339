"""Packing: what stands in shards, rows and manifest, and what is refused."""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import geopandas
import making
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window
from test_hostile import bad_tiles, good_tiles

from tilezoo.errors import (
    ContractError,
    LabelsError,
    OptionError,
    PackError,
    SourceError,
    TooManyFailedError,
)
from tilezoo.io import sha256_file
from tilezoo.pretrain import pack
from tilezoo.pretrain.packs.shards import Pack, open_pack
from tilezoo.training_ids import ids_sha256
from tilezoo.zoo.network import fit

COUNT = 60
SHARD_1MB = 54  # tiles of 3x80x80 bytes


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty 8-bit RGB tiles of 80 px: a shard of 1 MiB and a little."""
    folder = tmp_path_factory.mktemp("tiles")
    making.write_tiles(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def packed(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    out = tmp_path_factory.mktemp("packs") / "shards"
    pack(tiles, out=out, shard_mb=1)
    return open_pack(out)


@pytest.fixture(scope="module")
def sixteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tiles of Sentinel-2's kind: uint16, four named bands."""
    folder = tmp_path_factory.mktemp("sixteen")
    for number in range(12):
        pixels = making.texture(number, bands=4, side=40, high=3000, dtype="uint16")
        path = folder / f"t{number:02d}.tif"
        making.write_tiff(path, pixels, names=("B02", "B03", "B04", "B08"))
    return folder


def pixels_of(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return np.asarray(file.read())


def stack_of(folder: Path) -> NDArray[Any]:
    return np.stack([pixels_of(path) for path in sorted(folder.rglob("*.tif"))])


def everything(shards: Pack) -> NDArray[Any]:
    return shards.read(np.arange(len(shards)))


def rows_of(shards: Pack) -> list[dict[str, Any]]:
    return list(pq.read_table(shards.path / "tiles.parquet").to_pylist())


def test_shards_are_plain_numpy_files_of_the_files_pixels(tiles: Path, packed: Pack) -> None:
    files = sorted(packed.path.glob("shard-*.npy"))
    arrays = [np.load(file, mmap_mode="r") for file in files]
    assert [array.shape for array in arrays] == [(54, 3, 80, 80), (6, 3, 80, 80)]
    assert np.array_equal(np.concatenate(arrays), stack_of(tiles))


def test_rows_tell_where_each_tile_lies_and_what_is_known_of_it(
    tiles: Path, packed: Pack, vit: Path, tmp_path: Path
) -> None:
    from tilezoo.embed import embed

    rows = pq.read_table(packed.path / "tiles.parquet")
    assert rows["id"].to_pylist() == [f"tile_{i:04d}.tif" for i in range(COUNT)]
    assert rows["shard"].to_pylist() == [i // SHARD_1MB for i in range(COUNT)]
    assert rows["row"].to_pylist() == [i % SHARD_1MB for i in range(COUNT)]
    assert rows["labels"].null_count == rows["split"].null_count == COUNT
    embed(tiles, out=tmp_path / "t", model=vit, device="cpu", precision="fp32")
    table = making.rows_of(tmp_path / "t")
    shared = [name for name in table.column_names if name != "embedding"]
    assert rows.select(shared).replace_schema_metadata(None).equals(table.select(shared))


def test_tiles_parquet_opens_in_geopandas_as_it_is(packed: Pack) -> None:
    frame = geopandas.read_parquet(packed.path / "tiles.parquet")
    assert frame.crs.to_string() == "OGC:CRS84"
    assert frame.geometry.is_valid.all()
    geo = json.loads(pq.read_schema(packed.path / "tiles.parquet").metadata[b"geo"])
    bounds = geo["columns"]["geometry"]["bbox"]
    assert bounds == pytest.approx(list(frame.total_bounds))
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]


def test_tiles_without_a_place_have_no_geo_key(tmp_path: Path) -> None:
    making.write_tiff(tmp_path / "a.tif", making.texture(0), crs=None, photometric="RGB")
    pack(tmp_path / "a.tif", out=tmp_path / "p")
    assert b"geo" not in (pq.read_schema(tmp_path / "p/tiles.parquet").metadata or {})
    assert open_pack(tmp_path / "p").manifest.gsd_m is None


def test_the_manifest_says_what_the_pack_is(packed: Pack) -> None:
    manifest = json.loads((packed.path / "pack.json").read_text())
    shards = [
        {"file": file.name, "tiles": count, "sha256": sha256_file(file)}
        for file, count in zip(sorted(packed.path.glob("*.npy")), (54, 6), strict=True)
    ]
    assert manifest["shards"] == shards
    assert manifest["ids_sha256"] == ids_sha256(f"tile_{i:04d}.tif" for i in range(COUNT))
    assert manifest["gsd_m"] == pytest.approx([10, 10], rel=0.001)
    assert manifest["request"]["shard_mb"] == 1
    assert manifest["versions"]["numpy"] == version("numpy")
    expected = {
        "tilezoo_pack": 1, "complete": True, "bands": ["red", "green", "blue"], "dtype": "uint8",
        "size_px": 80, "unit": "uint8", "value_range": [0, 255], "quantized": False,
        "tiles": COUNT, "splits": {},
    }  # fmt: skip
    assert {key: manifest[key] for key in expected} == expected


def test_mean_and_std_are_those_of_all_pixels(tiles: Path, packed: Pack) -> None:
    pixels = stack_of(tiles).astype(np.float64) / 255
    assert packed.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), abs=1e-12)
    assert packed.std == pytest.approx(pixels.std(axis=(0, 2, 3)), abs=1e-12)


def test_a_value_range_is_clipped_scaled_and_rounded_to_8_bits(
    sixteen: Path, tmp_path: Path
) -> None:
    how = {"bands": "B04,B03,B02", "value_range": "0,2000"}
    pack(sixteen, out=tmp_path / "p", **how)
    shards = open_pack(tmp_path / "p")
    raw = stack_of(sixteen)[:, [2, 1, 0]]
    assert np.array_equal(everything(shards), np.round(raw.clip(0, 2000) / 2000 * 255))
    assert (shards.bands, shards.dtype) == (("B04", "B03", "B02"), "uint8")
    assert shards.value_range == (0, 2000)
    facts = [shards.manifest.unit, shards.manifest.quantized]
    assert facts == ["dn", True]


@pytest.mark.parametrize(("low", "high"), [(0, 2000), (100, 2900), (0.5, 777.7)])
def test_values_are_the_ones_that_a_backbones_contract_makes_of_them(
    sixteen: Path, tmp_path: Path, low: float, high: float
) -> None:
    how = {"bands": "B04,B03,B02", "value_range": f"{low},{high}"}
    pack(sixteen, out=tmp_path / "p", **how)
    contract = making.contract(
        bands=("B04", "B03", "B02"), unit="dn", value_range=(low, high),
        size_px=40, resize="none", resize_px=40,
    )  # fmt: skip
    raw = torch.from_numpy(stack_of(sixteen)[:, [2, 1, 0]].astype(np.int32))
    assert np.array_equal(everything(open_pack(tmp_path / "p")), fit(raw, contract).numpy())


def test_uint16_keeps_the_raw_numbers(sixteen: Path, tmp_path: Path) -> None:
    how = {"bands": "B08,B02", "value_range": "100,2000", "dtype": "uint16"}
    pack(sixteen, out=tmp_path / "p", **how)
    shards = open_pack(tmp_path / "p")
    raw = stack_of(sixteen)[:, [3, 0]]
    assert np.array_equal(everything(shards), raw)
    assert np.load(shards.path / "shard-00000.npy").dtype == np.uint16
    assert (shards.value_range, shards.manifest.quantized) == ((100, 2000), False)
    unit = (raw.clip(100, 2000) - 100) / 1900
    assert shards.mean == pytest.approx(unit.mean(axis=(0, 2, 3)), abs=1e-12)
    assert shards.std == pytest.approx(unit.std(axis=(0, 2, 3)), abs=1e-12)


def test_numbers_that_uint16_cannot_hold_are_told(tmp_path: Path) -> None:
    pixels = making.texture(0, low=-50, high=500, dtype="int16")
    making.write_tiff(tmp_path / "in/a.tif", pixels, photometric="RGB")
    making.write_tiff(tmp_path / "in/b.tif", np.abs(pixels), photometric="RGB")
    how = {"value_range": "0,400", "dtype": "uint16", "max_errors": 1}
    pack(tmp_path / "in", out=tmp_path / "p", **how)
    (told,) = making.errors_of(tmp_path / "p")
    assert making.found(r"values -\d+..\d+ do not fit uint16; leave out --dtype", told["message"])
    assert np.array_equal(everything(open_pack(tmp_path / "p"))[0], np.abs(pixels))


def test_floats_are_taken_with_a_range_and_never_guessed_without(tmp_path: Path) -> None:
    reflectance = making.texture(0, dtype="float32", high=1000) / np.float32(1000)
    making.write_tiff(tmp_path / "a.tif", reflectance, photometric="RGB")
    with pytest.raises(ContractError, match=r"pixels are float32, not 8-bit: .*--value-range LOW"):
        pack(tmp_path / "a.tif", out=tmp_path / "p")
    with pytest.raises(ContractError, match="--dtype uint16 keeps integers; leave it out"):
        pack(tmp_path / "a.tif", out=tmp_path / "p", dtype="uint16", value_range="0,1")
    assert not (tmp_path / "p").exists()
    pack(tmp_path / "a.tif", out=tmp_path / "p", value_range="0,0.5")
    shards = open_pack(tmp_path / "p")
    assert np.array_equal(
        everything(shards)[0], np.round(reflectance.clip(0, 0.5) / np.float32(0.5) * 255)
    )
    assert shards.manifest.unit == "reflectance"


def test_integers_among_floats_are_no_tiles_of_one_range(tmp_path: Path) -> None:
    pixels = making.texture(0, high=3000, dtype="uint16")
    making.write_tiff(tmp_path / "in/a.tif", pixels, photometric="RGB")
    floats = pixels.astype("float32") / 10_000
    making.write_tiff(tmp_path / "in/b.tif", floats, photometric="RGB")
    with pytest.raises(TooManyFailedError, match="1 of 2 tiles failed"):
        pack(tmp_path / "in", out=tmp_path / "p", value_range="0,2000")
    (told,) = making.errors_of(tmp_path / "p")
    assert told["message"].startswith("pixels are float32 (reflectance), the first dn; one range")


def test_nan_is_an_error_row(tmp_path: Path) -> None:
    good = making.texture(0, dtype="float32")
    broken = good.copy()
    broken[1, 5, 5] = np.nan
    for name, pixels in (("a", good), ("b", broken)):
        making.write_tiff(tmp_path / f"in/{name}.tif", pixels, photometric="RGB")
    pack(tmp_path / "in", out=tmp_path / "p", value_range="0,255", max_errors=1)
    (told,) = making.errors_of(tmp_path / "p")
    assert (told["kind"], told["source_uri"]) == ("invalid_pixels", str(tmp_path / "in/b.tif"))


@pytest.mark.parametrize("bands", ["B02,B03,B04,B08", "B02=1,B03=2,B04=3,B08=4", "b2 b3 b4 b8"])
def test_unnamed_bands_get_the_names_they_are_given(tmp_path: Path, bands: str) -> None:
    pixels = making.texture(0, bands=4)
    making.write_tiff(tmp_path / "a.tif", pixels, photometric="MINISBLACK")
    pack(tmp_path / "a.tif", out=tmp_path / "p", bands=bands)
    assert open_pack(tmp_path / "p").bands == ("B02", "B03", "B04", "B08")
    assert np.array_equal(everything(open_pack(tmp_path / "p"))[0], pixels)


def test_some_of_unnamed_bands_are_chosen_by_number(tmp_path: Path) -> None:
    pixels = making.texture(0, bands=4)
    making.write_tiff(tmp_path / "a.tif", pixels, photometric="MINISBLACK")
    pack(tmp_path / "a.tif", out=tmp_path / "p", bands="B08=4,B03=2")
    assert open_pack(tmp_path / "p").bands == ("B08", "B03")
    assert np.array_equal(everything(open_pack(tmp_path / "p"))[0], pixels[[3, 1]])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("B02", "B03", "B04", "B08"), "has bands B02,B03,B04,B08, no RGB image; choose with"),
        (("VV", "VH"), "has bands VV,VH, the pack takes red,green,blue; choose with --bands"),
        ((), "has 4 unnamed bands, the pack takes red,green,blue; name them with --bands"),
    ],
)
def test_bands_are_not_dropped_without_being_asked(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    pixels = making.texture(0, bands=len(names) or 4)
    making.write_tiff(tmp_path / "a.tif", pixels, names=names, photometric="MINISBLACK")
    with pytest.raises(ContractError, match=message):
        pack(tmp_path / "a.tif", out=tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_tiles_of_other_sizes_are_told_with_the_fix(tmp_path: Path) -> None:
    for name, side, height in (("a", 64, 64), ("b", 80, 80), ("c", 64, 48)):
        pixels = making.texture(0, side=side, height=height)
        making.write_tiff(tmp_path / f"in/{name}.tif", pixels, photometric="RGB")
    pack(tmp_path / "in", out=tmp_path / "p", max_errors=2)
    messages = [row["message"] for row in making.errors_of(tmp_path / "p")]
    assert messages == [
        "80x80 px, the pack's are 64x64; --size-px 64 resizes all",
        "64x48 px, the pack's are 64x64; --size-px 64 resizes all",
    ]
    assert open_pack(tmp_path / "p").size_px == 64


def test_oblong_tiles_alone_are_refused_at_once(tmp_path: Path) -> None:
    making.write_tiff(tmp_path / "a.tif", making.texture(0, height=60), photometric="RGB")
    with pytest.raises(ContractError, match="80x60 px, a pack's tiles are square; --size-px N"):
        pack(tmp_path / "a.tif", out=tmp_path / "p")


@pytest.mark.parametrize("side", [32, 80, 120])
def test_a_size_resizes_each_tile_as_a_backbone_would(
    tiles: Path, tmp_path: Path, side: int
) -> None:
    pack(tiles, out=tmp_path / "p", size_px=side, limit=5)
    contract = making.contract(size_px=side, resize_px=side)
    expected = fit(torch.from_numpy(stack_of(tiles)[:5]), contract).numpy()
    found = everything(open_pack(tmp_path / "p"))
    assert found.shape == (5, 3, side, side)
    assert np.abs(found.astype(int) - expected).max() <= (1 if side < 80 else 2)


def test_a_size_crops_the_centre_of_oblong_tiles(tmp_path: Path) -> None:
    pixels = making.texture(0, side=120, height=60)
    making.write_tiff(tmp_path / "a.tif", pixels, photometric="RGB")
    pack(tmp_path / "a.tif", out=tmp_path / "p", size_px=60)
    assert np.array_equal(everything(open_pack(tmp_path / "p"))[0], pixels[:, :, 30:90])


def test_raw_numbers_are_resized_within_their_own_range(tmp_path: Path) -> None:
    pixels = np.zeros((3, 64, 64), np.uint16)
    pixels[:, ::8] = 65535  # bicubic overshoots at such edges
    making.write_tiff(tmp_path / "a.tif", pixels, photometric="RGB")
    how = {"dtype": "uint16", "value_range": "0,65535"}
    pack(tmp_path / "a.tif", out=tmp_path / "p", size_px=256, **how)
    found = everything(open_pack(tmp_path / "p"))[0].astype(float)
    assert (found.min(), found.max()) == (0, 65535)
    assert found.mean() == pytest.approx(pixels.mean(), rel=0.1)


def test_windows_are_the_pixels_of_the_scene(tmp_path: Path) -> None:
    making.write_tiff(tmp_path / "big.tif", making.texture(0, side=200), photometric="RGB")
    pack(tmp_path / "big.tif", out=tmp_path / "p", tile_px=80, stride_px=60)
    shards = open_pack(tmp_path / "p")
    with rasterio.open(tmp_path / "big.tif") as file:
        for row, pixels in zip(rows_of(shards), everything(shards), strict=True):
            x, y, w, h = row["pixel_bbox"]
            cut = file.read(window=Window(x, y, w, h), boundless=True, fill_value=0)
            assert np.array_equal(pixels, cut)
            assert row["id"] == f"big.tif#{x},{y},80,80"
            inside = min(80, 200 - x) * min(80, 200 - y)
            assert row["nodata_fraction"] == pytest.approx(1 - inside / 6400)
    assert (len(shards), shards.size_px) == (9, 80)


def test_emptier_tiles_are_left_out_and_are_no_failures(tmp_path: Path) -> None:
    making.write_tiff(tmp_path / "big.tif", making.texture(0, side=200), photometric="RGB")
    found = pack(tmp_path / "big.tif", out=tmp_path / "p", tile_px=80, max_nodata=0.5)
    assert (found.tiles, found.failed) == (8, 1)
    (told,) = making.errors_of(tmp_path / "p")
    assert told["kind"] == "nodata"
    assert told["message"] == "0.75 of it holds no data, --max-nodata is 0.5"
    assert told["pixel_bbox"] == [160, 160, 80, 80]


def test_not_one_tile_with_enough_data_is_an_error(tmp_path: Path) -> None:
    holed = making.texture(0, low=1)
    holed[:, 40:] = 0
    making.write_tiff(tmp_path / "a.tif", holed, photometric="RGB", nodata=0)
    for _ in range(2):  # the finished pack says the same again
        with pytest.raises(PackError, match=r"not one of 1 tiles could be packed; see .*errors.p"):
            pack(tmp_path / "a.tif", out=tmp_path / "p", max_nodata=0.4)
    with pytest.raises(PackError, match=r"an empty pack; why is in .*errors.parquet"):
        open_pack(tmp_path / "p")


def write_labels(path: Path, count: int = COUNT) -> Path:
    """Labels for `count` tiles: two in three to train on, every fifth unlabelled."""
    numbers = range(count)
    rows = pa.table(
        {
            "id": [f"tile_{i:04d}.tif" for i in numbers],
            "labels": [None if i % 5 == 4 else ["water", "forest"][i % 2 :] for i in numbers],
            "split": [("train", "val", "train")[i % 3] for i in numbers],
        }
    )
    pq.write_table(rows, path)
    return path


def test_labels_and_splits_are_joined_by_id(tiles: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.parquet", 50)
    pack(tiles, out=tmp_path / "p", labels=labels)
    shards = open_pack(tmp_path / "p")
    rows = rows_of(shards)
    assert rows[0]["labels"] == ["water", "forest"]
    assert (rows[1]["labels"], rows[1]["split"]) == (["forest"], "validation")
    assert rows[4]["labels"] is None
    assert (rows[55]["labels"], rows[55]["split"]) == (None, None)
    assert shards.manifest.splits == {"train": 33, "validation": 17}
    assert shards.where_split("validation").tolist() == list(range(1, 50, 3))
    assert shards.where_split("all").tolist() == list(range(COUNT))


@pytest.mark.parametrize(
    ("split", "rest"), [("val", {1}), ("train", {0, 2}), ("Val,train", {0, 1, 2})]
)
def test_only_the_tiles_of_some_splits_are_packed(
    tiles: Path, tmp_path: Path, split: str, rest: set[int]
) -> None:
    labels = write_labels(tmp_path / "labels.parquet")
    pack(tiles, out=tmp_path / "p", labels=labels, split=split, limit=30)
    shards = open_pack(tmp_path / "p")
    numbers = [i for i in range(COUNT) if i % 3 in rest][:30]
    assert shards.column("id").to_pylist() == [f"tile_{i:04d}.tif" for i in numbers]
    assert np.array_equal(everything(shards), stack_of(tiles)[numbers])


def test_folders_are_classes(tmp_path: Path) -> None:
    for name in ("forest", "lake"):
        making.write_tiles(tmp_path / "in" / name, 2)
    pack(tmp_path / "in", out=tmp_path / "p", labels="folder", tile_px=40)
    labels = open_pack(tmp_path / "p").column("labels").to_pylist()
    assert labels == [["forest"]] * 8 + [["lake"]] * 8


def test_labels_of_other_tiles_are_refused_with_examples_of_both(
    tiles: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("id,label\na.tif,water\nb.tif,forest\n")
    expected = (
        r"labels.csv: none of its 2 ids is a tile of the sources; they look like "
        r"'a.tif', 'b.tif', the tiles' like 'tile_0000.tif', 'tile_0001.tif'"
    )
    with pytest.raises(LabelsError, match=expected):
        pack(tiles, out=tmp_path / "p", labels=tmp_path / "labels.csv")
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "train"}, OptionError, "--split train needs --labels FILE"),
        ({"split": " , "}, OptionError, "--split is empty"),
        ({"labels": "folder"}, LabelsError, "'tile_0000.tif' has no folder; name the folder"),
        ({"labels": "nowhere.csv"}, LabelsError, "nowhere.csv"),
        ({"dtype": "uint16"}, OptionError, "--dtype uint16 keeps raw values: .*--value-range"),
        ({"dtype": "int8"}, OptionError, "--dtype 'int8': should be uint8 or uint16"),
        ({"value_range": "5,1"}, OptionError, "the first number must be the smaller"),
        ({"value_range": "0,2000"}, ContractError, "uint8 and cannot reach --value-range 0,2000"),
        ({"stride_px": 8}, OptionError, "--stride-px needs --tile-px"),
        ({"tile_px": 0}, OptionError, "--tile-px 0"),
        ({"size_px": 3}, OptionError, "--size-px 3: must be 4 or more"),
        ({"shard_mb": 0}, OptionError, "--shard-mb 0: must be 1 or more"),
        ({"limit": 0}, OptionError, "--limit 0: must be 1 or more"),
        ({"workers": 0}, OptionError, "--workers 0: must be 1 or more"),
        ({"max_errors": -1}, OptionError, "--max-errors -1: must be 0 or more"),
        ({"max_nodata": 1.5}, OptionError, "--max-nodata 1.5: must be 1 or less"),
        ({"max_nodata": float("nan")}, OptionError, "--max-nodata nan: must be 0 or more"),
        ({"bands": "3,2,1"}, OptionError, "bands have names; name them: B04=3 calls the third"),
        ({"bands": "B04=3,B03"}, OptionError, "number all bands or none"),
        ({"bands": "B04,B03,red"}, OptionError, "a band comes twice"),
        ({"bands": "B08"}, ContractError, "has bands red,green,blue, the pack takes B08"),
        ({"sources": "nowhere"}, SourceError, "nowhere: no such file"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_before_anything_is_written(
    tiles: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pack(**{"sources": tiles, "out": tmp_path / "p", **options})
    assert not (tmp_path / "p").exists()


def test_a_split_that_the_labels_do_not_know_is_refused(tiles: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.parquet")
    with pytest.raises(LabelsError, match=r"--split tset: .*; there are train, validation"):
        pack(tiles, out=tmp_path / "p", labels=labels, split="tset")
    (tmp_path / "plain.csv").write_text("id,label\ntile_0000.tif,water\n")
    with pytest.raises(LabelsError, match=r"--split train: .* they have no splits"):
        pack(tiles, out=tmp_path / "p", labels=tmp_path / "plain.csv", split="train")


@pytest.mark.parametrize("tile_px", [None, 80])
def test_each_broken_file_is_one_clear_row_and_each_good_tile_is_there(
    tmp_path: Path, tile_px: int | None
) -> None:
    folder = tmp_path / "in"
    good = good_tiles(folder)
    bad = set(bad_tiles(folder))
    if tile_px is not None:  # in windows, a narrow file is no trouble
        bad.remove("narrow.tif")
        (folder / "narrow.tif").unlink()
    counted = len(bad) - 1  # a tile without data is left out, and no fault
    with pytest.raises(TooManyFailedError, match=rf"^{counted} of \d+ tiles failed.* the other"):
        pack(folder, out=tmp_path / "p", tile_px=tile_px)
    shards = open_pack(tmp_path / "p")
    ids = [name.split("#")[0] for name in shards.column("id").to_pylist()]
    assert ids == sorted(good)
    shards.check()
    told = making.errors_of(tmp_path / "p")
    assert [str(Path(row["source_uri"]).relative_to(folder)) for row in told] == sorted(bad)
    for row in told:
        assert "\n" not in row["message"]
        assert "the model" not in row["message"]
        assert len(row["message"]) < 250


def test_nothing_but_broken_files_ends_with_all_of_them_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "b.tif"):
        (tmp_path / "in" / name).write_text("text")
    with pytest.raises(
        TooManyFailedError, match=r"2 of 2 .* the other 0 are packed; the first: .*: "
    ):
        pack(tmp_path / "in", out=tmp_path / "p")
    assert len(making.errors_of(tmp_path / "p")) == 2
    with pytest.raises(PackError, match="an empty pack"):
        open_pack(tmp_path / "p")


def test_the_command_packs_tells_failures_and_ends_with_exit_3(
    run: Callable[..., making.Done], tmp_path: Path
) -> None:
    making.write_tiles(tmp_path / "in", 3)
    (tmp_path / "in/bad.tif").write_text("text")
    done = run("pack", tmp_path / "in", "-o", tmp_path / "p")
    assert (done.returncode, done.stdout) == (3, "")
    assert "error: 1 of 4 tiles failed, --max-errors is 0: see" in done.stderr
    assert len(open_pack(tmp_path / "p")) == 3
    again = run("pack", tmp_path / "in", "-o", tmp_path / "p", "--max-errors", 1, "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout) == {
        "pack": str(tmp_path / "p"), "tiles": 3, "failed": 1, "seconds": 0.0,
    }  # fmt: skip
