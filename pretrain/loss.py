"""DINO's loss and the centre of the teacher's outputs (arXiv:2104.14294, section 3.1).

In the paper's letters: a tile gives V crops, of which the teacher sees the first two, x₁ᵍ and x₂ᵍ;
g_s and g_t are the networks' outputs of length K, τ_s and τ_t temperatures, c the centre. Crop-major
tensors hold all tiles' first crops, then all tiles' second crops, and so on.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def dino_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    *,
    crops: int,
    student_temp: float,
    teacher_temp: float,
) -> Tensor:
    """Average H(P_t(x), P_s(x')) over every pair of a global crop x and another crop x'.

    P_s = softmax(g_s / τ_s), P_t = softmax((g_t - c) / τ_t), H(a, b) = -Σ a log b. It is computed
    in float32 at least, whatever the precision of the logits and autocast.

    Since ΣP_t = 1, H(P_t, P_s) = log Σ exp(g_s / τ_s) - Σ P_t g_s / τ_s, and as that is linear in
    the last g_s, those that meet the same P_t are added up first: nothing is larger than the
    logits, and no pair has a tensor of its own.

    Args:
        student_logits: g_s, shape (V·B, K), crop-major.
        teacher_logits: g_t, shape (2·B, K), crop-major; no gradient goes into it.
        center: c, shape (1, K).
        crops: V.
        student_temp: τ_s.
        teacher_temp: τ_t.

    Returns:
        A scalar.
    """
    with torch.autocast(student_logits.device.type, enabled=False):
        outputs = center.shape[-1]
        scores = (_to_float32(student_logits) / student_temp).reshape(
            crops, -1, outputs
        )  # (V, B, K)
        targets = _teacher_targets(teacher_logits, center, teacher_temp).reshape(2, -1, outputs)
        log_sums = _sum_others(scores.logsumexp(dim=-1))  # (2, B)
        products: Tensor = torch.linalg.vecdot(targets, _sum_others(scores))  # (2, B)
        return (log_sums - products).mean() / (crops - 1)


def _to_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _sum_others(values: Tensor) -> Tensor:
    """For each global crop, add up the values of all other crops: (V, …) → (2, …)."""
    return values[:2].flip(0) + values[2:].sum(dim=0)


@torch.no_grad()
def _teacher_targets(teacher_logits: Tensor, center: Tensor, teacher_temp: float) -> Tensor:
    """P_t, shape (2·B, K), float32 at least."""
    return ((_to_float32(teacher_logits) - center) / teacher_temp).softmax(dim=-1)


@torch.no_grad()
def next_center(center: Tensor, teacher_logits: Tensor, momentum: float) -> Tensor:
    """Move the centre towards the teacher's mean output: c ← m c + (1 - m) mean(g_t).

    The mean is over the batches of all processes, which are of one size.

    Args:
        center: c, shape (1, K).
        teacher_logits: g_t of this process, shape (2·B, K).
        momentum: m.

    Returns:
        Shape (1, K), float32 at least, the same in all processes.
    """
    total, rows = _to_float32(teacher_logits).sum(dim=0, keepdim=True), len(teacher_logits)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        rows *= dist.get_world_size()
    return center * momentum + total / rows * (1 - momentum)


@torch.no_grad()
def balanced_center(teacher_logits: Tensor, teacher_temp: float, *, iterations: int = 3) -> Tensor:
    """The centre with which a batch falls on all K outputs alike (Sinkhorn and Knopp).

    Scaling rows and columns of exp(g_t / τ_t) in turn, so that each output gets the same share of
    the batch and each crop has the sum 1, gives softmax((g_t - c) / τ_t) for some c: this one. It
    holds the teacher off the few outputs that small batches and like images otherwise end in.

    Args:
        teacher_logits: g_t of this process, shape (2·B, K).
        teacher_temp: τ_t.
        iterations: Of both scalings.

    Returns:
        c, shape (1, K), float32 at least, the same in all processes.

    Source:
        Caron et al. 2020 (arXiv:2006.09882), as DINOv2 uses it (arXiv:2304.07193, section 4).
    """
    scores = _to_float32(teacher_logits) / teacher_temp
    rows = torch.zeros(len(scores), 1, dtype=scores.dtype, device=scores.device)
    for _ in range(iterations):
        columns = -_log_sum_of_all(scores + rows)  # (1, K)
        rows = -(scores + columns).logsumexp(dim=1, keepdim=True)
    return -teacher_temp * (columns - columns.mean())


def _log_sum_of_all(values: Tensor) -> Tensor:
    """Log of the sum of exponentials over the rows of all processes, (2·B, K) → (1, K)."""
    largest = values.amax(dim=0, keepdim=True)
    if not (dist.is_available() and dist.is_initialized()):
        return largest + (values - largest).exp().sum(dim=0, keepdim=True).log()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    total = (values - largest).exp().sum(dim=0, keepdim=True)
    dist.all_reduce(total)
    return largest + total.log()


@torch.no_grad()
def teacher_entropy(teacher_logits: Tensor, center: Tensor, teacher_temp: float) -> Tensor:
    """Mean entropy of the teacher's targets P_t, nats: log K if they say nothing, 0 if one-hot.

    Args:
        teacher_logits: g_t, shape (2·B, K).
        center: c, shape (1, K).
        teacher_temp: τ_t.

    Returns:
        A scalar.
    """
    targets = _teacher_targets(teacher_logits, center, teacher_temp)
    each: Tensor = torch.special.entr(targets).sum(dim=-1)
    return each.mean()
