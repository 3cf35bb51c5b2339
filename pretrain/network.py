"""The network that DINO trains: timm's vision transformer with a projection head.

Tensors are named as in facebookresearch/dino, so a state dict goes from one to the other as it is;
those of `backbone` are timm's names too.
"""

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

import timm
import torch
from timm.models import is_model_in_modules
from torch import Tensor, nn

from tilezoo.errors import OptionError
from tilezoo.pretrain.recipe import Recipe

# timm's networks and layers: to their types, any attribute may be a tensor or a module.
TimmVit = Any
_TimmLayer = Any

_MODULES = ("vision_transformer", "deit")  # of timm, that build its VisionTransformer
_STD = 0.02  # of a fresh layer's weights; facebookresearch/dino at 7c446df, vision_transformer.py
# What DINO's vision transformer is made of: a class token, learned positions, plain blocks.
_PARTS = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
_PARTS |= {"norm.weight", "norm.bias"}
_BLOCK_PARTS = {
    f"{layer}.{kind}"
    for layer in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
}


class LastLayer(nn.Module):
    """A linear layer without bias, each row of whose weights is g v / ‖v‖.

    Attributes:
        weight_v: Directions v, shape (K, D).
        weight_g: Gains g, shape (K, 1); 1 for good unless they are trained.
    """

    def __init__(self, width: int, outputs: int, *, train_gain: bool) -> None:
        super().__init__()
        # nn.Linear's own initial weights, as facebookresearch/dino leaves them.
        self.weight_v = nn.Parameter(nn.Linear(width, outputs, bias=False).weight.detach())
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=train_gain)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, D) to (N, K)."""
        return nn.functional.linear(x, torch._weight_norm(self.weight_v, self.weight_g, 0))


class DinoHead(nn.Module):
    """Projection head: three layers with GELU, the unit sphere, and the last layer's K outputs.

    Source:
        arXiv:2104.14294, appendix C; facebookresearch/dino at 7c446df, vision_transformer.py,
        DINOHead.
    """

    def __init__(
        self, width: int, *, hidden: int, bottleneck: int, outputs: int, norm_last_layer: bool
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.mlp.apply(_initialise)
        self.last_layer = LastLayer(bottleneck, outputs, train_gain=not norm_last_layer)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, D) to (N, K)."""
        logits: Tensor = self.last_layer(nn.functional.normalize(self.mlp(features), dim=-1))
        return logits


class Network(nn.Module):
    """Student or teacher.

    Attributes:
        backbone: timm's vision transformer without a classifier.
        head: Thrown away after pretraining.
    """

    def __init__(self, backbone: TimmVit, head: DinoHead) -> None:
        super().__init__()
        self.backbone: TimmVit = backbone
        self.head = head

    def forward(self, crops: Sequence[Tensor]) -> Tensor:
        """Run the backbone once for each size of crops, and the head once for all.

        Args:
            crops: For each size, shape (N, bands, side, side), crop-major.

        Returns:
            Outputs before any softmax, shape (sum of N, K).
        """
        tokens = torch.cat([class_tokens(self.backbone, each) for each in crops])
        logits: Tensor = self.head(tokens)
        return logits


def class_tokens(backbone: TimmVit, crops: Tensor) -> Tensor:
    """Run the backbone on crops of any one size, shape (N, bands, side, side) → (N, D).

    The same as timm's forward pass at the size it was built for, but that all after the last
    block's attention is done for the class token alone: nobody reads the other tokens.
    """
    tokens = backbone.patch_embed.proj(crops)  # (N, D, h, w)
    positions = resize_positions(backbone.pos_embed, tokens.shape[-2:])
    first = backbone.cls_token.expand(len(crops), -1, -1)
    tokens = torch.cat([first, tokens.flatten(2).transpose(1, 2)], dim=1) + positions
    *blocks, last = backbone.blocks
    for block in blocks:
        tokens = block(tokens)
    row: Tensor = backbone.norm(_class_row(last, tokens))
    return row


def resize_positions(positions: Tensor, grid: Sequence[int]) -> Tensor:
    """Resample position embeddings for crops of another size, exactly as facebookresearch/dino.

    Bicubic (a = -0.75) without antialiasing. The factor is (h + 0.1) / side and not h / side. As
    it sets the sampling points too, they drift: from 14 to 6 patches, the last by 0.2 of a patch.
    timm resamples in another way.

    Args:
        positions: Of the class token and a square of patches, shape (1, 1 + side², D).
        grid: Patches (h, w) of the crops.

    Returns:
        Shape (1, 1 + h·w, D); `positions` itself where the grid is the same.

    Source:
        facebookresearch/dino at 7c446df, vision_transformer.py, interpolate_pos_encoding, and its
        issue #8 for the 0.1.
    """
    side = math.isqrt(positions.shape[1] - 1)
    height, width = grid
    if (height, width) == (side, side):
        return positions
    square = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)  # (1, D, side, side)
    factors = ((height + 0.1) / side, (width + 0.1) / side)
    resized = nn.functional.interpolate(square, scale_factor=factors, mode="bicubic")
    return torch.cat([positions[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _class_row(block: _TimmLayer, tokens: Tensor) -> Tensor:
    """Run a block of timm's for what becomes of the class token, (N, 1 + h·w, D) → (N, D)."""
    row: Tensor = tokens[:, :1]
    row = row + block.drop_path1(_class_attention(block.attn, block.norm1(tokens)))
    row = row + block.drop_path2(block.mlp(block.norm2(row)))
    return row[:, 0]


def _class_attention(attention: _TimmLayer, tokens: Tensor) -> Tensor:
    """What the class token takes from all tokens, (N, T, D) → (N, 1, D)."""
    heads = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1))  # (N, T, 3, H, D/H)
    q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)  # each (N, H, T, D/H)
    shares = (q[:, :, :1] * attention.scale @ k.transpose(-2, -1)).softmax(dim=-1)
    taken: Tensor = attention.proj((shares @ v).transpose(1, 2).flatten(2))
    return taken


