"""Vectors of one table in the order of the probe: train, validation, test."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilezoo.errors import ProbeError
from tilezoo.probe.data import targets
from tilezoo.probe.matmul import chunks
from tilezoo.table import Table

_CONSTANT = 1e-6  # share of a feature's size under which its spread is rounding


def load(
    name: str, table: Table, ids: pa.Array, advance: Callable[[int], None] = lambda _: None
) -> Tensor:
    """Read the vectors of some tiles, streamed into place.

    Args:
        name: What the table is called.
        table: Holds every one of these tiles.
        ids: The order that is wanted, shape (N,).
        advance: Told when rows of the table are read.

    Returns:
        Raw vectors, float32, shape (N, D).

    Raises:
        ProbeError: A vector is not finite or zero, or all are equal.
    """
    where = targets(table, ids)
    x = np.empty((len(ids), table.dimension), np.float32)
    first = 0
    for vectors in table.vectors():
        place = where[first : first + len(vectors)]
        x[place[place >= 0]] = vectors[place >= 0]
        first += len(vectors)
        advance(len(vectors))
    _refuse_unusable(name, x, ids)
    return torch.from_numpy(x)


def _refuse_unusable(name: str, x: NDArray[np.float32], ids: pa.Array) -> None:
    bad, zero, equal = [], [], True
    for rows in chunks(len(x)):
        bad += (rows.start + np.flatnonzero(~np.isfinite(x[rows]).all(axis=1))).tolist()
        zero += (rows.start + np.flatnonzero(~x[rows].any(axis=1))).tolist()
        equal = equal and bool((x[rows] == x[0]).all())
    for found, what in ((bad, "not finite"), (zero, "zero")):
        if found:
            raise ProbeError(
                f"{name}: {len(found)} of {len(x)} vectors are {what} "
                f"({ids[found[0]].as_py()!r}, say); embed these tiles again, or leave them out of "
                "the labels"
            )
    if equal:
        raise ProbeError(f"{name}: all {len(x)} vectors are equal; is the model's input right?")


def standardise(x: Tensor, train: int) -> None:
    """Give every feature mean 0 and deviation 1 over the first `train` rows, in place.

    Features that do not vary there become 0.
    """
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for rows in chunks(train):
        total += x[rows].sum(dim=0, dtype=torch.float64)
    mean = total / train
    squares = torch.zeros_like(total)
    for rows in chunks(train):
        squares += ((x[rows].double() - mean) ** 2).sum(dim=0)
    deviation = (squares / train).sqrt()
    varies = deviation > _CONSTANT * mean.abs().clamp_min(1e-30)
    scale = torch.where(varies, 1 / deviation, torch.zeros_like(deviation))
    for rows in chunks(len(x)):
        x[rows] = ((x[rows].double() - mean) * scale).float()
