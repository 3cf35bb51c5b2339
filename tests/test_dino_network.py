"""DINO's networks on timm's vision transformer, and what a step does to their parameters."""

import math

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tilezoo.errors import OptionError
from tilezoo.pretrain.network import (
    DinoHead,
    Network,
    build_network,
    class_tokens,
    copy_weights,
    follow,
    resize_positions,
    use_fused_attention,
)
from tilezoo.pretrain.recipe import Recipe, find_recipe
from tilezoo.pretrain.trainer import clip_gradients, freeze_last_layer, make_optimiser, set_step

# timm's smallest: 6 blocks of 64 wide; the tests that name ViT-Ti take it.
SIZES = {
    "architecture": "test_vit",
    "global_px": 64,
    "local_px": 32,
    "out_dim": 128,
    "hidden_dim": 48,
    "bottleneck_dim": 16,
}
VIT_TI = "vit_tiny_patch16_224"
HEAD = ["head.mlp.0", "head.mlp.2", "head.mlp.4"]


def recipe(**fields: object) -> Recipe:
    told = {**SIZES, **fields}
    return find_recipe("dino-vits16-bigearthnet-smoke", [f"{k}={v}" for k, v in told.items()])


def network(*, drop_path: float = 0.0, seed: int = 0, bands: int = 3, **fields: object) -> Network:
    torch.manual_seed(seed)
    return build_network(recipe(**fields), bands, drop_path=drop_path)


def crops(count: int, side: int, bands: int = 3) -> Tensor:
    return torch.randn(count, bands, side, side, generator=torch.Generator().manual_seed(side))


def filled_gradients(of: Network) -> None:
    generator = torch.Generator().manual_seed(0)
    for number, parameter in enumerate(of.parameters()):
        if parameter.requires_grad:
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.grad = 0.002 * (number + 1) * drawn


# ── The backbone is timm's, its tokens are DINO's ────────────────────────────────────────────────


@pytest.mark.parametrize(("name", "bands"), [("test_vit", 1), ("test_vit", 13), (VIT_TI, 3)])
def test_the_backbones_tensors_are_timms_and_load_strictly(name: str, bands: int) -> None:
    plain = timm.create_model(name, img_size=64, num_classes=0, in_chans=bands)
    built = network(architecture=name, bands=bands)
    assert list(plain.state_dict()) == list(built.backbone.state_dict())
    plain.load_state_dict(built.backbone.state_dict(), strict=True)
    images = crops(2, 64, bands)
    with torch.no_grad():
        assert torch.allclose(plain(images), class_tokens(built.backbone, images), atol=1e-5)


def test_tensors_are_named_as_facebookresearch_dino_names_them() -> None:
    names = set(network(architecture=VIT_TI).state_dict())
    assert {n for n in names if n.startswith("head.")} == {
        *(f"{layer}.{kind}" for layer in HEAD for kind in ("weight", "bias")),
        "head.last_layer.weight_g",
        "head.last_layer.weight_v",
    }
    assert "backbone.blocks.11.attn.qkv.bias" in names


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, as torch has it."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def sampling(side: int, count: int) -> Tensor:
    """Weights of `side` patches for each of `count`, shape (count, side): one axis of bicubic."""
    weights = torch.zeros(count, side, dtype=torch.float64)
    for place in range(count):
        source = (place + 0.5) / ((count + 0.1) / side) - 0.5
        for near in range(math.floor(source) - 1, math.floor(source) + 3):
            weights[place, min(max(near, 0), side - 1)] += cubic(source - near)
    return weights


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 14), st.integers(1, 16), st.integers(1, 16))
def test_positions_are_resized_as_facebookresearch_dino_does(
    side: int, height: int, width: int
) -> None:
    positions = torch.randn(1, 1 + side**2, 3, dtype=torch.float64)
    found = resize_positions(positions, (height, width))
    square = positions[0, 1:].reshape(side, side, 3)
    expected = torch.einsum("hi,wj,ijd->hwd", sampling(side, height), sampling(side, width), square)
    if (height, width) == (side, side):
        assert found is positions
        return
    assert torch.equal(found[:, 0], positions[:, 0])
    assert torch.allclose(found[0, 1:].reshape(height, width, 3), expected, atol=1e-9)


def by_whole_blocks(backbone: nn.Module, images: Tensor) -> Tensor:
    """facebookresearch/dino's VisionTransformer.forward on timm's layers."""
    patches = backbone.patch_embed.proj(images)
    positions = resize_positions(backbone.pos_embed, patches.shape[-2:])
    first = backbone.cls_token.expand(len(images), -1, -1)
    tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + positions
    return backbone.norm(backbone.blocks(tokens))[:, 0]


