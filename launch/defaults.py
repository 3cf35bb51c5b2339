"""What the user's own SageMaker configuration says of training jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
