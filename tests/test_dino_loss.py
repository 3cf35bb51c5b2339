"""DINO's loss and centre against the paper's formulas, written out in loops and float64."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilezoo.pretrain.loss import balanced_center, dino_loss, next_center, teacher_entropy

TEMPS = {"student_temp": 0.1, "teacher_temp": 0.04}


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
    """Logits of V crops and of two, a centre and options, in float64."""
    crops, batch, outputs = draw(st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 9)))
    scale = draw(st.sampled_from([0.01, 1.0, 5.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def logits(rows: int) -> Tensor:
        return scale * torch.randn(rows, outputs, generator=generator, dtype=torch.float64)

    temps = draw(st.tuples(st.sampled_from([0.1, 0.5]), st.sampled_from([0.04, 0.07, 1.0])))
    options = {"crops": crops, "student_temp": temps[0], "teacher_temp": temps[1]}
    return logits(crops * batch), logits(2 * batch), logits(1), options


def softmax(values: Tensor) -> Tensor:
    """As a textbook has it; the largest is taken away for exp's sake."""
    powers = (values - values.max()).exp()
    return powers / powers.sum()


def written_out(
    student: Tensor, teacher: Tensor, center: Tensor, crops: int, tau_s: float, tau_t: float
) -> Tensor:
    """arXiv:2104.14294, equations 1 to 3 and algorithm 1: a loop over views, pairs and tiles."""
    batch = len(teacher) // 2
    total, terms = torch.zeros((), dtype=student.dtype), 0
    for x in range(2):
        for other in range(crops):
            if other == x:
                continue
            for tile in range(batch):
                p_t = softmax((teacher[x * batch + tile] - center[0]) / tau_t)
                p_s = softmax(student[other * batch + tile] / tau_s)
                total = total - (p_t * p_s.log()).sum()
                terms += 1
    return total / terms


@settings(deadline=None)
@given(comparisons())
def test_loss_and_gradient_are_the_papers(
    comparison: tuple[Tensor, Tensor, Tensor, dict[str, float]],
) -> None:
    student, teacher, center, options = comparison
    ours, theirs = student.clone().requires_grad_(), student.clone().requires_grad_()
    loss = dino_loss(ours, teacher, center, **options)
    expected = written_out(theirs, teacher, center, *options.values())
    loss.backward()
    expected.backward()
    assert loss.shape == ()
    assert torch.allclose(loss, expected, rtol=1e-10)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-10)


