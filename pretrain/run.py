"""The main path: packed tiles → crops → student and teacher → checkpoints."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from tilezoo.errors import InterruptedRunError, OptionError, PretrainError
from tilezoo.folder_writer import one_writer
from tilezoo.options import verb
from tilezoo.pretrain.batches import Feed, Order, model_contract, stored_contract
from tilezoo.pretrain.checkpoint import find_commit, find_newest, find_versions, settle
from tilezoo.pretrain.crops import CropMaker
from tilezoo.pretrain.distributed import (
    World,
    choose_own_device,
    find_world,
    join,
    same_for_all,
    wait_for_all,
)
from tilezoo.pretrain.knn_task import KnnTask, knn_task
from tilezoo.pretrain.log import Log, curve, read_log
from tilezoo.pretrain.loop import Loop, Stop, stop_on_signals
from tilezoo.pretrain.options import PretrainOptions
from tilezoo.pretrain.packs.shards import Pack, is_pack, open_pack
from tilezoo.pretrain.recipe import Recipe, Schedules, find_recipe, make_schedules
from tilezoo.pretrain.trainer import Trainer, choose_precision
from tilezoo.progress import Advance, progress, say
from tilezoo.space import Precision
from tilezoo.state import to_builtins
from tilezoo.training_ids import TRAINING_IDS, ids_sha256, write_training_ids
from tilezoo.zoo.runs import CHECKPOINTS, RUN_VERSION, PackUsed, RunRequest, RunSettings

_PACKED = "pack"  # in the run's folder, where the source is no pack


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


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What is trained, on what and how, settled before anything is built."""

    options: PretrainOptions
    recipe: Recipe
    pack: Pack
    order: Order
    world: World
    device: torch.device
    precision: Precision

    @property
    def run(self) -> Path:
        return Path(self.options.out)

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.order.steps_per_epoch


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
    with _hold(Path(options.out), world), join(world):
        pack = _find_pack(options, world)
        training = _Training(
            options=options,
            recipe=recipe,
            pack=pack,
            order=_order(pack, recipe, world),
            world=world,
            device=device,
            precision=choose_precision(options.precision, device),
        )
        _settle(training)
        with stop_on_signals() as stop:
            done = _train(training, stop)
    _say_stopped(training, stop, done)
    return _result(training, done)


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

        pack(
            sources,
            out=folder,
            bands=options.bands,
            value_range=options.value_range,
            labels=options.labels,
            show_progress=options.show_progress,
        )
    wait_for_all(world)
    return open_pack(folder)


def _order(pack: Pack, recipe: Recipe, world: World) -> Order:
    rows = pack.where_split(recipe.split)
    if recipe.batch_size % world.size:
        raise OptionError(
            f"batch_size={recipe.batch_size} does not divide among {world.size} processes"
        )
    if len(rows) < recipe.batch_size:
        raise PretrainError(
            f"{pack.path}: {len(rows)} tiles of split {recipe.split!r} are fewer than a batch of "
            f"{recipe.batch_size}; pack more, or --set batch_size=… or --set split=all"
        )
    return Order(rows=rows, batch_size=recipe.batch_size, seed=recipe.seed)


def _settle(training: _Training) -> None:
    """See that the folder holds this run, or nothing; put down what the run is."""
    if training.world.first:
        rows = training.order.rows
        ids = training.pack.column("id").combine_chunks().take(rows)
        bboxes = training.pack.column("bbox").combine_chunks().take(rows)
        settle(training.run, _request(training, ids_sha256(ids.to_pylist())))
        _clear_leftovers(training.run)
        write_training_ids(training.run / TRAINING_IDS, ids, bboxes)
    wait_for_all(training.world)


def _request(training: _Training, ids_digest: str) -> RunRequest:
    settings = RunSettings(
        device=training.device.type,
        precision=training.precision,
        compiled=training.options.compiled,
        backend=training.world.backend,
        processes=training.world.size,
    )
    return RunRequest(
        tilezoo_run=RUN_VERSION,
        recipe_name=training.options.recipe,
        recipe=training.recipe.to_json(),
        contract=model_contract(training.pack, training.recipe),
        tiles=len(training.order.rows),
        ids_sha256=ids_digest,
        pack=_describe_pack(training.pack),
        steps=training.steps,
        settings=settings,
        versions=find_versions(),
        commit=find_commit(),
    )


