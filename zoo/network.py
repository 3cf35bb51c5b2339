"""Features of a timm network, pooled."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F  # noqa: N812  (torchvision's own habit)

from tilezoo.errors import ModelError
from tilezoo.space import Contract, Interpolation, Pooling
from tilezoo.values import to_8bit_, to_unit_

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


_MODES: Mapping[Interpolation, InterpolationMode] = {
    "bicubic": InterpolationMode.BICUBIC,
    "bilinear": InterpolationMode.BILINEAR,
    "nearest": InterpolationMode.NEAREST_EXACT,  # the one that PIL calls nearest
}


def prepare(pixels: Tensor, contract: Contract) -> Tensor:
    """Scale, resize, crop and normalise a batch by its contract.

    With `quantize_uint8` this equals timm's eval transform (PIL: 8-bit bicubic with
    antialias) within a rounding step of 1/255, two at the most where it enlarges.

    Args:
        pixels: Raw values, shape (B, C, H, W), any real dtype.
        contract: Whose bands are the C.

    Returns:
        float32, shape (B, C, size_px, size_px).
    """
    return normalise(fit(pixels, contract), contract)


def fit(pixels: Tensor, contract: Contract) -> Tensor:
    """Scale to 0..1 (or 0..255 in 8 bits) and bring to the contract's size."""
    return _resize(_scale(pixels, contract), contract)


def normalise(values: Tensor, contract: Contract) -> Tensor:
    """Map fitted values to the network's: (x - mean) / std, in float32."""
    top = 255.0 if values.dtype == torch.uint8 else 1.0
    mean = torch.tensor(contract.mean, device=values.device).view(-1, 1, 1) * top
    std = torch.tensor(contract.std, device=values.device).view(-1, 1, 1) * top
    return values.to(torch.float32, copy=True).sub_(mean).div_(std)


def _scale(pixels: Tensor, contract: Contract) -> Tensor:
    low, high = contract.value_range
    if contract.quantize_uint8 and pixels.dtype == torch.uint8 and (low, high) == (0, 255):
        return pixels
    mapped = to_8bit_ if contract.quantize_uint8 else to_unit_
    return mapped(pixels.to(torch.float32, copy=True), low, high)


def _resize(values: Tensor, contract: Contract) -> Tensor:
    if contract.resize == "none":
        return values
    side = contract.resize_px
    resized = F.resize(
        values,
        [side, side] if contract.resize == "squash" else [side],
        interpolation=_MODES[contract.interpolation],
        antialias=True,
    )
    cropped: Tensor = F.center_crop(resized, [contract.size_px, contract.size_px])
    return cropped


# torch's own compiled models use these two; named by hand because nothing public leads to them.
_OPS: Any = torch.ops.mkldnn


class PackedLinear(nn.Module):
    """A linear layer, with GELU (the exact one, by erf) at once where asked.

    torch's own lays its weight out anew for each product, which is 15 % of a ViT-S's time
    (benchmarks/README.md, "Packed weights in bf16").
    """

    def __init__(self, linear: nn.Linear, *, then_gelu: bool = False) -> None:
        super().__init__()
        self._weight = _OPS._reorder_linear_weight(linear.weight.detach())
        self._bias = linear.bias
        self._then = "gelu" if then_gelu else "none"

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, D) to (…, D')."""
        made: Tensor = _OPS._linear_pointwise(x, self._weight, self._bias, self._then, [], "none")
        return made


def can_pack() -> bool:
    """Tell whether this CPU and torch have bf16 products on packed weights."""
    built = hasattr(_OPS, "_linear_pointwise") and hasattr(_OPS, "_reorder_linear_weight")
    capable = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return built and capable and bool(_OPS._is_mkldnn_bf16_supported())


def pack(network: nn.Module) -> None:
    """Put packed layers in place of the linear ones of timm's attention and MLP blocks, in bf16.

    Only of these two: other blocks of timm use their layers' weights themselves.
    """
    from timm.models import vision_transformer

    vit: Any = vision_transformer
    modules: list[TimmNetwork] = list(network.modules())
    for module in modules:
        if type(module) is vit.Attention:
            module.qkv, module.proj = PackedLinear(module.qkv), PackedLinear(module.proj)
        elif type(module) is vit.Mlp and isinstance(module.fc1, nn.Linear):
            exact = type(module.act) is nn.GELU and module.act.approximate == "none"
            module.fc1 = PackedLinear(module.fc1, then_gelu=exact)
            module.fc2 = PackedLinear(module.fc2)
            if exact:
                module.act = nn.Identity()
