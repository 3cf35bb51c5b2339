"""Weights of the catalogue in their makers' forms: tensors given timm's names, loaded strictly.

Whatever form the weights of a catalogued model come in, its model directory is ours: safetensors
under timm's names, with the contract, loaded strictly when it was made.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from tilezoo.errors import ModelError
from tilezoo.zoo.cards import catalog_origin
from tilezoo.zoo.catalog import CatalogEntry, Conversion
from tilezoo.zoo.checkpoints import State, backbone_state, read_checkpoint, read_safetensors
from tilezoo.zoo.complete import complete_model_dir
from tilezoo.zoo.modeldir import NetworkConfig, import_timm, write_model_dir
from tilezoo.zoo.network import TimmNetwork


def convert(entry: CatalogEntry, weights: Path, folder: Path) -> None:
    """Write a catalogued model's weights, as its makers published them, as a model directory.

    Raises:
        ModelError: They are not the tensors of the catalogue's network.
    """
    network = import_timm().create_model(
        entry.architecture, num_classes=entry.num_classes, **entry.model_args
    )
    state = _READERS[entry.conversion](weights, network)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError(f"{weights}: not the tensors of {entry.architecture}: {why}") from error
    config = _config(entry, network)
    model = write_model_dir(
        folder, network, contract=entry.contract, pooling=entry.pooling, config=config
    )
    complete_model_dir(model, name=entry.name, origin=catalog_origin(entry))


def _config(entry: CatalogEntry, network: TimmNetwork) -> NetworkConfig:
    default = network.pretrained_cfg
    own = {key: default[key] for key in ("first_conv", "classifier") if key in default}
    return {
        "architecture": entry.architecture,
        "num_classes": entry.num_classes,
        "num_features": network.num_features,
        "model_args": entry.model_args,
        "pretrained_cfg": {**own, "license": entry.licence},
        "network": entry.network,
        "pretraining": {"data": entry.trained_on},
    }


def _timm(weights: Path, _network: nn.Module) -> State:
    return read_safetensors(weights)


def _plain(weights: Path, _network: nn.Module) -> State:
    return backbone_state(read_checkpoint(weights), where=weights)


def _satdino(weights: Path, _network: nn.Module) -> State:
    return satdino_names(backbone_state(read_checkpoint(weights), "teacher", where=weights))


def _reben(weights: Path, _network: nn.Module) -> State:
    return reben_names(read_safetensors(weights))


def _by_position(weights: Path, network: nn.Module) -> State:
    return by_position(read_checkpoint(weights), network)


_READERS: Mapping[Conversion, Callable[[Path, nn.Module], State]] = {
    "timm": _timm,
    "plain": _plain,
    "satdino": _satdino,
    "reben": _reben,
    "by_position": _by_position,
}


def satdino_names(state: State) -> dict[str, Tensor]:
    """Rename SatDINO's tensors: its register stands last among the tokens, timm's second.

    Source: https://github.com/strakaj/SatDINO (its vision transformer's `gsd_register`).
    """
    import torch

    renamed = {name.replace("gsd_register", "reg_token"): t for name, t in state.items()}
    try:
        place = renamed["pos_embed"]
    except KeyError as error:
        raise ModelError("not SatDINO's teacher: no pos_embed") from error
    renamed["pos_embed"] = torch.cat([place[:, :1], place[:, -1:], place[:, 1:-1]], dim=1)
    return renamed


def reben_names(state: State) -> dict[str, Tensor]:
    """Rename ConfigILM's tensors and drop its classifier."""
    prefix = "model.vision_encoder."
    own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    return {name: tensor for name, tensor in own.items() if not name.startswith("fc.")}


def by_position(foreign: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Give foreign tensors the network's names, matched by order and checked by shape.

    efficientnet-pytorch and timm define the same layers in the same order under other names.

    Raises:
        ModelError: Counts or shapes differ, so the order cannot be the same.
    """
    wanted: dict[str, Tensor] = dict(network.state_dict())
    if len(foreign) != len(wanted):
        raise ModelError(f"{len(foreign)} tensors, the network has {len(wanted)}: not the same one")
    renamed = dict(zip(wanted, foreign.values(), strict=True))
    for (name, tensor), theirs in zip(renamed.items(), foreign, strict=True):
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)}, {name} is {tuple(wanted[name].shape)}"
            raise ModelError(f"{theirs} has shape {shapes}: not the same network")
    return renamed