@pytest.mark.parametrize("side", [32, 64, 40, 80])
def test_class_tokens_and_gradients_are_those_of_all_tokens_in_all_blocks(side: int) -> None:
    ours, whole = network(seed=1).double(), network(seed=1).double()
    images, weights = crops(3, side).double(), torch.randn(3, 64, dtype=torch.float64)
    found, expected = class_tokens(ours.backbone, images), by_whole_blocks(whole.backbone, images)
    assert torch.allclose(found, expected, atol=1e-12)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, a), b in zip(
        ours.backbone.named_parameters(), whole.backbone.parameters(), strict=True
    ):
        assert torch.allclose(a.grad, b.grad, atol=1e-10), name


def test_outputs_come_in_the_order_of_the_crops_whatever_their_size() -> None:
    built, large, small = network(), crops(2, 64), crops(5, 32)
    with torch.no_grad():
        together = built([large, small])
        alone = torch.cat([built([large[:1]]), built([large[1:]]), built([small])])
    assert together.shape == (7, 128)
    assert torch.allclose(together, alone, atol=1e-6)


def test_attention_may_be_fused_or_plain() -> None:
    built, images = network(), [crops(2, 64), crops(3, 32)]
    with torch.no_grad():
        use_fused_attention(built, on=True)
        fused = built(images)
        use_fused_attention(built, on=False)
        plain = built(images)
    assert not torch.equal(fused, plain)
    assert torch.allclose(fused, plain, atol=1e-6)


def test_bf16_is_float32_within_its_rounding() -> None:
    built, images = network(), [crops(2, 64), crops(3, 32)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = built(images).float()
    with torch.no_grad():
        exact = built(images)
    assert nn.functional.cosine_similarity(half, exact).min() > 0.999


# ── Fresh weights ────────────────────────────────────────────────────────────────────────────────


def test_fresh_weights_are_drawn_as_facebookresearch_dino_draws_them() -> None:
    built = network(hidden_dim=256, out_dim=4096)
    for name, value in built.state_dict().items():
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "weight_g")):
            assert (value == 1).all(), name
        elif name.endswith(("patch_embed.proj.weight", "patch_embed.proj.bias")):
            assert value.abs().max() <= 1 / math.sqrt(3 * 16 * 16), name
        elif name.endswith("weight_v"):
            assert value.abs().max() <= 1 / math.sqrt(16), name
            assert value.std() == pytest.approx(1 / math.sqrt(3 * 16), rel=0.02)
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:
            assert value.std() == pytest.approx(0.02, rel=0.2), name
            assert abs(value.mean()) < 0.006, name


def test_the_same_random_numbers_make_the_same_network() -> None:
    for a, b in zip(network().parameters(), network().parameters(), strict=True):
        assert torch.equal(a, b)


# ── The head ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_outputs_are_cosines_times_the_gain(norm_last_layer: bool) -> None:
    head = DinoHead(8, hidden=12, bottleneck=6, outputs=10, norm_last_layer=norm_last_layer)
    assert [tuple(p.shape) for p in head.parameters()] == [
        *((12, 8), (12,), (12, 12), (12,), (6, 12), (6,)),
        *((10, 6), (10, 1)),
    ]
    head.last_layer.weight_g.data.uniform_(0.5, 2)
    head.last_layer.weight_v.data.mul_(7)
    features = torch.randn(5, 8)
    found, inner = head(features), head.mlp(features)
    cosines = nn.functional.cosine_similarity(
        inner[:, None], head.last_layer.weight_v[None], dim=-1
    )
    assert found.shape == (5, 10)
    assert torch.allclose(found, cosines * head.last_layer.weight_g.T, atol=1e-5)


def test_the_last_layers_gain_is_trained_only_where_its_length_is_free() -> None:
    assert not network(norm_last_layer=True).head.last_layer.weight_g.requires_grad
    assert network(norm_last_layer=False).head.last_layer.weight_g.requires_grad


# ── Drop path ────────────────────────────────────────────────────────────────────────────────────


def test_only_a_student_drops_paths_and_only_in_training() -> None:
    student, teacher = network(drop_path=0.5), network()
    copy_weights(student, teacher)
    images = [crops(4, 32)]
    with torch.no_grad():
        expected = teacher(images)
        assert torch.equal(teacher(images), expected)
        assert torch.equal(teacher.eval()(images), expected)
        assert not torch.allclose(student(images), student(images))
        assert torch.allclose(student.eval()(images), expected)


