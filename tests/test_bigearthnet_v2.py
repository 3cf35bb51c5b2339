"""`prepare bigearthnet` of v2 (reBEN): bands by scenes, labels in metadata of its own."""

from pathlib import Path

import bigearthnet as ben
import pyarrow.parquet as pq
import pytest
import shapely
from rasterio.warp import transform_bounds

from tilezoo.bigearthnet.metadata import prepare_bigearthnet
from tilezoo.errors import LabelsError, OptionError, TooManyFailedError
from tilezoo.times import time_in_name


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    """v2's archive: bands without JSON by scenes, radar and maps beside them."""
    root = tmp_path / "v2"
    for name in (ben.V2, ben.V2_SNOWY):
        scene = name.rsplit("_", 2)[0]
        ben.write_bands(root / "BigEarthNet-S2" / scene, name)
        (root / "Reference_Maps" / scene / name).mkdir(parents=True)
    (root / "BigEarthNet-S1" / "S1A_IW_GRDH_1SDV_20170613T165043" / "patch").mkdir(parents=True)
    return root


@pytest.mark.parametrize("where", [".", "BigEarthNet-S2", "BigEarthNet-S2/{scene}"])
def test_v2_takes_what_its_own_metadata_near_root_say(where: str, v2: Path, tmp_path: Path) -> None:
    ben.write_v2_metadata(v2 / ben.V2_FILE, {})
    snow = {"patch_id": ben.V2_SNOWY, "country": "Finland", "contains_seasonal_snow": True}
    ben.write_v2_metadata(v2 / ben.V2_SNOW_FILE, {**snow, "split": "train"})
    root = v2 / where.format(scene=ben.V2.rsplit("_", 2)[0])
    made = prepare_bigearthnet(root, out=tmp_path / "m.parquet")
    row = ben.row_of(made.path, ben.V2)
    box, geometry = row.pop("bbox"), row.pop("geometry")
    assert row == {
        "name": ben.V2,
        "acquisition_date": "2017-06-13 10:10:31",
        "datetime": time_in_name(ben.V2),
        "labels": None,
        "new_labels": ["Arable land", "Broad-leaved forest"],
        "tile_source": "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP",
        "snow": False,
        "cloud_or_shadow": False,
        "original_split": "test",
        "country": "Austria",
        "season": "Summer",
        "recommended": True,
        "s1_name": "S1B_IW_GRDH_1SDV_20170612T165809_33UUP_75_43",
        "s2v1_name": "S2A_MSIL2A_20170613T101031_75_43",
    }
    expected = transform_bounds(ben.UTM, "OGC:CRS84", 404400, 5341200, 405600, 5342400)
    assert list(box.values()) == pytest.approx(expected, abs=1e-7)
    assert shapely.from_wkb(geometry).bounds == tuple(box.values())
    if "{" in where:
        return
    snowy = ben.row_of(made.path, ben.V2_SNOWY)
    assert (snowy["snow"], snowy["recommended"], snowy["original_split"]) == (True, False, None)
    assert (made.recommended, made.snow, made.unlisted) == (1, 1, 0)


def test_v2_without_metadata_has_places_and_times_and_says_what_is_missing(
    v2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = prepare_bigearthnet(v2, out=tmp_path / "m.parquet")
    row = ben.row_of(made.path, ben.V2)
    for column in ("labels", "new_labels", "original_split", "country", "recommended"):
        assert row[column] is None
    assert row["season"] == "Summer"
    assert row["geometry"]
    assert "no metadata.parquet of v2 in or near" in capsys.readouterr().err


def test_a_v2_patch_that_its_metadata_do_not_name_is_an_error(v2: Path, tmp_path: Path) -> None:
    named = ben.write_v2_metadata(tmp_path / "elsewhere" / "some.parquet", {})
    with pytest.raises(TooManyFailedError, match="1 of 2 patches failed"):
        prepare_bigearthnet(v2, out=tmp_path / "m.parquet", metadata=[named])
    (error,) = pq.read_table(tmp_path / "m.errors.parquet").to_pylist()
    assert error["source_uri"].endswith(ben.V2_SNOWY)
    assert "some.parquet names no such patch" in error["message"]


def test_v2s_own_metadata_are_not_overwritten(v2: Path) -> None:
    own = ben.write_v2_metadata(v2 / ben.V2_FILE, {}, {"patch_id": ben.V2_SNOWY})
    before = own.read_bytes()
    with pytest.raises(OptionError, match="would overwrite"):
        prepare_bigearthnet(v2, out=own)
    assert own.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"labels": ["Arable land", "Peatbogs"]}, "'Peatbogs' is none of .* 19 labels"),
        ({"split": "dev"}, "the split 'dev' is none of train, validation and test"),
        ({"labels": 7}, "damaged or of another kind"),
        ({"patch_id": None}, "a row has no name"),
    ],
)
def test_metadata_that_are_not_v2s_are_refused(
    change: dict[str, object], told: str, v2: Path, tmp_path: Path
) -> None:
    own = ben.write_v2_metadata(v2 / ben.V2_FILE, change)
    with pytest.raises(LabelsError, match=f"{own}: .*{told}"):
        prepare_bigearthnet(v2, out=tmp_path / "m.parquet")
    assert not (tmp_path / "m.parquet").exists()


def test_a_patch_that_comes_in_two_metadata_files_is_refused(v2: Path, tmp_path: Path) -> None:
    ben.write_v2_metadata(v2 / ben.V2_FILE, {})
    ben.write_v2_metadata(v2 / ben.V2_SNOW_FILE, {})
    with pytest.raises(LabelsError, match=f"the patch {ben.V2} comes more than once"):
        prepare_bigearthnet(v2, out=tmp_path / "m.parquet")


def test_a_val_split_is_validation(v2: Path, tmp_path: Path) -> None:
    named = ben.write_v2_metadata(
        tmp_path / "x.parquet", {"split": "val"}, {"patch_id": ben.V2_SNOWY}
    )
    made = prepare_bigearthnet(v2, out=tmp_path / "m.parquet", metadata=[named])
    assert ben.row_of(made.path, ben.V2)["original_split"] == "validation"
