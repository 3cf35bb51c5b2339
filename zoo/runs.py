"""Folders of pretraining runs: what they are called, and what a model is made of."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilezoo.errors import ContractError, ModelError, PretrainError
from tilezoo.space import Contract, contract_from
from tilezoo.training_ids import TRAINING_IDS

RUN = "run.json"
RUN_VERSION = 1
CHECKPOINTS = "checkpoints"
LAST = "last.pth"
_KEPT = re.compile(r"^epoch-(\d{4,})\.pth$")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A run as export needs it.

    Attributes:
        folder: Where it lies.
        checkpoint: The one to take.
        contract: What pixels its network takes.
        request: What the run was asked for: run.json.
    """

    folder: Path
    checkpoint: Path
    contract: Contract
    request: dict[str, Any]

    @property
    def training_ids(self) -> Path:
        """The list of tiles it was trained on."""
        return self.folder / TRAINING_IDS

    def pretraining(self, step: int, data: str | None) -> dict[str, Any]:
        """What the model's contract says of its training.

        Args:
            step: The checkpoint's, which may be of a run that goes on.
            data: What it was trained on, in words; the pack's name unless given.
        """
        return {
            "method": "dino",
            "data": data or Path(self.request["pack"]["path"]).name,
            "tiles": self.request["tiles"],
            "ids_sha256": self.request["ids_sha256"],
            "recipe": self.request["recipe_name"],
            "epochs": self.request["recipe"]["epochs"],
            "step": step,
            "steps": self.request["steps"],
            "commit": self.request["commit"],
        }


def read_request(folder: Path) -> dict[str, Any] | None:
    """Read what a run was asked for; None when the folder holds no run.

    Raises:
        PretrainError: It is damaged or of another version.
    """
    path = folder / RUN
    if not path.is_file():
        return None
    try:
        request = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise PretrainError(f"{path}: not readable ({error}); start another run") from error
    if request.get("tilezoo_run") != RUN_VERSION:
        found = request.get("tilezoo_run")
        raise PretrainError(f"{path}: version {found} of the format, this program knows 1; update")
    return request


def kept_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of finished epochs, oldest first."""
    found = (folder / CHECKPOINTS).glob("epoch-*.pth")
    numbered = [(int(m[1]), path) for path in found if (m := _KEPT.match(path.name))]
    return [path for _, path in sorted(numbered)]


def trained_run(path: Path) -> TrainedRun | None:
    """Find the run that a folder, or a checkpoint in it, belongs to; None where there is none.

    Raises:
        ModelError: The run has no checkpoint yet, or does not say what its network takes.
        PretrainError: Its run.json is damaged.
    """
    folder = path if path.is_dir() else path.parent.parent
    request = read_request(folder)
    if request is None:
        return None
    checkpoint = _newest(folder) if path.is_dir() else path
    try:
        contract = contract_from(request["contract"])
    except (KeyError, TypeError, ValueError, ContractError) as error:
        raise ModelError(f"{folder / RUN}: no usable contract ({error!r})") from error
    return TrainedRun(folder=folder, checkpoint=checkpoint, contract=contract, request=request)


def _newest(folder: Path) -> Path:
    """The checkpoint the run would go on from; it is the newest unless it was deleted."""
    paths = [folder / CHECKPOINTS / LAST, *reversed(kept_checkpoints(folder))]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise ModelError(f"{folder}: the run has no checkpoint yet; let `tilezoo pretrain` go on")
    return found
