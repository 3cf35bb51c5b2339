"""Features of a timm network, pooled."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tilezoo.errors import ModelError
from tilezoo.space import Pooling

# timm's networks are modules whose methods differ by family; none of it is typed.
TimmNetwork = Any

LAST_BLOCKS = 4  # as DINO's linear evaluation of ViT-S takes them (arXiv:2104.14294, §4.1)


@dataclass(frozen=True, slots=True)
class Features:
    """What a frozen network makes of a batch.

    Attributes:
        pooled: One vector a tile, shape (B, D).
        patch: One vector a patch (or cell of the last feature map), shape (B, h, w, D').
    """

    pooled: Tensor
    patch: Tensor


def check_pooling(network: TimmNetwork, pooling: Pooling) -> None:
    """Refuse a pooling the network has no tokens for.

    Raises:
        ModelError: It has no class token, or too few blocks.
    """
    if pooling == "mean":
        return
    if not _has_class_token(network):
        why = f"no class token for pooling {pooling!r}; take --pooling mean"
        raise ModelError(f"the network has {why}")
    if pooling == "last4" and len(network.blocks) < LAST_BLOCKS:
        why = f"{len(network.blocks)} blocks, pooling 'last4' needs {LAST_BLOCKS}"
        raise ModelError(f"the network has {why}; take --pooling cls")


def features(network: TimmNetwork, images: Tensor, pooling: Pooling) -> Features:
    """Run the network on prepared images, shape (B, C, H, W), and pool.

    Vision transformers are pooled after their last norm, as timm's own head does; `last4` is
    the class tokens of the four last blocks, each after that norm, put side by side.
    """
    if pooling == "last4":
        return _last_blocks(network, images)
    out = network.forward_features(images)
    if not _has_class_token(network):
        return _from_map(network, out)
    prefix = int(network.num_prefix_tokens)
    tokens = out[:, prefix:]
    parts = {"cls": [out[:, 0]], "mean": [tokens.mean(1)], "cls+mean": [out[:, 0], tokens.mean(1)]}
    norm = getattr(network, "fc_norm", nn.Identity())
    pooled = torch.cat([norm(part) for part in parts[pooling]], dim=1)
    return Features(pooled, _as_map(tokens))


def _last_blocks(network: TimmNetwork, images: Tensor) -> Features:
    layers = network.forward_intermediates(
        images,
        indices=LAST_BLOCKS,
        return_prefix_tokens=True,
        norm=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    pooled = torch.cat([prefix[:, 0] for _, prefix in layers], dim=1)
    return Features(pooled, _as_map(layers[-1][0]))


def _from_map(network: TimmNetwork, out: Tensor) -> Features:
    """Pool a network without class token by its own head; its map is (B, D, h, w) as a rule."""
    pooled = network.forward_head(out, pre_logits=True)
    if out.ndim == 4 and out.shape[1] == network.num_features:
        return Features(pooled, out.permute(0, 2, 3, 1))
    return Features(pooled, out if out.ndim == 4 else _as_map(out))


def _as_map(tokens: Tensor) -> Tensor:
    """(B, h * w, D) → (B, h, w, D); images are square here, so h = w."""
    side = math.isqrt(tokens.shape[1])
    return tokens.reshape(len(tokens), side, side, -1)


def _has_class_token(network: TimmNetwork) -> bool:
    """Tell a transformer with a class token; timm's Eva (DINOv3) has no `has_class_token`."""
    prefix = int(getattr(network, "num_prefix_tokens", 0))
    return prefix > 0 and getattr(network, "cls_token", None) is not None