def build_network(recipe: Recipe, bands: int, *, drop_path: float) -> Network:
    """Build a network with fresh weights, drawn from torch's random numbers as DINO draws them.

    Args:
        recipe: Its architecture, sizes and head.
        bands: Input channels.
        drop_path: Stochastic depth of the last block, growing linearly from 0; the teacher's is 0.

    Raises:
        OptionError: The architecture is unknown or no vision transformer as DINO's, or a crop is
            smaller than its patches.
    """
    backbone = _backbone(recipe, bands, drop_path)
    for token in (backbone.cls_token, backbone.pos_embed):
        nn.init.trunc_normal_(token, std=_STD)
    backbone.apply(_initialise)
    head = DinoHead(
        backbone.embed_dim,
        hidden=recipe.hidden_dim,
        bottleneck=recipe.bottleneck_dim,
        outputs=recipe.out_dim,
        norm_last_layer=recipe.norm_last_layer,
    )
    return Network(backbone, head)


def check_network(recipe: Recipe, bands: int) -> None:
    """Refuse an architecture that cannot be trained, without building its weights.

    Raises:
        OptionError: As `build_network` does.
    """
    with torch.device("meta"):
        _backbone(recipe, bands, recipe.drop_path)


def _backbone(recipe: Recipe, bands: int, drop_path: float) -> TimmVit:
    """Have timm build the recipe's backbone, if it is one that DINO's algorithm is stated for."""
    name = recipe.architecture
    if not is_model_in_modules(name, _MODULES):
        known = [one for one in timm.list_models("vit_*") if is_model_in_modules(one, _MODULES)]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "take vit_small_patch16_224, say"
        raise OptionError(f"architecture={name}: no vision transformer of timm's; {hint}")
    bare = name.partition(".")[0]  # a tag names weights, and there are none here
    built: TimmVit = timm.create_model(
        bare, num_classes=0, img_size=recipe.global_px, in_chans=bands, drop_path_rate=drop_path
    )
    if not _is_plain(built):
        needs = "a class token, learned positions and plain blocks"
        raise OptionError(f"architecture={name}: DINO needs {needs}; take vit_small_patch16_224")
    _check_crops(recipe, max(built.patch_embed.patch_size))
    return built


def _is_plain(backbone: TimmVit) -> bool:
    """Whether it is made of just what facebookresearch/dino's vision transformer is."""
    names = set(backbone.state_dict())
    if not names >= _PARTS:
        return False
    numbers = range(len(backbone.blocks))
    blocks = {f"blocks.{number}.{part}" for number in numbers for part in _BLOCK_PARTS}
    tokens = 1 + backbone.patch_embed.num_patches
    return names == _PARTS | blocks and backbone.pos_embed.shape[1] == tokens


def _check_crops(recipe: Recipe, patch_px: int) -> None:
    sizes = {"global_px": recipe.global_px}
    if recipe.local_crops:
        sizes["local_px"] = recipe.local_px
    for name, size in sizes.items():
        if size < patch_px:
            fix = f"{recipe.architecture} has patches of {patch_px} px"
            raise OptionError(f"{name}={size}: smaller than a patch; {fix}")


def _initialise(module: nn.Module) -> None:
    """Draw a layer's first weights as facebookresearch/dino does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_STD)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.Conv2d):
        module.reset_parameters()


def use_fused_attention(network: nn.Module, on: bool) -> None:
    """Take torch's fused attention, or three plain products; the results are equal but for rounding.

    On a CPU in bf16 a whole step takes 1.3 times as long with the fused kernel as with plain
    products (benchmarks/README.md); everywhere else it is the better one.
    """
    layers: Iterable[_TimmLayer] = network.modules()
    for layer in layers:
        if isinstance(getattr(layer, "fused_attn", None), bool):
            layer.fused_attn = on


def copy_weights(student: Network, teacher: Network) -> None:
    """Give the teacher the student's weights, and keep every gradient out of it."""
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(requires_grad=False)


@torch.no_grad()
def follow(teacher: Network, student: Network, momentum: float) -> None:
    """Move the teacher's weights towards the student's: θ_t ← λ θ_t + (1 - λ) θ_s.

    Args:
        teacher: Is changed.
        student: Is not.
        momentum: λ.
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)
