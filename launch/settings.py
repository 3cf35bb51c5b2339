"""What a job is asked to be, checked before anything else."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tilezoo.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Of the SageMaker SDK's config.yaml.

    Attributes:
        role: Name or ARN.
        output: `s3://…`; None where neither a place nor a default bucket is configured.
        output_key: KMS key of what jobs write.
        volume_key: KMS key of volumes.
        keep_alive_s: Seconds for which instances are kept (and paid) for the next job.
        environment: Of jobs.
        subnets: Of a VPC.
        security_groups: Of the VPC.
        isolated: Whether jobs are kept from the network.
        tags: Put on jobs.
    """

    role: str | None
    output: str | None
    output_key: str | None
    volume_key: str | None
    keep_alive_s: int | None
    environment: Mapping[str, str]
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    isolated: bool | None
    tags: Mapping[str, str]


def read_defaults(config: Mapping[str, Any]) -> Defaults:
    """Read the defaults; those of `ModelTrainer` go before those of all training jobs."""
    job = config.get("SageMaker", {}).get("TrainingJob", {})
    modules = config.get("SageMaker", {}).get("PythonSDK", {}).get("Modules", {})
    trainer = modules.get("ModelTrainer", {})
    output = trainer.get("outputDataConfig", {})
    compute = trainer.get("compute", {})
    return Defaults(
        role=trainer.get("role") or job.get("RoleArn"),
        output=output.get("s3_output_path") or _default_bucket(modules.get("Session", {})),
        output_key=output.get("kms_key_id") or job.get("OutputDataConfig", {}).get("KmsKeyId"),
        volume_key=compute.get("volume_kms_key_id")
        or job.get("ResourceConfig", {}).get("VolumeKmsKeyId"),
        keep_alive_s=compute.get("keep_alive_period_in_seconds"),
        environment={**job.get("Environment", {}), **trainer.get("environment", {})},
        subnets=tuple(job.get("VpcConfig", {}).get("Subnets", ())),
        security_groups=tuple(job.get("VpcConfig", {}).get("SecurityGroupIds", ())),
        isolated=job.get("EnableNetworkIsolation"),
        tags={tag["Key"]: tag["Value"] for tag in job.get("Tags", ())},
    )


def _default_bucket(session: Mapping[str, Any]) -> str | None:
    bucket, prefix = session.get("DefaultS3Bucket"), session.get("DefaultS3ObjectKeyPrefix")
    if not bucket:
        return None
    return f"s3://{bucket}/{prefix}/tilezoo" if prefix else f"s3://{bucket}/tilezoo"


BackendWish = Literal["auto", "smddp", "nccl", "gloo"]
NAME_MAX = 63
MAX_HOURS = 28 * 24  # the service's limit on a training job
_JOB_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")  # CreateTrainingJob, TrainingJobName
_ROLE_ARN = re.compile(r"arn:aws[a-z\-]*:iam::\d{12}:role/?[\w+=,.@\-/]+", re.ASCII)
_ROLE_NAME = re.compile(r"[\w+=,.@\-]{1,64}", re.ASCII)
_ENV_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_ORG_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*", re.ASCII)
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/.*)?")


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """The options of one launch.

    Attributes:
        instance: SageMaker's name of the instances' type.
        count: Instances.
        backend: How the processes of a pretraining talk.
        max_hours: Of running; then the service stops the job.
        volume_gb: Room for data on each instance.
        spot: Spare capacity, cheaper, which may be taken away.
        role: Name or ARN of the role the job takes; None: the configured one.
        region: None: the configured one.
        output: `s3://…` under which all of a job lies; None: the configured place.
        name: The job's; None: made of the verb and the time.
        image: The container; None: SageMaker's PyTorch for the instance.
        env: Names and values for the job's environment.
        tags: Names and values put on the job.
        subnets: Of a VPC.
        security_groups: Of the VPC.
        kms_key: Encrypts the volume and what the job writes.
        publish_as: org/name to publish a finished pretraining as.
    """

    instance: str
    count: int = 1
    backend: BackendWish = "auto"
    max_hours: float = 24.0
    volume_gb: int = 100
    spot: bool = False
    role: str | None = None
    region: str | None = None
    output: str | None = None
    name: str | None = None
    image: str | None = None
    env: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    kms_key: str | None = None
    publish_as: str | None = None

    def __post_init__(self) -> None:
        """Refuse what the service would refuse, and what makes no sense."""
        _check(self.count >= 1, f"--count {self.count}: must be 1 or more")
        _check(self.volume_gb >= 1, f"--volume-gb {self.volume_gb}: must be 1 or more")
        _check(
            0 < self.max_hours <= MAX_HOURS,
            f"--max-hours {self.max_hours:g}: must be above 0 and at most {MAX_HOURS} (28 days)",
        )
        if self.name is not None:
            check_job_name(self.name)
        if self.role is not None:
            _check(
                bool(_ROLE_ARN.fullmatch(self.role) or _ROLE_NAME.fullmatch(self.role)),
                f"--role {self.role!r}: give a role's name, or arn:aws:iam::ACCOUNT:role/NAME",
            )
        if self.output is not None:
            check_s3_folder("--output", self.output)
        _check(
            bool(self.subnets) == bool(self.security_groups),
            "--subnet and --security-group go together: a VPC needs one of each at least",
        )
        if self.publish_as is not None:
            _check(
                bool(_ORG_NAME.fullmatch(self.publish_as)),
                f"--publish-as {self.publish_as!r}: give org/name",
            )
        for name, _value in self.env:
            _check(
                bool(_ENV_NAME.fullmatch(name)),
                f"--env {name!r}: a name has letters, digits and _ and begins with no digit",
            )
        _no_doubles("--env", [name for name, _ in self.env])
        _no_doubles("--tag", [name for name, _ in self.tags])


def check_job_name(name: str) -> None:
    """Refuse a name that SageMaker would refuse."""
    if len(name) > NAME_MAX:
        raise OptionError(
            f"--name {name!r} has {len(name)} characters: SageMaker takes at most {NAME_MAX}"
        )
    if not _JOB_NAME.fullmatch(name):
        raise OptionError(
            f"--name {name!r}: SageMaker takes letters, digits and single -, no - at either end"
        )


def check_s3_folder(option: str, uri: str) -> None:
    """Refuse what is no place in S3."""
    if not _BUCKET.fullmatch(uri):
        raise OptionError(f"{option} {uri!r} should be s3://BUCKET/FOLDER")


def parse_pairs(option: str, texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read `K=V` of each text."""
    pairs = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise OptionError(f"{option} {text!r} should be NAME=VALUE")
        pairs.append((name, value))
    return tuple(pairs)


def is_role_arn(role: str) -> bool:
    """Tell an ARN from a name."""
    return role.startswith("arn:")


def _check(fine: bool, message: str) -> None:
    if not fine:
        raise OptionError(message)


def _no_doubles(option: str, names: Sequence[str]) -> None:
    double = next((name for name in names if names.count(name) > 1), None)
    _check(double is None, f"{option} {double}: given twice")
