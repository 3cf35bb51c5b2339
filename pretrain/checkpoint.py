"""Checkpoints: all that a run needs to go on, in one file, whole or not at all."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tilezoo.errors import PretrainError
from tilezoo.io import whole_file
from tilezoo.progress import say
from tilezoo.zoo.runs import CHECKPOINTS, LAST, kept_checkpoints

_VERSION = 1


def save_last(run: Path, state: Mapping[str, Any]) -> Path:
    """Replace the checkpoint that a stopped run goes on from."""
    return _save(run / CHECKPOINTS / LAST, state)


def save_kept(run: Path, state: Mapping[str, Any], *, epoch: int, keep: int) -> Path:
    """Keep a checkpoint of a finished epoch, and only the newest `keep` of those."""
    path = _save(run / CHECKPOINTS / f"epoch-{epoch:04d}.pth", state)
    for old in kept_checkpoints(run)[:-keep]:
        old.unlink()
    return path


def newest_state(run: Path) -> dict[str, Any] | None:
    """Read the checkpoint that is furthest on; a damaged one is told and passed over.

    Raises:
        PretrainError: There are checkpoints, but none can be read.
    """
    paths = [p for p in (run / CHECKPOINTS / LAST, *reversed(kept_checkpoints(run))) if p.exists()]
    states = []
    for path in paths[:2]:  # the last one, and the newest kept one beside it
        try:
            states.append(_load(path))
        except PretrainError as error:
            say(f"warning: {error}")
    if paths and not states:
        raise PretrainError(f"{run / CHECKPOINTS}: no checkpoint can be read; start another RUN")
    return max(states, key=lambda state: int(state["step"]), default=None)


def _save(path: Path, state: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(path) as temporary:
            torch.save({"tilezoo_checkpoint": _VERSION, **state}, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into the latter
        reason = _first_line(error) if isinstance(error, OSError) else "the disk is full, it seems"
        raise PretrainError(
            f"{path}: checkpoint not written ({reason}); the one before it stays: "
            "free some space and run the same command to go on"
        ) from error
    return path


def _load(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise PretrainError(f"{path}: not readable ({_first_line(error)})") from error
    if not isinstance(state, dict) or state.get("tilezoo_checkpoint") != _VERSION:
        raise PretrainError(f"{path}: no checkpoint of this version")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
