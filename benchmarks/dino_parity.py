"""Hold the loss, gradients, centre and teacher against facebookresearch/dino's own code.

python benchmarks/dino_parity.py CHECKOUT runs three whole steps in both, from the same weights on
the same crops on the CPU, prints the largest differences and exits 1 above 1e-5: absolute ones of
loss, centre, student and teacher; for gradients, before and after clipping, the norm of the
difference by the norm of theirs, of the worst parameter. "Moved" is how far the weight went that
went furthest.

CHECKOUT is a clone of https://github.com/facebookresearch/dino; nothing of it is patched. Its
DINOLoss adds up over processes, so a gloo group of one is made.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tilezoo.pretrain.loss import dino_loss, next_center
from tilezoo.pretrain.network import build_network, copy_weights, follow, use_fused_attention
from tilezoo.pretrain.recipe import Recipe, find_recipe, make_schedules
from tilezoo.pretrain.trainer import clip_gradients, freeze_last_layer, make_optimiser, set_step

LARGEST = 1e-5
_STEPS = 3  # epochs of one step each: in the first the last layer is frozen
_ARCHITECTURES = {"vit_tiny_patch16_224": "vit_tiny", "vit_small_patch16_224": "vit_small"}
# drop path draws other random numbers in both programs; the rest is as published.
_ALL = ("drop_path=0", "teacher_temp=0.07", "warmup_teacher_temp_epochs=2")
_QUICK = (
    *_ALL, "architecture=vit_tiny_patch16_224", "out_dim=4096", "hidden_dim=512",
    "bottleneck_dim=128",
)  # fmt: skip
# Adam divides a gradient by its size, so where that is next to nothing it makes whole steps of
# rounding. In float32 the rates are those of the published run's first epochs; in float64, where
# rounding is far below Adam's epsilon, they are as large as they ever get.
_FAST = ("epochs=3", "warmup_epochs=0", "lr=0.001", "batch_size=256", "teacher_momentum=0.9")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe, and how many tiles a batch of it holds here."""

    name: str
    recipe: Recipe
    batch: int
    fused: bool = True
    dtype: torch.dtype = torch.float32


