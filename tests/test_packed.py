"""Packed layers compute what plain ones do."""

from copy import deepcopy

import pytest
import timm
import torch
from torch import nn

from tilezoo.zoo.network import PackedLinear, can_pack, pack

pytestmark = pytest.mark.skipif(not can_pack(), reason="this CPU has no packed products in bf16")


@pytest.mark.parametrize(
    ("name", "changes", "packed", "gelus"),
    [
        ("vit_tiny_patch16_224", {}, 8, 0),
        ("vit_tiny_patch16_224", {"qkv_bias": False, "init_values": 0.1}, 8, 0),
        ("vit_tiny_patch16_224", {"act_layer": "gelu_tanh"}, 8, 0),
        ("vit_small_patch16_dinov3", {}, 4, 0),  # its attention uses weights itself
    ],
)
def test_a_packed_network_is_as_near_to_float32_as_a_plain_one_in_bf16(
    name: str, changes: dict[str, object], packed: int, gelus: int
) -> None:
    torch.manual_seed(0)
    exact = timm.create_model(name, num_classes=0, img_size=64, depth=2, **changes).eval()
    plain = deepcopy(exact).bfloat16()
    quick = deepcopy(plain)
    pack(quick)
    assert sum(isinstance(module, PackedLinear) for module in quick.modules()) == packed
    assert sum(type(module) is nn.GELU for module in quick.modules()) == gelus
    images = torch.rand(5, 3, 64, 64)
    with torch.inference_mode():
        expected = exact.forward_features(images).flatten()
        near, other = (
            torch.cosine_similarity(
                net.forward_features(images.bfloat16()).float().flatten(), expected, 0
            )
            for net in (quick, plain)
        )
    assert near > 0.999
    assert 1 - near < 1.5 * (1 - other)


def test_a_packed_layer_takes_any_number_of_rows() -> None:
    layer = nn.Linear(24, 40).bfloat16().requires_grad_(requires_grad=False)
    quick = PackedLinear(layer)
    for shape in ((1, 24), (7, 24), (2, 3, 24), (0, 24)):
        rows = torch.rand(shape).bfloat16()
        assert quick(rows).shape == (*shape[:-1], 40)
        assert torch.allclose(quick(rows).float(), layer(rows).float(), atol=0.02)


def test_gelu_at_once_is_the_exact_one() -> None:
    layer = nn.Linear(64, 64).bfloat16().requires_grad_(requires_grad=False)
    rows = torch.randn(200, 64).bfloat16() * 3
    exact = nn.functional.gelu(
        nn.functional.linear(rows.float(), layer.weight.float(), layer.bias.float())
    )
    by_tanh = nn.functional.gelu(
        nn.functional.linear(rows.float(), layer.weight.float(), layer.bias.float()),
        approximate="tanh",
    )
    found = PackedLinear(layer, then_gelu=True)(rows).float()
    assert (found - exact).abs().max() <= 2**-8 * exact.abs().max()
    assert (found - exact).abs().mean() < (found - by_tanh).abs().mean()
