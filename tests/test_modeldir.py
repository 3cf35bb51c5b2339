"""Model directories: written for any timm user, read strictly."""

import json
import shutil
from pathlib import Path
from typing import Any

import making
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tilezoo.errors import ContractError, ModelError, UnknownModelError
from tilezoo.io import sha256_file
from tilezoo.zoo import find_model, load
from tilezoo.zoo.complete import read_golden, write_golden


@pytest.fixture
def copied(vit: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vit, tmp_path / "model"))


def edit(folder: Path, change: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, change: Any) -> None:
    """Change tensors and state the new hash, so that only the tensors are wrong."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    found = sha256_file(folder / "model.safetensors")
    edit(folder, lambda config: config["tilezoo"].update(weights_sha256=found))


def test_what_is_written_is_read_back(sentinel_vit: Path) -> None:
    model = find_model(sentinel_vit)
    assert model.contract == making.contract(**making.SENTINEL2)
    assert (model.architecture, model.pooling) == ("vit_tiny_patch16_224", "cls")
    assert model.weights_sha256 == sha256_file(sentinel_vit / "model.safetensors")


def test_any_timm_user_loads_it(vit: Path) -> None:
    theirs = timm.create_model(f"local-dir:{vit}", pretrained=True).state_dict()
    ours = load_file(vit / "model.safetensors")
    assert set(theirs) == set(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)


def test_a_name_that_is_neither_folder_nor_model_is_told_with_near_ones() -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'efficientnet-lite0-imagenet'"):
        find_model("efficientnet-lite-imagenet")


def test_a_folder_without_config_or_weights_is_no_model(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no model.safetensors; only safetensors are read"):
        find_model(copied)
    (copied / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config.json; not a model directory"):
        find_model(copied)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00\x01"])
def test_a_config_that_is_no_json_object_is_refused(copied: Path, text: str) -> None:
    (copied / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config.json: not"):
        find_model(copied)


REQUIRED = ("contract", "bands", "unit", "value_range", "quantize_uint8", "size_px", "resize")
REQUIRED += ("resize_px", "interpolation", "pooling", "weights_sha256")


@pytest.mark.parametrize("field", REQUIRED)
def test_a_contract_field_that_is_missing_is_named_and_not_guessed(
    copied: Path, field: str
) -> None:
    edit(copied, lambda config: config["tilezoo"].pop(field))
    with pytest.raises(ModelError, match=f"'{field}' is missing; nothing is guessed"):
        find_model(copied)


@pytest.mark.parametrize("field", ["architecture", "num_classes", "pretrained_cfg"])
def test_a_field_of_timms_that_is_missing_is_named(copied: Path, field: str) -> None:
    edit(copied, lambda config: config.pop(field))
    with pytest.raises(ModelError, match=f"'{field}' is missing"):
        find_model(copied)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bands", 3),
        ("bands", "RGB"),
        ("unit", "kelvin"),
        ("value_range", [0]),
        ("value_range", [5, 1]),
        ("size_px", "large"),
        ("size_px", -1),
        ("resize_px", 10),
        ("resize", "stretch"),
        ("pooling", "max"),
        ("quantize_uint8", "no"),
        ("contract", 2),
    ],
)
def test_a_contract_field_that_makes_no_sense_is_refused(
    copied: Path, field: str, value: object
) -> None:
    edit(copied, lambda config: config["tilezoo"].update({field: value}))
    with pytest.raises(ModelError, match=r"config.json|contract version 2"):
        find_model(copied)


@pytest.mark.parametrize("name", ["pretrained", "checkpoint_path", "pretrained_cfg", "cache_dir"])
def test_arguments_that_could_load_something_else_are_refused(copied: Path, name: str) -> None:
    edit(copied, lambda config: config["model_args"].update({name: "/etc/passwd"}))
    with pytest.raises(ModelError, match=f"model_args may not hold {name}"):
        find_model(copied)


@pytest.mark.parametrize(
    "args",
    [
        {"depth": "two"},
        {"no_such_argument": 1},
        {"norm_layer": "os.system"},
        {"img_size": "big"},
        {"depth": -1},
        {"num_heads": 7},
        {"features_only": True},
        {"global_pool": "sideways"},
    ],
    ids=str,
)
def test_arguments_that_build_no_network_are_told_in_one_line(
    copied: Path, args: dict[str, object]
) -> None:
    edit(copied, lambda config: config["model_args"].update(args))
    with pytest.raises(ModelError, match=r"do not fit") as error:
        load(copied)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["no_such_network", "hf-hub:timm/vit", "local-dir:/tmp", "os"])
def test_an_architecture_that_timm_lacks_is_refused(copied: Path, name: str) -> None:
    edit(copied, lambda config: config.update(architecture=name))
    with pytest.raises(ModelError, match="has no '"):
        load(copied)


def test_one_flipped_bit_in_the_weights_is_found(copied: Path) -> None:
    path = copied / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"SHA-256 is .* the weights are damaged"):
        find_model(copied)


def test_missing_extra_and_misshapen_tensors_are_refused_by_name(copied: Path) -> None:
    good = (copied / "model.safetensors").read_bytes()
    edit_weights(copied, lambda tensors: tensors.pop("blocks.1.mlp.fc1.weight"))
    with pytest.raises(ModelError, match=r"Missing key.*blocks.1.mlp.fc1.weight"):
        load(copied)
    (copied / "model.safetensors").write_bytes(good)
    edit_weights(copied, lambda tensors: tensors.update(surplus=torch.zeros(2)))
    with pytest.raises(ModelError, match=r"Unexpected key.*surplus"):
        load(copied)
    (copied / "model.safetensors").write_bytes(good)
    edit_weights(copied, lambda tensors: tensors.update({"norm.weight": torch.zeros(5)}))
    with pytest.raises(ModelError, match=r"size mismatch for norm.weight"):
        load(copied)


def test_weights_that_are_no_safetensors_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").write_bytes(b"\x80\x04pickle")
    found = sha256_file(copied / "model.safetensors")
    edit(copied, lambda config: config["tilezoo"].update(weights_sha256=found))
    with pytest.raises(ModelError, match="do not fit"):
        load(copied)


def test_half_precision_weights_are_computed_in_float32(copied: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    edit_weights(copied, halve)
    assert load(copied).dimension == 192


def test_a_plain_timm_directory_is_an_rgb_model_by_its_config(copied: Path) -> None:
    edit(copied, lambda config: config.pop("tilezoo"))
    model = find_model(copied)
    assert model.contract == making.contract()
    assert model.pooling == "cls"
    assert load(copied).dimension == 192


def test_a_plain_timm_directory_of_other_bands_is_refused(copied: Path) -> None:
    edit(copied, lambda config: config.pop("tilezoo"))
    edit(copied, lambda config: config["pretrained_cfg"].update(input_size=[13, 64, 64]))
    with pytest.raises(ModelError, match=r"takes 13 channels, .*only square RGB"):
        find_model(copied)


def test_a_contract_that_the_network_does_not_take_is_refused(tmp_path: Path, copied: Path) -> None:
    edit(copied, lambda config: config["tilezoo"].update(size_px=8, resize_px=8))
    with pytest.raises(ContractError, match="the network cannot take 8 px"):
        load(copied)
    four = making.write_vit(tmp_path / "four", bands=("red", "green", "blue", "nir"))
    edit(four, lambda config: config["tilezoo"].update(bands=["red", "green", "blue"]))
    edit(four, lambda config: config["pretrained_cfg"].update(mean=[0.5] * 3, std=[0.5] * 3))
    with pytest.raises(ModelError, match="the network does not take 3 bands of 64 px"):
        load(four)


def test_golden_vectors_are_the_same_bytes_each_time(copied: Path) -> None:
    model = find_model(copied)
    written = {sha256_file(write_golden(model)) for _ in range(6)}
    assert len(written) == 1
    assert read_golden(model) is not None


def test_a_config_that_is_nested_without_end_is_refused(copied: Path) -> None:
    (copied / "config.json").write_text("[" * 200_000)
    with pytest.raises(ModelError, match="not readable JSON"):
        find_model(copied)
