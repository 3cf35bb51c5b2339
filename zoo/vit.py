"""Which vision transformer a state dict is: its build, and the heads that no tensor's shape tells.

Heads are the one thing that shapes don't say: 192 wide blocks are those of DeiT-Ti with 3 heads and
of MAE-Lite's ViT-Ti with 12; 384 wide ones have 6 in DINO and 12 in MoCo v3. The wrong number makes
another network of the same tensors, which computes something and agrees with itself for ever. So
heads are never concluded from the width. A run states its network by timm's name. Of a foreign file
they are taken from the first that says them:

1. what the user states (`--heads`, or timm's name by `--arch`);
2. a name in the file (timm's, or facebookresearch/dino's in `args`) of a network of the
   same width and patches;
3. the weights themselves, where training has left its trace in them (`measure_heads`);
4. timm's network of that width, for weights that were never trained, in a file that names nothing:
   what they compute means nothing with any number.

Where none does, the file is refused with the options that say it. Where the weights contradict a
name in the file it is refused, too; where they contradict the user, this is told.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tilezoo.errors import ModelError
from tilezoo.progress import say
from tilezoo.zoo.checkpoints import Checkpoint, State, name_texts, shorten
from tilezoo.zoo.modeldir import import_timm
from tilezoo.zoo.network import TimmNetwork

# timm's names of plain vision transformers by width, vit_small's for other widths; all else that
# they are built with is stated beside.
_NAMES: Mapping[int, str] = {
    192: "vit_tiny_patch16_224",
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
    1280: "vit_huge_patch14_224",
    1408: "vit_giant_patch14_224",
    1664: "vit_gigantic_patch14_224",
}
# facebookresearch/dino at 7c446df, vision_transformer.py; deit_* are its older names of the same.
_DINO_HEADS: Mapping[str, tuple[int, int]] = {
    f"{family}_{size}": (width, heads)
    for family in ("vit", "deit")
    for size, width, heads in (("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12))
}
# What people's networks of a width have: hints of a message, never taken.
_USUAL: Mapping[int, str] = {
    192: "3 in DINO and timm, 12 in MAE-Lite",
    384: "6 in DINO and timm, 12 in MoCo v3",
    768: "12 in DINO, timm and MAE, 16 in CROMA",
    1024: "16 in timm and MAE",
    1280: "16 in timm and MAE",
    1408: "16 in timm",
    1664: "16 in timm",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A vision transformer's build, read off its tensors.

    Attributes:
        width: Length of a token.
        depth: Number of blocks.
        patch_px: Side of a patch, pixels.
        bands: Input channels.
        grid: Patches along a side of the image it was trained on.
        hidden: Width inside a block's MLP.
    """

    width: int
    depth: int
    patch_px: int
    bands: int
    grid: int
    hidden: int

    def timm_args(self, heads: int) -> dict[str, object]:
        """What timm builds it with, whatever the name it is built by."""
        args: dict[str, object] = {
            "img_size": self.grid * self.patch_px,
            "patch_size": self.patch_px,
            "in_chans": self.bands,
            "embed_dim": self.width,
            "depth": self.depth,
            "num_heads": heads,
        }
        return args if self.hidden == 4 * self.width else {**args, "mlp_ratio": self._mlp_ratio}

    @property
    def _mlp_ratio(self) -> float:
        """A ratio of which timm, which cuts off fractions, makes `hidden` again."""
        ratio = self.hidden / self.width
        return ratio if int(self.width * ratio) == self.hidden else (self.hidden + 0.5) / self.width


def shape_of(state: State, where: Path) -> Shape:
    """Read a vision transformer's build off its tensors.

    Raises:
        ModelError: It is none as DINO writes it: square patches, a square grid of learned positions,
            class tokens, blocks with an MLP.
    """
    patches, hidden = _sizes(state, "patch_embed.proj.weight", 4, where), 0
    places, classes = (_sizes(state, name, 3, where) for name in ("pos_embed", "cls_token"))
    width, bands, patch_px, other_px = patches
    numbers = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    hidden = _sizes(state, "blocks.0.mlp.fc1.weight", 2, where)[0]
    tokens = places[1] - classes[1]
    grid = math.isqrt(max(tokens, 0))
    if patch_px != other_px or grid * grid != tokens or not tokens:
        sizes = f"{tokens} positions of patches of {other_px}x{patch_px} px"
        raise ModelError(f"{where}: {sizes}: no square grid of square patches; no such is known")
    return Shape(
        width=width, depth=len(numbers), patch_px=patch_px, bands=bands, grid=grid, hidden=hidden
    )


