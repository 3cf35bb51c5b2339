"""Batches: which tiles come when, their pixels in time, and what these pixels are."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilezoo.errors import OptionError
from tilezoo.pretrain.crops import CropMaker
from tilezoo.pretrain.distributed import World
from tilezoo.pretrain.draws import Draw
from tilezoo.pretrain.packs.shards import Pack
from tilezoo.pretrain.recipe import Recipe
from tilezoo.space import Contract

# Mean and std of ImageNet's RGB: facebookresearch/dino, main_dino.py, DataAugmentationDINO.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_AHEAD = 3  # batches read before they are needed
_RESIZE_RATIO = 256 / 224  # facebookresearch/dino, eval_linear.py: resize to 256, crop 224


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which tiles a step takes: each epoch its own shuffle of them all, the rest left out.

    A function of seed, epoch and step alone, so a resumed run, or one on other processes, goes
    through the same tiles.

    Attributes:
        rows: Of the pack, those that are trained on.
        batch_size: Tiles per step, over all processes.
        seed: Of the shuffles.
    """

    rows: NDArray[np.int64]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self.rows) // self.batch_size

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Rows of an epoch in its order, shape (steps_per_epoch, batch_size)."""
        shuffle = np.random.default_rng([self.seed, number]).permutation(len(self.rows))
        whole = self.steps_per_epoch * self.batch_size
        return self.rows[shuffle[:whole]].reshape(self.steps_per_epoch, self.batch_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One process's share of a step: tiles (b, C, H, W) on the host, and how they are cropped."""

    step: int
    pixels: Tensor
    draw: Draw


class Feed:
    """Reads batches ahead of the training, in a thread."""

    def __init__(
        self, pack: Pack, order: Order, maker: CropMaker, world: World, *, pinned: bool
    ) -> None:
        """Take what is read, and how.

        Args:
            pack: Where tiles lie.
            order: Which come when.
            maker: Draws their crops.
            world: Whose share is read.
            pinned: Put pixels where a GPU can fetch them by itself.
        """
        self._pack, self._order, self._maker, self._world = pack, order, maker, world
        self._pinned = pinned
        self._epoch = (-1, np.empty((0, 0), np.int64))

    @contextmanager
    def batches(self, first_step: int, last_step: int) -> Iterator[Iterator[Batch]]:
        """Yield the batches of steps `first_step` to `last_step` (exclusive)."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            begun: deque[Future[Batch]] = deque()
            try:
                yield self._ahead(reader, begun, range(first_step, last_step))
            finally:
                for future in begun:
                    future.cancel()

    def _ahead(
        self, reader: ThreadPoolExecutor, begun: deque[Future[Batch]], steps: range
    ) -> Iterator[Batch]:
        for step in steps:
            begun.append(reader.submit(self._read, step))
            if len(begun) > _AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def _read(self, step: int) -> Batch:
        epoch, place = divmod(step, self._order.steps_per_epoch)
        share = self._order.batch_size // self._world.size
        rows = self._rows_of(epoch)[place][self._world.rank * share :][:share]
        pixels = torch.from_numpy(_widen(self._pack.read(rows)))
        draw = self._maker.draw(epoch, rows, self._pack.size_px)
        return Batch(step=step, pixels=pixels.pin_memory() if self._pinned else pixels, draw=draw)

    def _rows_of(self, epoch: int) -> NDArray[np.int64]:
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._order.epoch(epoch))
        return self._epoch[1]


def _widen(pixels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Widen uint16, for which torch has few operations."""
    return pixels.astype(np.int32) if pixels.dtype == np.uint16 else pixels


def model_contract(pack: Pack, recipe: Recipe) -> Contract:
    """What a model trained on the pack takes: pixels as the pack's sources had them.

    Raises:
        OptionError: ImageNet's mean and std are asked for, but the pack has not three bands.
    """
    mean, std = _mean_std(pack, recipe)
    return Contract(
        bands=pack.bands,
        unit=pack.manifest.unit,
        value_range=pack.value_range,
        quantize_uint8=pack.dtype == "uint8",
        size_px=recipe.global_px,
        resize="shorter_side_then_center_crop",
        resize_px=round(recipe.global_px * _RESIZE_RATIO),
        interpolation="bicubic",
        gsd_m=pack.manifest.gsd_m,
        mean=mean,
        std=std,
    )


def stored_contract(pack: Pack, recipe: Recipe) -> Contract:
    """What stands in the pack: 8-bit tiles are scaled already."""
    contract = model_contract(pack, recipe)
    if pack.dtype != "uint8":
        return contract
    return replace(contract, unit="uint8", value_range=(0.0, 255.0))


def _mean_std(pack: Pack, recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if recipe.mean_std == "measured":
        return pack.mean, pack.std
    if len(pack.bands) != len(_IMAGENET[0]):
        raise OptionError(
            f"{pack.path} has {len(pack.bands)} bands, ImageNet's mean and std are of 3; "
            "take --set mean_std=measured"
        )
    return _IMAGENET
