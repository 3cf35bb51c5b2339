"""Complete a model directory: golden vectors, a STAC item (MLM v1.5), the card and the hashes.

Golden vectors are a few small tiles and what the network made of them when it was exported; by
them `tilezoo verify` tells on any machine whether the network still computes the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tilezoo.errors import ModelError, SourceError, TileError
from tilezoo.image import Image
from tilezoo.io import write_json, write_text
from tilezoo.opening import gdal
from tilezoo.sources import discover
from tilezoo.space import Contract, Precision
from tilezoo.tiles import Tile, TileRef
from tilezoo.zoo.backbone import Backbone, build
from tilezoo.zoo.cards import Origin, card_text, front_matter
from tilezoo.zoo.modeldir import (
    CARD,
    GOLDEN,
    MLM,
    WEIGHTS,
    ModelDir,
    whole_tensors,
    write_checksums,
)

AGREEMENT: dict[Precision, float] = {"fp32": 0.9999, "bf16": 0.999}
_TILES = 4
_SIDE_PX = 64
_MOST_PX = 512  # of the side of one's own tiles: they are published with the model
_DTYPES = {"uint8": np.uint8, "dn": np.uint16, "reflectance": np.float32, "stated": np.float32}

MLM_SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
_RESIZE = {
    "nearest": "interpolation-nearest",
    "bilinear": "interpolation-linear",
    "bicubic": "interpolation-cubic",
}
_GLOBE = [[[-180.0, -90.0], [180.0, -90.0], [180.0, 90.0], [-180.0, 90.0], [-180.0, -90.0]]]


def complete_model_dir(
    model: ModelDir, *, name: str, origin: Origin, golden: Sequence[str | Path] = ()
) -> ModelDir:
    """Complete a model directory, so that it can be verified and published.

    Args:
        model: With config and weights.
        name: What it is called.
        origin: Where it comes from, for its card.
        golden: Sources of the tiles of its golden vectors; without any, tiles are made up.
    """
    backbone = build(model, device="cpu")
    write_golden(model, golden)
    parameters, dimension = backbone.parameter_count, backbone.dimension
    item = mlm_item(model, name=name, dimension=dimension, parameters=parameters)
    write_json(model.path / MLM, item)
    matter = front_matter(
        name=name,
        architecture=model.architecture,
        contract=model.contract,
        dimension=dimension,
        origin=origin,
    )
    matter |= {"space": model.space().fingerprint, "weights_sha256": model.weights_sha256}
    write_text(model.path / CARD, card_text(matter, model))
    write_checksums(model.path)
    return model


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
        sources: Where the tiles are read from, see `read_real_tiles`; made up where there are none.
    """
    from safetensors.numpy import save_file

    backbone = build(model, device="cpu")
    pixels = read_real_tiles(sources, backbone) if sources else make_smooth_tiles(model.contract)
    tiles = _tiles(pixels)
    vectors = backbone.encode(tiles)
    backbone.use("bf16")
    agreement = float(_cosines(vectors, backbone.encode(tiles)).min())
    if not np.isfinite(vectors).all():
        raise ModelError(f"{model.path}: its vectors hold NaN or infinity; such a model is no use")
    path = model.path / GOLDEN
    with whole_tensors(path) as temporary:
        facts = {"pooling": model.pooling, "bf16_cosine": f"{agreement:.6f}"}
        save_file({"pixels": pixels, "embeddings": vectors}, temporary, metadata=facts)
        _sort_facts(temporary)
    return path


