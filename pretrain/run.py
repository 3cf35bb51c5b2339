"""The main path: packed tiles → crops → student and teacher → checkpoints."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from tilezoo.errors import InterruptedRunError, OptionError, PretrainError
from tilezoo.pretrain.batches import Feed, Order, model_contract, stored_contract
from tilezoo.pretrain.checkpoint import newest_state, request_json, settle
from tilezoo.pretrain.crops import CropMaker
from tilezoo.pretrain.distributed import (
    BackendWish,
    World,
    find_world,
    same_for_all,
    together,
    training_device,
    wait_for_all,
)
from tilezoo.pretrain.knn_task import KnnTask, knn_task
from tilezoo.pretrain.log import Log, read_log
from tilezoo.pretrain.loop import Loop, Stop, stop_on_signals
from tilezoo.pretrain.packs.shards import Pack, is_pack, open_pack
from tilezoo.pretrain.recipe import Recipe, find_recipe, make_schedules
from tilezoo.pretrain.trainer import Precision, PrecisionWish, Trainer, chosen_precision
from tilezoo.progress import progress, say
from tilezoo.training_ids import TRAINING_IDS, ids_sha256, write_training_ids
from tilezoo.zoo.runs import CHECKPOINTS

DEFAULT_RECIPE = "dino-vits16-bigearthnet"
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
class _Plan:
    """What is trained, on what and how, settled before anything is built."""

    run: Path
    recipe: Recipe
    pack: Pack
    order: Order
    world: World
    device: torch.device
    precision: Precision
    compiled: bool

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.order.steps_per_epoch


def pretrain(
    sources: Sequence[str | Path] | str | Path,
    *,
    out: str | Path,
    recipe: str = DEFAULT_RECIPE,
    settings: Sequence[str] = (),
    bands: str | None = None,
    value_range: str | None = None,
    labels: str | None = None,
    device: str = "auto",
    precision: PrecisionWish = "auto",
    backend: BackendWish = "auto",
    compiled: bool = False,
    checkpoint_minutes: float = 10.0,
    show_progress: bool = False,
) -> PretrainResult:
    """Pretrain a backbone by DINO; run again, it goes on where it was stopped.

    Args:
        sources: A pack of `tilezoo pack`; or files and folders, which are packed first.
        out: The run's folder.
        recipe: Name of a recipe.
        settings: `key=value`, changes to the recipe.
        bands: For packing sources: see `pack`.
        value_range: For packing sources: see `pack`.
        labels: For packing sources: see `pack`.
        device: `auto`, `cpu`, `cuda`, …
        precision: `auto` takes bf16 where the hardware is fast at it.
        backend: How processes talk: `auto` takes SMDDP where SageMaker set it up, else NCCL
            with GPUs, else gloo.
        compiled: Compile the networks (torch.compile) first.
        checkpoint_minutes: Between checkpoints that a killed run goes on from; 0 for every step.
        show_progress: Show a bar (or lines) on stderr.

    Raises:
        PretrainError: Another run is in the folder, the tiles do not do, or the run is unhealthy.
        InterruptedRunError: Ctrl-C; a checkpoint is written first.
        TilezooError: An option, a pack or a source cannot be used.
    """
    chosen = find_recipe(recipe, settings)
    world = find_world(backend, os.environ, cuda=torch.cuda.is_available())
    place = training_device(device, world)
    run = Path(out)
    with ExitStack() as stack:
        stack.enter_context(_writable(run))
        stack.enter_context(together(world))
        stack.enter_context(_locked(run, world))
        pack = _opened(sources, run, world, bands, value_range, labels, show_progress=show_progress)
        plan = _Plan(
            run=run,
            recipe=chosen,
            pack=pack,
            order=_order(pack, chosen, world),
            world=world,
            device=place,
            precision=chosen_precision(precision, place),
            compiled=compiled,
        )
        _settled(plan, recipe)
        stop = stack.enter_context(stop_on_signals())
        done = _trained(plan, stop, checkpoint_minutes, show_progress=show_progress)
    _say_stopped(plan, stop, done)
    return _result(plan, done)


@contextmanager
def _writable(run: Path) -> Iterator[None]:
    """Tell a full or forbidden disk in one line, whatever was being written."""
    try:
        yield
    except OSError as error:
        raise PretrainError(
            f"{run}: not writable ({error.strerror or error}); what is there stays: free some space "
            "and run the same command to go on"
        ) from error


@contextmanager
def _locked(run: Path, world: World) -> Iterator[None]:
    """Hold the run's folder, so that no second run writes into it."""
    if not world.first:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise PretrainError(f"{run}: another process is training here; wait or stop it") from None
    try:
        yield
    finally:
        lock.release()


def _opened(
    sources: Sequence[str | Path] | str | Path,
    run: Path,
    world: World,
    bands: str | None,
    value_range: str | None,
    labels: str | None,
    *,
    show_progress: bool,
) -> Pack:
    """Open the pack that is named, or pack what is named into the run's folder."""
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    if len(named) == 1 and is_pack(Path(named[0])):
        return open_pack(named[0])
    if world.first:
        from tilezoo.pretrain.packs.packing import pack

        pack(
            named,
            out=run / _PACKED,
            bands=bands,
            value_range=value_range,
            labels=labels,
            show_progress=show_progress,
        )
    wait_for_all(world)
    return open_pack(run / _PACKED)


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


