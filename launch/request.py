"""The request of a training job, built by the SDK; and the folders that go with it."""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tilezoo.launch.command import OUT, JobCommand
from tilezoo.launch.distribution import Distribution
from tilezoo.launch.sdk import caught_request, quiet
from tilezoo.launch.settings import Defaults, LaunchSettings, read_defaults

PACKAGE = "tilezoo"
ROOMS = (
    "bigearthnet", "cli", "compare", "embed", "launch", "pretrain", "pretrain.packs", "probe",
    "probe.report", "search", "zoo", "zoo.hub",
)  # fmt: skip
ENTRY = "tilezoo_job.py"  # what every process of a job runs
START = "tilezoo_start.py"  # what the container runs first; it starts the processes
REQUIREMENTS = "requirements.txt"
_SUFFIXES = (".py", ".json", ".j2", ".typed")
# SageMaker's PyTorch containers hold these, built for their GPUs: never install over them.
_OF_CONTAINER = ("torch", "torchvision")
_SEARCH_ALONE = ("faiss-cpu",)  # no verb that is launched uses it


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
    for path in _code(own):
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


def _code(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES)


def _applies(line: str, extras: tuple[str, ...]) -> bool:
    extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", line)
    return extra is None or extra[1] in extras


def _name(line: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", line)
    return match[0].lower() if match else line


_TENSORBOARD = "/opt/ml/output/tensorboard"
_DAY_S = 24 * 3600
_MAX_S = 28 * _DAY_S
_NUMBER = r"(-?[0-9.]+(?:e[-+]?\d+)?)"
# As `tilezoo pretrain` says them where stderr is no terminal: `step=10 epoch=0.4 loss=10.9 …`.
METRICS = {
    name: rf"\b{name}={_NUMBER}"
    for name in ("step", "epoch", "loss", "entropy", "lr", "images_per_s", "knn_accuracy")
}


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a job lies, settled before anything is built.

    Attributes:
        region: Of the service.
        role: ARN.
        output: `s3://…/` under which everything lies.
        name: The job's.
        image: The container.
    """

    region: str
    role: str
    output: str
    name: str
    image: str

    @property
    def job(self) -> str:
        """The folder of this one job."""
        return f"{self.output}{self.name}/"

    def checkpoints(self, command: JobCommand) -> str:
        """Where the command's result lies: at its own `-o s3://…`, else fresh for this job."""
        return command.out or f"{self.job}checkpoints/"

    def registry(self) -> str:
        """Where a finished pretraining is published."""
        return f"{self.output}registry"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is sent: the folders first, then the body.

    Attributes:
        body: Of CreateTrainingJob.
        uploads: S3 folder → the folder here that goes there.
    """

    body: dict[str, Any]
    uploads: Mapping[str, Path]


def build_request(
    command: JobCommand,
    settings: LaunchSettings,
    distribution: Distribution,
    places: Places,
    *,
    config: Mapping[str, Any],
    staging: Path,
) -> Request:
    """Build the request and all that goes with it, without a word to the network.

    Args:
        command: As the job runs it.
        settings: As asked.
        distribution: How its processes start.
        places: Where it lies.
        config: The user's SageMaker defaults.
        staging: An empty folder for the source.
    """
    source = staging / "source"
    publishes = ("s3",) if settings.publish_as else ()
    curves = ("tensorboard",) if command.verb == "pretrain" else ()
    write_source(source, extras=(*publishes, *curves))
    bucket, _, prefix = places.job.removeprefix("s3://").partition("/")
    shipped = staging / "shipped"
    body = caught_request(
        _trainer_options(command, settings, distribution, places, config, source, staging),
        metrics=METRICS if command.verb == "pretrain" else {},
        tensorboard={"s3_output_path": places.output.rstrip("/"), "local_path": _TENSORBOARD}
        if curves
        else None,
        region=places.region,
        bucket=bucket,
        prefix=f"{prefix}source/",
        staging=shipped,
        config=config,
    )
    body["TrainingJobName"] = places.name  # the SDK would put a second of its clock behind it
    uploads = {f"{places.job}source/{path.name}": path for path in sorted(shipped.iterdir())}
    return Request(body=body, uploads=uploads)


def _trainer_options(
    command: JobCommand,
    settings: LaunchSettings,
    distribution: Distribution,
    places: Places,
    config: Mapping[str, Any],
    source: Path,
    staging: Path,
) -> dict[str, Any]:
    with quiet():
        from sagemaker.train import configs

        seconds = round(settings.max_hours * 3600)
        wait = min(2 * seconds, seconds + _DAY_S, _MAX_S) if settings.spot else None
        defaults = read_defaults(config)
        tags = {**defaults.tags, **dict(settings.tags)}
        return {
            "training_image": places.image,
            "role": places.role,
            "base_job_name": places.name,
            # `exec`: the container's first process hands SIGTERM on, which the SDK's shell does not.
            "source_code": configs.SourceCode(
                source_dir=str(source),
                requirements=REQUIREMENTS,
                entry_script=ENTRY,
                command=f"exec $SM_PYTHON_CMD {START}",
            ),
            "distributed": _distributed(distribution, staging / "driver"),
            "compute": _compute(settings, defaults),
            "networking": _networking(settings, defaults),
            "stopping_condition": configs.StoppingCondition(
                max_runtime_in_seconds=seconds, max_wait_time_in_seconds=wait
            ),
            "output_data_config": configs.OutputDataConfig(
                s3_output_path=places.output.rstrip("/"),
                kms_key_id=settings.kms_key or defaults.output_key,
            ),
            "checkpoint_config": configs.CheckpointConfig(
                s3_uri=places.checkpoints(command), local_path=OUT
            ),
            "input_data_config": [
                configs.InputData(channel_name=channel.name, data_source=channel.uri)
                for channel in command.channels
            ],
            "hyperparameters": _hyperparameters(command, settings, places),
            "environment": _environment(command, settings, defaults),
            "tags": [configs.Tag(key=name, value=value) for name, value in tags.items()] or None,
        }


def _distributed(distribution: Distribution, folder: Path) -> Any:
    """The SDK's class for how processes start; None for one alone."""
    if distribution.backend == "plain":
        return None
    if distribution.backend == "smddp":
        from tilezoo.launch.smddp import Smddp

        return Smddp.within(folder, processes=distribution.processes)
    from sagemaker.train.distributed import Torchrun

    return Torchrun(process_count_per_node=distribution.processes)


def _compute(settings: LaunchSettings, defaults: Defaults) -> Any:
    from sagemaker.train.configs import Compute

    # The SDK takes an absent value, and not None, for nothing.
    more: dict[str, Any] = {
        "keep_alive_period_in_seconds": defaults.keep_alive_s,
        "volume_kms_key_id": settings.kms_key or defaults.volume_key,
    }
    return Compute(
        instance_type=settings.instance,
        instance_count=settings.count,
        volume_size_in_gb=settings.volume_gb,
        enable_managed_spot_training=settings.spot,
        **{name: value for name, value in more.items() if value},
    )


def _networking(settings: LaunchSettings, defaults: Defaults) -> Any:
    """A VPC as asked or configured; None without any."""
    from sagemaker.train.configs import Networking

    subnets = settings.subnets or defaults.subnets
    groups = settings.security_groups or defaults.security_groups
    if not subnets and defaults.isolated is None:
        return None
    return Networking(
        subnets=list(subnets) or None,
        security_group_ids=list(groups) or None,
        enable_network_isolation=defaults.isolated,
    )


def _hyperparameters(
    command: JobCommand, settings: LaunchSettings, places: Places
) -> dict[str, str]:
    named = {"command": command.hyperparameter()}
    if settings.publish_as:
        named |= {"publish_as": settings.publish_as, "registry": places.registry()}
    return named


def _environment(
    command: JobCommand, settings: LaunchSettings, defaults: Defaults
) -> dict[str, str]:
    own = {"TILEZOO_TENSORBOARD": _TENSORBOARD} if command.verb == "pretrain" else {}
    return {**own, **defaults.environment, **dict(settings.env)}
