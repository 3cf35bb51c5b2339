"""DINO's linear protocol on tiles: frozen features of crops and flips drawn anew in each epoch.

facebookresearch/dino, eval_linear.py at 04c0ad9: the train set is embedded through torchvision's
RandomResizedCrop (8 to 100 % of the area, sides 3:4 to 4:3) and RandomHorizontalFlip, the test set
resized and cropped in the middle; ViT-S gives the class tokens of its last four blocks, networks
without class token their own pooled features. Here crops are resized as the model's contract
resizes whole tiles, where that script takes torchvision's default (bilinear, though bicubic for its
test set); they are of a tile's middle square; and the network runs in the precision that its table
was made in.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from tilezoo.errors import ProbeError
from tilezoo.pretrain.draws import draw_boxes
from tilezoo.probe.sgd import BATCH, Batches
from tilezoo.reading import Outcome, Reader, TilePlan, make_plan, read_ahead
from tilezoo.sources import Source
from tilezoo.space import Contract, Pooling, Precision
from tilezoo.tiles import Cut, Tile
from tilezoo.zoo.backbone import Backbone
from tilezoo.zoo.modeldir import ModelDir
from tilezoo.zoo.network import fit

AUGMENTATION = (
    "random resized crop (area 0.08 to 1, aspect 3/4 to 4/3) to the model's size, horizontal flip; "
    "drawn anew in each epoch"
)
_AREA = (0.08, 1.0)  # torchvision's RandomResizedCrop, as are the aspects that `draw_boxes` takes
_FLIP = 0.5


def pooling_of(model: ModelDir) -> Pooling:
    """Choose what the protocol takes of a network: its last four class tokens, if it has such.

    Models that are pooled by their mean (convolutional ones, colour statistics) stay so.
    """
    return "mean" if model.pooling == "mean" else "last4"


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Embeds random crops of tiles with one backbone.

    Attributes:
        backbone: Gives the backbone; one is in memory while its probe is fitted, and no longer.
        precision: To run it in.
        sources: Where tiles are, as they were found for the table.
        nodata: `--nodata`; None for what files say.
        cut: How sources are cut; None for whole files.
        workers: Threads that read.
    """

    backbone: Callable[[], Backbone]
    precision: Precision
    sources: Sequence[Source]
    nodata: float | None
    cut: Cut | None
    workers: int

    def __call__(self, ids: pa.Array, seed: int) -> Batches:
        """Find tiles by their ids; each epoch then reads and embeds them in the order it asks for.

        Raises:
            ProbeError: A tile is not among the sources any more.
        """
        backbone = self.backbone()
        backbone.use(self.precision)
        request = replace(backbone.request, nodata=self.nodata)
        plan = make_plan(
            self.sources,
            request=request,
            cut=self.cut,
            limit=None,
            shard=(0, 1),
            workers=self.workers,
        )
        places = _places(plan, ids)

        def batches(epoch: int, order: Tensor) -> Iterator[Tensor]:
            refs = chain.from_iterable(plan.tiles(at, at + 1) for at in places[order.numpy()])
            contract = backbone.space.contract
            finish = partial(crop_tile, contract=contract, seed=seed, epoch=epoch)
            reader = Reader(contract, request, finish)
            reading = read_ahead(refs, reader, workers=self.workers, ahead=2 * BATCH)
            with closing(reading) as outcomes:
                for _, vectors in backbone.encode_all(_batches(outcomes)):
                    yield torch.from_numpy(vectors)

        return batches


def crop_tile(tile: Tile, *, contract: Contract, seed: int, epoch: int) -> Tile:
    """Crop a tile at random, resize the crop to the contract's size, and mirror every second one.

    Args:
        tile: As it was read.
        contract: Scales and resizes, as it does with whole tiles.
        seed: Of the draws.
        epoch: Each has crops of its own; a tile's do not depend on the others.
    """
    height, width = tile.pixels.shape[1:]
    side = min(height, width)
    boxes, chances = draw_boxes(seed, epoch, _number(tile.id), side, _AREA)
    top, left, rows, columns = boxes[0].tolist()
    top, left = top + (height - side) // 2, left + (width - side) // 2
    box = np.ascontiguousarray(tile.pixels[:, top : top + rows, left : left + columns])
    squashed = replace(contract, resize="squash", resize_px=contract.size_px)
    pixels = fit(torch.from_numpy(box)[None], squashed)[0]
    mirrored = pixels.flip(2) if chances[0] < _FLIP else pixels
    return replace(tile, pixels=mirrored.numpy(), fitted=True)


def _number(tile_id: str) -> NDArray[np.int64]:
    """Give a tile a number that depends on nothing but its id, shape (1,)."""
    return np.frombuffer(sha256(tile_id.encode()).digest()[:8], "<i8").astype(np.int64)


def _places(plan: TilePlan, ids: pa.Array) -> NDArray[np.int64]:
    """Find where tiles stand in a plan, shape (N,)."""
    known = pa.array((ref.id for ref in plan.tiles(0, len(plan))), pa.string())
    places = pc.index_in(ids, value_set=known)
    if places.null_count:
        lost = ids.filter(pc.is_null(places))[0].as_py()
        raise ProbeError(
            f"{places.null_count} of {len(ids)} train tiles are not among the sources any more "
            f"({lost!r}, say); embed again with --overwrite"
        )
    return np.asarray(places.to_numpy(), np.int64)


def _batches(outcomes: Iterable[Outcome]) -> Iterator[list[Tile]]:
    """Put tiles into batches; one that could be embedded before and now cannot ends the probe."""
    tiles = map(_read, outcomes)
    while batch := list(islice(tiles, BATCH)):
        yield batch


def _read(outcome: Outcome) -> Tile:
    if isinstance(outcome, Tile):
        return outcome
    raise ProbeError(
        f"{outcome.ref.source.uri}: it is in the table, but cannot be read any more "
        f"({outcome.message}); put the file back, or embed again with --overwrite"
    )
