"""Export: a run or a checkpoint becomes a model directory that anyone can load, check and publish."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from tilezoo.errors import ModelError, OptionError
from tilezoo.io import whole_folder
from tilezoo.options import verb
from tilezoo.progress import say
from tilezoo.space import Contract
from tilezoo.training_ids import TRAINING_IDS
from tilezoo.zoo.backbone import resize_input
from tilezoo.zoo.cards import Origin
from tilezoo.zoo.complete import complete_model_dir
from tilezoo.zoo.foreign import Checkpoint, State, backbone_state, read_checkpoint, shape_of
from tilezoo.zoo.modeldir import (
    ModelDir,
    NetworkConfig,
    import_timm,
    read_model_dir,
    write_model_dir,
)
from tilezoo.zoo.options import ExportOptions
from tilezoo.zoo.runs import TrainedRun, find_run


@verb(ExportOptions)
def export(options: ExportOptions) -> ModelDir:
    """Turn a run of `tilezoo pretrain`, or a checkpoint, into a model directory.

    Only tensors are read from a checkpoint. A run knows what pixels its network takes; of other
    checkpoints it is stated.

    Raises:
        ModelError: The checkpoint holds code, no such network, or does not fit the contract.
        OptionError: The contract is stated for a run, or missing for another checkpoint.
    """
    target = Path(options.out)
    if target.exists() and any(target.iterdir()):
        raise ModelError(f"{target} is not empty; choose another -o")
    run = find_run(Path(options.checkpoint))
    contract = _choose_contract(run, options)
    checkpoint = read_checkpoint(run.checkpoint if run else Path(options.checkpoint))
    state = backbone_state(checkpoint, options.network)
    pretraining = _describe_training(run, checkpoint, options)
    with whole_folder(target) as making:
        model = _write_network(state, making, contract, options, pretraining)
        if run and run.training_ids.is_file():
            shutil.copyfile(run.training_ids, making / TRAINING_IDS)
        name = options.name or target.name
        complete_model_dir(model, name=name, origin=_origin(options), golden=options.golden)
    return read_model_dir(target)


def _choose_contract(run: TrainedRun | None, options: ExportOptions) -> Contract:
    """Take the run's own contract, or the stated one: exactly one of them must be there."""
    stated = options.stated_contract
    if run and stated is not None:
        raise OptionError(f"{run.folder}: a run knows its contract; leave out --bands and the like")
    contract = run.contract if run else stated
    if contract is None:
        raise OptionError(
            f"{options.checkpoint} is no run of `tilezoo pretrain`, so nothing says what pixels it "
            "takes: state --bands, --unit, --value-range, --mean, --std and --size-px"
        )
    if options.size_px is None and options.resize_px is None:
        return contract
    side = options.size_px or contract.size_px
    return replace(contract, size_px=side, resize_px=options.resize_px or side)


def _describe_training(
    run: TrainedRun | None, checkpoint: Checkpoint, options: ExportOptions
) -> Mapping[str, object]:
    """State what is known of the training, and say so where a run was not at its end."""
    if run is None:
        return {"method": options.method, "data": options.trained_on}
    training = run.pretraining(int(checkpoint["step"]), options.trained_on)
    if training.step < training.steps:
        at = f"after step {training.step} of {training.steps}"
        say(f"{run.checkpoint}: {at}, not the run's end")
    return asdict(training)


def _origin(options: ExportOptions) -> Origin:
    return Origin(
        licence=options.licence,
        paper=options.paper,
        trained_on=options.trained_on,
        method=options.method,
    )


def _write_network(
    state: State,
    folder: Path,
    contract: Contract,
    options: ExportOptions,
    pretraining: Mapping[str, object],
) -> ModelDir:
    shape = shape_of(state)
    if shape.bands != len(contract.bands):
        takes, states = f"{shape.bands} bands", f"{len(contract.bands)}"
        raise ModelError(f"the network takes {takes}, the contract states {states}")
    architecture, args = shape.to_timm()
    network = import_timm().create_model(architecture, num_classes=0, **args)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError(f"its tensors are not those of timm's {architecture}: {why}") from error
    resize_input(network, contract.size_px)
    config: NetworkConfig = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": shape.width,
        "model_args": {**args, "img_size": contract.size_px},
        "pretrained_cfg": {"first_conv": "patch_embed.proj", "classifier": "head"},
        "network": options.network or "teacher",
        "pretraining": pretraining,
    }
    if options.half:
        network.half()
    return write_model_dir(
        folder, network, contract=contract, pooling=options.pooling, config=config
    )