def _sizes(state: State, name: str, dimensions: int, where: Path) -> tuple[int, ...]:
    """The shape of a tensor that every such network has."""
    if name not in state:
        raise ModelError(
            f"{where}: not a vision transformer as DINO writes it: {name!r} is missing"
        )
    sizes = tuple(state[name].shape)
    if len(sizes) != dimensions:
        kind = "a vision transformer as DINO writes it"
        raise ModelError(f"{where}: not {kind}: {name} has the shape {sizes}")
    return sizes


@dataclass(frozen=True, kw_only=True)
class Build:
    """How timm builds a network.

    Attributes:
        architecture: timm's name.
        args: What it is built with besides.
    """

    architecture: str
    args: Mapping[str, object]

    def make(self, state: State, where: Path) -> TimmNetwork:
        """Build it with its weights, every key accounted for.

        Raises:
            ModelError: The tensors are not those of this network.
        """
        timm = import_timm()
        try:
            network: nn.Module = timm.create_model(self.architecture, num_classes=0, **self.args)
            network.load_state_dict(state, strict=True)
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise ModelError(
                f"{where}: its tensors are not those of timm's {self.architecture}: "
                f"{shorten(error)}"
            ) from error
        return network


def find_build(
    checkpoint: Checkpoint, state: State, *, arch: str | None, heads: int | None, where: Path
) -> Build:
    """Settle which network a checkpoint of others is, and tell where its heads are from.

    Args:
        checkpoint: The file, for a name in it.
        state: The backbone's tensors.
        arch: timm's name, if the user states it.
        heads: Heads of a block, if the user states them.
        where: The file, for messages.

    Raises:
        ModelError: Nothing says its heads, or what says them cannot be.
    """
    if arch is not None:
        return named_build(arch, state, heads=heads, where=where)
    shape = shape_of(state, where)
    if heads is not None:
        _warn_contradicted(state, heads, where)
        count = heads
    else:
        count = _conclude_heads(checkpoint, state, shape, where)
    _check_heads(count, shape.width, where)
    return _plain_build(shape, count)


def named_build(arch: str, state: State, *, heads: int | None = None, where: Path) -> Build:
    """Build timm's network of a name, but for image size, bands and, where stated, heads.

    Raises:
        ModelError: timm has no such network, or it is of other sizes than the tensors.
    """
    name = arch.partition(".")[0]
    built = _build_empty(name)
    if built is None:
        raise ModelError(f"{where}: {name}: timm {import_timm().__version__} has no such network")
    if not _is_plain(built):
        return Build(architecture=name, args=_input_args(built, state, heads, where))
    shape = shape_of(state, where)
    theirs = (built.embed_dim, len(built.blocks), built.blocks[0].mlp.fc1.out_features)
    ours = (shape.width, shape.depth, shape.hidden)
    if theirs != ours or max(built.patch_embed.patch_size) != shape.patch_px:
        its = f"{shape.depth} blocks {shape.width} wide, patches of {shape.patch_px} px"
        raise ModelError(f"{where}: {its}: not timm's {name}; state --heads in place of --arch")
    count = heads or int(built.blocks[0].attn.num_heads)
    _check_heads(count, shape.width, where)
    return _plain_build(shape, count)


def _plain_build(shape: Shape, heads: int) -> Build:
    """A plain network by the name of its width, whatever other name its maker has for it."""
    return Build(architecture=_NAMES.get(shape.width, _NAMES[384]), args=shape.timm_args(heads))


def _build_empty(name: str) -> TimmNetwork | None:
    """Build timm's network of a name, with or without its weights' tag; None where there is none."""
    timm, bare = import_timm(), name.partition(".")[0]
    if not timm.is_model(bare):
        return None
    with torch.device("meta"):
        return timm.create_model(bare, num_classes=0)


