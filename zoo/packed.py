"""A transformer's linear layers for a CPU in bf16, weights laid out once as its products want them."""

from typing import Any

import torch
from torch import Tensor, nn

from tilezoo.zoo.pooling import TimmNetwork

# torch's own compiled models use these two; named by hand because nothing public leads to them.
_OPS: Any = torch.ops.mkldnn


class PackedLinear(nn.Module):
    """A linear layer, with GELU (the exact one, by erf) at once where asked.

    torch's own lays its weight out anew for each product, which takes a tenth of the time.
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
