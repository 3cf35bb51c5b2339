"""k nearest neighbours, exact, in blocks; and votes weighted as in DINO's evaluation.

A neighbour of cosine s votes for its classes with exp(s / 0.07): facebookresearch/dino, eval_knn.py
at 04c0ad9, which takes it from Wu et al. 2018 (arXiv:1805.01978).

Nearly all of the time is the matrix product, so faiss.knn gains nothing: 0.90 ms a query among 269,695
vectors of 384 values, k = 200, where this takes 0.67 (benchmarks/README.md). `tilezoo.search` takes
faiss all the same, because it does without torch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TEMPERATURE = 0.07
_BANK_ROWS = 1 << 18  # compared with at a time
_QUERIES = 1 << 14  # scaled to length 1 at a time
_ELEMENTS = 1 << 25  # similarities held at a time: 134 MB
_GROUP = 16  # neighbours are sought among maxima of so many first


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Labelled vectors that are asked for neighbours.

    Attributes:
        unit: Of length 1, float32, shape (N, D).
        y: 1 where a class applies, uint8, shape (N, C).
    """

    unit: Tensor
    y: Tensor


def vote(
    bank: Bank, x: Tensor, ks: tuple[int, ...], advance: Callable[[int], None] = lambda _: None
) -> dict[int, Tensor]:
    """Score queries by their k nearest neighbours' votes, for several k at once.

    Args:
        bank: What to compare with.
        x: Raw queries, shape (Q, D).
        ks: None above the bank's size.
        advance: Called with the number of queries that are done.

    Returns:
        k → share of votes for each class, float32, shape (Q, C).
    """
    shares: dict[int, list[Tensor]] = {k: [] for k in ks}
    for some in torch.split(x, _QUERIES):
        for similarity, rows in _nearest_in_turn(bank.unit, unit_rows(some), max(ks)):
            for k, part in _shares(bank.y, similarity, rows, ks):
                shares[k].append(part)
            advance(len(rows))
    return {k: torch.cat(parts) for k, parts in shares.items()}


def nearest(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k rows of a bank with the largest inner products, the best first.

    Args:
        bank: Shape (N, D), N at least k.
        queries: Shape (Q, D), one or more.
        k: How many.

    Returns:
        Inner products and row numbers, both of shape (Q, k).
    """
    values, rows = zip(*_nearest_in_turn(bank, queries, k), strict=True)
    return torch.cat(values), torch.cat(rows)


def unit_rows(x: Tensor) -> Tensor:
    """Scale rows to length 1, in a copy; none may be 0."""
    return torch.nn.functional.normalize(x, dim=1)


def _shares(
    y: Tensor, similarity: Tensor, rows: Tensor, ks: tuple[int, ...]
) -> Iterator[tuple[int, Tensor]]:
    """Sum weighted votes of the first k neighbours; weights relative to the nearest, so no overflow."""
    weights = torch.exp((similarity - similarity[:, :1]) / TEMPERATURE)
    votes = y[rows] * weights[:, :, None]
    for k in ks:
        yield k, votes[:, :k].sum(dim=1) / weights[:, :k].sum(dim=1, keepdim=True)


def _nearest_in_turn(bank: Tensor, queries: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Find neighbours of some queries after the other; similarities share one piece of memory.

    A fresh piece for each product would cost a third of the product's time in page faults.
    """
    width = min(_BANK_ROWS, len(bank))
    at_a_time = min(max(1, _ELEMENTS // width), len(queries))
    memory = queries.new_empty(at_a_time * width)
    for some in torch.split(queries, at_a_time):
        best = queries.new_empty(len(some), 0)
        rows = torch.empty(len(some), 0, dtype=torch.int64, device=queries.device)
        for first in range(0, len(bank), width):
            part = bank[first : first + width]
            products = memory[: len(some) * len(part)].view(len(some), len(part))
            values, where = _top(torch.mm(some, part.T, out=products), k)
            best, rows = torch.cat([best, values], 1), torch.cat([rows, where + first], 1)
            best, order = best.topk(min(k, best.shape[1]))
            rows = rows.gather(1, order)
        yield best, rows


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Take the k largest of each row, or all where there are fewer, shape (Q, N).

    A row is cut into 16 runs; column j of each makes a group. The k groups with the largest maxima
    hold the k largest values, so only those are looked into: half the time of one `topk`.
    """
    queries, count = values.shape
    width = count // _GROUP
    if width <= 2 * k:
        return values.topk(min(k, count))
    even = values[:, : width * _GROUP].view(queries, _GROUP, width)
    groups = even.amax(dim=1).topk(k, sorted=False).indices
    inside = even.gather(2, groups[:, None].expand(queries, _GROUP, k)).flatten(1)
    best, order = inside.topk(k)
    rows = (order // k) * width + groups.gather(1, order % k)
    if width * _GROUP == count:
        return best, rows
    rest = values[:, width * _GROUP :]  # fewer than 16 columns that no group holds
    numbers = torch.arange(width * _GROUP, count, device=values.device).expand_as(rest)
    best, order = torch.cat([best, rest], 1).topk(k)
    return best, torch.cat([rows, numbers], 1).gather(1, order)
