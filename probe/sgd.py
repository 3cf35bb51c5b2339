"""The linear protocol DINO publishes, over saved vectors.

Numbers from facebookresearch/dino, eval_linear.py at 04c0ad9: SGD with momentum 0.9 and no
weight decay, learning rate 0.001 x batch / 256, a cosine to 0 stepped once an epoch, weights drawn
from N(0, 0.01²), batches of 128, features as they come (class tokens of the last four blocks for
ViT-S: `--pooling last4`). Epochs (50) and the loss for several labels (binary cross entropy) are
those of "Train self-supervised vision transformers on overhead imagery with Amazon SageMaker"
(AWS and Travelers, 2023).

The published protocol embeds randomly cropped and mirrored images anew each epoch. Saved vectors
are of one view of each tile, so that augmentation is missing here. `epochs_of` is the seam: what
has images may yield other vectors for the same tiles each epoch.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from tilezoo.probe.chunks import chunks
from tilezoo.probe.linear import Linear
from tilezoo.probe.scores import Task

EPOCHS = 50
BATCH = 128
LR = 0.001 * BATCH / 256
MOMENTUM = 0.9
_DEVIATION = 0.01  # of the weights at the start


def epochs_of(x: Tensor, epochs: int = EPOCHS) -> Iterable[Tensor]:
    """Hand out the same vectors each epoch: what a table allows."""
    return (x for _ in range(epochs))


def fit_sgd(
    views: Iterable[Tensor],
    y: Tensor,
    task: Task,
    *,
    seed: int,
    epochs: int = EPOCHS,
    advance: Callable[[int], None] = lambda _: None,
) -> Linear:
    """Train a linear layer as DINO does.

    Args:
        views: The train set's features, raw, float32, shape (N, D), once for each epoch.
        y: 1 where a class applies, uint8, shape (N, C).
        task: `multilabel` for binary cross entropy, `multiclass` for cross entropy.
        seed: Of the weights at the start and the order of tiles.
        epochs: How many views there are.
        advance: Told when epochs are done.
    """
    draws = torch.Generator().manual_seed(seed)
    target = y.float()
    layer = speed = torch.empty(0)
    for epoch, x in enumerate(views):
        if not epoch:
            layer = _start(x.shape[1], y.shape[1], draws).to(x.device)
            speed = torch.zeros_like(layer)
        lr = LR * (1 + math.cos(math.pi * epoch / epochs)) / 2
        order = torch.randperm(len(x), generator=draws).to(x.device)
        for batch in chunks(len(x), BATCH):
            rows = order[batch]
            speed.mul_(MOMENTUM).add_(_gradient(layer, x[rows], target[rows], task))
            layer.sub_(speed, alpha=lr)
        advance(1)
    return Linear(coefficients=layer.double(), passes=epochs, converged=True)


def _start(features: int, classes: int, draws: torch.Generator) -> Tensor:
    """Draw weights, in the first rows; biases, in the last, are 0."""
    weights = torch.randn(features, classes, generator=draws) * _DEVIATION
    return torch.cat([weights, torch.zeros(1, classes)])


def _gradient(layer: Tensor, x: Tensor, target: Tensor, task: Task) -> Tensor:
    """Differentiate the mean loss: over tiles and classes for BCE, over tiles for softmax."""
    z = torch.addmm(layer[-1], x, layer[:-1])
    p = torch.sigmoid(z) if task == "multilabel" else torch.softmax(z, dim=1)
    residual = (p - target) / (z.numel() if task == "multilabel" else len(z))
    return torch.cat([x.T @ residual, residual.sum(dim=0, keepdim=True)])
