"""Weights in others' forms: checkpoints read without running code, tensors given timm's names.

Whatever form the weights of a catalogued model come in, its model directory is ours: safetensors
under timm's names, with the contract, loaded strictly when it was made.
"""

import argparse
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tilezoo.errors import ModelError
from tilezoo.zoo.cards import catalog_origin
from tilezoo.zoo.catalog import CatalogEntry, Conversion
from tilezoo.zoo.complete import complete_model_dir
from tilezoo.zoo.modeldir import NetworkConfig, import_timm, write_model_dir
from tilezoo.zoo.network import TimmNetwork
from tilezoo.zoo.options import Which

State = Mapping[str, Tensor]
Checkpoint = Mapping[str, Any]  # whatever its makers saved

_WRAPPERS = ("module.", "backbone.", "_orig_mod.")
_HEADS = ("head.", "fc.", "fc_norm_head.", "projection_head.", "prototypes.", "last_layer.")
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}
_HEAD_WIDTH = 64  # of every ViT of DINO and timm up to large (arXiv:2104.14294, table 1)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A vision transformer's build, read off its tensors.

    Attributes:
        width: Length of a token.
        depth: Number of blocks.
        patch_px: Side of a patch, pixels.
        bands: Input channels.
        grid: Patches along a side of the image it was trained on.
    """

    width: int
    depth: int
    patch_px: int
    bands: int
    grid: int

    def to_timm(self) -> tuple[str, dict[str, object]]:
        """Name it as timm does, with what it is built with besides."""
        size = _SIZES.get(self.width, "small")
        args: dict[str, object] = {
            "img_size": self.grid * self.patch_px,
            "patch_size": self.patch_px,
            "in_chans": self.bands,
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": max(1, self.width // _HEAD_WIDTH),
        }
        return f"vit_{size}_patch16_224", args


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a `.pth` with nothing but tensors, numbers, texts and argparse's plain options.

    Raises:
        ModelError: It is missing or damaged, or would run code.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors and was not opened; "
            "ask its makers for safetensors, or for a plain state dict"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f"{path}: not a readable checkpoint ({error})") from error
    if not isinstance(checkpoint, Mapping):
        raise ModelError(f"{path}: holds a {type(checkpoint).__name__}, no state dict")
    return checkpoint


def backbone_state(checkpoint: Checkpoint, which: Which | None = None) -> dict[str, Tensor]:
    """Take the backbone's tensors out of a checkpoint, without prefixes and head.

    Args:
        checkpoint: With `teacher` and `student` (facebookresearch/dino and ours), `state_dict` or
            `model`, or a bare state dict.
        which: The network of a student-teacher checkpoint; the teacher unless it is `student`.

    Raises:
        ModelError: No such network is in it, or nothing in it is a tensor.
    """
    state = _choose_network(checkpoint, which)
    tensors = {_strip(name): value for name, value in state.items() if isinstance(value, Tensor)}
    kept = {name: t for name, t in tensors.items() if not name.startswith(_HEADS)}
    if not kept:
        raise ModelError(f"no tensors of a backbone; found {', '.join(list(state)[:5])}")
    return kept


def shape_of(state: State) -> Shape:
    """Read a vision transformer's build off its tensors.

    Raises:
        ModelError: It is none that timm's VisionTransformer is.
    """
    try:
        width, bands, patch_px, _ = state["patch_embed.proj.weight"].shape
        tokens = state["pos_embed"].shape[1] - state["cls_token"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(
            f"not a vision transformer as DINO writes it: {error} is missing"
        ) from error
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    grid = math.isqrt(tokens)
    return Shape(width=width, depth=len(blocks), patch_px=patch_px, bands=bands, grid=grid)


def _choose_network(checkpoint: Checkpoint, which: Which | None) -> Checkpoint:
    if "teacher" in checkpoint or "student" in checkpoint:
        name = which or "teacher"
        if name not in checkpoint:
            other = "student" if name == "teacher" else "teacher"
            raise ModelError(f"holds no {name}; --network {other} takes the {other}")
        return dict(checkpoint[name])
    if which == "student":
        raise ModelError("is no student-teacher checkpoint; leave --network out")
    inner = next((checkpoint[k] for k in ("state_dict", "model") if k in checkpoint), checkpoint)
    return dict(inner)


def _strip(name: str) -> str:
    while (wrapper := next((w for w in _WRAPPERS if name.startswith(w)), None)) is not None:
        name = name.removeprefix(wrapper)
    return name


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
    return _safetensors(weights)


def _plain(weights: Path, _network: nn.Module) -> State:
    return backbone_state(read_checkpoint(weights))


def _satdino(weights: Path, _network: nn.Module) -> State:
    return satdino_names(backbone_state(read_checkpoint(weights), "teacher"))


def _reben(weights: Path, _network: nn.Module) -> State:
    return reben_names(_safetensors(weights))


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


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable safetensors ({error}); remove it") from error