def main() -> None:
    """Compare, print a Markdown table, exit 1 if anything differs by more than 1e-5."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)  # their nn.utils.weight_norm
    sys.path.insert(0, str(args.checkout.resolve()))
    theirs = {name: import_module(name) for name in ("utils", "vision_transformer", "main_dino")}
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        print(
            "| case | type | tiles | loss | gradient | clipped | centre | student | teacher | moved |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        found = [_compared(case, theirs) for case in _cases()]
        dist.destroy_process_group()
    print(f"facebookresearch/dino {_commit(args.checkout)}, torch {torch.__version__}")
    if max(found) > LARGEST:
        raise SystemExit(f"differs by {max(found):.1e}, more than {LARGEST:.0e}")


def _cases() -> Iterator[Case]:
    for norm in ("true", "false"):
        for px, batch in (((64, 32), 1), ((64, 32), 7), ((224, 96), 2)):
            sizes = (f"global_px={px[0]}", f"local_px={px[1]}", f"norm_last_layer={norm}")
            name = f"ViT-Ti, {px[0]} and {px[1]} px, norm_last_layer={norm}"
            yield Case(name=name, recipe=_recipe(*_QUICK, *sizes), batch=batch)
            if px[0] < 224:
                fast = _recipe(*_QUICK, *_FAST, *sizes)
                yield Case(name=name, recipe=fast, batch=batch, dtype=torch.float64)
    small = (*_QUICK, "global_px=64", "local_px=32")
    yield Case(name="ViT-Ti, plain attention", recipe=_recipe(*small), batch=4, fused=False)
    yield Case(name="ViT-Ti, no local crops", recipe=_recipe(*small, "local_crops=0"), batch=4)
    hard = _recipe(*small, *_FAST, "clip_grad=0.02")
    yield Case(name="ViT-Ti, clipped hard", recipe=hard, batch=4, dtype=torch.float64)
    yield Case(name="ViT-S, 224 and 96 px, K = 65,536", recipe=_recipe(*_ALL), batch=2)


def _recipe(*settings: str) -> Recipe:
    return find_recipe("dino-vits16-bigearthnet", settings)


def _compared(case: Case, theirs: dict[str, ModuleType]) -> float:
    """Run both, print a row of the table, return the largest difference."""
    torch.manual_seed(0)
    ours, reference = Ours(case), Theirs(case, theirs)
    start = ours.state()
    reference.load(start)
    found = [_stepped(case, ours, reference, step) for step in range(_STEPS)]
    worst = [max(values) for values in zip(*found, strict=True)]
    moved = max(float((now - start[name]).abs().max()) for name, now in ours.state().items())
    cells = (f"{value:.1e}" for value in (*worst, moved))
    kind = str(case.dtype).removeprefix("torch.")
    print(f"| {case.name} | {kind} | {case.batch} | {' | '.join(cells)} |", flush=True)
    return max(worst)


def _stepped(case: Case, ours: "Ours", reference: "Theirs", step: int) -> tuple[float, ...]:
    """Step both on new crops; differences of loss, gradients twice, centre, student, teacher."""
    recipe = case.recipe
    sizes = ((2, recipe.global_px), (recipe.local_crops, recipe.local_px))
    globals_, locals_ = (
        torch.randn(views * case.batch, 3, side, side, dtype=case.dtype) for views, side in sizes
    )
    a, b = ours.step(globals_, locals_, step), reference.step(globals_, locals_, step)
    return (
        abs(a.loss - b.loss),
        _relative(a.gradients, b.gradients),
        _relative(a.clipped, b.clipped),
        float((a.center - b.center).abs().max()),
        _absolute(a.student, b.student),
        _absolute(a.teacher, b.teacher),
    )


@dataclass(frozen=True, kw_only=True)
class After:
    """What a step leaves behind; tensors by name."""

    loss: float
    gradients: dict[str, Tensor]
    clipped: dict[str, Tensor]
    center: Tensor
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]


class Ours:
    """This project's student, teacher and step."""

    def __init__(self, case: Case) -> None:
        self.case, recipe = case, case.recipe
        self.student = build_network(recipe, 3, drop_path=0.0).to(case.dtype)
        self.teacher = build_network(recipe, 3, drop_path=0.0).to(case.dtype)
        copy_weights(self.student, self.teacher)
        for network in (self.student, self.teacher):
            use_fused_attention(network, on=case.fused)
        self.center = torch.zeros(1, recipe.out_dim)
        self.optimiser = make_optimiser(self.student, fused=True)
        self.schedules = make_schedules(recipe, 1)

    def state(self) -> dict[str, Tensor]:
        """Copy the student's weights."""
        return _copied(self.student.state_dict())

    def step(self, globals_: Tensor, locals_: Tensor, step: int) -> After:
        """Learn from crop-major crops."""
        recipe, plan = self.case.recipe, self.schedules
        set_step(self.optimiser, plan.lr[step], plan.weight_decay[step])
        teacher_logits = self.teacher([globals_])
        student_logits = self.student([globals_, locals_] if len(locals_) else [globals_])
        loss = dino_loss(
            student_logits,
            teacher_logits,
            self.center,
            crops=recipe.crops,
            student_temp=recipe.student_temp,
            teacher_temp=plan.teacher_temp[step],
        )
        self.center = next_center(self.center, teacher_logits, recipe.center_momentum)
        self.optimiser.zero_grad()
        loss.backward()
        gradients = _gradients(self.student)
        clip_gradients(self.student, recipe.clip_grad)
        clipped = _gradients(self.student)
        if step < recipe.freeze_last_layer_epochs:
            freeze_last_layer(self.student)
        self.optimiser.step()
        follow(self.teacher, self.student, plan.teacher_momentum[step])
        return _after(loss, gradients, clipped, self.center, self.student, self.teacher)


