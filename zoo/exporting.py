"""Export: a checkpoint becomes a model directory that anyone can load, check and publish."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilezoo.errors import ModelError
from tilezoo.io import made_whole
from tilezoo.space import Contract, Pooling
from tilezoo.zoo.convert import Which, backbone_state, read_checkpoint, shape_of
from tilezoo.zoo.finish import finish_model_dir
from tilezoo.zoo.modeldir import ModelDir, read_model_dir, write_model_dir


def export(
    checkpoint: str | Path,
    *,
    out: str | Path,
    contract: Contract,
    pooling: Pooling = "cls",
    network: Which | None = None,
    name: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> ModelDir:
    """Turn a checkpoint of facebookresearch/dino or of ours into a model directory.

    Args:
        checkpoint: A `.pth`; only tensors are read from it.
        out: The directory, made anew.
        contract: What pixels the network takes; nothing of it is in a checkpoint.
        pooling: How its features are pooled.
        network: `teacher` (unless said otherwise) or `student`.
        name: What it is called; the directory's name unless given.
        facts: For its card and contract: `licence`, `paper`, `trained_on`, `method`.

    Raises:
        ModelError: The checkpoint holds code, no such network, or does not fit the contract.
    """
    target = Path(out)
    if target.exists() and any(target.iterdir()):
        raise ModelError(f"{target} is not empty; choose another -o")
    state = backbone_state(read_checkpoint(Path(checkpoint)), network)
    told = dict(facts or {})
    with made_whole(target) as making:
        model = _written(state, making, contract, pooling, _network_name(network), told)
        finish_model_dir(model, name=name or target.name, facts=told)
    return read_model_dir(target)


def _network_name(network: Which | None) -> Which:
    return network or "teacher"


def _written(
    state: Mapping[str, Any],
    folder: Path,
    contract: Contract,
    pooling: Pooling,
    network: Which,
    facts: Mapping[str, Any],
) -> ModelDir:
    import timm

    shape = shape_of(state)
    if shape.bands != len(contract.bands):
        takes, states = f"{shape.bands} bands", f"{len(contract.bands)}"
        raise ModelError(f"the network takes {takes}, the contract states {states}")
    architecture, args = shape.to_timm()
    built = timm.create_model(architecture, num_classes=0, **args)
    try:
        built.load_state_dict(state, strict=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError(f"its tensors are not those of timm's {architecture}: {why}") from error
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": shape.width,
        "model_args": args,
        "pretrained_cfg": {"first_conv": "patch_embed.proj", "classifier": "head"},
        "network": network,
        "pretraining": {"method": facts.get("method"), "data": facts.get("trained_on")},
    }
    return write_model_dir(folder, built, contract=contract, pooling=pooling, config=config)
