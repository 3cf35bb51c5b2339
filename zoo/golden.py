"""Golden vectors: a few small tiles and what the network made of them when it was exported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tilezoo.errors import ModelError, SourceError, TileError
from tilezoo.image import Image
from tilezoo.io import readable_as_others, whole_file
from tilezoo.opening import gdal
from tilezoo.sources import discover
from tilezoo.space import Contract
from tilezoo.tiles import Tile, TileRef
from tilezoo.zoo.backbone import Backbone, build
from tilezoo.zoo.modeldir import ModelDir
from tilezoo.zoo.options import Precision

GOLDEN = "golden.safetensors"
AGREEMENT: dict[Precision, float] = {"fp32": 0.9999, "bf16": 0.999}

_TILES = 4
_SIDE_PX = 64
_MOST_PX = 512  # of the side of one's own tiles: they are published with the model
_DTYPES = {"uint8": np.uint8, "dn": np.uint16, "reflectance": np.float32, "stated": np.float32}


@dataclass(frozen=True)
class Golden:
    """Tiles and their vectors.

    Attributes:
        pixels: Raw values, shape (N, C, H, W), of the dtype that the contract's unit takes.
        vectors: In fp32 on the machine that exported, shape (N, D).
        bf16: Lowest cosine of the same tiles in bf16 there.
    """

    pixels: NDArray[np.generic]
    vectors: NDArray[np.float32]
    bf16: float

    def agreement(self, backbone: Backbone, precision: Precision) -> float:
        """Lowest cosine of the stored vectors with what this machine makes of the tiles."""
        backbone.use(precision)
        return float(_cosines(self.vectors, backbone.encode(_tiles(self.pixels))).min())


def write_golden(model: ModelDir, sources: Sequence[str | Path] = ()) -> Path:
    """Embed a few tiles on this machine and keep both in the model directory.

    Args:
        model: With config and weights.
        sources: Where the tiles are from, see `real_tiles`; made up where there are none.
    """
    from safetensors.numpy import save_file

    backbone = build(model, device="cpu")
    pixels = real_tiles(sources, backbone) if sources else smooth_tiles(model.contract)
    tiles = _tiles(pixels)
    vectors = backbone.encode(tiles)
    backbone.use("bf16")
    agreement = float(_cosines(vectors, backbone.encode(tiles)).min())
    path = model.path / GOLDEN
    with whole_file(path) as temporary:
        facts = {"pooling": model.pooling, "bf16_cosine": f"{agreement:.6f}"}
        save_file({"pixels": pixels, "embeddings": vectors}, temporary, metadata=facts)
        readable_as_others(temporary)
    return path


def read_golden(model: ModelDir) -> Golden | None:
    """Read a model directory's golden vectors; None when it has none.

    Raises:
        ModelError: The file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = model.path / GOLDEN
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            pixels, vectors = file.get_tensor("pixels"), file.get_tensor("embeddings")
            agreement = float(file.metadata()["bf16_cosine"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ModelError(
            f"{path}: damaged ({error}); download or export the model again"
        ) from error
    return Golden(pixels, vectors, agreement)


def real_tiles(sources: Sequence[str | Path], backbone: Backbone) -> NDArray[np.generic]:
    """Read four tiles spread over all that are found, as the network's contract asks.

    Returns:
        Raw values, shape (N, C, H, W).

    Raises:
        SourceError: One cannot be read, does not fit the contract or is larger than a tile; or they
            differ in size or dtype.
    """
    found = discover(sources)
    places = np.linspace(0, len(found) - 1, min(_TILES, len(found))).round().astype(int)
    read = [_real_tile(TileRef(source=found[place]), backbone) for place in places.tolist()]
    kinds = {f"{tile.pixels.dtype} {tile.pixels.shape}" for tile in read}
    if len(kinds) > 1:
        raise SourceError(f"golden tiles of {', '.join(sorted(kinds))}: give tiles of one size")
    return np.stack([tile.pixels for tile in read])


def _real_tile(ref: TileRef, backbone: Backbone) -> Tile:
    try:
        with gdal(), Image(ref.source, backbone.request) as image:
            if max(image.size) > _MOST_PX:
                size = "x".join(map(str, image.size))
                raise TileError(
                    "contract", f"{size} px; golden tiles have at most {_MOST_PX} a side"
                )
            return image.read(ref, backbone.space.contract, backbone.request)
    except TileError as error:
        raise SourceError(f"{ref.source.uri}: no golden tile: {error}") from error


def smooth_tiles(contract: Contract) -> NDArray[np.generic]:
    """Make tiles that look like imagery enough: smooth fields over the contract's value range."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_TILES, len(contract.bands), 9, 9, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(_SIDE_PX, _SIDE_PX), mode="bicubic")
    low, high = contract.value_range
    values = low + fine.clamp(0, 1).numpy().astype(np.float64) * (high - low)
    dtype = _DTYPES[contract.unit]
    return (values.round() if dtype is not np.float32 else values).astype(dtype)


def _tiles(pixels: NDArray[np.generic]) -> list[Tile]:
    shared: dict[str, Any] = {"source_uri": "", "nodata_fraction": 0.0, "crs": None}
    shared |= {"footprint": None, "datetime": None, "pixel_bbox": (0, 0, *pixels.shape[:1:-1])}
    return [Tile(id=str(i), pixels=one, **shared) for i, one in enumerate(pixels)]


def _cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-12))
