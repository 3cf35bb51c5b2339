"""Backbones whose weights a Python package ships: converted once into a verified model directory."""

import pickle
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tilezoo.errors import ModelError
from tilezoo.io import cache_folder, made_whole, sha256_file
from tilezoo.zoo.catalog import CatalogEntry, is_installed
from tilezoo.zoo.modeldir import ModelDir, read_model_dir, write_model_dir


def packaged_model(entry: CatalogEntry) -> ModelDir:
    """Find a packaged model's directory in the cache, making it there on first use.

    Raises:
        ModelError: The package is missing or its file is not the known one, or the cache
            cannot be written.
    """
    folder = cache_folder() / "models" / entry.name / entry.file_sha256[:16]
    if folder.is_dir():
        return read_model_dir(folder, entry.name)
    weights = _package_file(entry)
    try:
        with made_whole(folder) as making:
            _convert(entry, weights, making)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            fix = "set TILEZOO_CACHE to a folder you may write"
            raise ModelError(f"{folder.parent}: {error.strerror or error}; {fix}") from error
    return read_model_dir(folder, entry.name)


def _package_file(entry: CatalogEntry) -> Path:
    if not is_installed(entry):
        fix = f"pip install 'tilezoo[{entry.extra}]'"
        raise ModelError(f"{entry.name}: package {entry.package} is not installed; {fix}")
    path = Path(str(files(entry.package).joinpath(entry.file)))
    found = sha256_file(path)
    if found != entry.file_sha256:
        raise ModelError(
            f"{path}: SHA-256 {found[:16]}… is not the known {entry.file_sha256[:16]}…"
        )
    return path


def _convert(entry: CatalogEntry, weights: Path, folder: Path) -> None:
    import timm

    network: Any = timm.create_model(entry.architecture)
    try:
        foreign = torch.load(weights, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{weights}: holds more than tensors; refused") from error
    network.load_state_dict(by_position(foreign, network), strict=True)
    config = {
        "architecture": entry.architecture,
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "pretrained_cfg": {
            "first_conv": network.pretrained_cfg["first_conv"],
            "classifier": network.pretrained_cfg["classifier"],
            "fixed_input_size": False,
            "license": entry.licence,
        },
        "pretraining": {"method": "supervised", "data": entry.trained_on},
    }
    write_model_dir(folder, network, contract=entry.contract, pooling=entry.pooling, config=config)


def by_position(foreign: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Give foreign tensors the network's names, matched by order and checked by shape.

    efficientnet-pytorch and timm define the same layers in the same order under other names.

    Raises:
        ModelError: Counts or shapes differ, so the order cannot be the same.
    """
    wanted = network.state_dict()
    if len(foreign) != len(wanted):
        raise ModelError(
            f"{len(foreign)} tensors, the network has {len(wanted)}: not the same network"
        )
    renamed = dict(zip(wanted, foreign.values(), strict=True))
    for (name, tensor), theirs in zip(renamed.items(), foreign, strict=True):
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, {name} is {tuple(wanted[name].shape)}"
            raise ModelError(f"{theirs} has shape {shapes}: not the same network")
    return renamed