# ── What is refused ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "vit_smal_patch16_224"}, "did you mean vit_small_patch16_224"),
        ({"architecture": "resnet50"}, "resnet50: no vision transformer of timm's"),
        ({"architecture": "vit_tiny_patch16_gap_224"}, "no vision transformer of timm's"),
        ({"architecture": "vit_little_patch16_reg1_gap_256"}, "needs a class token"),
        ({"architecture": "deit3_small_patch16_224"}, "DINO needs a class token, learned"),
        ({"architecture": "deit_tiny_distilled_patch16_224"}, "DINO needs a class token, learned"),
        ({"global_px": 8}, r"global_px=8: smaller than a patch; test_vit has .* of 16 px"),
        ({"local_px": 12}, r"local_px=12: smaller than a patch"),
    ],
)
def test_networks_that_dino_cannot_train_are_refused(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        network(**fields)


def test_the_size_of_local_crops_that_are_not_made_does_not_matter() -> None:
    assert network(local_px=8, local_crops=0) is not None


# ── Student and teacher ──────────────────────────────────────────────────────────────────────────


def test_a_teacher_starts_as_its_student_and_gets_no_gradient() -> None:
    student, teacher = network(seed=1), network(seed=2)
    copy_weights(student, teacher)
    for a, b in zip(student.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a is not b
    assert not teacher([crops(1, 32)]).requires_grad
    assert student([crops(1, 32)]).requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.996, 0.99999, 1.0])
def test_a_teacher_follows_its_student_by_a_moving_average(momentum: float) -> None:
    student, teacher = network(seed=1), network(seed=2)
    before = [p.detach().clone() for p in teacher.parameters()]
    target = [p.detach().clone() for p in student.parameters()]
    teacher.requires_grad_(requires_grad=False)
    follow(teacher, student, momentum)
    for old, new, wanted, kept in zip(
        before, teacher.parameters(), target, student.parameters(), strict=True
    ):
        expected = momentum * old.double() + (1 - momentum) * wanted.double()
        assert torch.allclose(new.double(), expected, atol=1e-7, rtol=1e-7)
        assert torch.equal(kept, wanted)


# ── The optimiser ────────────────────────────────────────────────────────────────────────────────


def test_every_weight_matrix_of_vit_ti_decays_and_no_bias_or_norm_does() -> None:
    built = network(architecture=VIT_TI, norm_last_layer=False)
    optimiser = make_optimiser(built, fused=True)
    set_step(optimiser, lr=0.1, weight_decay=0.3)
    decayed, others = optimiser.param_groups
    assert (decayed["lr"], others["lr"]) == (0.1, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    group_of = {id(p): n for n, group in enumerate(optimiser.param_groups) for p in group["params"]}
    norms = ("norm1.weight", "norm2.weight", "norm.weight")
    for name, parameter in built.named_parameters():
        plain = name.endswith((".bias", *norms))
        assert group_of.pop(id(parameter)) == int(plain), name
    assert not group_of


def test_what_is_not_trained_is_not_the_optimisers() -> None:
    built = network(norm_last_layer=True)
    held = [p for group in make_optimiser(built, fused=True).param_groups for p in group["params"]]
    assert len(held) == len(list(built.parameters())) - 1
    assert all(p is not built.head.last_layer.weight_g for p in held)


def test_a_fused_step_is_a_plain_one_but_for_rounding() -> None:
    results = []
    for fused in (True, False):
        built = network()
        optimiser = make_optimiser(built, fused=fused)
        for step in range(3):
            set_step(optimiser, lr=0.001 * step, weight_decay=0.1)
            filled_gradients(built)
            optimiser.step()
        results.append(list(built.parameters()))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("largest", [1e-3, 0.3, 1.0, 1e6])
def test_each_gradient_is_clipped_by_its_own_norm(largest: float) -> None:
    built = network()
    filled_gradients(built)
    before = {name: p.grad.clone() for name, p in built.named_parameters() if p.requires_grad}
    clip_gradients(built, largest)
    for name, parameter in built.named_parameters():
        if parameter.requires_grad:
            norm = float(before[name].norm())
            factor = min(1.0, largest / (norm + 1e-6))
            assert torch.allclose(parameter.grad, before[name] * factor, rtol=1e-5), name
            assert parameter.grad.norm() <= largest * 1.0001
        else:
            assert parameter.grad is None


def test_clipping_without_gradients_does_nothing() -> None:
    built = network()
    before = [parameter.detach().clone() for parameter in built.parameters()]
    clip_gradients(built, 1.0)
    assert all(parameter.grad is None for parameter in built.parameters())
    assert all(torch.equal(*pair) for pair in zip(built.parameters(), before, strict=True))


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_a_frozen_last_layer_stays_while_the_rest_moves(norm_last_layer: bool) -> None:
    built = network(norm_last_layer=norm_last_layer)
    before = {name: p.detach().clone() for name, p in built.named_parameters()}
    optimiser = make_optimiser(built, fused=True)
    set_step(optimiser, lr=0.01, weight_decay=0.1)
    filled_gradients(built)
    freeze_last_layer(built)
    optimiser.step()
    for name, parameter in built.named_parameters():
        assert torch.equal(parameter, before[name]) == ("last_layer" in name), name
