"""What is known of SageMaker's instances: processors, GPUs, room, SMDDP, and about what they cost."""

import json
import os
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from tilezoo.errors import LaunchError, OptionError

OWN_TABLE = "TILEZOO_INSTANCES"  # names a JSON file with entries that go before ours
_TABLE = Path(__file__).with_name("instances.json")


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One type of instance.

    Attributes:
        name: `ml.…`.
        vcpus: Hardware threads.
        gpus: 0 without any.
        gpu: Its name.
        gpu_gb: Memory of one.
        storage_gb: Local disks, which take the place of a volume; 0 without any.
        smddp: Whether SageMaker's data-parallel library runs on it.
        usd_per_hour: Estimate for training on demand; None where it is not known.
        pretrain_hours: That a pretraining like the user's took there; None where nobody said.
    """

    name: str
    vcpus: int
    gpus: int = 0
    gpu: str | None = None
    gpu_gb: int = 0
    storage_gb: int = 0
    smddp: bool = False
    usd_per_hour: float | None = None
    pretrain_hours: float | None = None


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Where prices are from."""

    recorded: str
    region: str
    currency: str
    source: str


def find_instance(name: str) -> Instance:
    """Look an instance up by its name.

    Raises:
        OptionError: There is none of that name; says which are near.
        LaunchError: The user's own table cannot be read.
    """
    known = instances()
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise OptionError(
            f"--instance {name!r}: no such instance in tilezoo's table; {hint}"
            f"add one with vcpus and gpus to a JSON file named by {OWN_TABLE}"
        )
    return known[name]


def instances() -> dict[str, Instance]:
    """Every instance by name, the user's own entries before ours."""
    entries = dict(_packaged()["instances"])
    for name, own in _own().items():
        entries[name] = {**entries.get(name, {}), **own}
    return {name: _instance(name, entry) for name, entry in entries.items()}


def prices() -> Prices:
    """Where the packaged prices are from."""
    return Prices(**_packaged()["prices"])


def smddp_instances() -> list[str]:
    """Names of the instances on which SMDDP runs."""
    return [name for name, instance in instances().items() if instance.smddp]


def _instance(name: str, entry: dict[str, Any]) -> Instance:
    try:
        return Instance(name=name, **entry)
    except TypeError as error:
        raise LaunchError(
            f"{os.environ.get(OWN_TABLE)}: {name}: give vcpus, and of gpus, gpu, gpu_gb, storage_gb, "
            f"smddp, usd_per_hour, pretrain_hours what is so ({error})"
        ) from error


@cache
def _packaged() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_TABLE.read_text(encoding="utf-8"))
    return table


def _own() -> dict[str, dict[str, Any]]:
    place = os.environ.get(OWN_TABLE)
    if not place:
        return {}
    try:
        table = json.loads(Path(place).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LaunchError(f"{OWN_TABLE}={place} cannot be read: {error}") from error
    entries = table.get("instances", table) if isinstance(table, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(one, dict) for one in entries.values()):
        raise LaunchError(
            f'{OWN_TABLE}={place} should be like {{"ml.g5.xlarge": {{"usd_per_hour": 1.2}}}}'
        )
    return entries
