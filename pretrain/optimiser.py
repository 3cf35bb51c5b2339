"""The student's optimiser: AdamW in two groups, and what is done to gradients before a step."""

import torch
from torch import Tensor, nn


def make_optimiser(network: nn.Module, *, fused: bool) -> torch.optim.AdamW:
    """Make AdamW over the parameters that are trained; `set_step` gives it its rates.

    Biases and the weights of norms (whatever has one dimension, or a name that ends in `.bias`) are
    the second group and never decay.

    Args:
        network: The student.
        fused: Update in one kernel; another rounding, in a fraction of the time.

    Source:
        facebookresearch/dino at 7c446df, utils.py, get_params_groups.
    """
    trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if _decays(name, p)]
    others = [p for name, p in trained if not _decays(name, p)]
    groups = [{"params": decayed}, {"params": others}]
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=fused)


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim > 1 and not name.endswith(".bias")


def set_step(optimiser: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Set the rates of the next step; weight decay is the first group's alone."""
    for group in optimiser.param_groups:
        group["lr"] = float(lr)
    optimiser.param_groups[0]["weight_decay"] = float(weight_decay)


@torch.no_grad()
def clip_gradients(network: nn.Module, largest: float) -> None:
    """Scale down each parameter's own gradient whose norm is above `largest`.

    Each by itself: one norm over all gradients is another method.

    Source:
        facebookresearch/dino at 7c446df, utils.py, clip_gradients.
    """
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    if not gradients:
        return
    norms = torch.stack(torch._foreach_norm(gradients))
    factors = (largest / (norms + 1e-6)).tolist()
    # Most are short enough: leaving them alone saves a pass over them.
    long = [(g, factor) for g, factor in zip(gradients, factors, strict=True) if factor < 1]
    if long:
        torch._foreach_mul_([g for g, _ in long], [factor for _, factor in long])


def freeze_last_layer(network: nn.Module) -> None:
    """Drop the gradients of the head's last layer, so that a step leaves it as it is.

    Source:
        facebookresearch/dino at 7c446df, utils.py, cancel_gradients_last_layer.
    """
    for name, parameter in network.named_parameters():
        if "last_layer" in name:
            parameter.grad = None
