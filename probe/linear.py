"""Logistic regression on whole sets by L-BFGS: one class against the rest, or softmax.

The objective is scikit-learn's: the sum of log losses plus |w|² / 2C, the bias free. Two things
make it fast on 400,000 tiles. Directions start from the inverse of w̄ XᵀX + 1/C, which is the
curvature if every tile weighed the same; features of vision transformers are so collinear that plain
L-BFGS takes hundreds of passes where this takes tens. And logits are linear in the step, so a line
search costs no pass over the features. Matrices are multiplied by the faster of a CPU's two
libraries, where it is as exact.

scikit-learn's `LogisticRegression` is what tests hold this to, converged. It fits nothing here, small
sets neither: a sweep by its L-BFGS stops 0.3 to 0.7 of the largest weight away from the optimum where
this stops 0.03 to 0.07 away, in a third to all of the time, and its import takes longer than a small
probe (benchmarks/README.md).

L-BFGS: Nocedal & Wright 2006, "Numerical Optimization", algorithm 7.4.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tilezoo.probe.options import Task

_MEMORY = 10  # pairs of steps and changes of gradient
_LEAST_WEIGHT = 1e-6  # of w̄, for classes that are fitted all but perfectly
_FLAT_ENOUGH = 0.1  # share of a slope that may be left after a line search
_MOST_TRIALS = 25
_AGREEMENT = 1e-5  # of inner products of unit vectors, which float32 has to some 3e-7
_ROWS, _COLUMNS = 256, 8192  # of the product that shows whether libraries agree
_MANY = 1 << 22  # values: 10,000 vectors of 384
CHUNK = 1 << 14

Memory = deque[tuple[Tensor, Tensor, Tensor]]  # step s, change of gradient y, 1 / sᵀy


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A fitted linear probe.

    Attributes:
        coefficients: Weights in the first D rows, biases in the last, float64, shape (D + 1, C).
        passes: Steps that were taken.
        converged: Whether the last step was as small as asked.
    """

    coefficients: Tensor
    passes: int
    converged: bool

    def logits(self, x: Tensor) -> Tensor:
        """Score rows, shape (N, D); float32, shape (N, C)."""
        return _score(x, self.coefficients)


