"""The main path: packed tiles → crops → student and teacher → checkpoints."""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from tilezoo.errors import InterruptedRunError, PretrainError, TilezooError
from tilezoo.folder_writer import one_writer
from tilezoo.options import options_of, verb
from tilezoo.pretrain.checkpoint import find_newest
from tilezoo.pretrain.distributed import (
    World,
    choose_own_device,
    find_world,
    join,
    same_for_all,
    wait_for_all,
)
from tilezoo.pretrain.knn_task import KnnTask, find_knn_task
from tilezoo.pretrain.log import Log, curve, read_log
from tilezoo.pretrain.loop import Loop, Stop, stop_on_signals
from tilezoo.pretrain.network import check_network
from tilezoo.pretrain.options import PackOptions, PretrainOptions
from tilezoo.pretrain.packs.shards import Pack, is_pack, open_pack
from tilezoo.pretrain.recipe import find_recipe
from tilezoo.pretrain.setup import Training, find_order, settle, stored_contract
from tilezoo.pretrain.trainer import Trainer, choose_precision
from tilezoo.progress import progress, say
from tilezoo.zoo.runs import CHECKPOINTS

_PACKED = "pack"  # in the run's folder, where the source is no pack
_FLAG = re.compile(r"--[a-z][a-z-]*")


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What a run came to.

    Attributes:
        run: Its folder.
        steps: Done so far.
        of_steps: In the whole run.
        loss: Mean of the last ten steps; None before any.
        knn_accuracy: Latest, where it is measured.
    """

    run: Path
    steps: int
    of_steps: int
    loss: float | None
    knn_accuracy: float | None

    @property
    def complete(self) -> bool:
        """Whether the run is at its end."""
        return self.steps == self.of_steps


@verb(PretrainOptions)
def pretrain(options: PretrainOptions) -> PretrainResult:
    """Pretrain a backbone by DINO; run again, it goes on where it was stopped.

    Raises:
        PretrainError: Another run is in the folder, the tiles do not do, or the run is unhealthy.
        InterruptedRunError: Ctrl-C; a checkpoint is written first.
        TilezooError: An option, a pack or a source cannot be used.
    """
    recipe = find_recipe(options.recipe, options.settings)
    world = find_world(options.backend, os.environ, cuda=torch.cuda.is_available())
    device = choose_own_device(options.device, world)
    with join(world), _hold(Path(options.out), world):
        pack = _find_pack(options, world)
        training = Training(
            run=Path(options.out),
            recipe_name=options.recipe,
            recipe=recipe,
            pack=pack,
            order=find_order(pack, recipe, world),
            world=world,
            device=device,
            precision=choose_precision(options.precision, device),
            compiled=options.compiled,
        )
        knn = _check(training)
        if world.first:
            settle(training)
        wait_for_all(world)
        with stop_on_signals() as stop:
            done = _train(training, knn, stop, options)
    _say_stopped(training, stop, done)
    return _result(training, done)


def _check(training: Training) -> KnnTask | None:
    """See that the recipe can be followed, before anything of the run is put down.

    Returns:
        The tiles for kNN accuracy; None for none.

    Raises:
        OptionError: No such network, or a schedule that is none.
        PretrainError: There are no labelled tiles for kNN.
    """
    check_network(training.recipe, len(training.pack.bands))
    _ = training.schedules
    return _knn_task(training)


@contextmanager
def _hold(run: Path, world: World) -> Iterator[None]:
    """Let the first process, which writes, hold the run's folder."""
    if not world.first:
        yield
        return
    with one_writer(run, "run", PretrainError):
        yield


def _find_pack(options: PretrainOptions, world: World) -> Pack:
    """Open the pack that is named, or pack what is named into the run's folder."""
    sources, folder = options.sources, Path(options.out) / _PACKED
    one = [sources] if isinstance(sources, str | Path) else sources
    if len(one) == 1 and is_pack(one[0]):
        return open_pack(one[0])
    if world.first:
        from tilezoo.pretrain.packs.packing import pack

        with _explain_pack_options():
            pack(
                sources,
                out=folder,
                bands=options.bands,
                value_range=options.value_range,
                nodata=options.nodata,
                labels=options.labels,
                show_progress=options.show_progress,
            )
    wait_for_all(world)
    return open_pack(folder)


