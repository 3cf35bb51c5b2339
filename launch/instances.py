"""What a job runs on: SageMaker's instances, their containers and prices, and how processes start."""

import json
import os
import re
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal

from tilezoo.errors import LaunchError, OptionError
from tilezoo.io import from_builtins, read_state
from tilezoo.launch.command import JobCommand
from tilezoo.launch.options import JobBackend, LaunchOptions
from tilezoo.launch.sdk import load_image_uris

OWN_TABLE = "TILEZOO_INSTANCES"  # names a JSON file with entries that go before ours
# The last one that holds SMDDP (2.6.0, CUDA 12.4); aws/deep-learning-containers has it in none after.
SMDDP_VERSION, SMDDP_PYTHON = "2.5.1", "py311"
# For all else: one that is in (nearly) every region; Python 3.12, CUDA 12.9.
VERSION, PYTHON = "2.8.0", "py312"
_TABLE = Path(__file__).with_name("instances.json")
_DLC = re.compile(r"/pytorch-training:(\d+)\.(\d+)[^-]*-(cpu|gpu)-")
_VCPUS_A_PROCESS = 4  # of gloo on CPUs: two cores, each with two threads


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One type of instance.

    Attributes:
        name: `ml.…`.
        vcpus: Hardware threads.
        gpus: How many; 0 for none.
        gpu: Name of a GPU.
        gpu_gb: Memory of a GPU.
        storage_gb: Of its own disks, which take the place of a volume; 0 for none.
        smddp: Whether SageMaker's data-parallel library runs on it.
        usd_per_hour: Estimate for training on demand; None where it is not known.
        pretrain_hours: What a pretraining like the user's took there; None where it is not known.
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
    entries = dict(_packaged().instances)
    for name, own in _read_own().items():
        entries[name] = {**entries.get(name, {}), **own}
    return {name: _make_instance(name, entry) for name, entry in entries.items()}


def prices() -> Prices:
    """Where the packaged prices are from."""
    return _packaged().prices


def smddp_instances() -> list[str]:
    """Names of the instances on which SMDDP runs."""
    return [name for name, instance in instances().items() if instance.smddp]


# An instance without its name, or what a user changes of one.
_Entry = dict[str, str | int | float | bool | None]


@dataclass(frozen=True, kw_only=True)
class _Table:
    prices: Prices
    instances: dict[str, _Entry]


@cache
def _packaged() -> _Table:
    return read_state(_TABLE, _Table, fix="install tilezoo anew", error=LaunchError)