def _settled(plan: _Plan, recipe_name: str) -> None:
    """See that the folder holds this run, or nothing; put down what the run is."""
    if plan.world.first:
        ids = plan.pack.column("id").combine_chunks().take(plan.order.rows)
        request = request_json(
            recipe_name=recipe_name,
            recipe=plan.recipe.to_json(),
            contract=model_contract(plan.pack, plan.recipe),
            tiles=len(plan.order.rows),
            ids_sha256=ids_sha256(ids.to_pylist()),
            pack=_pack_facts(plan.pack),
            steps=plan.steps,
            settings={
                "device": plan.device.type,
                "precision": plan.precision,
                "compiled": plan.compiled,
                "backend": plan.world.backend,
                "processes": plan.world.size,
            },
        )
        settle(plan.run, request)
        _clear_leftovers(plan.run)
        bboxes = plan.pack.column("bbox").combine_chunks().take(plan.order.rows)
        write_training_ids(plan.run / TRAINING_IDS, ids, bboxes)
    wait_for_all(plan.world)


def _pack_facts(pack: Pack) -> dict[str, Any]:
    names = ("bands", "dtype", "size_px", "unit", "value_range", "tiles", "ids_sha256", "shards")
    return {"path": str(pack.path), **{name: pack.manifest[name] for name in names}}


def _clear_leftovers(run: Path) -> None:
    """Remove what a killed run was writing; the lock is held."""
    for folder in (run, run / CHECKPOINTS):
        for stale in folder.glob(".*.tmp"):
            stale.unlink()


def _trained(plan: _Plan, stop: Stop, minutes: float, *, show_progress: bool) -> int:
    """Go on from the newest checkpoint to the end, or to a signal; returns the steps done."""
    state = newest_state(plan.run)
    first = int(state["step"]) if state else 0
    if not same_for_all(first, plan.world, plan.device):
        raise PretrainError(
            f"{plan.run}: this process finds the checkpoint of step {first}, another one does not: "
            "let every host have the folder, as a shared disk or a copy of the first host's"
        )
    if first == plan.steps:
        return first
    _say_how(plan, first)
    if plan.world.first:  # one process reads the shards for all
        plan.pack.check()
    wait_for_all(plan.world)
    schedules = make_schedules(plan.recipe, plan.order.steps_per_epoch)
    maker = _maker(plan)
    trainer = Trainer(
        plan.recipe,
        maker,
        schedules,
        steps_per_epoch=plan.order.steps_per_epoch,
        world=plan.world,
        device=plan.device,
        precision=plan.precision,
        compiled=plan.compiled,
    )
    if state:
        trainer.restore(state)
    with ExitStack() as stack:
        loop = Loop(
            run=plan.run,
            recipe=plan.recipe,
            steps_per_epoch=plan.order.steps_per_epoch,
            schedules=schedules,
            trainer=trainer,
            feed=Feed(plan.pack, plan.order, maker, plan.world, pinned=plan.device.type == "cuda"),
            log=stack.enter_context(Log(plan.run, first, told=show_progress))
            if plan.world.first
            else None,
            knn=_knn(plan),
            world=plan.world,
            checkpoint_seconds=60 * minutes,
            stop=stop,
            advance=stack.enter_context(
                progress(
                    (plan.steps - first) * plan.recipe.batch_size,
                    f"pretraining {plan.recipe.architecture} from step {first}",
                    shown=show_progress and plan.world.first,
                )
            ),
        )
        return loop.go(first, plan.steps)


def _say_how(plan: _Plan, first: int) -> None:
    """Say what was chosen for the user."""
    if plan.world.first:
        processes = f", {plan.world.size} processes over {plan.world.backend}"
        if plan.world.smddp_missing:
            processes += " (SMDDP was set up for them, but smdistributed is not installed here)"
        how = f"{plan.device.type}, {plan.precision}{processes if plan.world.backend else ''}"
        say(f"step {first} of {plan.steps} on {how}")


def _maker(plan: _Plan) -> CropMaker:
    contract = stored_contract(plan.pack, plan.recipe)
    return CropMaker(
        recipe=plan.recipe,
        bands=contract.bands,
        value_range=contract.value_range,
        mean=contract.mean,
        std=contract.std,
    )


def _knn(plan: _Plan) -> KnnTask | None:
    if not plan.recipe.knn_every_epochs or not plan.world.first:
        return None
    task = knn_task(plan.pack, stored_contract(plan.pack, plan.recipe), plan.recipe.seed)
    if task is None:
        raise PretrainError(
            f"{plan.pack.path}: knn_every_epochs needs tiles with one label each in a train and a "
            "validation split; pack with --labels FILE, or --set knn_every_epochs=0"
        )
    return task


def _say_stopped(plan: _Plan, stop: Stop, done: int) -> None:
    """Say how to go on after a signal; Ctrl-C ends the command as it does everywhere."""
    if stop.asked is None or done == plan.steps or not plan.world.first:
        return
    text = f"stopped by {stop.asked.name} after step {done} of {plan.steps}; the checkpoint is in "
    text += f"{plan.run / CHECKPOINTS}: run the same command to go on"
    if stop.asked.name == "SIGINT":
        raise InterruptedRunError(text)
    say(text)


def _result(plan: _Plan, done: int) -> PretrainResult:
    entries = read_log(plan.run) if plan.world.first else []
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    accuracies = [entry["knn_accuracy"] for entry in entries if "knn_accuracy" in entry]
    return PretrainResult(
        run=plan.run,
        steps=done,
        of_steps=plan.steps,
        loss=losses[-1] if losses else None,
        knn_accuracy=accuracies[-1] if accuracies else None,
    )
