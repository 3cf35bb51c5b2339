"""Export: a run or a checkpoint becomes a model directory that anyone can load, check and publish."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from tilezoo.errors import ModelError, OptionError
from tilezoo.io import refuse_used_folder, whole_folder
from tilezoo.options import verb
from tilezoo.progress import say
from tilezoo.space import Contract
from tilezoo.training_ids import TRAINING_IDS
from tilezoo.zoo.backbone import resize_input
from tilezoo.zoo.cards import Origin
from tilezoo.zoo.checkpoints import (
    Checkpoint,
    State,
    backbone_state,
    read_checkpoint,
    refuse_nan,
)
from tilezoo.zoo.complete import complete_model_dir
from tilezoo.zoo.modeldir import ModelDir, NetworkConfig, read_model_dir, write_model_dir
from tilezoo.zoo.options import ExportOptions
from tilezoo.zoo.runs import TrainedRun, find_run
from tilezoo.zoo.vit import Build, find_build, named_build

# timm's names of the first layer and the head, for networks that were registered without them.
_VIT_LAYERS: Mapping[str, str] = {"first_conv": "patch_embed.proj", "classifier": "head"}


@verb(ExportOptions)
def export(options: ExportOptions) -> ModelDir:
    """Turn a run of `tilezoo pretrain`, or a checkpoint, into a model directory.

    Only tensors are read from a checkpoint. A run knows what pixels its network takes, and which
    network it is; of other checkpoints the pixels are stated, and heads where the file does not say
    them (`tilezoo.zoo.vit`).

    Raises:
        ModelError: The checkpoint holds code or no weights, no such network, does not fit the
            contract, or nothing says how many heads it has.
        OptionError: The contract is stated for a run, or missing for another checkpoint.
    """
    target = Path(options.out)
    refuse_used_folder(target, "-o", ModelError)
    run = find_run(Path(options.checkpoint))
    contract = _choose_contract(run, options)
    path = run.checkpoint if run else Path(options.checkpoint)
    checkpoint = read_checkpoint(path)
    state = backbone_state(checkpoint, options.network, where=path)
    refuse_nan(state, path, "the training diverged: take an earlier checkpoint")
    build = _choose_build(run, checkpoint, state, path, options)
    pretraining = _describe_training(run, checkpoint, options)
    with whole_folder(target) as making:
        model = _write_network(state, build, making, contract, options, pretraining, path)
        if run and run.training_ids.is_file():
            shutil.copyfile(run.training_ids, making / TRAINING_IDS)
        name = options.name or target.name
        complete_model_dir(model, name=name, origin=_origin(options), golden=options.golden)
    return read_model_dir(target)


def _choose_build(
    run: TrainedRun | None, checkpoint: Checkpoint, state: State, path: Path, options: ExportOptions
) -> Build:
    """Take the run's own network, or find out which one a foreign checkpoint is."""
    if run is None:
        return find_build(checkpoint, state, arch=options.arch, heads=options.heads, where=path)
    if options.arch is not None or options.heads is not None:
        raise OptionError(f"{run.folder}: a run knows its network; leave out --arch and --heads")
    return named_build(run.architecture, state, where=path)


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
    step = checkpoint.get("step")
    if not isinstance(step, int):
        raise ModelError(f"{run.checkpoint}: does not say its step; no checkpoint of this run")
    training = run.pretraining(step, options.trained_on)
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
    build: Build,
    folder: Path,
    contract: Contract,
    options: ExportOptions,
    pretraining: Mapping[str, object],
    path: Path,
) -> ModelDir:
    bands = build.args.get("in_chans", len(contract.bands))
    if bands != len(contract.bands):
        takes, states = f"{bands} bands", f"{len(contract.bands)}"
        raise ModelError(f"the network takes {takes}, the contract states {states}")
    network = build.make(state, path)
    resize_input(network, contract.size_px)
    fed = {"img_size": contract.size_px} if "img_size" in build.args else {}
    default = getattr(network, "pretrained_cfg", _VIT_LAYERS)
    config: NetworkConfig = {
        "architecture": build.architecture,
        "num_classes": 0,
        "num_features": int(network.num_features),
        "model_args": {**build.args, **fed},
        "pretrained_cfg": {
            key: default[key] for key in ("first_conv", "classifier") if key in default
        },
        "network": options.network or "teacher",
        "pretraining": pretraining,
    }
    if options.half:
        network.half()
        refuse_nan(network.state_dict(), path, "its weights exceed 16 bits: leave out --half")
    return write_model_dir(
        folder, network, contract=contract, pooling=options.pooling, config=config
    )
