"""The linear protocol DINO publishes: a linear layer on frozen features, by SGD.

Numbers from facebookresearch/dino, eval_linear.py at 04c0ad9: SGD with momentum 0.9 and no
weight decay, learning rate 0.001 x batch / 256, a cosine to 0 stepped once an epoch, weights drawn
from N(0, 0.01²), batches of 128, features as they come (class tokens of the last four blocks for
ViT-S: `--pooling last4`). Epochs (50) and the loss for several labels (binary cross entropy) are
those of "Train self-supervised vision transformers on overhead imagery with Amazon SageMaker"
(AWS and Travelers, 2023). That script reports its best epoch on the test set; here the last counts.

The published protocol embeds randomly cropped and mirrored images anew each epoch. What has images
hands such features out as `Batches`; saved vectors are of one view of each tile, so `saved` hands
out the same ones each epoch.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tilezoo.errors import InterruptedRunError, ProbeError
from tilezoo.io import whole_file
from tilezoo.probe.linear import Linear
from tilezoo.probe.options import Task


@dataclass(kw_only=True)
class State:
    """All that the next epoch begins with.

    Attributes:
        layer: Weights, and biases in the last row, shape (D + 1, C).
        speed: SGD's momentum, of the same shape.
        draws: Of the order of tiles.
        epoch: How many are done.
    """

    layer: Tensor
    speed: Tensor
    draws: torch.Generator
    epoch: int = 0

    def keep(self, path: Path) -> None:
        """Write it, in place of what is there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            "layer": self.layer.cpu().contiguous(),
            "speed": self.speed.cpu().contiguous(),
            "draws": self.draws.get_state(),
        }
        with whole_file(path) as temporary:
            save_file(tensors, temporary, {"epoch": str(self.epoch)})

    def go_on(self, path: Path) -> None:
        """Take what was kept, if there is anything.

        Raises:
            ProbeError: The file is damaged.
        """
        if not path.is_file():
            return
        try:
            with safe_open(path, framework="pt") as file:
                self.layer.copy_(file.get_tensor("layer"))
                self.speed.copy_(file.get_tensor("speed"))
                self.draws.set_state(file.get_tensor("draws"))
                self.epoch = int(file.metadata()["epoch"])
        except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ProbeError(f"{path} is damaged ({error}); remove it to start anew") from error


EPOCHS = 50
BATCH = 128
LR = 0.001 * BATCH / 256
MOMENTUM = 0.9
_DEVIATION = 0.01  # of the weights at the start

# Epoch and order of rows, shape (N,) → features of those rows in that order, float32, `BATCH` rows
# (the last time what is left) at a time.
Batches = Callable[[int, Tensor], Iterable[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Views:
    """What shows tables' tiles anew in each epoch.

    Attributes:
        augmentation: How, in words; it stands in the recipe.
        of: Name of a table or control → ids of tiles and a seed → their features.
        folder: Where layers are kept after each epoch, so that a stopped probe goes on.
    """

    augmentation: str
    of: Mapping[str, Callable[[pa.Array, int], Batches]]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Anew:
    """Some tiles of one table, seen anew in each epoch.

    Attributes:
        batches: Their features.
        folder: See `Views`.
        state: What decides the features, as JSON.
    """

    batches: Batches
    folder: Path
    state: object


def saved(x: Tensor, rows: Tensor) -> Batches:
    """Hand out the same vectors each epoch: what a table allows.

    Args:
        x: Vectors, shape (M, D).
        rows: Those to learn from, shape (N,).
    """

    def batches(_epoch: int, order: Tensor) -> Iterator[Tensor]:
        return (x[rows[some.to(x.device)]] for some in torch.split(order, BATCH))

    return batches


def fit_sgd(
    batches: Batches,
    y: Tensor,
    task: Task,
    *,
    dimension: int,
    seed: int,
    epochs: int = EPOCHS,
    kept: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Linear:
    """Train a linear layer as DINO does; nothing is held but the layer and one batch.

    Args:
        batches: The train set's features, raw.
        y: 1 where a class applies, uint8, shape (N, C); its device is where training runs.
        task: `multilabel` for binary cross entropy, `multiclass` for cross entropy.
        dimension: Length of a feature vector, D.
        seed: Of the weights at the start and the order of tiles.
        epochs: How often each tile is seen.
        kept: A file that the layer is kept in after each epoch, and taken from if it is there; its
            name must tell all that the layer depends on. None to keep nothing.
        advance: Called with the number of tiles that have been learnt from.

    Raises:
        InterruptedRunError: Ctrl-C, where the layer is kept.
        ProbeError: `kept` is damaged.
    """
    draws = torch.Generator().manual_seed(seed)
    layer = _start(dimension, y.shape[1], draws).to(y.device)
    state = State(layer=layer, speed=torch.zeros_like(layer), draws=draws)
    if kept:
        state.go_on(kept)
        advance(state.epoch * len(y))
    try:
        while state.epoch < epochs:
            _learn(state, batches, y, task, epochs, advance)
            if kept:
                state.keep(kept)
    except KeyboardInterrupt:
        if not kept:
            raise
        raise InterruptedRunError(
            f"stopped; {state.epoch} of {epochs} epochs are kept in {kept}: run the same command "
            "to go on"
        ) from None
    return Linear(coefficients=state.layer.double(), passes=epochs, converged=True)


def _learn(
    state: State,
    batches: Batches,
    y: Tensor,
    task: Task,
    epochs: int,
    advance: Callable[[int], None],
) -> None:
    """Train for one epoch, in place."""
    lr = LR * (1 + math.cos(math.pi * state.epoch / epochs)) / 2
    order = torch.randperm(len(y), generator=state.draws)
    for rows, x in zip(torch.split(order, BATCH), batches(state.epoch, order), strict=True):
        target = y[rows.to(y.device)].float()
        gradient = _gradient(state.layer, x.to(y.device), target, task)
        state.speed.mul_(MOMENTUM).add_(gradient)
        state.layer.sub_(state.speed, alpha=lr)
        advance(len(rows))
    state.epoch += 1


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