class Theirs:
    """facebookresearch/dino's student, teacher and step, as its train_one_epoch has it."""

    def __init__(self, case: Case, modules: dict[str, ModuleType]) -> None:
        self.case, recipe = case, case.recipe
        self.utils, vits = modules["utils"], modules["vision_transformer"]
        self.student = self._network(vits, norm_last_layer=recipe.norm_last_layer)
        self.teacher = self._network(vits, norm_last_layer=True)
        self.teacher.requires_grad_(requires_grad=False)
        self.loss = (
            modules["main_dino"]
            .DINOLoss(
                recipe.out_dim,
                recipe.crops,
                recipe.warmup_teacher_temp,
                recipe.teacher_temp,
                recipe.warmup_teacher_temp_epochs,
                recipe.epochs,
                recipe.student_temp,
                recipe.center_momentum,
            )
            .to(case.dtype)
        )
        self.optimiser = torch.optim.AdamW(self.utils.get_params_groups(self.student))
        scheduler = self.utils.cosine_scheduler
        rate, epochs = recipe.lr * recipe.batch_size / 256.0, recipe.epochs
        self.lr = scheduler(rate, recipe.min_lr, epochs, 1, warmup_epochs=recipe.warmup_epochs)
        self.decay = scheduler(recipe.weight_decay, recipe.weight_decay_end, epochs, 1)
        self.momentum = scheduler(recipe.teacher_momentum, 1, epochs, 1)

    def _network(self, vits: ModuleType, *, norm_last_layer: bool) -> nn.Module:
        recipe = self.case.recipe
        name = _ARCHITECTURES[recipe.architecture]
        backbone = getattr(vits, name)(img_size=[recipe.global_px])
        head = vits.DINOHead(
            backbone.embed_dim,
            recipe.out_dim,
            norm_last_layer=norm_last_layer,
            hidden_dim=recipe.hidden_dim,
            bottleneck_dim=recipe.bottleneck_dim,
        )
        network: nn.Module = self.utils.MultiCropWrapper(backbone, head)
        return network.to(self.case.dtype)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take our weights, whose names are theirs."""
        self.student.load_state_dict(state, strict=True)
        self.teacher.load_state_dict(state, strict=True)

    def step(self, globals_: Tensor, locals_: Tensor, step: int) -> After:
        """Learn from the same crops, as a list of batches."""
        recipe = self.case.recipe
        for number, group in enumerate(self.optimiser.param_groups):
            group["lr"] = self.lr[step]
            if number == 0:
                group["weight_decay"] = self.decay[step]
        crops = [*globals_.chunk(2), *(locals_.chunk(recipe.local_crops) if len(locals_) else ())]
        teacher_output = self.teacher(crops[:2])
        loss = self.loss(self.student(crops), teacher_output, step)
        self.optimiser.zero_grad()
        loss.backward()
        gradients = _gradients(self.student)
        self.utils.clip_gradients(self.student, recipe.clip_grad)
        clipped = _gradients(self.student)
        freeze = recipe.freeze_last_layer_epochs
        self.utils.cancel_gradients_last_layer(step, self.student, freeze)
        self.optimiser.step()
        m = self.momentum[step]
        with torch.no_grad():
            pairs = zip(self.student.parameters(), self.teacher.parameters(), strict=True)
            for mine, followed in pairs:
                followed.data.mul_(m).add_((1 - m) * mine.detach().data)
        center = self.loss.center
        return _after(loss, gradients, clipped, center, self.student, self.teacher)


def _after(
    loss: Tensor,
    gradients: dict[str, Tensor],
    clipped: dict[str, Tensor],
    center: Tensor,
    student: nn.Module,
    teacher: nn.Module,
) -> After:
    return After(
        loss=loss.item(),
        gradients=gradients,
        clipped=clipped,
        center=center.clone(),
        student=_copied(student.state_dict()),
        teacher=_copied(teacher.state_dict()),
    )


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _gradients(network: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}


def _relative(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Norm of the difference by the norm of theirs, of the worst parameter."""
    if ours.keys() != theirs.keys():
        raise SystemExit(f"gradients of other parameters: {sorted(ours.keys() ^ theirs.keys())}")
    return max(float((a - theirs[n]).norm() / theirs[n].norm()) for n, a in ours.items())


def _absolute(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((value - theirs[name]).abs().max()) for name, value in ours.items())


def _commit(checkout: Path) -> str:
    git = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    done = subprocess.run(git, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "of an unknown commit"


if __name__ == "__main__":
    main()
