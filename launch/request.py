"""The request of a training job, built by the SDK; and the folders that go with it."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tilezoo.launch.aws import Places
from tilezoo.launch.command import OUT
from tilezoo.launch.instances import JobPlan
from tilezoo.launch.options import MAX_HOURS
from tilezoo.launch.sdk import (
    AwsJson,
    Defaults,
    catch_request,
    open_mute_session,
    quiet,
    smddp_config,
)

PACKAGE = "tilezoo"
ROOMS = (
    "bigearthnet", "cli", "compare", "embed", "embed.inspection", "launch", "pretrain",
    "pretrain.packs", "probe", "probe.report", "products", "search", "zoo", "zoo.hub",
)  # fmt: skip
ENTRY = "tilezoo_job.py"  # what every process of a job runs
START = "tilezoo_start.py"  # what the container runs first; it starts the processes
REQUIREMENTS = "requirements.txt"
_SUFFIXES = (".py", ".json", ".toml", ".j2", ".typed")
# SageMaker's PyTorch containers hold these, built for their GPUs: never install over them.
_OF_CONTAINER = ("torch", "torchvision")
_SEARCH_ALONE = ("faiss-cpu",)  # no verb that is launched uses it
_TENSORBOARD = "/opt/ml/output/tensorboard"
_DAY_S = 24 * 3600
_NUMBER = r"(-?[0-9.]+(?:e[-+]?\d+)?)"
# As `tilezoo pretrain` says them where stderr is no terminal: `step=10 epoch=0.4 loss=10.9 …`.
METRICS = {
    name: rf"\b{name}={_NUMBER}"
    for name in ("step", "epoch", "loss", "entropy", "lr", "images_per_s", "knn_accuracy")
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is sent: the folders first, then the body.

    Attributes:
        body: Of CreateTrainingJob.
        uploads: S3 folder → the folder here that goes there.
    """

    body: AwsJson
    uploads: Mapping[str, Path]


def build_request(plan: JobPlan, places: Places, defaults: Defaults, staging: Path) -> Request:
    """Build the request and all that goes with it, without a word to the network.

    Args:
        plan: What runs.
        places: Where it lies.
        defaults: For what the options leave open.
        staging: An empty folder for the source.
    """
    source, shipped = staging / "source", staging / "shipped"
    trains = plan.command.verb == "pretrain"
    publishes = ("s3",) if plan.options.publish_as else ()
    write_source(source, extras=(*publishes, *(("tensorboard",) if trains else ())))
    uri = f"{places.job}source/"
    curves = {"s3_output_path": places.output.rstrip("/"), "local_path": _TENSORBOARD}
    body = catch_request(
        _trainer_options(plan, places, defaults, staging),
        metrics=METRICS if trains else {},
        tensorboard=curves if trains else None,
        session=open_mute_session(places.region, uri, shipped, defaults.config),
    )
    return Request(
        # The SDK would put a second of its clock behind the name.
        body={**body, "TrainingJobName": places.name},
        uploads={f"{uri}{path.name}": path for path in sorted(shipped.iterdir())},
    )


def _trainer_options(
    plan: JobPlan, places: Places, defaults: Defaults, staging: Path
) -> dict[str, object]:
    """What the SDK's ModelTrainer is made of, in its own classes."""
    with quiet():
        from sagemaker.core.training import configs

    asked = plan.options
    tags = {**defaults.tags, **dict(asked.tag_pairs)}
    return {
        "training_image": places.image,
        "role": places.role,
        "base_job_name": places.name,
        # `exec`: the container's first process hands SIGTERM on, which the SDK's shell does not.
        "source_code": configs.SourceCode(
            source_dir=str(staging / "source"),
            requirements=REQUIREMENTS,
            entry_script=ENTRY,
            command=f"exec $SM_PYTHON_CMD {START}",
        ),
        "distributed": _process_start(plan, staging / "driver"),
        "compute": _compute(plan, defaults),
        "networking": _networking(plan, defaults),
        "stopping_condition": _stopping_condition(plan),
        "output_data_config": configs.OutputDataConfig(
            s3_output_path=places.output.rstrip("/"),
            kms_key_id=asked.kms_key or defaults.output_key,
        ),
        "checkpoint_config": configs.CheckpointConfig(s3_uri=places.checkpoints, local_path=OUT),
        "input_data_config": [
            configs.InputData(channel_name=channel.name, data_source=channel.uri)
            for channel in plan.command.channels
        ],
        "hyperparameters": _hyperparameters(plan, places),
        "environment": _environment(plan, defaults),
        "tags": [configs.Tag(key=name, value=value) for name, value in tags.items()] or None,
    }


