"""kNN accuracy in the loop: how well the teacher's features separate labelled tiles."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tilezoo.knn import Bank, unit_rows, vote
from tilezoo.pretrain.packs.shards import Pack
from tilezoo.space import Contract
from tilezoo.zoo.network import fit, normalise

_NEIGHBOURS = 20  # facebookresearch/dino, eval_knn.py
_TILES = 256  # a pass
_MOST = 10_000  # tiles of a side; more would hold up the training


@dataclass(frozen=True, kw_only=True)
class KnnTask:
    """Tiles with one label each, some to learn from and some to classify.

    Attributes:
        pack: Where they lie.
        known: Rows of the training split, shape (n,).
        asked: Rows of the validation split, shape (m,).
        known_class: Class numbers, shape (n,).
        asked_class: Class numbers, shape (m,).
        classes: How many there are.
        contract: How tiles are prepared, as they will be when the backbone is used.
    """

    pack: Pack
    known: NDArray[np.int64]
    asked: NDArray[np.int64]
    known_class: NDArray[np.int64]
    asked_class: NDArray[np.int64]
    classes: int
    contract: Contract

    def accuracy(self, backbone: nn.Module, device: torch.device) -> float:
        """Share of the asked tiles whose nearest known tiles, by weight, are of their class."""
        was_training = backbone.training
        backbone.eval()
        known = self._features(backbone, self.known, device)
        asked = self._features(backbone, self.asked, device)
        backbone.train(was_training)
        predicted = predict_classes(known, self.known_class, asked, self.classes)
        return float((predicted == self.asked_class).mean())

    @torch.no_grad()
    def _features(
        self, backbone: nn.Module, rows: NDArray[np.int64], device: torch.device
    ) -> NDArray[np.float32]:
        made = [backbone(images.to(device)).float().cpu() for images in self._images(rows)]
        return torch.cat(made).numpy()

    def _images(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        for first in range(0, len(rows), _TILES):
            pixels = torch.from_numpy(self.pack.read(rows[first : first + _TILES]))
            yield normalise(fit(pixels, self.contract), self.contract)


def find_knn_task(pack: Pack, contract: Contract, seed: int) -> KnnTask | None:
    """Take the labelled tiles of a pack's train and validation splits; None where there are none.

    Tiles with several labels, or none, are left out; of many, a seeded draw is taken.
    """
    labels = pack.column("labels").to_pylist()
    names = sorted({label[0] for label in labels if label and len(label) == 1})
    sides = [_single_label_rows(pack, labels, split, seed) for split in ("train", "validation")]
    if len(names) < 2 or not all(map(len, sides)):
        return None
    number = {name: place for place, name in enumerate(names)}
    known, asked = (np.array([number[labels[row][0]] for row in side]) for side in sides)
    return KnnTask(
        pack=pack,
        known=sides[0],
        asked=sides[1],
        known_class=known,
        asked_class=asked,
        classes=len(names),
        contract=contract,
    )


def _single_label_rows(
    pack: Pack, labels: list[list[str] | None], split: str, seed: int
) -> NDArray[np.int64]:
    """Rows of a split with one label, in order, at most `_MOST`."""
    has_splits = pack.column("split").null_count < len(pack)
    rows = pack.where_split(split) if has_splits else np.empty(0, np.int64)
    single = np.array([r for r in rows if len(labels[r] or ()) == 1], np.int64)
    if len(single) <= _MOST:
        return single
    return np.sort(np.random.default_rng(seed).choice(single, _MOST, replace=False))


def predict_classes(
    known: NDArray[np.float32],
    known_class: NDArray[np.int64],
    asked: NDArray[np.float32],
    classes: int,
) -> NDArray[np.int64]:
    """Predict classes by the votes of the 20 nearest, as DINO's evaluation does.

    Args:
        known: Features of tiles whose class is known, shape (n, D).
        known_class: Their class numbers, shape (n,).
        asked: Features of tiles whose class is asked for, shape (m, D).
        classes: How many classes there are.

    Returns:
        Class numbers, shape (m,).
    """
    y = torch.nn.functional.one_hot(torch.from_numpy(known_class), classes).to(torch.uint8)
    bank = Bank(unit=unit_rows(torch.from_numpy(known)), y=y)
    k = min(_NEIGHBOURS, len(known))
    return vote(bank, torch.from_numpy(asked), (k,))[k].argmax(1).numpy()
