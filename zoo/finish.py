"""What a model directory holds beside config and weights: golden vectors, STAC item, card, sums."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tilezoo.io import write_json, write_text
from tilezoo.zoo.backbone import build
from tilezoo.zoo.card import CARD, card_text, front_matter
from tilezoo.zoo.golden import write_golden
from tilezoo.zoo.mlm import mlm_item
from tilezoo.zoo.modeldir import ModelDir
from tilezoo.zoo.sums import write_sums

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
