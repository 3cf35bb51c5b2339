"""What is trained, on what and how: settled before anything is built, and put down in run.json."""

import subprocess
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from tilezoo import __version__
from tilezoo.centres import narrow_boxes
from tilezoo.errors import OptionError, PretrainError
from tilezoo.geoparquet import read_boxes, write_boxes
from tilezoo.io import to_builtins, write_state
from tilezoo.pretrain.crops import CropMaker
from tilezoo.pretrain.distributed import World
from tilezoo.pretrain.packs.shards import Pack
from tilezoo.pretrain.recipe import Recipe, Schedules, make_schedules
from tilezoo.space import Contract, Precision
from tilezoo.training_ids import TRAINING_IDS, ids_sha256, write_training_ids
from tilezoo.zoo.runs import (
    CHECKPOINTS,
    RUN,
    RUN_VERSION,
    PackUsed,
    RunRequest,
    RunSettings,
    read_request,
)

# Mean and std of ImageNet's RGB: facebookresearch/dino, main_dino.py, DataAugmentationDINO.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_RESIZE_RATIO = 256 / 224  # facebookresearch/dino, eval_linear.py: resize to 256, crop 224
_FIXED = ("recipe", "contract", "tiles", "ids_sha256")  # what must stay when a run goes on
_MOST_SHOWN = 5  # differences that a message names
_PACKAGES = ("torch", "timm", "numpy", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which tiles a step takes: each epoch its own shuffle of them all, the rest left out.

    A function of seed, epoch and step alone, so a resumed run, or one on other processes, goes
    through the same tiles.

    Attributes:
        rows: Of the pack, those that are trained on.
        batch_size: Tiles per step, over all processes.
        seed: Of the shuffles.
    """

    rows: NDArray[np.int64]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return len(self.rows) // self.batch_size

    def epoch(self, number: int) -> NDArray[np.int64]:
        """Rows of an epoch in its order, shape (steps_per_epoch, batch_size)."""
        shuffle = np.random.default_rng([self.seed, number]).permutation(len(self.rows))
        whole = self.steps_per_epoch * self.batch_size
        return self.rows[shuffle[:whole]].reshape(self.steps_per_epoch, self.batch_size)


def find_order(pack: Pack, recipe: Recipe, world: World) -> Order:
    """Take the tiles that a recipe asks for.

    Raises:
        OptionError: Batches do not divide among the processes.
        PretrainError: There are fewer tiles than a batch takes.
    """
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


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that is settled before anything is built.

    Attributes:
        run: The run's folder.
        recipe_name: What the recipe is called.
        recipe: What the run follows.
        pack: Where the tiles lie.
        order: Which come when.
        world: The processes that train together.
        device: Where this one trains.
        precision: Of the networks' products; weights are float32.
        compiled: Whether the networks are compiled.
    """

    run: Path
    recipe_name: str
    recipe: Recipe
    pack: Pack
    order: Order
    world: World
    device: torch.device
    precision: Precision
    compiled: bool

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.order.steps_per_epoch

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.recipe.epochs * self.steps_per_epoch

    @cached_property
    def schedules(self) -> Schedules:
        """The values of each step."""
        return make_schedules(self.recipe, self.steps_per_epoch)

    @cached_property
    def maker(self) -> CropMaker:
        """Draws and makes crops of the pack's tiles."""
        contract = stored_contract(self.pack, self.recipe)
        return CropMaker(
            recipe=self.recipe,
            bands=contract.bands,
            value_range=contract.value_range,
            mean=contract.mean,
            std=contract.std,
        )


def model_contract(pack: Pack, recipe: Recipe) -> Contract:
    """What a model trained on the pack takes: pixels as the pack's sources had them.

    Raises:
        OptionError: ImageNet's mean and std are asked for, but the pack has not three bands.
    """
    mean, std = _mean_std(pack, recipe)
    return Contract(
        bands=pack.bands,
        unit=pack.manifest.unit,
        value_range=pack.value_range,
        quantize_uint8=pack.dtype == "uint8",
        size_px=recipe.global_px,
        resize="shorter_side_then_center_crop",
        resize_px=round(recipe.global_px * _RESIZE_RATIO),
        interpolation="bicubic",
        gsd_m=pack.manifest.gsd_m,
        values=pack.manifest.values,
        mean=mean,
        std=std,
    )


def stored_contract(pack: Pack, recipe: Recipe) -> Contract:
    """What stands in the pack: 8-bit tiles are scaled already."""
    contract = model_contract(pack, recipe)
    if pack.dtype != "uint8":
        return contract
    return replace(contract, unit="uint8", value_range=(0.0, 255.0))


def _mean_std(pack: Pack, recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if recipe.mean_std == "measured":
        return pack.mean, pack.std
    if len(pack.bands) != len(_IMAGENET[0]):
        raise OptionError(
            f"{pack.path} has {len(pack.bands)} bands, ImageNet's mean and std are of 3; "
            "take --set mean_std=measured"
        )
    return _IMAGENET


def settle(training: Training) -> None:
    """Put down what a run is and its tiles' ids, or see that its folder holds the same run.

    Raises:
        PretrainError: The folder holds another run; names what differs.
    """
    run, rows = training.run, training.order.rows
    ids = training.pack.column("id").combine_chunks().take(rows)
    asked = _request(training, ids_sha256(ids.to_pylist()))
    there = read_request(run)
    if there is None:
        run.mkdir(parents=True, exist_ok=True)
        write_state(run / RUN, asked)
    else:
        _refuse_other_run(run, there, asked)
    for folder in (run, run / CHECKPOINTS):
        for stale in folder.glob(".*.tmp"):  # of a killed run; this one holds the lock
            stale.unlink()
    write_training_ids(run / TRAINING_IDS, ids, _find_boxes(training.pack).take(rows))


def _find_boxes(pack: Pack) -> pa.StructArray:
    """The tiles' bounds; narrow ones across the antimeridian, so that they can be compared."""
    boxes = read_boxes(pack.column("bbox"))
    return write_boxes(
        narrow_boxes(boxes, lambda cut: pack.column("geometry").take(pa.array(cut)).to_pylist())
    )


def _request(training: Training, ids_digest: str) -> RunRequest:
    settings = RunSettings(
        device=training.device.type,
        precision=training.precision,
        compiled=training.compiled,
        backend=training.world.backend,
        processes=training.world.size,
    )
    return RunRequest(
        tilezoo_run=RUN_VERSION,
        recipe_name=training.recipe_name,
        recipe=training.recipe.to_json(),
        contract=model_contract(training.pack, training.recipe),
        tiles=len(training.order.rows),
        ids_sha256=ids_digest,
        pack=_describe_pack(training.pack),
        steps=training.steps,
        settings=settings,
        versions={"tilezoo": __version__} | {name: _find_version(name) for name in _PACKAGES},
        commit=_find_commit(),
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


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a container's own build
        return "unknown"


def _find_commit() -> str | None:
    """The commit of a checkout this code runs from; None for an installed package."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _refuse_other_run(run: Path, there: RunRequest, asked: RunRequest) -> None:
    ours, theirs = to_builtins(asked), to_builtins(there)
    differ = [text for key in _FIXED for text in _differences(key, theirs[key], ours[key])]
    if differ:
        raise PretrainError(
            f"{run} holds another run: {'; '.join(differ[:_MOST_SHOWN])}; "
            "ask for the same again to go on, or choose another -o"
        )


def _differences(key: str, there: object, asked: object) -> list[str]:
    """Say what differs, by field where there are fields."""
    if isinstance(there, dict) and isinstance(asked, dict):
        names = sorted(there.keys() | asked.keys())
        pairs = [(name, there.get(name), asked.get(name)) for name in names]
    else:
        pairs = [(key, there, asked)]
    return [f"{name} is {old} there, {new} asked" for name, old, new in pairs if old != new]
