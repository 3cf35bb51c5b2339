"""A model as a STAC item with the machine-learning-model extension (MLM v1.5)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilezoo.io import write_json, write_text
from tilezoo.space import Contract
from tilezoo.zoo.backbone import build
from tilezoo.zoo.cards import CARD, card_text, front_matter
from tilezoo.zoo.checksums import write_sums
from tilezoo.zoo.golden import write_golden
from tilezoo.zoo.modeldir import WEIGHTS, ModelDir

SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"
_RESIZE = {
    "nearest": "interpolation-nearest",
    "bilinear": "interpolation-linear",
    "bicubic": "interpolation-cubic",
}
_GLOBE = [[[-180.0, -90.0], [180.0, -90.0], [180.0, 90.0], [-180.0, 90.0], [-180.0, -90.0]]]


def mlm_item(model: ModelDir, *, name: str, dimension: int, parameters: int) -> dict[str, Any]:
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
        "stac_extensions": [SCHEMA],
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


def _input(contract: Contract) -> dict[str, Any]:
    low, high = contract.value_range
    scaling: list[dict[str, Any]] = [{"type": "clip", "minimum": low, "maximum": high}]
    scaling += [
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
        "value_scaling": scaling,
        "resize_type": _RESIZE[contract.interpolation],
        "pre_processing_function": None,
    }


def _output(dimension: int) -> dict[str, Any]:
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


MLM = "mlm.json"


def finish_model_dir(
    model: ModelDir,
    *,
    name: str,
    facts: Mapping[str, Any],
    golden: Sequence[str | Path] = (),
) -> ModelDir:
    """Complete a model directory, so that it can be verified and published.

    Args:
        model: With config and weights.
        name: What it is called.
        facts: For its card: `licence`, `paper`, `trained_on`, `method`.
        golden: Where the tiles of its golden vectors are from; made up where nowhere.
    """
    backbone = build(model, device="cpu")
    write_golden(model, golden)
    write_json(
        model.path / MLM,
        mlm_item(
            model, name=name, dimension=backbone.dimension, parameters=backbone.parameter_count
        ),
    )
    matter = front_matter(
        name=name,
        architecture=model.architecture,
        contract=model.contract,
        dimension=backbone.dimension,
        facts=facts,
    )
    matter |= {"space": model.space().fingerprint, "weights_sha256": model.weights_sha256}
    write_text(model.path / CARD, card_text(matter, model))
    write_sums(model.path)
    return model
