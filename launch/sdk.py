"""The SageMaker SDK as it is used here: quiet, its telemetry off, and without a way to the network.

It builds the request, and nothing else: what it would send is kept, what it would upload is noted
down. Both are sent later by boto3, when everything has been checked.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from tilezoo.errors import LaunchError

INSTALL = "pip install 'tilezoo[sagemaker]'"
# Else the SDK simulates the role's policies; preflight looks at the role itself.
_ENVIRONMENT = {"SAGEMAKER_VALIDATE_ROLE": "false"}


class _CaughtRequest(Exception):  # noqa: N818  (no error: what building ends with)
    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__("the request, which is not sent from here")
        self.body = body


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
    """Use the SDK for the block: no telemetry, no role simulation, no log lines, no warnings."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def image_uris() -> ModuleType:
    """The SDK's table of containers."""
    with quiet():
        from sagemaker.core import image_uris as found
    module: ModuleType = found
    return module


def user_config() -> dict[str, Any]:
    """Read the user's and the administrator's SageMaker defaults; {} without any.

    Raises:
        LaunchError: They are there, and cannot be read.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    with quiet():
        import jsonschema
        import yaml
        from sagemaker.core.config.config_manager import SageMakerConfig

        faults = (ValueError, OSError, yaml.YAMLError, jsonschema.ValidationError)
        try:
            found: dict[str, Any] = SageMakerConfig().load_sagemaker_config() or {}
        except (*faults, BotoCoreError, ClientError) as error:
            reason = str(error).splitlines()[0]
            raise LaunchError(f"SageMaker's config file cannot be read: {reason}") from error
    return found


def caught_request(
    trainer_options: Mapping[str, Any],
    *,
    metrics: Mapping[str, str],
    tensorboard: Mapping[str, str] | None,
    region: str,
    bucket: str,
    prefix: str,
    staging: Path,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """Let the SDK build the request of a training job, down to the bytes it would send.

    Args:
        trainer_options: Of `ModelTrainer`.
        metrics: Name → regular expression over the log.
        tensorboard: `s3_output_path` and `local_path`; None without.
        region: Of the service.
        bucket: Where the source is going to lie.
        prefix: Of its keys.
        staging: Gets a copy of every folder that is going to be uploaded, by its name there.
        config: The user's SageMaker defaults.

    Returns:
        The body of CreateTrainingJob, which botocore has validated.
    """
    with quiet():
        from sagemaker.train import ModelTrainer
        from sagemaker.train.configs import MetricDefinition, TensorBoardOutputConfig

        session = _mute_session(region, bucket, prefix, staging, _without_telemetry(config))
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


def _mute_session(
    region: str, bucket: str, prefix: str, staging: Path, config: dict[str, Any]
) -> Any:
    """Make a session of the SDK that keeps what it would send and upload."""
    import boto3
    from sagemaker.core.helper.session_helper import Session

    boto = boto3.Session(aws_access_key_id="none", aws_secret_access_key="none", region_name=region)
    boto.events.register("before-send", _refuse)
    boto.events.register("before-call.sagemaker.CreateTrainingJob", _catch)

    class MuteSession(Session):  # type: ignore[misc]  # the SDK is untyped
        """Uploads nothing."""

        def default_bucket(self) -> str:
            """The job's own bucket, without a question to the account."""
            return bucket

        def upload_data(self, path: str, *_rest: Any, key_prefix: str = "", **_more: Any) -> str:
            """Copy a folder aside; say where it is going to lie."""
            import shutil

            channel = Path(key_prefix).name
            shutil.copytree(path, staging / channel, ignore=shutil.ignore_patterns("__pycache__"))
            return f"s3://{bucket}/{prefix}{channel}"

    return MuteSession(boto_session=boto, sagemaker_config=config)


def _without_telemetry(config: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(config)) or {"SchemaVersion": "1.0"}
    node = changed
    for name in ("SageMaker", "PythonSDK", "Modules"):
        node = node.setdefault(name, {})
    node["TelemetryOptOut"] = True
    return changed


def _refuse(event_name: str, **_request: Any) -> None:
    """Answer what the SDK would ask on the way; it goes on without, as for a user without rights."""
    from botocore.exceptions import ClientError

    denied = {"Error": {"Code": "AccessDenied", "Message": "nothing is asked while building"}}
    raise ClientError(denied, event_name)


def _catch(params: Mapping[str, Any], **_more: Any) -> None:
    raise _CaughtRequest(json.loads(params["body"]))
