"""Time one step of DINO, part by part, without data: ViT-S/16, 2 x 224 + 8 x 96 px, K = 65,536.

python benchmarks/dino_step.py [--batch 8] [--steps 8] [--threads 2] [--default-memory]

Fused and plain attention take turns. Each part's time is its best of all steps, as others may use
the machine too. With --threads 1 it is the time of the CPU itself, which they hardly disturb.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from making import busy_s, machine

from tilezoo.device import keep_freed_steps
from tilezoo.pretrain.loss import dino_loss, next_center
from tilezoo.pretrain.network import build_network, copy_weights, follow, use_fused_attention
from tilezoo.pretrain.recipe import find_recipe
from tilezoo.pretrain.trainer import clip_gradients, make_optimiser, set_step

_PARTS = ("teacher", "student", "loss", "backward", "clip", "AdamW", "EMA")
_KINDS = ("plain", "fused")  # of attention
# Of a tile's step as DINO states it, 2 x multiply-accumulates: a forward pass is 9.2 at 224 px and
# 1.6 at 96 px, a backward pass twice that. We compute 7 % less, see `class_tokens`.
_GFLOP = 2 * 9.2 + 3 * (2 * 9.2 + 8 * 1.6)
_SIDE = 2048  # of the matrices whose product is the machine's peak


class Step:
    """Networks and crops of one batch, and the seconds that each part of a step took at best."""

    def __init__(self, batch: int, *, fused: bool, dtype: torch.dtype) -> None:
        self.recipe = recipe = find_recipe("dino-vits16-bigearthnet")
        torch.manual_seed(0)
        self.student = build_network(recipe, 3, drop_path=recipe.drop_path)
        self.teacher = build_network(recipe, 3, drop_path=0.0)
        copy_weights(self.student, self.teacher)
        for network in (self.student, self.teacher):
            use_fused_attention(network, on=fused)
        self.optimiser = make_optimiser(self.student, fused=True)
        set_step(self.optimiser, lr=1e-4, weight_decay=0.04)
        self.globals = torch.randn(2 * batch, 3, recipe.global_px, recipe.global_px)
        locals_ = recipe.local_crops * batch
        self.locals = torch.randn(locals_, 3, recipe.local_px, recipe.local_px)
        self.center = torch.zeros(1, recipe.out_dim)
        self.batch, self.dtype = batch, dtype
        self.best: dict[str, float] = {}

    @contextmanager
    def timed(self, part: str, clock: Callable[[], float]) -> Iterator[None]:
        """Keep the block's time if it is the best so far."""
        start = clock()
        yield
        self.best[part] = min(clock() - start, self.best.get(part, float("inf")))

    def run(self, clock: Callable[[], float]) -> None:
        """Take one step."""
        recipe = self.recipe
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            with self.timed("teacher", clock), torch.no_grad():
                targets = self.teacher([self.globals])
            with self.timed("student", clock):
                outputs = self.student([self.globals, self.locals])
        with self.timed("loss", clock):
            loss = dino_loss(
                outputs,
                targets,
                self.center,
                crops=recipe.crops,
                student_temp=recipe.student_temp,
                teacher_temp=recipe.teacher_temp,
            )
            self.center = next_center(self.center, targets, recipe.center_momentum)
        self.optimiser.zero_grad()
        with self.timed("backward", clock):
            loss.backward()
        with self.timed("clip", clock):
            clip_gradients(self.student, recipe.clip_grad)
        with self.timed("AdamW", clock):
            self.optimiser.step()
        with self.timed("EMA", clock):
            follow(self.teacher, self.student, recipe.teacher_momentum)

    def row(self, peak: float) -> str:
        """Write what was best as a row of a Markdown table."""
        rate = self.batch / self.best["step"]
        parts = [f"{1e3 * self.best[part]:.0f}" for part in ("step", *_PARTS)]
        return " | ".join([f"{rate:.2f}", f"{rate * _GFLOP / peak:.0%}", *parts])


def _peak_gflops(dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """Measure the best of twenty matrix products, by the same clock."""
    square, best = torch.rand(_SIDE, _SIDE).to(dtype), float("inf")
    for _ in range(20):
        start = clock()
        square @ square
        best = min(best, clock() - start)
    return 2 * _SIDE**3 / best / 1e9


def main() -> None:
    """Measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--default-memory", action="store_true", help="leave malloc as it is")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 else time.perf_counter
    if not args.default_memory:
        keep_freed_steps()
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    steps = {kind: Step(args.batch, fused=kind == "fused", dtype=dtype) for kind in _KINDS}
    peak = _peak_gflops(dtype, clock)
    start, (all_before, ours_before) = time.perf_counter(), busy_s()
    for each in steps.values():
        each.run(clock)  # warms up
        each.best.clear()
    for _ in range(args.steps):
        for each in steps.values():
            with each.timed("step", clock):
                each.run(clock)
    all_after, ours_after = busy_s()
    others = (all_after - all_before - ours_after + ours_before) / (time.perf_counter() - start)
    peak = max(peak, _peak_gflops(dtype, clock))
    print(f"| attention | tiles/s | of peak | step, ms | {' | '.join(_PARTS)} |")
    print("|---" * (4 + len(_PARTS)) + "|")
    for kind, each in steps.items():
        print(f"| {kind} | {each.row(peak)} |")
    told = f"{args.precision}, peak {peak:.0f} GFLOP/s, other programs {others:.2f} cores"
    print(told, *machine().values(), sep=" · ")


if __name__ == "__main__":
    main()
