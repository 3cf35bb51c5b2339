"""Checkpoints: all that a run needs to go on, in one file, whole or not at all."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilezoo.errors import PretrainError
from tilezoo.io import whole_file
from tilezoo.progress import say
from tilezoo.zoo.runs import CHECKPOINTS, LAST, kept_checkpoints

_VERSION = 1

StateDict = Mapping[str, Any]  # as torch's modules and optimisers give and take it


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on after `step` steps; random numbers follow from the step.

    Attributes:
        step: How many are done.
        student: Its weights.
        teacher: Its weights.
        optimiser: Its moments.
        scaler: Of the gradients in fp16; empty in other precisions.
        center: Of the teacher's outputs, shape (1, K).
    """

    step: int
    student: StateDict
    teacher: StateDict
    optimiser: StateDict
    scaler: StateDict
    center: Tensor


def save_last(run: Path, checkpoint: Checkpoint) -> Path:
    """Replace the checkpoint that a stopped run goes on from."""
    return _save(run / CHECKPOINTS / LAST, checkpoint)


def save_kept(run: Path, checkpoint: Checkpoint, *, epoch: int, keep: int) -> Path:
    """Keep a checkpoint of a finished epoch, and only the newest `keep` of those."""
    path = _save(run / CHECKPOINTS / f"epoch-{epoch:04d}.pth", checkpoint)
    for old in kept_checkpoints(run)[:-keep]:
        old.unlink()
    return path


def find_newest(run: Path) -> Checkpoint | None:
    """Read the checkpoint that is furthest on; a damaged one is passed over with a warning.

    Raises:
        PretrainError: There are checkpoints, but none can be read.
    """
    paths = [p for p in (run / CHECKPOINTS / LAST, *reversed(kept_checkpoints(run))) if p.exists()]
    read = []
    for path in paths[:2]:  # the last one, and the newest kept one beside it
        try:
            read.append(_load(path))
        except PretrainError as error:
            say(f"warning: {error}")
    if paths and not read:
        raise PretrainError(f"{run / CHECKPOINTS}: no checkpoint can be read; start another RUN")
    return max(read, key=lambda checkpoint: checkpoint.step, default=None)


def _save(path: Path, checkpoint: Checkpoint) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    try:
        with whole_file(path) as temporary:
            torch.save({"tilezoo_checkpoint": _VERSION, **content}, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        reason = _first_line(error) if isinstance(error, OSError) else "the disk is full, it seems"
        raise PretrainError(
            f"{path}: checkpoint not written ({reason}); the one before it stays: "
            "free some space and run the same command to go on"
        ) from error
    return path


def _load(path: Path) -> Checkpoint:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise PretrainError(f"{path}: not readable ({_first_line(error)})") from error
    names = {field.name for field in fields(Checkpoint)}
    known = isinstance(content, dict) and content.pop("tilezoo_checkpoint", None) == _VERSION
    if not known or names - content.keys():
        raise PretrainError(f"{path}: no checkpoint of this version")
    return Checkpoint(**{name: content[name] for name in names})


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
