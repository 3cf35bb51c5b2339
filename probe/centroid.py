"""The nearest class centroid, on standardised features: a probe with nothing to tune."""

import torch
from torch import Tensor

from tilezoo.probe.chunks import chunks
from tilezoo.probe.knn import TEMPERATURE, unit_rows
from tilezoo.probe.scores import Task


def by_centroid(train: Tensor, y: Tensor, x: Tensor, task: Task) -> Tensor:
    """Score rows by their cosines with the means of the train set's classes.

    Multi-class: softmax of the cosines / 0.07 (the kNN votes' temperature). Multi-label: sigmoid
    of how much nearer the mean of tiles with the class is than that of tiles without, / 0.07.

    Args:
        train: Standardised features, shape (N, D).
        y: 1 where a class applies, uint8, shape (N, C); each class has tiles with and without.
        x: Standardised features to score, shape (Q, D).
        task: Whether a tile may have several classes.

    Returns:
        float32, shape (Q, C).
    """
    counts, sums = y.sum(dim=0, dtype=torch.float32)[:, None], _class_sums(train, y)
    towards = unit_rows(sums / counts)
    if task == "multilabel":
        others = (train.sum(dim=0) - sums) / (len(train) - counts)
        away = unit_rows(others)
        return torch.sigmoid(_cosines(x, towards - away) / TEMPERATURE)
    return torch.softmax(_cosines(x, towards) / TEMPERATURE, dim=1)


def _class_sums(train: Tensor, y: Tensor) -> Tensor:
    """Add up the tiles of each class, shape (C, D)."""
    sums = train.new_zeros(y.shape[1], train.shape[1])
    for rows in chunks(len(train)):
        sums += y[rows].float().T @ train[rows]
    return sums


def _cosines(x: Tensor, directions: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12)
    return (x @ directions.T) / lengths