@contextmanager
def _explain_pack_options() -> Iterator[None]:
    """Say whose options they are, where packing names some that pretraining has not."""
    try:
        yield
    except TilezooError as error:
        own = {one.flag for one in options_of(PretrainOptions)}
        theirs = {one.flag for one in options_of(PackOptions)} - own
        named = dict.fromkeys(flag for flag in _FLAG.findall(str(error)) if flag in theirs)
        if named:
            whose = "of `tilezoo pack SOURCE -o SHARDS`; then pretrain SHARDS"
            error.args = (f"{error} ({', '.join(named)}: {whose})",)
        raise


def _train(training: Training, knn: KnnTask | None, stop: Stop, options: PretrainOptions) -> int:
    """Go on from the newest checkpoint to the end, or to a signal; returns the steps done."""
    checkpoint = find_newest(training.run)
    first = checkpoint.step if checkpoint else 0
    _refuse_other_step(training, first)
    if first == training.steps:
        return first
    _say_how(training, first)
    if training.world.first:  # one process reads the shards for all
        training.pack.check()
    wait_for_all(training.world)
    trainer = Trainer(training)
    if checkpoint:
        trainer.restore(checkpoint)
    shown = options.show_progress and training.world.first
    tiles = (training.steps - first) * training.recipe.batch_size
    title = f"pretraining {training.recipe.architecture} from step {first}"
    with _open_log(training, first, aloud=shown) as log, progress(tiles, title, shown=shown) as bar:
        loop = Loop(
            training=training,
            trainer=trainer,
            log=log,
            knn=knn,
            checkpoint_seconds=60 * options.checkpoint_minutes,
            stop=stop,
            advance=bar,
        )
        return loop.go(first, training.steps)


def _open_log(training: Training, first: int, *, aloud: bool) -> AbstractContextManager[Log | None]:
    return Log(training.run, first, aloud=aloud) if training.world.first else nullcontext()


def _refuse_other_step(training: Training, first: int) -> None:
    """See that all processes go on from the same step."""
    if not same_for_all(first, training.world, training.device):
        raise PretrainError(
            f"{training.run}: this process finds the checkpoint of step {first}, another one does "
            "not: let every host have the folder, as a shared disk or a copy of the first host's"
        )


def _say_how(training: Training, first: int) -> None:
    """Say what was chosen for the user."""
    world = training.world
    if not world.first:
        return
    how = f"{training.device.type}, {training.precision}"
    if world.backend:
        how += f", {world.size} processes over {world.backend}"
    if world.smddp_missing:
        how += " (SMDDP was set up for them, but smdistributed is not installed here)"
    say(f"step {first} of {training.steps} on {how}")


def _knn_task(training: Training) -> KnnTask | None:
    if not training.recipe.knn_every_epochs or not training.world.first:
        return None
    task = find_knn_task(
        training.pack, stored_contract(training.pack, training.recipe), training.recipe.seed
    )
    if task is None:
        raise PretrainError(
            f"{training.pack.path}: knn_every_epochs needs tiles with one label each in a train and a "
            "validation split; pack with --labels FILE, or --set knn_every_epochs=0"
        )
    return task


def _say_stopped(training: Training, stop: Stop, done: int) -> None:
    """Say how to go on after a signal; Ctrl-C ends the command as it does everywhere."""
    if stop.asked is None or done == training.steps or not training.world.first:
        return
    text = (
        f"stopped by {stop.asked.name} after step {done} of {training.steps}; the checkpoint is in "
    )
    text += f"{training.run / CHECKPOINTS}: run the same command to go on"
    if stop.asked.name == "SIGINT":
        raise InterruptedRunError(text)
    say(text)


def _result(training: Training, done: int) -> PretrainResult:
    entries = read_log(training.run) if training.world.first else []
    losses, accuracies = (curve(entries, name) for name in ("loss", "knn_accuracy"))
    return PretrainResult(
        run=training.run,
        steps=done,
        of_steps=training.steps,
        loss=losses[-1][1] if losses else None,
        knn_accuracy=accuracies[-1][1] if accuracies else None,
    )
