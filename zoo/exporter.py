"""Export: a checkpoint becomes a model directory that anyone can load, check and publish."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilezoo.errors import ModelError, OptionError
from tilezoo.io import made_whole
from tilezoo.progress import say
from tilezoo.space import Contract, Pooling
from tilezoo.training_ids import TRAINING_IDS
from tilezoo.zoo.backbone import resize_input
from tilezoo.zoo.complete import finish_model_dir
from tilezoo.zoo.foreign import Which, backbone_state, read_checkpoint, shape_of
from tilezoo.zoo.modeldir import ModelDir, read_model_dir, write_model_dir
from tilezoo.zoo.runs import TrainedRun, trained_run


def export(
    checkpoint: str | Path,
    *,
    out: str | Path,
    contract: Contract | None = None,
    size_px: int | None = None,
    resize_px: int | None = None,
    pooling: Pooling = "cls",
    network: Which | None = None,
    name: str | None = None,
    half: bool = False,
    golden: Sequence[str | Path] = (),
    facts: Mapping[str, Any] | None = None,
) -> ModelDir:
    """Turn a run of `tilezoo pretrain`, or a checkpoint, into a model directory.

    Args:
        checkpoint: A run's folder, for its newest checkpoint; one of its checkpoints; or a `.pth`
            of facebookresearch/dino. Only tensors are read from it.
        out: The directory, made anew.
        contract: What pixels the network takes; a run knows, other checkpoints do not.
        size_px: Side that a run's network is fed, where it is not that of the run's global crops.
        resize_px: Side before the centre crop; `size_px` where only that is given.
        pooling: How its features are pooled.
        network: `teacher` (unless said otherwise) or `student`.
        name: What it is called; the directory's name unless given.
        half: Store weights in 16 bits (float16): half the size; they are used in float32.
        golden: Sources of tiles of one size, four of which become its golden tiles; they are then
            published with it. Without any, tiles are made up.
        facts: For its card and contract: `licence`, `paper`, `trained_on`, `method`.

    Raises:
        ModelError: The checkpoint holds code, no such network, or does not fit the contract.
    """
    target = Path(out)
    if target.exists() and any(target.iterdir()):
        raise ModelError(f"{target} is not empty; choose another -o")
    run = trained_run(Path(checkpoint))
    taken = _fed(_contract(Path(checkpoint), run, contract), size_px, resize_px)
    read = read_checkpoint(run.checkpoint if run else Path(checkpoint))
    state = backbone_state(read, network)
    told = {"method": "dino", **(facts or {})}
    stated = _pretraining(run, read, told)
    with made_whole(target) as making:
        model = _written(state, making, taken, pooling, _network_name(network), stated, half=half)
        if run and run.training_ids.is_file():
            shutil.copyfile(run.training_ids, making / TRAINING_IDS)
        finish_model_dir(model, name=name or target.name, facts=told, golden=golden)
    return read_model_dir(target)


def _pretraining(
    run: TrainedRun | None, checkpoint: Mapping[str, Any], told: Mapping[str, Any]
) -> dict[str, Any]:
    """What is known of the training; a run that was not at its end is told."""
    data = told.get("trained_on")
    if run is None:
        return {"method": told["method"], "data": data}
    found = run.pretraining(int(checkpoint["step"]), data)
    if found["step"] < found["steps"]:
        say(f"{run.checkpoint}: after step {found['step']} of {found['steps']}, not the run's end")
    return found


def _contract(checkpoint: Path, run: TrainedRun | None, stated: Contract | None) -> Contract:
    """The run's own contract, or the stated one: exactly one of them must be there."""
    if run and stated is not None:
        raise OptionError(f"{run.folder}: a run knows its contract; leave out --bands and the like")
    if run:
        return run.contract
    if stated is None:
        raise OptionError(
            f"{checkpoint} is no run of `tilezoo pretrain`, so nothing says what pixels it takes: "
            "state --bands, --unit, --value-range, --mean, --std and --size-px"
        )
    return stated


def _fed(contract: Contract, size_px: int | None, resize_px: int | None) -> Contract:
    if size_px is None and resize_px is None:
        return contract
    side = size_px or contract.size_px
    return replace(contract, size_px=side, resize_px=resize_px or side)


def _network_name(network: Which | None) -> Which:
    return network or "teacher"


def _written(
    state: Mapping[str, Any],
    folder: Path,
    contract: Contract,
    pooling: Pooling,
    network: Which,
    pretraining: Mapping[str, Any],
    *,
    half: bool,
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
    resize_input(built, contract.size_px)
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": shape.width,
        "model_args": {**args, "img_size": contract.size_px},
        "pretrained_cfg": {"first_conv": "patch_embed.proj", "classifier": "head"},
        "network": network,
        "pretraining": dict(pretraining),
    }
    if half:
        built.half()
    return write_model_dir(folder, built, contract=contract, pooling=pooling, config=config)