def _describe_pack(pack: Pack) -> PackUsed:
    manifest = pack.manifest
    return PackUsed(
        path=str(pack.path),
        bands=manifest.bands,
        dtype=manifest.dtype,
        size_px=manifest.size_px,
        unit=manifest.unit,
        value_range=manifest.value_range,
        tiles=manifest.tiles,
        ids_sha256=manifest.ids_sha256,
        shards=tuple(map(to_builtins, manifest.shards)),
    )


def _clear_leftovers(run: Path) -> None:
    """Remove what a killed run was writing; the lock is held."""
    for folder in (run, run / CHECKPOINTS):
        for stale in folder.glob(".*.tmp"):
            stale.unlink()


def _train(training: _Training, stop: Stop) -> int:
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
    schedules = make_schedules(training.recipe, training.order.steps_per_epoch)
    maker = _crop_maker(training)
    trainer = _trainer(training, maker, schedules)
    if checkpoint:
        trainer.restore(checkpoint)
    with ExitStack() as stack:
        log = stack.enter_context(_open_log(training, first)) if training.world.first else None
        advance = stack.enter_context(_show_progress(training, first))
        loop = _loop(training, trainer, schedules, maker, stop=stop, log=log, advance=advance)
        return loop.go(first, training.steps)


def _refuse_other_step(training: _Training, first: int) -> None:
    """See that all processes go on from the same step."""
    if not same_for_all(first, training.world, training.device):
        raise PretrainError(
            f"{training.run}: this process finds the checkpoint of step {first}, another one does "
            "not: let every host have the folder, as a shared disk or a copy of the first host's"
        )


def _say_how(training: _Training, first: int) -> None:
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


def _crop_maker(training: _Training) -> CropMaker:
    contract = stored_contract(training.pack, training.recipe)
    return CropMaker(
        recipe=training.recipe,
        bands=contract.bands,
        value_range=contract.value_range,
        mean=contract.mean,
        std=contract.std,
    )


def _trainer(training: _Training, maker: CropMaker, schedules: Schedules) -> Trainer:
    return Trainer(
        training.recipe,
        maker,
        schedules,
        steps_per_epoch=training.order.steps_per_epoch,
        world=training.world,
        device=training.device,
        precision=training.precision,
        compiled=training.options.compiled,
    )


def _open_log(training: _Training, first: int) -> Log:
    return Log(training.run, first, aloud=training.options.show_progress)


def _show_progress(training: _Training, first: int) -> AbstractContextManager[Advance]:
    return progress(
        (training.steps - first) * training.recipe.batch_size,
        f"pretraining {training.recipe.architecture} from step {first}",
        shown=training.options.show_progress and training.world.first,
    )


def _loop(
    training: _Training,
    trainer: Trainer,
    schedules: Schedules,
    maker: CropMaker,
    *,
    stop: Stop,
    log: Log | None,
    advance: Advance,
) -> Loop:
    pinned = training.device.type == "cuda"
    return Loop(
        run=training.run,
        recipe=training.recipe,
        steps_per_epoch=training.order.steps_per_epoch,
        schedules=schedules,
        trainer=trainer,
        feed=Feed(training.pack, training.order, maker, training.world, pinned=pinned),
        log=log,
        knn=_knn_task(training),
        world=training.world,
        checkpoint_seconds=60 * training.options.checkpoint_minutes,
        stop=stop,
        advance=advance,
    )


def _knn_task(training: _Training) -> KnnTask | None:
    if not training.recipe.knn_every_epochs or not training.world.first:
        return None
    task = knn_task(
        training.pack, stored_contract(training.pack, training.recipe), training.recipe.seed
    )
    if task is None:
        raise PretrainError(
            f"{training.pack.path}: knn_every_epochs needs tiles with one label each in a train and a "
            "validation split; pack with --labels FILE, or --set knn_every_epochs=0"
        )
    return task


def _say_stopped(training: _Training, stop: Stop, done: int) -> None:
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


def _result(training: _Training, done: int) -> PretrainResult:
    entries = read_log(training.run) if training.world.first else []
    losses, accuracies = (curve(entries, name) for name in ("loss", "knn_accuracy"))
    return PretrainResult(
        run=training.run,
        steps=done,
        of_steps=training.steps,
        loss=losses[-1][1] if losses else None,
        knn_accuracy=accuracies[-1][1] if accuracies else None,
    )
