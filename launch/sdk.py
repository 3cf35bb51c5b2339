"""The SageMaker SDK as it is used here: quiet, its telemetry off, and without a way to the network.

It builds the request, and nothing else: what it would send is kept, what it would upload is copied
aside. Both are sent later by boto3, when everything has been checked. The SDK is imported inside
functions alone, and only in this module and in `request`.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from tilezoo.errors import LaunchError
from tilezoo.launch.start import SMDDP_DRIVER

# JSON by the names of others: a request or an answer of AWS's API, and the SDK's config file.
AwsJson: TypeAlias = Mapping[str, Any]
INSTALL = "pip install 'tilezoo[sagemaker]'"


def check_installed() -> None:
    """See that the extra is there.

    Raises:
        LaunchError: It is not; says how to install it.
    """
    missing = [name for name in ("boto3", "sagemaker") if find_spec(name) is None]
    if missing:
        raise LaunchError(f"launching needs {' and '.join(missing)}: {INSTALL}")


@contextmanager
def quiet() -> Iterator[None]:
    """Use the SDK without its log lines and warnings, for the block alone."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def load_image_uris() -> ModuleType:
    """Import the SDK's table of containers."""
    with quiet():
        from sagemaker.core import image_uris
    module: ModuleType = image_uris
    return module


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What the SDK's config.yaml, the user's and the administrator's, says of training jobs.

    Attributes:
        config: All of it, as the SDK takes it.
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

    config: AwsJson
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


def read_defaults() -> Defaults:
    """Read the config; what it says of `ModelTrainer` goes before what it says of all jobs.

    Raises:
        LaunchError: It is there, and cannot be read.
    """
    config = _read_config()
    job = config.get("SageMaker", {}).get("TrainingJob", {})
    modules = config.get("SageMaker", {}).get("PythonSDK", {}).get("Modules", {})
    trainer = modules.get("ModelTrainer", {})
    output = trainer.get("outputDataConfig", {})
    compute = trainer.get("compute", {})
    return Defaults(
        config=config,
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


def _read_config() -> AwsJson:
    """Read what is configured; {} where nothing is."""
    from botocore.exceptions import BotoCoreError, ClientError

    with quiet():
        import jsonschema
        import yaml
        from sagemaker.core.config.config_manager import SageMakerConfig

        faults = (ValueError, OSError, yaml.YAMLError, jsonschema.ValidationError)
        try:
            found: AwsJson = SageMakerConfig().load_sagemaker_config() or {}
        except (*faults, BotoCoreError, ClientError) as error:
            reason = str(error).splitlines()[0]
            raise LaunchError(f"SageMaker's config file cannot be read: {reason}") from error
    return found


def _default_bucket(session: Mapping[str, str]) -> str | None:
    bucket, prefix = session.get("DefaultS3Bucket"), session.get("DefaultS3ObjectKeyPrefix")
    if not bucket:
        return None
    return f"s3://{bucket}/{prefix}/tilezoo" if prefix else f"s3://{bucket}/tilezoo"


def smddp_config(folder: Path, *, processes: int) -> Any:
    """Make the SDK's object for processes that are started by mpirun and smddprun.

    The SDK's third major version has no class for it, but takes one: it copies the folder that
    `driver_dir` names into the job, so our driver, start.py itself, is put alone into one first.

    Args:
        folder: Made, with the driver in it.
        processes: On each host; its GPUs.
    """
    with quiet():
        from sagemaker.train.distributed import DistributedConfig

    class Smddp(DistributedConfig):  # type: ignore[misc]  # the SDK is untyped
        process_count_per_node: int

        @property
        def driver_dir(self) -> str:
            return str(folder)

        @property
        def driver_script(self) -> str:
            return SMDDP_DRIVER

    folder.mkdir(parents=True)
    shutil.copyfile(Path(__file__).with_name("start.py"), folder / SMDDP_DRIVER)
    return Smddp(process_count_per_node=processes)


def catch_request(
    trainer_options: Mapping[str, object],
    *,
    metrics: Mapping[str, str],
    tensorboard: Mapping[str, str] | None,
    session: Any,
) -> AwsJson:
    """Let the SDK build the request of a training job, down to the bytes it would send.

    Args:
        trainer_options: Of `ModelTrainer`.
        metrics: Name → regular expression over the log.
        tensorboard: `s3_output_path` and `local_path`; None without.
        session: From `open_mute_session`.

    Returns:
        The body of CreateTrainingJob, which botocore has validated.
    """
    with quiet():
        from sagemaker.core.training.configs import MetricDefinition, TensorBoardOutputConfig
        from sagemaker.train import ModelTrainer

        trainer = ModelTrainer(sagemaker_session=session, **trainer_options)
        trainer.with_metric_definitions(
            [MetricDefinition(name=name, regex=regex) for name, regex in metrics.items()]
        )
        if tensorboard:
            trainer.with_tensorboard_output_config(TensorBoardOutputConfig(**tensorboard))
        try:
            trainer.train(wait=False, logs=False)
        except _CaughtRequest as caught:
            return caught.body
    raise LaunchError("the SageMaker SDK built no request; please tell which `sagemaker` this is")


def open_mute_session(region: str, uri: str, staging: Path, config: AwsJson) -> Any:
    """Make a session of the SDK that keeps what it would send and upload.

    Args:
        region: Of the service.
        uri: `s3://BUCKET/FOLDER/` under which the source is going to lie.
        staging: Gets a copy of every folder that is going to be uploaded, by its name there.
        config: The user's.
    """
    with quiet():
        import boto3
        from sagemaker.core.helper.session_helper import Session

    boto = boto3.Session(aws_access_key_id="none", aws_secret_access_key="none", region_name=region)
    boto.events.register("before-send", _refuse)
    boto.events.register("before-call.sagemaker.CreateTrainingJob", _catch)

    class MuteSession(Session):  # type: ignore[misc]  # the SDK is untyped
        def default_bucket(self) -> str:
            """The job's own bucket, without a question to the account."""
            return uri.removeprefix("s3://").partition("/")[0]

        def upload_data(self, path: str, *_rest: Any, key_prefix: str = "", **_more: Any) -> str:
            """Copy a folder aside; say where it is going to lie."""
            channel = Path(key_prefix).name
            shutil.copytree(path, staging / channel, ignore=shutil.ignore_patterns("__pycache__"))
            return f"{uri}{channel}"

    with quiet():
        return MuteSession(boto_session=boto, sagemaker_config=_opt_out_of_telemetry(config))


class _CaughtRequest(Exception):  # noqa: N818  (no error: what building ends with)
    def __init__(self, body: AwsJson) -> None:
        super().__init__("the request, which is not sent from here")
        self.body = body


def _opt_out_of_telemetry(config: AwsJson) -> AwsJson:
    changed = json.loads(json.dumps(config)) or {"SchemaVersion": "1.0"}
    node = changed
    for name in ("SageMaker", "PythonSDK", "Modules"):
        node = node.setdefault(name, {})
    node["TelemetryOptOut"] = True
    mapping: AwsJson = changed
    return mapping


def _refuse(event_name: str, **_request: Any) -> None:
    """Answer what the SDK would ask on the way; it goes on without, as for a user without rights."""
    from botocore.exceptions import ClientError

    denied = {"Error": {"Code": "AccessDenied", "Message": "nothing is asked while building"}}
    raise ClientError(denied, event_name)


def _catch(params: AwsJson, **_more: Any) -> None:
    raise _CaughtRequest(json.loads(params["body"]))