class Problem:
    """Features and labels to be fitted, with the curvature that steps start from."""

    def __init__(self, x: Tensor, y: Tensor, task: Task) -> None:
        """Decompose XᵀX.

        Args:
            x: Standardised features, float32, shape (N, D).
            y: 1 where a class applies, uint8, shape (N, C); each class has tiles with and without.
            task: `multilabel` fits each class against the rest, `multiclass` a softmax.
        """
        self.x, self.y, self.softmax = x, y, task == "multiclass"
        gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
        for rows in chunks(len(x)):  # sums in fp32 are small, and added up in fp64
            gram += (x[rows].T @ x[rows]).double()
        self.eigenvalues, self.eigenvectors = torch.linalg.eigh(gram)

    def start(self) -> Tensor:
        """Begin where no feature counts and biases give each class its share."""
        share = self.y.double().mean(dim=0)
        odds = share.log() if self.softmax else torch.logit(share)
        zeros = torch.zeros(self.x.shape[1], len(share), dtype=torch.float64, device=self.x.device)
        return torch.cat([zeros, odds[None]])

    def fold(self, per_class: Tensor) -> Tensor:
        """Sum what belongs to one problem: nothing for one-vs-rest, all classes for softmax."""
        return per_class.sum(dim=0, keepdim=True) if self.softmax else per_class

    def probabilities(self, z: Tensor) -> Tensor:
        """Turn logits into probabilities."""
        return torch.softmax(z, dim=1) if self.softmax else torch.sigmoid(z)

    def gradient(self, z: Tensor, coefficients: Tensor, c: float) -> tuple[Tensor, Tensor]:
        """Find the objective's gradient, shape (D + 1, C), and w̄: mean p (1 - p), shape (C,)."""
        gradient = torch.zeros_like(coefficients)
        weight = torch.zeros_like(coefficients[0])
        for rows in chunks(len(self.x)):
            p = self.probabilities(z[rows])
            residual = p - self.y[rows]
            gradient[:-1] += (residual.T @ self.x[rows]).T.double()
            gradient[-1] += residual.sum(dim=0, dtype=torch.float64)
            weight += (p * (1 - p)).sum(dim=0, dtype=torch.float64)
        gradient[:-1] += coefficients[:-1] / c
        return gradient, (weight / len(self.x)).clamp_min(_LEAST_WEIGHT)

    def newton_like(self, gradient: Tensor, weight: Tensor, c: float) -> Tensor:
        """Multiply by the inverse of w̄ XᵀX + 1/C (and of N w̄ for the bias)."""
        turned = self.eigenvectors.T @ gradient[:-1]
        turned /= weight * self.eigenvalues.clamp_min(0)[:, None] + 1 / c
        bias = gradient[-1:] / (len(self.x) * weight)
        return torch.cat([self.eigenvectors @ turned, bias])

    def slope(self, z: Tensor, along: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivative of the loss in the step's length, shape (C,) or (1,)."""
        first = torch.zeros(self.y.shape[1], dtype=torch.float64, device=z.device)
        second = torch.zeros_like(first)
        short = step.float()
        for rows in chunks(len(self.x)):
            moved = along[rows]
            p = self.probabilities(z[rows] + short * moved)
            first += ((p - self.y[rows]) * moved).sum(dim=0, dtype=torch.float64)
            spread = p * moved
            centre = spread.sum(dim=1, keepdim=True) if self.softmax else spread
            second += (spread * (moved - centre)).sum(dim=0, dtype=torch.float64)
        return self.fold(first), self.fold(second)


def fit(
    problem: Problem, c: float, start: Tensor | None = None, *, tolerance: float, most_passes: int
) -> Linear:
    """Minimise the objective.

    Args:
        problem: What to fit.
        c: Inverse strength of the penalty, as scikit-learn's `C`.
        start: Coefficients to begin from, those of another strength, say.
        tolerance: Stop when no coefficient changes by more than this share of the largest.
        most_passes: Stop there in any case.
    """
    w = problem.start() if start is None else start.clone()
    z = _score(problem.x, w)
    gradient, weight = problem.gradient(z, w, c)
    memory: Memory = deque(maxlen=_MEMORY)
    for passes in range(most_passes):
        step = -_direction(problem, gradient, weight, c, memory)
        if bool(step.abs().max() <= tolerance * w[:-1].abs().max()):
            return Linear(coefficients=_centre(problem, w), passes=passes, converged=True)
        along = _score(problem.x, step)
        length = _search(problem, z, along, w, step, c)
        if not bool(length.any()):
            return Linear(coefficients=_centre(problem, w), passes=passes, converged=True)
        moved = length * step
        w, z = w + moved, z.addcmul_(along, length.float())
        before, (gradient, weight) = gradient, problem.gradient(z, w, c)
        _remember(problem, memory, moved, gradient - before)
    return Linear(coefficients=_centre(problem, w), passes=most_passes, converged=False)


def _direction(
    problem: Problem, gradient: Tensor, weight: Tensor, c: float, memory: Memory
) -> Tensor:
    """Multiply the gradient by L-BFGS's inverse curvature: the two loops of the algorithm."""
    q, shares = gradient.clone(), []
    for s, y, rho in reversed(memory):
        share = rho * problem.fold((s * q).sum(dim=0))
        q -= share * y
        shares.append(share)
    q = problem.newton_like(q, weight, c)
    for (s, y, rho), share in zip(memory, reversed(shares), strict=True):
        q += s * (share - rho * problem.fold((y * q).sum(dim=0)))
    return q


def _remember(problem: Problem, memory: Memory, s: Tensor, y: Tensor) -> None:
    """Keep a step and the change of gradient it made, where that tells of curvature at all."""
    curvature = problem.fold((s * y).sum(dim=0))
    rho = torch.where(curvature > 0, 1 / curvature, torch.zeros_like(curvature))
    if bool(torch.isfinite(rho).all()):
        memory.append((s, y, rho))


def _search(
    problem: Problem, z: Tensor, along: Tensor, w: Tensor, step: Tensor, c: float
) -> Tensor:
    """Find how far to go along a step: where the objective's slope is nearly 0, by safe Newton.

    The objective is convex, so the slope alone leads there. Classes that the step does not help
    any more (numbers are rounded) stay where they are.
    """
    zero = torch.zeros(1, dtype=torch.float64, device=z.device)
    linear = problem.fold((w[:-1] * step[:-1]).sum(dim=0)) / c
    square = problem.fold((step[:-1] ** 2).sum(dim=0)) / c
    at_start = problem.slope(z, along, zero)[0] + linear
    low, high = torch.zeros_like(at_start), torch.full_like(at_start, float("inf"))
    length = (at_start < 0).double()
    for _ in range(_MOST_TRIALS):
        first, second = problem.slope(z, along, length)
        first, second = first + linear + length * square, second + square
        done = (first.abs() <= _FLAT_ENOUGH * at_start.abs()) | (at_start >= 0)
        if bool(done.all()):
            break
        low, high = torch.where(first < 0, length, low), torch.where(first > 0, length, high)
        newton = length - first / second
        middle = torch.where(high.isinf(), 2 * length, (low + high) / 2)
        inside = (newton > low) & (newton < high)
        length = torch.where(done, length, torch.where(inside, newton, middle))
    return length


def _centre(problem: Problem, w: Tensor) -> Tensor:
    """Choose, of all equal softmax solutions, the one whose classes add up to 0."""
    return w - w.mean(dim=1, keepdim=True) if problem.softmax else w


def _score(x: Tensor, coefficients: Tensor) -> Tensor:
    short = coefficients.float()
    return torch.addmm(short[-1], x, short[:-1])


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Cut `count` rows into slices of `size`; the last may be shorter."""
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


@contextmanager
def fast_products(x: Tensor) -> Iterator[None]:
    """Let oneDNN multiply while the block runs, if that changes nothing here.

    PyTorch multiplies float32 matrices by MKL, which is slow on AMD: 79 against oneDNN's 177
    GFLOP/s of one Zen 4 core. It takes oneDNN at the precision "medium", which allows bfloat16
    inside; CPUs with AMX then use it, and those keep MKL.

    Args:
        x: Rows to be multiplied, on the device where that will be.
    """
    before = torch.get_float32_matmul_precision()
    if x.device.type == "cpu" and _as_exact(x):
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def one_thread_for_few(x: Tensor) -> Iterator[None]:
    """Use one thread while the block runs, where a pass over the rows is over in milliseconds.

    Threads that wait for each other thousands of times gain nothing there, and on a busy machine
    they lose: four times the seconds were measured with two threads.
    """
    before = torch.get_num_threads()
    if x.numel() < _MANY:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_exact(x: Tensor) -> bool:
    rows = torch.nn.functional.normalize(x[:_COLUMNS], dim=1)
    before = torch.get_float32_matmul_precision()
    products = []
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        products.append(rows[:_ROWS] @ rows.T)
    torch.set_float32_matmul_precision(before)
    return bool((products[0] - products[1]).abs().max() <= _AGREEMENT)
