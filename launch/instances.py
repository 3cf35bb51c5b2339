"""What is known of SageMaker's instances: processors, GPUs, room, SMDDP, and about what they cost."""

import json
import os
import re
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


# The last one that holds SMDDP (2.6.0, CUDA 12.4); aws/deep-learning-containers has it in none after.
SMDDP_VERSION, SMDDP_PYTHON = "2.5.1", "py311"
# For all else: one that is in (nearly) every region; Python 3.12, CUDA 12.9.
VERSION, PYTHON = "2.8.0", "py312"
_DLC = re.compile(r"/pytorch-training:(\d+)\.(\d+)[^-]*-(cpu|gpu)-")


def find_image(region: str, instance: str, *, smddp: bool) -> str:
    """Name the container of a region for an instance.

    Raises:
        LaunchError: The region has none.
    """
    from tilezoo.launch.sdk import image_uris

    version, python = (SMDDP_VERSION, SMDDP_PYTHON) if smddp else (VERSION, PYTHON)
    try:
        found: str = image_uris().retrieve(
            "pytorch",
            region=region,
            version=version,
            py_version=python,
            instance_type=instance,
            image_scope="training",
        )
    except ValueError as error:
        raise LaunchError(
            f"region {region!r} has no PyTorch {version} container for {instance}: "
            "choose another --region, or name one with --image"
        ) from error
    return found


def image_fault_for_smddp(image: str | None) -> str | None:
    """Say why a container cannot hold SMDDP; None where it can, or where one cannot know."""
    match = _DLC.search(image or "")
    if match is None:
        return None
    if match[3] == "cpu":
        return f"{image} is for CPUs"
    if (int(match[1]), int(match[2])) > (2, 5):
        return f"{image} does not hold SMDDP, whose last container is PyTorch 2.5's"
    return None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Price and time of a job; an estimate, and never an offer.

    Attributes:
        usd_per_hour: Of all its instances; None where the table has no price.
        max_hours: After which SageMaker stops it.
        usd_at_most: For all these hours; None as above.
        hours: That a job like it took, where the table says so; None else.
        basis: Where the figures are from.
    """

    usd_per_hour: float | None
    max_hours: float
    usd_at_most: float | None
    hours: float | None
    basis: str

    def text(self) -> str:
        """Say it in a line."""
        if self.usd_per_hour is None or self.usd_at_most is None:
            return f"price not known: see {self.basis}"
        took = f", {self.hours:g} h as recorded for such a job" if self.hours else ""
        return (
            f"about ${self.usd_per_hour:,.2f} an hour, at most ${self.usd_at_most:,.2f} for "
            f"{self.max_hours:g} h{took} ({self.basis})"
        )


def estimate(verb: str, instance: Instance, *, count: int, max_hours: float) -> Estimate:
    """Estimate what a job costs on demand; a spot job costs less."""
    known = prices()
    price = instance.usd_per_hour
    return Estimate(
        usd_per_hour=None if price is None else round(price * count, 4),
        max_hours=max_hours,
        usd_at_most=None if price is None else round(price * count * max_hours, 2),
        hours=instance.pretrain_hours if verb == "pretrain" else None,
        basis=f"estimate on demand in {known.region}, recorded {known.recorded}; "
        f"put in your own prices by {OWN_TABLE}",
    )
