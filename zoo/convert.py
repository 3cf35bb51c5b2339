"""Foreign checkpoints: read as tensors and nothing else, renamed, and matched strictly."""

import argparse
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tilezoo.errors import ModelError

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