def _read_own() -> dict[str, _Entry]:
    place = os.environ.get(OWN_TABLE)
    if not place:
        return {}
    try:
        table = json.loads(Path(place).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LaunchError(f"{OWN_TABLE}={place} cannot be read: {error}") from error
    try:
        entries = table.get("instances", table) if isinstance(table, dict) else table
        return from_builtins(entries, dict[str, _Entry])
    except ValueError as error:
        raise LaunchError(
            f'{OWN_TABLE}={place} should be like {{"ml.g5.xlarge": {{"usd_per_hour": 1.2}}}}'
        ) from error


def _make_instance(name: str, entry: _Entry) -> Instance:
    try:
        if unknown := set(entry) - {field.name for field in fields(Instance)}:
            raise ValueError(f"not known: {', '.join(sorted(unknown))}")
        return from_builtins({**entry, "name": name}, Instance)
    except ValueError as error:
        raise LaunchError(
            f"{os.environ.get(OWN_TABLE)}: {name}: give vcpus, and of gpus, gpu, gpu_gb, storage_gb, "
            f"smddp, usd_per_hour, pretrain_hours what is so ({error})"
        ) from error


def find_image(region: str, instance: str, *, smddp: bool) -> str:
    """Name the container of a region for an instance.

    Raises:
        LaunchError: The region has none.
    """
    version, python = (SMDDP_VERSION, SMDDP_PYTHON) if smddp else (VERSION, PYTHON)
    try:
        found: str = load_image_uris().retrieve(
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
    """Say why a container cannot hold SMDDP; None where it can, or where that is not known."""
    match = _DLC.search(image or "")
    if match is None:
        return None
    if match[3] == "cpu":
        return f"{image} is for CPUs"
    if (int(match[1]), int(match[2])) > (2, 5):
        return f"{image} does not hold SMDDP, whose last container is PyTorch 2.5's"
    return None


def check_image(image: str, region: str) -> None:
    """Refuse a container of another region's registry.

    Raises:
        LaunchError: SageMaker takes containers of its own region only.
    """
    match = re.search(r"\.dkr\.ecr\.([a-z0-9\-]+)\.", image)
    if match and match[1] != region:
        raise LaunchError(
            f"--image is in {match[1]} and the job in {region}: push it there, or choose "
            f"--region {match[1]}"
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Price and time of a job; an estimate, and never an offer.

    Attributes:
        usd_per_hour: Of all its instances; None where the table has no price.
        max_hours: After which SageMaker stops it.
        usd_at_most: For all these hours; None where the table has no price.
        hours: What a job like it took; None where the table does not say.
        basis: Where the prices are from.
    """

    usd_per_hour: float | None
    max_hours: float
    usd_at_most: float | None
    hours: float | None
    basis: str

    def text(self) -> str:
        """Write it as a line."""
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


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How the processes of a job are started.

    Attributes:
        backend: `plain` for one process alone.
        processes: On each instance.
    """

    backend: Literal["smddp", "nccl", "gloo", "plain"]
    processes: int = 1


PLAIN = Distribution(backend="plain")


def choose_distribution(
    verb: str, instance: Instance, *, count: int, wish: JobBackend, image: str | None
) -> Distribution:
    """Choose how a job's processes talk, or refuse a wish that cannot come true.

    Args:
        verb: Only `pretrain` runs as several processes.
        instance: What it runs on.
        count: How many instances.
        wish: What `--backend` asks for.
        image: The user's own container, if any.

    Raises:
        OptionError: The wish is impossible; says what to choose instead.
    """
    if verb != "pretrain":
        return _alone(verb, count, wish)
    processes = instance.gpus or max(1, instance.vcpus // _VCPUS_A_PROCESS)
    if wish == "smddp":
        _refuse_smddp(instance, count, image)
        return Distribution(backend="smddp", processes=processes)
    if wish == "nccl" and not instance.gpus:
        raise OptionError(f"--backend nccl: {instance.name} has no GPU; take --backend gloo")
    if wish != "auto":
        return Distribution(backend=wish, processes=processes) if processes * count > 1 else PLAIN
    if instance.smddp and count > 1 and not image_fault_for_smddp(image):
        return Distribution(backend="smddp", processes=processes)
    if instance.gpus:
        return Distribution(backend="nccl", processes=processes) if processes * count > 1 else PLAIN
    return Distribution(backend="gloo", processes=processes) if count > 1 else PLAIN


def _alone(verb: str, count: int, wish: JobBackend) -> Distribution:
    if count > 1:
        raise OptionError(
            f"--count {count}: {verb} runs on one instance; only pretrain takes several"
            + ("; launch it once for each --shard I/N" if verb == "embed" else "")
        )
    if wish != "auto":
        raise OptionError(f"--backend {wish}: {verb} is one process; leave the option away")
    return PLAIN


def _refuse_smddp(instance: Instance, count: int, image: str | None) -> None:
    if not instance.smddp:
        raise OptionError(
            f"--backend smddp does not run on {instance.name}: take --instance "
            f"{' or '.join(smddp_instances())}, or --backend {'nccl' if instance.gpus else 'gloo'}"
        )
    if count < 2:
        raise OptionError(
            "--backend smddp needs two instances or more: take --count 2, or --backend nccl"
        )
    if fault := image_fault_for_smddp(image):
        raise OptionError(f"--backend smddp: {fault}; leave --image away, or take --backend nccl")


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What runs, on what, and how: all of a job that needs no account.

    Attributes:
        options: As asked.
        command: As the job runs it.
        instance: The type of each instance.
        distribution: How processes start on each.
        price: Estimated.
    """

    options: LaunchOptions
    command: JobCommand
    instance: Instance
    distribution: Distribution
    price: Estimate

    @property
    def processes(self) -> int:
        """Processes on all instances."""
        return self.options.count * self.distribution.processes


def plan_job(asked: LaunchOptions) -> JobPlan:
    """Settle what needs no account.

    Raises:
        OptionError: No such instance, or a backend that cannot run there.
    """
    instance = find_instance(asked.instance)
    verb = asked.job.verb
    distribution = choose_distribution(
        verb, instance, count=asked.count, wish=asked.wish, image=asked.image
    )
    return JobPlan(
        options=asked,
        command=_say_backend(asked.job, distribution),
        instance=instance,
        distribution=distribution,
        price=estimate(verb, instance, count=asked.count, max_hours=asked.max_hours),
    )


def _say_backend(command: JobCommand, distribution: Distribution) -> JobCommand:
    """Say the backend in the command too, so that in the job it comes true or fails."""
    if distribution.backend == "plain" or command.backend is not None:
        return command
    return command.with_words("--backend", distribution.backend)
