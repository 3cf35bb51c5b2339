"""Pretraining: what a run leaves behind, and what it refuses."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from msgspec import UNSET
from pretraining import SMALL, STEPS, TRAINED, equal, weights, write_pack
from typer.testing import CliRunner

from tilezoo.cli.app import app
from tilezoo.errors import ModelError, OptionError, PackError, PretrainError
from tilezoo.pretrain import pretrain
from tilezoo.pretrain.log import curve, read_log
from tilezoo.pretrain.loop import Watch
from tilezoo.pretrain.packs.shards import open_pack
from tilezoo.pretrain.recipe import find_recipe, recipe_names
from tilezoo.pretrain.setup import Order
from tilezoo.training_ids import TRAINING_IDS, ids_sha256, read_training_ids
from tilezoo.zoo import export, load, verify

COMMAND = str(Path(sys.executable).with_name("tilezoo"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of twelve steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    result = pretrain(shards, out=out, settings=[*SMALL, "knn_every_epochs=1"])
    assert result.complete
    assert result.steps == STEPS
    return out


def small(shards: Path, out: Path, *settings: str, **options: object) -> None:
    pretrain(shards, out=out, settings=[*SMALL, *settings], **options)  # type: ignore[arg-type]


def test_the_log_holds_loss_schedules_health_and_speed(run):
    entries = [entry for entry in read_log(run) if entry.loss is not UNSET]
    assert [entry.step for entry in entries] == [10, 12]
    assert all(0 < entry.loss < 3 * math.log(64) for entry in entries)
    assert all(0 < entry.entropy <= math.log(64) + 1e-4 for entry in entries)
    assert entries[-1].teacher_momentum > entries[0].teacher_momentum >= 0.996
    assert entries[-1].images_per_s > 0
    assert entries[-1].epoch == 3


def test_knn_accuracy_is_measured_from_random_weights_on(run):
    epochs, accuracies = zip(*curve(read_log(run), "knn_accuracy"), strict=True)
    assert epochs == (0, 1, 2, 3)
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)


def test_the_picture_and_tensorboard_are_there(run):
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "tensorboard").glob("events.*"))


def test_the_newest_checkpoints_are_kept_by_count(run):
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "epoch-0002.pth", "epoch-0003.pth", "last.pth",
    ]  # fmt: skip
    assert equal(weights(run), weights(run, "epoch-0003.pth"))


def test_the_ids_trained_on_are_listed_and_hashed(run):
    ids = read_training_ids(run / TRAINING_IDS)["id"].to_pylist()
    assert len(ids) == TRAINED
    assert sorted(ids) == [f"tile_{n:04d}.tif" for n in range(24) if n % 3 != 2]
    assert json.loads((run / "run.json").read_text())["ids_sha256"] == ids_sha256(ids)


def test_a_run_becomes_a_model_that_verifies_and_gives_the_teachers_features(run, tmp_path):
    model = export(run, out=tmp_path / "model")
    assert all(check.verdict != "failed" for check in verify(str(tmp_path / "model")))
    config = json.loads((tmp_path / "model" / "config.json").read_text())["tilezoo"]
    assert config["pretraining"]["tiles"] == TRAINED
    assert config["bands"] == ["red", "green", "blue"]
    assert config["size_px"] == 32
    copied = (tmp_path / "model" / TRAINING_IDS).read_bytes()
    assert copied == (run / TRAINING_IDS).read_bytes()
    state = weights(run)["teacher"]
    backbone = load(model.path)
    for name, tensor in backbone._fp32.state_dict().items():
        assert torch.equal(tensor, state[f"backbone.{name}"])


def test_a_kept_checkpoint_is_exported_and_told_to_be_no_end(run, tmp_path, capsys):
    early = export(run / "checkpoints" / "epoch-0002.pth", out=tmp_path / "early")
    assert "after step 8 of 12" in capsys.readouterr().err
    assert (early.pretraining["step"], early.pretraining["steps"]) == (8, 12)
    assert early.pretraining["data"] == "pack"  # no path of this machine
    assert early.weights_sha256 != export(run, out=tmp_path / "late").weights_sha256


def test_a_run_knows_its_contract_so_none_may_be_stated(run, tmp_path):
    stated = ["--bands", "red,green,blue", "--unit", "uint8", "--value-range", "0,255"]
    stated += ["--mean", "0,0,0", "--std", "1,1,1", "--size-px", "32"]
    made = CliRunner().invoke(app, ["export", str(run), "-o", str(tmp_path / "m"), *stated])
    assert isinstance(made.exception, OptionError)
    assert "leave out --bands" in str(made.exception)
    for alone in (
        ["--gsd-m", "1,2"],
        ["--resize", "none"],
        ["--interpolation", "nearest"],
        ["--no-quantize-uint8"],
    ):
        made = CliRunner().invoke(app, ["export", str(run), "-o", str(tmp_path / "m"), *alone])
        assert isinstance(made.exception, OptionError), alone
        assert "a run knows its own" in str(made.exception)


def test_a_run_s_network_may_be_fed_another_size(run, tmp_path):
    options = ["-o", str(tmp_path / "m"), "--size-px", "64"]
    made = CliRunner().invoke(app, ["export", str(run), *options])
    assert made.exit_code == 0, made.output
    contract = load(tmp_path / "m").space.contract
    assert (contract.size_px, contract.resize_px) == (64, 64)
    cropped = export(run, out=tmp_path / "cropped", resize_px=40).contract
    assert (cropped.size_px, cropped.resize_px) == (32, 40)
    # timm alone takes that size too, and its features are those of the run's own resampling
    alone = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True, num_classes=0).eval()
    export(run, out=tmp_path / "own")
    network = load(tmp_path / "own")._fp32
    assert network.patch_embed.img_size != (64, 64)
    network.set_input_size(img_size=(64, 64))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(alone(images), network(images)[:, : alone.num_features], atol=1e-5)


def test_a_foreign_checkpoint_needs_a_contract(run, tmp_path):
    lone = tmp_path / "lone.pth"
    shutil.copyfile(run / "checkpoints" / "last.pth", lone)
    with pytest.raises(OptionError, match="state --bands"):
        export(lone, out=tmp_path / "m")


def test_a_run_without_checkpoint_cannot_be_exported(run, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copyfile(run / "run.json", tmp_path / "run" / "run.json")
    with pytest.raises(ModelError, match="no checkpoint yet"):
        export(tmp_path / "run", out=tmp_path / "m")


def test_a_finished_run_is_left_alone(run, shards):
    before = (run / "checkpoints" / "last.pth").stat().st_mtime_ns
    small(shards, run, "knn_every_epochs=1")
    assert (run / "checkpoints" / "last.pth").stat().st_mtime_ns == before


def test_another_recipe_in_the_same_folder_is_refused_with_what_differs(run, shards):
    with pytest.raises(PretrainError, match=r"lr is 0.0005 there, 0.1 asked; .*another -o"):
        small(shards, run, "knn_every_epochs=1", "lr=0.1")


def test_other_tiles_in_the_same_folder_are_refused(run, tmp_path):
    with pytest.raises(PretrainError, match=r"tiles is 16 there, 20 asked"):
        small(write_pack(tmp_path, tiles=30), run, "knn_every_epochs=1")


def test_files_are_packed_first(tmp_path, shards):
    small(shards.parent / "tiles", tmp_path / "run", "split=all", "epochs=1", "warmup_epochs=0")
    assert len(open_pack(tmp_path / "run" / "pack")) == 24


def test_sixteen_bits_and_many_bands_are_trained_on(tmp_path):
    import making

    from tilezoo.pretrain import pack

    for number in range(8):
        pixels = making.texture(number, bands=5, side=40, high=3000, dtype="uint16")
        names = ("B02", "B03", "B04", "B08", "B11")
        making.write_tiff(tmp_path / "tiles" / f"{number}.tif", pixels, names=names)
    pack(
        tmp_path / "tiles",
        out=tmp_path / "pack",
        dtype="uint16",
        value_range="0,3000",
        bands="B02,B03,B04,B08,B11",
    )
    small(tmp_path / "pack", tmp_path / "run", "epochs=1", "warmup_epochs=0", "mean_std=measured")
    model = export(tmp_path / "run", out=tmp_path / "model")
    assert model.contract.value_range == (0, 3000)
    assert model.contract.unit == "dn"
    assert not model.contract.quantize_uint8
    with pytest.raises(OptionError, match=r"5 bands.*mean_std=measured"):
        small(tmp_path / "pack", tmp_path / "other")


def test_fewer_tiles_than_a_batch_are_refused(shards, tmp_path):
    with pytest.raises(PretrainError, match=r"16 tiles of split 'train' are fewer than a batch"):
        small(shards, tmp_path / "run", "batch_size=32")


def test_a_shard_with_a_wrong_hash_is_refused_before_the_first_step(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "pack")
    pixels = np.load(tmp_path / "pack" / "shard-00000.npy", mmap_mode="r+")
    pixels[3, 0, 0, 0] ^= 1
    pixels.flush()
    with pytest.raises(PackError, match=r"shard-00000.npy: not the bytes that were packed"):
        small(tmp_path / "pack", tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_knn_without_labels_is_refused_with_the_fix(tmp_path):
    unlabelled = write_pack(tmp_path, labels=False)
    with pytest.raises(PretrainError, match="pack with --labels"):
        small(unlabelled, tmp_path / "run", "knn_every_epochs=1")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("epochs=-1", "epochs=-1: must be above 0"),
        ("lr=abc", "--set lr=abc"),
        ("epoch=3", "did you mean .*epochs"),
        ("global_scale=0.9,0.1", "0 < LOW <= HIGH <= 1"),
        ("norm_last_layer=maybe", "true or false"),
        ("hflip=2", "in 0..1"),
        ("warmup_epochs=1000", "exceeds epochs"),
        ("mean_std=guessed", "imagenet, measured"),
        ("architecture=resnet50", "resnet50"),
        ("architecture=nonsense", "nonsense"),
    ],
)
def test_a_setting_without_sense_is_refused(shards, tmp_path, setting, told):
    with pytest.raises((OptionError, PretrainError), match=told):
        small(shards, tmp_path / "run", setting)


def test_an_unknown_recipe_is_refused_with_those_there_are():
    with pytest.raises(OptionError, match="dino-vits16-bigearthnet"):
        find_recipe("dino-vits16-bigearth")


def test_the_published_recipe_is_as_it_was_published():
    recipe = find_recipe("dino-vits16-bigearthnet")
    assert recipe.architecture == "vit_small_patch16_224"
    assert (recipe.epochs, recipe.checkpoint_every_epochs) == (100, 20)
    assert (recipe.crops, recipe.global_px, recipe.local_px) == (10, 224, 96)
    assert recipe.batch_size == 128
    assert all(find_recipe(name).to_json() for name in recipe_names())


def test_an_epoch_takes_every_tile_once_and_each_its_own_shuffle():
    order = Order(rows=np.arange(100, 120), batch_size=4, seed=3)
    first, second = order.epoch(0), order.epoch(1)
    assert sorted(first.ravel()) == sorted(second.ravel()) == list(range(100, 120))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, order.epoch(0))


def test_nan_stops_the_run_and_the_last_good_checkpoint_stays(shards, tmp_path):
    settings = [*SMALL, "lr=1e30", "clip_grad=0", "epochs=9", "warmup_epochs=0"]
    with pytest.raises(PretrainError, match=r"NaN.*the last checkpoint is from before: lower lr"):
        pretrain(shards, out=tmp_path, settings=settings, checkpoint_minutes=0)
    for path in (tmp_path / "checkpoints").glob("*.pth"):
        assert all(
            tensor.isfinite().all() for tensor in weights(tmp_path, path.name)["student"].values()
        )


def look(watch: Watch, **measures: float) -> None:
    for step in range(1, 30):
        watch.check(step, **{"loss": 4.0, "entropy": 2.0, "spread": 0.5, **measures})


def test_a_loss_that_is_no_number_is_told():
    with pytest.raises(PretrainError, match=r"step 1: the loss is nan"):
        look(Watch(out_dim=64), loss=math.nan)


def test_collapse_is_told_when_it_lasts():
    with pytest.raises(PretrainError, match=r"step 20: collapsed, .*no preference"):
        look(Watch(out_dim=64), entropy=math.log(64))
    with pytest.raises(PretrainError, match=r"step 20: collapsed, .*the same output"):
        look(Watch(out_dim=64), spread=0.0)
    look(Watch(out_dim=64))


def test_a_passing_state_is_no_collapse():
    watch = Watch(out_dim=64)
    for step in range(1, 106):  # the last one is a good one
        watch.check(step, loss=4.0, entropy=2.0, spread=0.5 if step % 15 == 0 else 0.0)
    with pytest.raises(PretrainError, match=r"step 20: collapsed"):
        look(watch, spread=0.0)


def test_two_runs_at_once_in_one_folder_are_refused(shards, tmp_path):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / ".lock"),
        pytest.raises(PretrainError, match="another run is writing this run; wait"),
    ):
        small(shards, tmp_path / "run")


def test_the_hot_path_needs_no_geospatial_library(shards, tmp_path):
    code = f"""
import sys
for absent in ("rasterio", "geopandas", "faiss", "pyproj", "shapely", "matplotlib", "tensorboard"):
    sys.modules[absent] = None
sys.argv = ["tilezoo", "pretrain", {str(shards)!r}, "-o", {str(tmp_path / "run")!r}, "--set", "epochs=1"]
for setting in {[s for s in SMALL if not s.startswith("epochs")]!r}:
    sys.argv += ["--set", setting]
from tilezoo.cli.app import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"4 of 4 steps, loss \d", done.stdout)
    assert (tmp_path / "run" / "checkpoints" / "last.pth").exists()


def test_the_command_prints_json_for_programs(shards, tmp_path):
    words = ["pretrain", str(shards), "-o", str(tmp_path / "run"), "--json"]
    for setting in (*SMALL, "epochs=1"):
        words += ["--set", setting]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    assert told["complete"]
    assert told["steps"] == told["of_steps"] == 4