def _is_plain(network: TimmNetwork) -> bool:
    """Whether it is built by the arguments of `Shape.timm_args`, and has no further parts."""
    names: set[str] = set(network.state_dict())
    rest = {name for name in names if not name.startswith("blocks.")}
    inner = {name.split(".", 2)[2] for name in names - rest}
    layers = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    parts = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    ends = {
        f"{layer}.{kind}" for layer in ("patch_embed.proj", "norm") for kind in ("weight", "bias")
    }
    return inner == parts and rest == ends | {"cls_token", "pos_embed"}


def _input_args(
    built: TimmNetwork, state: State, heads: int | None, where: Path
) -> dict[str, object]:
    """Image size and bands of the tensors, for a network whose further build its name says."""
    args: dict[str, object] = {}
    first = next((tensor for tensor in state.values() if tensor.ndim == 4), None)
    if first is not None:
        args["in_chans"] = int(first.shape[1])
    embed: Any = getattr(built, "patch_embed", None)
    positions = state.get("pos_embed")
    if positions is not None and positions.ndim == 3 and getattr(embed, "num_patches", None):
        extra = int(built.pos_embed.shape[1]) - int(embed.num_patches)
        tokens = int(positions.shape[1]) - extra
        grid = math.isqrt(max(tokens, 0))
        if grid * grid != tokens:
            raise ModelError(f"{where}: {tokens} positions of patches are no square grid")
        args["img_size"] = grid * int(max(embed.patch_size))
    return args if heads is None else {**args, "num_heads": heads}


def _conclude_heads(checkpoint: Checkpoint, state: State, shape: Shape, where: Path) -> int:
    """Take heads from a name in the file, or from the weights.

    Raises:
        ModelError: Neither says them, or each says another number.
    """
    named, measured = _named_heads(checkpoint, shape), measure_heads(state, shape)
    fresh = _is_untrained(state) and not any(name_texts(checkpoint))
    if named is None and measured is None and fresh and shape.width in _NAMES:
        name = _NAMES[shape.width]
        count = _timm_heads_of(name)
        say(f"{where}: weights that were never trained; {count} heads, as timm's {name} has")
        return count
    if named is None and measured is None:
        usual = _USUAL.get(shape.width)
        hint = f" (blocks of that width have {usual})" if usual else ""
        raise ModelError(
            f"{where}: nothing in it says how many heads its {shape.width} wide blocks have, and "
            f"another number is another network: state --heads{hint}, or timm's name by --arch"
        )
    if named is None:
        say(f"{where}: {measured} heads of {shape.width}, as its weights show")
        return measured or 0
    count, name = named
    if measured not in (None, count):
        raise ModelError(
            f"{where}: {name} has {count} heads, but the weights look like {measured}: state --heads"
        )
    say(f"{where}: {count} heads of {shape.width}, as {name} has")
    return count


def _named_heads(checkpoint: Checkpoint, shape: Shape) -> tuple[int, str] | None:
    """Heads of a network that the file names and that fits its tensors, and how it is named."""
    dino = "teacher" in checkpoint or "student" in checkpoint
    for place, name, beside in name_texts(checkpoint):
        if dino and name in _DINO_HEADS and beside.get("patch_size") == shape.patch_px:
            width, heads = _DINO_HEADS[name]
            if width == shape.width:
                return heads, f"DINO's {name} ({place})"
        heads_or_none = _timm_heads(name, shape)
        if heads_or_none is not None:
            return heads_or_none, f"timm's {name} ({place})"
    return None


def _is_untrained(state: State) -> bool:
    """Whether all norms are as they are initialised, ones and zeros: one step changes them."""
    norms = [(key, tensor) for key, tensor in state.items() if "norm" in key]
    return bool(norms) and all(
        bool((tensor == float(key.endswith("weight"))).all()) for key, tensor in norms
    )


def _timm_heads_of(name: str) -> int:
    built = _build_empty(name)
    if built is None:
        raise ModelError(f"timm {import_timm().__version__} has no {name}; install timm again")
    return int(built.blocks[0].attn.num_heads)


def _timm_heads(name: str, shape: Shape) -> int | None:
    built = _build_empty(name)
    if built is None or not _is_plain(built) or built.embed_dim != shape.width:
        return None
    same = max(built.patch_embed.patch_size) == shape.patch_px
    return int(built.blocks[0].attn.num_heads) if same else None


