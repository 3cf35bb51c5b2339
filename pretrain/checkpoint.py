"""Checkpoints: all that a run needs to go on, in one file, whole or not at all."""

import json
import pickle
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from tilezoo import __version__
from tilezoo.errors import PretrainError
from tilezoo.io import whole_file
from tilezoo.progress import say
from tilezoo.space import Contract
from tilezoo.state import to_builtins, write_state
from tilezoo.zoo.runs import (
    CHECKPOINTS,
    LAST,
    RUN,
    RUN_VERSION,
    RunRequest,
    kept_checkpoints,
    read_request,
)

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


_FIXED = ("recipe", "contract", "tiles", "ids_sha256")  # what must stay when a run goes on
_PACKAGES = ("torch", "timm", "numpy", "pyarrow")


def settle(folder: Path, request: RunRequest) -> None:
    """Put a run's request down, or see that the one there is the same.

    Raises:
        PretrainError: The folder holds another run; names what differs.
    """
    found = read_request(folder)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_state(folder / RUN, request)
        return
    there, asked = (json.loads(json.dumps(to_builtins(one))) for one in (found, request))
    differing = [text for key in _FIXED for text in _differences(key, there[key], asked[key])]
    if differing:
        raise PretrainError(
            f"{folder} holds another run: {'; '.join(differing[:5])}; "
            "ask for the same again to go on, or choose another -o"
        )


def request_json(
    *,
    recipe_name: str,
    recipe: Mapping[str, object],
    contract: Contract,
    tiles: int,
    ids_sha256: str,
    pack: Mapping[str, object],
    steps: int,
    settings: Mapping[str, object],
) -> RunRequest:
    """Write down all that a run is: for going on, for export, and for its model's card."""
    return RunRequest(
        tilezoo_run=RUN_VERSION,
        recipe_name=recipe_name,
        recipe=recipe,
        contract=contract,
        tiles=tiles,
        ids_sha256=ids_sha256,
        pack=pack,
        steps=steps,
        settings=settings,
        versions={"tilezoo": __version__, **_versions()},
        commit=_commit(),
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a container's own build
            found[package] = "unknown"
    return found


def _commit() -> str | None:
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


def _differences(key: str, found: object, asked: object) -> list[str]:
    """Say what differs, by field where there are fields."""
    if isinstance(found, dict) and isinstance(asked, dict):
        names = sorted(found.keys() | asked.keys())
        pairs = [(name, found.get(name), asked.get(name)) for name in names]
    else:
        pairs = [(key, found, asked)]
    return [f"{name} is {old} there, {new} asked" for name, old, new in pairs if old != new]