def _process_start(plan: JobPlan, folder: Path) -> Any:
    """The SDK's object for how processes start; None for one alone."""
    backend, processes = plan.distribution.backend, plan.distribution.processes
    if backend == "plain":
        return None
    if backend == "smddp":
        return smddp_config(folder, processes=processes)
    from sagemaker.train.distributed import Torchrun

    return Torchrun(process_count_per_node=processes)


def _compute(plan: JobPlan, defaults: Defaults) -> Any:
    from sagemaker.core.training.configs import Compute

    asked = plan.options
    # The SDK takes an absent value, and not None, for nothing.
    more = {
        "keep_alive_period_in_seconds": defaults.keep_alive_s,
        "volume_kms_key_id": asked.kms_key or defaults.volume_key,
    }
    return Compute(
        instance_type=asked.instance,
        instance_count=asked.count,
        volume_size_in_gb=asked.volume_gb,
        enable_managed_spot_training=asked.spot,
        **{name: value for name, value in more.items() if value},
    )


def _networking(plan: JobPlan, defaults: Defaults) -> Any:
    """A VPC as asked or configured; None without any."""
    from sagemaker.core.training.configs import Networking

    subnets = plan.options.subnets or defaults.subnets
    groups = plan.options.security_groups or defaults.security_groups
    if not subnets and defaults.isolated is None:
        return None
    return Networking(
        subnets=list(subnets) or None,
        security_group_ids=list(groups) or None,
        enable_network_isolation=defaults.isolated,
    )


def _stopping_condition(plan: JobPlan) -> Any:
    """How long the job may run; on spare capacity, with the time it may wait for some."""
    from sagemaker.core.training.configs import StoppingCondition

    seconds = round(plan.options.max_hours * 3600)
    wait = min(2 * seconds, seconds + _DAY_S, MAX_HOURS * 3600) if plan.options.spot else None
    return StoppingCondition(max_runtime_in_seconds=seconds, max_wait_time_in_seconds=wait)


def _hyperparameters(plan: JobPlan, places: Places) -> dict[str, str]:
    named = {"command": plan.command.hyperparameter()}
    if plan.options.publish_as:
        named |= {"publish_as": plan.options.publish_as, "registry": places.registry}
    return named


def _environment(plan: JobPlan, defaults: Defaults) -> dict[str, str]:
    own = {"TILEZOO_TENSORBOARD": _TENSORBOARD} if plan.command.verb == "pretrain" else {}
    return {**own, **defaults.environment, **dict(plan.options.environment)}


def write_source(folder: Path, *, extras: tuple[str, ...] = ()) -> None:
    """Lay out the folder that is shipped into a job.

    Args:
        folder: Made, with `tilezoo/`, models that come with it, the two scripts and
            `requirements.txt`.
        extras: Extras of tilezoo whose packages the job needs too, say `("s3",)`.
    """
    for name in (PACKAGE, *(f"{PACKAGE}.{room}" for room in ROOMS)):
        _copy_package(name, folder.joinpath(*name.split(".")))
    own = _folder_of(f"{PACKAGE}.launch")
    shutil.copyfile(own / "entry.py", folder / ENTRY)
    shutil.copyfile(own / "start.py", folder / START)
    lines = "".join(f"{line}\n" for line in job_requirements(extras))
    (folder / REQUIREMENTS).write_text(lines, encoding="utf-8")


def job_requirements(extras: tuple[str, ...] = ()) -> list[str]:
    """List what a job installs: what tilezoo needs, without what the container is built around."""
    wanted = [line for line in requires(PACKAGE) or () if _applies(line, extras)]
    plain = [line.split(";")[0].strip() for line in wanted]
    return sorted(line for line in plain if _name(line) not in (*_OF_CONTAINER, *_SEARCH_ALONE))


def _copy_package(name: str, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    own = _folder_of(name)
    for path in own.iterdir():
        if path.suffix in _SUFFIXES:
            shutil.copyfile(path, target / path.name)
    for config in own.glob("*/config.json"):
        shutil.copytree(config.parent, target / config.parent.name)


def _folder_of(name: str) -> Path:
    """Find where a package lies; in an editable install each room has a place of its own."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        msg = f"{name} is not installed"
        raise ModuleNotFoundError(msg)
    return Path(spec.origin).parent


def _applies(line: str, extras: tuple[str, ...]) -> bool:
    extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", line)
    return extra is None or extra[1] in extras


def _name(line: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", line)
    return match[0].lower() if match else line
