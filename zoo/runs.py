"""Folders of pretraining runs: what they are called, what was asked, and what a model is made of."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tilezoo.errors import ContractError, ModelError, PretrainError
from tilezoo.io import from_builtins
from tilezoo.space import Contract, Unit
from tilezoo.training_ids import TRAINING_IDS

RUN = "run.json"
RUN_VERSION = 1
CHECKPOINTS = "checkpoints"
LAST = "last.pth"
_KEPT = re.compile(r"^epoch-(\d{4,})\.pth$")


@dataclass(frozen=True, kw_only=True)
class PackUsed:
    """The pack that a run reads.

    Attributes:
        path: Its folder.
        bands: As pack.json has them; so for the rest.
        dtype: Of its pixels.
        size_px: Side of its tiles, pixels.
        unit: Of the sources' pixels.
        value_range: Values of the sources' pixels that are 0 and 1.
        tiles: In all its shards.
        ids_sha256: Of all its tiles' ids.
        shards: What pack.json says of each.
    """

    path: str
    bands: tuple[str, ...]
    dtype: str
    size_px: int
    unit: Unit
    value_range: tuple[float, float]
    tiles: int
    ids_sha256: str
    shards: tuple[dict[str, object], ...]


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a run is computed, which is no part of what it is.

    Attributes:
        device: Its type.
        precision: Of the networks' products.
        compiled: Whether the networks are compiled.
        backend: How processes talk; None for one alone.
        processes: How many train together.
    """

    device: str
    precision: str
    compiled: bool
    backend: str | None
    processes: int


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """All that a run is, for going on, for export and for its model's card: run.json.

    Attributes:
        tilezoo_run: Version of the format.
        recipe_name: What the recipe is called.
        recipe: Its fields.
        contract: What pixels the network takes.
        tiles: How many it learns from.
        ids_sha256: Hash of their ids.
        pack: Where they lie.
        steps: Of the whole run.
        settings: Where and how it runs: what may change when it goes on.
        versions: Of the packages.
        commit: Of the code; None for an installed package.
    """

    tilezoo_run: int
    recipe_name: str
    recipe: Mapping[str, object]
    contract: Contract
    tiles: int
    ids_sha256: str
    pack: PackUsed
    steps: int
    settings: RunSettings
    versions: Mapping[str, str]
    commit: str | None


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What the model's config states of its training, in the order it is written.

    Attributes:
        method: Of learning.
        data: What it was trained on, in words.
        tiles: How many.
        ids_sha256: Hash of their ids.
        recipe: What the recipe is called.
        epochs: Of the whole run.
        step: The checkpoint's, which may be of a run that goes on.
        steps: Of the whole run.
        commit: Of the code.
    """

    method: str = "dino"
    data: str
    tiles: int
    ids_sha256: str
    recipe: str
    epochs: object
    step: int
    steps: int
    commit: str | None


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run as export needs it.

    Attributes:
        folder: Where it lies.
        checkpoint: The one to take.
        request: What the run was asked for.
    """

    folder: Path
    checkpoint: Path
    request: RunRequest

    @property
    def contract(self) -> Contract:
        """What pixels its network takes."""
        return self.request.contract

    @property
    def architecture(self) -> str:
        """The network, by the name it has in timm."""
        return str(self.request.recipe["architecture"])

    @property
    def training_ids(self) -> Path:
        """The list of tiles it was trained on."""
        return self.folder / TRAINING_IDS

    def pretraining(self, step: int, data: str | None) -> Pretraining:
        """State the training up to a step; the data is called as its pack unless it is named."""
        request = self.request
        return Pretraining(
            data=data or Path(request.pack.path).name,
            tiles=request.tiles,
            ids_sha256=request.ids_sha256,
            recipe=request.recipe_name,
            epochs=request.recipe["epochs"],
            step=step,
            steps=request.steps,
            commit=request.commit,
        )


def find_run(path: Path) -> TrainedRun | None:
    """Find the run that a folder, or a checkpoint in it, belongs to; None where there is none.

    Raises:
        ModelError: The run has no checkpoint yet, or does not say what its network takes.
        PretrainError: Its run.json is damaged.
    """
    folder = path if path.is_dir() else path.parent.parent
    try:
        request = read_request(folder)
    except ContractError as error:
        raise ModelError(f"{folder / RUN}: no usable contract ({error})") from error
    if request is None:
        return None
    checkpoint = _newest_checkpoint(folder) if path.is_dir() else path
    return TrainedRun(folder=folder, checkpoint=checkpoint, request=request)


def read_request(folder: Path) -> RunRequest | None:
    """Read what a run was asked for; None when the folder holds no run.

    Raises:
        PretrainError: It is damaged or of another version.
        ContractError: Its contract is none.
    """
    path = folder / RUN
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version = stored.get("tilezoo_run")
        request = from_builtins(stored, RunRequest) if version == RUN_VERSION else None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise PretrainError(f"{path}: not readable ({error}); start another run") from error
    if request is None:
        raise PretrainError(
            f"{path}: version {version} of the format, this program knows 1; update"
        )
    return request


def kept_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of finished epochs, oldest first."""
    paths = (folder / CHECKPOINTS).glob("epoch-*.pth")
    numbered = [(int(match[1]), path) for path in paths if (match := _KEPT.match(path.name))]
    return [path for _, path in sorted(numbered)]


def _newest_checkpoint(folder: Path) -> Path:
    """The checkpoint the run would go on from; it is the newest unless it was deleted."""
    paths = [folder / CHECKPOINTS / LAST, *reversed(kept_checkpoints(folder))]
    newest = next((path for path in paths if path.is_file()), None)
    if newest is None:
        raise ModelError(f"{folder}: the run has no checkpoint yet; let `tilezoo pretrain` go on")
    return newest