def _warn_contradicted(state: State, heads: int, where: Path) -> None:
    measured = measure_heads(state, shape_of(state, where))
    if measured not in (None, heads):
        say(f"warning: {where}: --heads {heads} as stated, but the weights look like {measured}")


def _check_heads(heads: int, width: int, where: Path) -> None:
    if heads < 1 or width % heads:
        raise ModelError(f"{where}: {width} wide blocks do not divide among {heads} heads")


_SAMPLED = 8  # blocks that are looked at
_CLEAR = (0.4, 0.25)  # by how much both Grams agree better inside heads than outside, at least
_LEAD = 0.15  # of the best division before every other


def measure_heads(state: State, shape: Shape) -> int | None:
    """Read the number of heads off trained weights; None where they do not show it.

    Attention's scores hold W_q^T W_k of each head alone, its outputs W_o W_v. Gradient descent on
    such a product keeps W_q W_q^T - W_k W_k^T as it began (layers are balanced: Du, Hu and Lee 2018,
    arXiv:1806.00900), so after some training the rows of W_q and those of W_k have the same angles
    to each other within a head, while between heads nothing ties them; so for W_v and W_o. For each
    division into heads, the entries of both Grams are correlated just inside its blocks (where the
    next finer division would have its border) and just outside (where the next coarser one would
    have none). Only the true division has agreement inside and less of it outside. Fresh weights
    show nothing, and one head cannot be told from none.

    Tried on networks of 2 to 12 heads, 32 to 192 wide, trained for 20 to 1,500 steps, and on the
    model in the box: the true number or none, never another. The box's 3 heads score 0.91 and 0.49,
    the next division 0.32 and 0.16; fresh weights stay under 0.1.

    Args:
        state: With `blocks.N.attn.qkv.weight` and `blocks.N.attn.proj.weight`.
        shape: Its build.
    """
    divisions = [n for n in range(2, shape.width // 2 + 1) if shape.width % n == 0]
    step = max(1, shape.depth // _SAMPLED)
    seen = [_agreements(state, number, divisions) for number in range(0, shape.depth, step)]
    found = [each for each in seen if each is not None]
    if not found or not divisions:
        return None
    scores = torch.stack(found).mean(0)  # (2, divisions): queries with keys, values with outputs
    best = int(scores.sum(0).argmax())
    others = torch.cat([scores[:, :best], scores[:, best + 1 :]], dim=1)
    lead = scores[:, best] - (others.max(dim=1).values if others.shape[1] else 0)
    clear = bool((scores[:, best] >= torch.tensor(_CLEAR)).all()) and bool((lead >= _LEAD).all())
    return divisions[best] if clear else None


def _agreements(state: State, number: int, divisions: list[int]) -> Tensor | None:
    """How much better a block's Grams agree inside heads than outside, shape (2, divisions)."""
    try:
        q, k, v = state[f"blocks.{number}.attn.qkv.weight"].float().chunk(3)
        out = state[f"blocks.{number}.attn.proj.weight"].float()
        grams = [(_angles(q), _angles(k)), (_angles(v), _angles(out.T))]
        return torch.tensor([[_excess(*gram, heads) for heads in divisions] for gram in grams])
    except (KeyError, ValueError, RuntimeError, IndexError):  # no such block: loading tells it
        return None


def _angles(rows: Tensor) -> Tensor:
    """Cosines between all rows, shape (N, D) → (N, N)."""
    unit = nn.functional.normalize(rows, dim=1)
    return unit @ unit.T


def _excess(first: Tensor, second: Tensor, heads: int) -> float:
    """Correlation of two Grams' entries just inside heads, less that just outside."""
    width = len(first)
    same = _same_head(width, heads)
    inner = [same & ~_same_head(width, heads * p) for p in _prime_factors(width // heads)]
    outer = [_same_head(width, heads // p) & ~same for p in _prime_factors(heads)]
    inside, outside = (
        [_correlate(first[each], second[each]) for each in rings] for rings in (inner, outer)
    )
    return min(inside) - max(outside)


def _same_head(width: int, heads: int) -> Tensor:
    """Which pairs of rows are of one head, shape (width, width)."""
    number = torch.arange(width) // (width // heads)
    return number[:, None] == number


def _prime_factors(number: int) -> list[int]:
    return [p for p in range(2, number + 1) if number % p == 0 and all(p % n for n in range(2, p))]


def _correlate(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length else 0.0