def _sort_facts(path: Path) -> None:
    """Put the facts of a safetensors file in the order of their names.

    The library writes them in any order, and a model's revision is a hash over its files: the same
    model shall have the same one.
    """
    data = path.read_bytes()
    start, size = 8, int.from_bytes(data[:8], "little")
    header = json.loads(data[start : start + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
    path.write_bytes(data[:start] + text + data[start + size :])


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


def read_real_tiles(sources: Sequence[str | Path], backbone: Backbone) -> NDArray[np.generic]:
    """Read four tiles, spread over all that the sources hold, as the network's contract asks.

    Returns:
        Raw values, shape (N, C, H, W).

    Raises:
        SourceError: One cannot be read, does not fit the contract or is larger than a tile; or they
            differ in size or dtype.
    """
    files = discover(sources)
    places = np.linspace(0, len(files) - 1, min(_TILES, len(files))).round().astype(int)
    tiles = [_read_real_tile(TileRef(source=files[place]), backbone) for place in places.tolist()]
    kinds = {f"{tile.pixels.dtype} {tile.pixels.shape}" for tile in tiles}
    if len(kinds) > 1:
        raise SourceError(f"golden tiles of {', '.join(sorted(kinds))}: give tiles of one size")
    return np.stack([tile.pixels for tile in tiles])


def _read_real_tile(ref: TileRef, backbone: Backbone) -> Tile:
    try:
        with gdal(), Image(ref.source, backbone.request) as image:
            if max(image.size) > _MOST_PX:
                size = "x".join(map(str, image.size))
                raise TileError(
                    "contract", f"{size} px; golden tiles have at most {_MOST_PX} a side"
                )
            return image.read(ref, backbone.space.contract)
    except TileError as error:
        raise SourceError(f"{ref.source.uri}: no golden tile: {error}") from error


def make_smooth_tiles(contract: Contract) -> NDArray[np.generic]:
    """Make tiles that look like imagery enough: smooth fields over the contract's value range."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_TILES, len(contract.bands), 9, 9, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(_SIDE_PX, _SIDE_PX), mode="bicubic")
    low, high = contract.value_range
    values = low + fine.clamp(0, 1).numpy().astype(np.float64) * (high - low)
    dtype = _DTYPES[contract.unit]
    return (values.round() if dtype is not np.float32 else values).astype(dtype)


def _tiles(pixels: NDArray[np.generic]) -> list[Tile]:
    """Make tiles without a place of pixels, shape (N, C, H, W)."""
    height, width = pixels.shape[2:]
    return [
        Tile(
            id=str(number),
            pixels=one,
            source_uri="",
            nodata_fraction=0.0,
            crs=None,
            footprint=None,
            datetime=None,
            pixel_bbox=(0, 0, width, height),
        )
        for number, one in enumerate(pixels)
    ]


def _cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-12))


def mlm_item(model: ModelDir, *, name: str, dimension: int, parameters: int) -> dict[str, object]:
    """Describe a model directory as a STAC item.

    Args:
        model: The directory.
        name: What it is called.
        dimension: Length of a vector.
        parameters: Number of weights.

    Source: https://github.com/stac-extensions/mlm (v1.5)
    """
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [MLM_SCHEMA],
        "id": name,
        "geometry": {"type": "Polygon", "coordinates": _GLOBE},
        "bbox": [-180.0, -90.0, 180.0, 90.0],
        "properties": {
            "datetime": None,
            "start_datetime": "1900-01-01T00:00:00Z",
            "end_datetime": "9999-12-31T23:59:59Z",
            "mlm:name": name,
            "mlm:architecture": model.architecture,
            "mlm:tasks": ["similarity-search"],
            "mlm:framework": "pytorch",
            "mlm:total_parameters": parameters,
            "mlm:pretrained": True,
            "mlm:input": [_input(model.contract)],
            "mlm:output": [_output(dimension)],
        },
        "assets": {
            "model": {
                "href": f"./{WEIGHTS}",
                "title": "weights",
                "type": "application/octet-stream",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "safetensors.torch.save_file",
            }
        },
        "links": [],
    }


def _input(contract: Contract) -> dict[str, object]:
    low, high = contract.value_range
    clip = {"type": "clip", "minimum": low, "maximum": high}
    scores = [
        {"type": "z-score", "mean": low + mean * (high - low), "stddev": std * (high - low)}
        for mean, std in zip(contract.mean, contract.std, strict=True)
    ]
    side = contract.size_px
    return {
        "name": f"{','.join(contract.bands)} as {contract.unit}",
        "bands": list(contract.bands),
        "input": {
            "shape": [-1, len(contract.bands), side, side],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [clip, *scores],
        "resize_type": _RESIZE[contract.interpolation],
        "pre_processing_function": None,
    }


def _output(dimension: int) -> dict[str, object]:
    return {
        "name": "embedding",
        "tasks": ["similarity-search"],
        "result": {
            "shape": [-1, dimension],
            "dim_order": ["batch", "dimension"],
            "data_type": "float32",
        },
        "classification:classes": [],
        "post_processing_function": None,
    }