@settings(deadline=None)
@given(comparisons())
def test_float32_is_close_to_float64(
    comparison: tuple[Tensor, Tensor, Tensor, dict[str, float]],
) -> None:
    student, teacher, center, options = comparison
    exact = dino_loss(student, teacher, center, **options)
    single = dino_loss(student.float(), teacher.float(), center.float(), **options)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(exact.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_compared_in_float32_whatever_autocast_says(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    student, teacher, center = torch.randn(12, 64), torch.randn(6, 64), torch.randn(1, 64)
    halves = [student.to(dtype), teacher.to(dtype)]
    exact = dino_loss(*(h.float() for h in halves), center, crops=4, **TEMPS)
    with torch.autocast("cpu", torch.bfloat16):
        loss = dino_loss(*halves, center, crops=4, **TEMPS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, exact)


def test_no_gradient_goes_into_the_teacher_or_the_centre() -> None:
    student, teacher, center = (torch.randn(n, 8, requires_grad=True) for n in (8, 4, 1))
    dino_loss(student, teacher, center, crops=4, **TEMPS).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert center.grad is None


def test_the_loss_of_networks_that_say_nothing_is_log_k() -> None:
    loss = dino_loss(torch.zeros(20, 64), torch.zeros(4, 64), torch.zeros(1, 64), crops=10, **TEMPS)
    assert loss == pytest.approx(torch.tensor(64.0).log())


def test_large_logits_overflow_nothing() -> None:
    student, teacher = 1e4 * torch.randn(6, 16), 1e4 * torch.randn(4, 16)
    assert dino_loss(student, teacher, torch.zeros(1, 16), crops=3, **TEMPS).isfinite()


@settings(deadline=None)
@given(comparisons(), st.floats(0, 1))
def test_the_centre_is_a_moving_average_of_the_teachers_mean(
    comparison: tuple[Tensor, Tensor, Tensor, dict[str, float]], momentum: float
) -> None:
    _, teacher, center, _ = comparison
    mean = sum(teacher[row] for row in range(len(teacher))) / len(teacher)
    expected = momentum * center + (1 - momentum) * mean[None]
    found = next_center(center, teacher, momentum)
    assert found.shape == center.shape
    assert torch.allclose(found, expected, atol=1e-12)
    half = next_center(center.float(), teacher.bfloat16(), momentum)
    assert half.dtype == torch.float32


TWO_PROCESSES = """
import sys
import torch
import torch.distributed as dist
from tilezoo.pretrain.loss import balanced_center, next_center

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
logits = torch.load(f"{folder}/logits.pt", weights_only=True)
own = logits.chunk(2)[rank]
found = next_center(torch.full((1, 5), 0.5), own, 0.9), balanced_center(own, 0.04)
torch.save(torch.stack(found), f"{folder}/center{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_have_the_centres_of_one_over_all_tiles(tmp_path: Path) -> None:
    logits = torch.randn(12, 5)
    torch.save(logits, tmp_path / "logits.pt")
    command = [sys.executable, "-W", "ignore", "-c", TWO_PROCESSES]
    running = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    centers = next_center(torch.full((1, 5), 0.5), logits, 0.9), balanced_center(logits, 0.04)
    expected = torch.stack(centers)
    found = [torch.load(tmp_path / f"center{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[0], expected, atol=1e-6)


@settings(deadline=None)
@given(comparisons())
def test_entropy_is_that_of_the_teachers_targets(
    comparison: tuple[Tensor, Tensor, Tensor, dict[str, float]],
) -> None:
    _, teacher, center, options = comparison
    temp = options["teacher_temp"]
    targets = [softmax((row - center[0]) / temp) for row in teacher]
    each = [-sum(float(p * p.log()) for p in target if p > 0) for target in targets]
    assert float(teacher_entropy(teacher, center, temp)) == pytest.approx(
        sum(each) / len(each), abs=1e-9
    )


def test_entropy_is_log_k_where_nothing_is_told_and_nought_where_one_output_takes_all() -> None:
    flat, one = torch.zeros(4, 32), 100 * torch.eye(4, 32)
    center = torch.zeros(1, 32)
    assert teacher_entropy(flat, center, 0.04) == pytest.approx(torch.tensor(32.0).log())
    assert teacher_entropy(one, center, 0.04) == 0


def sinkhorn(logits, temperature, iterations):
    """Rows and columns scaled in turn, in float64, as arXiv:2006.09882 writes it."""
    q = (logits.double() / temperature).exp().T  # (K, N)
    outputs, rows = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(dim=1, keepdim=True) * outputs
        q /= q.sum(dim=0, keepdim=True) * rows
    return (q * rows).T


@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_a_balanced_centre_gives_sinkhorns_targets(iterations):
    logits = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    center = balanced_center(logits, 0.2, iterations=iterations)
    found = ((logits - center) / 0.2).softmax(dim=1)
    assert center.shape == (1, 5)
    torch.testing.assert_close(found.double(), sinkhorn(logits, 0.2, iterations), atol=1e-5, rtol=0)


def test_a_balanced_centre_spreads_a_batch_that_falls_on_one_output():
    logits = 0.1 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    logits[:, 3] += 5
    shares = ((logits - balanced_center(logits, 0.04, iterations=50)) / 0.04).softmax(dim=1).sum(0)
    torch.testing.assert_close(shares, torch.full((8,), 8.0), rtol=0.05, atol=0)


def test_a_balanced_centre_holds_for_outputs_that_no_tile_comes_near():
    logits = torch.randn(6, 4)
    logits[:, 0] = -1e4
    assert balanced_center(logits, 0.04).isfinite().all()
