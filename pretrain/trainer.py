"""The trainer: student, teacher, optimiser and centre, and what one step does to them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tilezoo.device import keep_freed_steps
from tilezoo.errors import OptionError
from tilezoo.pretrain.checkpoint import Checkpoint
from tilezoo.pretrain.draws import Draw
from tilezoo.pretrain.loss import balanced_center, dino_loss, next_center, teacher_entropy
from tilezoo.pretrain.network import (
    Network,
    build_network,
    copy_weights,
    follow,
    use_fused_attention,
)
from tilezoo.pretrain.setup import Training
from tilezoo.space import Precision

_DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16"})  # /proc/cpuinfo's names


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One process's share of a step: tiles (b, C, H, W) on the host, and how they are cropped."""

    step: int
    pixels: Tensor
    draw: Draw


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """What one step shows, on the device, of this process's share.

    Attributes:
        loss: Of the step.
        entropy: Of the teacher's targets, nats; log K when they say nothing, 0 when all is one.
        spread: Length of what differs between tiles in the teacher's outputs, as a share of the
            outputs' length; 0 when all tiles look the same to it.
    """

    loss: Tensor
    entropy: Tensor
    spread: Tensor


class Trainer:
    """DINO's two networks in training.

    Attributes:
        teacher: The one that is kept: its backbone becomes the model.
    """

    def __init__(self, training: Training) -> None:
        recipe, device = training.recipe, training.device
        self._training, self._maker, self._schedules = training, training.maker, training.schedules
        self._frozen_steps = recipe.freeze_last_layer_epochs * training.steps_per_epoch
        if device.type == "cpu":
            keep_freed_steps()
        torch.manual_seed(recipe.seed)
        self._student = _build(training, recipe.drop_path)
        self.teacher = _build(training, 0.0)
        copy_weights(self._student, self.teacher)
        self._center = torch.zeros(1, recipe.out_dim, device=device)
        self._optimiser = make_optimiser(self._student, fused=device.type in ("cpu", "cuda"))
        self._scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "fp16")
        self._learner = _wrap_student(self._student, training)
        if training.compiled:
            self.teacher.compile()

    def step(self, batch: Batch) -> Measures:
        """Learn from one batch."""
        self._seed(batch.step)
        crops = self._maker.make(
            batch.pixels.to(self._training.device, non_blocking=True), batch.draw
        )
        temperature = float(self._schedules.teacher_temp[batch.step])
        targets, center, loss = self._compare(*crops, temperature)
        self._learn(loss, batch.step)
        measures = self._measure(loss, targets, center, temperature)
        self._center = next_center(self._center, targets, self._training.recipe.center_momentum)
        return measures

    def is_finite(self) -> bool:
        """Whether every weight of the student is a number; waits for the device."""
        return bool(torch.stack([p.isfinite().all() for p in self._student.parameters()]).all())

    def checkpoint(self, step: int) -> Checkpoint:
        """All that a run needs to go on after `step` steps."""
        return Checkpoint(
            step=step,
            student=self._student.state_dict(),
            teacher=self.teacher.state_dict(),
            optimiser=self._optimiser.state_dict(),
            scaler=self._scaler.state_dict(),
            center=self._center,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to where a checkpoint was taken."""
        self._student.load_state_dict(checkpoint.student)
        self.teacher.load_state_dict(checkpoint.teacher)
        self._optimiser.load_state_dict(dict(checkpoint.optimiser))
        self._scaler.load_state_dict(dict(checkpoint.scaler))
        self._center = checkpoint.center.to(self._training.device)

    def _seed(self, step: int) -> None:
        """Let drop path depend on the step and the process alone."""
        world = self._training.world
        place = step * world.size + world.rank
        torch.manual_seed((self._training.recipe.seed << 40) + place + 1)

    def _compare(
        self, globals_: Tensor, locals_: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's outputs for the global crops, their centre, the student's loss."""
        with self._autocast():
            with torch.no_grad():
                targets = self.teacher([globals_])
            crops = [globals_, locals_] if len(locals_) else [globals_]
            outputs = self._learner(crops)
        targets, recipe = targets.float(), self._training.recipe
        balanced = recipe.centering == "sinkhorn"
        center = balanced_center(targets, temperature) if balanced else self._center
        loss = dino_loss(
            outputs,
            targets,
            center,
            crops=recipe.crops,
            student_temp=recipe.student_temp,
            teacher_temp=temperature,
        )
        return targets, center, loss

    def _learn(self, loss: Tensor, step: int) -> None:
        """Move the student by the loss's gradient, and the teacher after it."""
        schedules, recipe = self._schedules, self._training.recipe
        set_step(self._optimiser, float(schedules.lr[step]), float(schedules.weight_decay[step]))
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimiser)
        if recipe.clip_grad:
            clip_gradients(self._student, recipe.clip_grad)
        if step < self._frozen_steps:
            freeze_last_layer(self._student)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        follow(self.teacher, self._student, float(schedules.teacher_momentum[step]))

    @torch.no_grad()
    def _measure(
        self, loss: Tensor, targets: Tensor, center: Tensor, temperature: float
    ) -> Measures:
        length = targets.norm(dim=1).mean()
        differing = (targets - targets.mean(0)).norm(dim=1).mean()
        entropy = teacher_entropy(targets, center, temperature)
        return Measures(loss=loss.detach(), entropy=entropy, spread=differing / length)

    def _autocast(self) -> AbstractContextManager[object]:
        device, precision = self._training.device.type, self._training.precision
        return torch.autocast(device, _DTYPES[precision], enabled=precision != "fp32")


def choose_precision(wish: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """Resolve `auto`: bf16 where the hardware multiplies in it, fp16 on older GPUs, else fp32.

    Raises:
        OptionError: fp16 on a device that has no quick products in it.
    """
    if wish == "fp16" and device.type == "cpu":
        raise OptionError("--precision fp16 needs a GPU; take --precision bf16 or fp32")
    if wish != "auto":
        return wish
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return "bf16" if device.type == "cpu" and _FAST_BF16 & _cpu_flags() else "fp32"


def _cpu_flags() -> frozenset[str]:
    """What this CPU can do, by Linux's names; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def _build(training: Training, drop_path: float) -> Network:
    bands = len(training.pack.bands)
    network = build_network(training.recipe, bands, drop_path=drop_path).to(training.device)
    use_fused_attention(network, on=training.device.type != "cpu" or training.precision == "fp32")
    return network


def _wrap_student(student: Network, training: Training) -> nn.Module:
    """The student as it is called in training: its gradients are averaged over all processes."""
    learner: nn.Module = student
    if training.world.backend is not None:
        places = [training.device.index] if training.device.type == "cuda" else None
        learner = DistributedDataParallel(student, device_ids=places)
    if training.compiled:
        learner.compile()
    return learner
