"""The folder of a run: what it was asked for, and that it is not asked for anything else."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tilezoo import __version__
from tilezoo.errors import PretrainError
from tilezoo.io import write_json
from tilezoo.space import Contract
from tilezoo.zoo.runs import RUN, RUN_VERSION, read_request

_FIXED = ("recipe", "contract", "tiles", "ids_sha256")  # what must stay when a run goes on
_PACKAGES = ("torch", "timm", "numpy", "pyarrow")


def settle(folder: Path, request: Mapping[str, Any]) -> None:
    """Put a run's request down, or see that the one there is the same.

    Raises:
        PretrainError: The folder holds another run; names what differs.
    """
    found = read_request(folder)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RUN, request)
        return
    asked = json.loads(json.dumps(request))
    differing = [text for key in _FIXED for text in _differences(key, found.get(key), asked[key])]
    if differing:
        raise PretrainError(
            f"{folder} holds another run: {'; '.join(differing[:5])}; "
            "ask for the same again to go on, or choose another -o"
        )


def request_json(
    *,
    recipe_name: str,
    recipe: Mapping[str, Any],
    contract: Contract,
    tiles: int,
    ids_sha256: str,
    pack: Mapping[str, Any],
    steps: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Write down all that a run is: for going on, for export, and for its model's card."""
    return {
        "tilezoo_run": RUN_VERSION,
        "recipe_name": recipe_name,
        "recipe": dict(recipe),
        "contract": asdict(contract),
        "tiles": tiles,
        "ids_sha256": ids_sha256,
        "pack": dict(pack),
        "steps": steps,
        "settings": dict(settings),
        "versions": {"tilezoo": __version__, **_versions()},
        "commit": _commit(),
    }


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
