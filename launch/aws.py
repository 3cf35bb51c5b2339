"""The user's AWS: sessions and clients, and its errors in one line each."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tilezoo.errors import LaunchError
from tilezoo.launch.sdk import check_installed
from tilezoo.launch.settings import Defaults, LaunchSettings, check_s3_folder, is_role_arn

_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "Forbidden")
_BAD_KEYS = (
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
)
_NO_CREDENTIALS = (
    "no AWS credentials: run `aws configure` or `aws sso login`, or set AWS_PROFILE, or "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


@contextmanager
def told() -> Iterator[None]:
    """Turn what botocore raises in the block into one line with what to do."""
    from boto3.exceptions import Boto3Error  # an upload that failed
    from botocore import exceptions as of_botocore

    try:
        yield
    except (of_botocore.NoCredentialsError, of_botocore.PartialCredentialsError) as error:
        raise LaunchError(_NO_CREDENTIALS) from error
    except of_botocore.ClientError as error:
        raise LaunchError(_client_error(error)) from error
    except of_botocore.EndpointConnectionError as error:
        raise LaunchError(f"{error}; is the network there, and is the region right?") from error
    except (of_botocore.BotoCoreError, Boto3Error) as error:
        raise LaunchError(f"AWS: {' '.join(str(error).split())}") from error


def error_code(error: Any) -> str:
    """The code of a botocore `ClientError`."""
    code: str = error.response.get("Error", {}).get("Code", "")
    return code


def is_denied(error: Any) -> bool:
    """Whether an error says that the caller may not ask."""
    return error_code(error) in _DENIED


def open_session(region: str | None) -> Any:
    """Open a boto3 session on the user's own configuration.

    Raises:
        LaunchError: The extra is not installed, or the profile named is not there.
    """
    check_installed()
    import boto3

    with told():
        return boto3.Session(region_name=region)


def find_region(region: str | None) -> str:
    """Settle the region: the one named, else the configured one.

    Raises:
        LaunchError: None is configured.
    """
    found: str | None = region or open_session(None).region_name
    if not found:
        raise LaunchError("no region: give --region, or set AWS_DEFAULT_REGION or `aws configure`")
    return found


def split_s3(uri: str) -> tuple[str, str]:
    """Split `s3://BUCKET/KEY` into bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _client_error(error: Any) -> str:
    code = error_code(error)
    if code in _BAD_KEYS:
        return f"AWS does not accept these credentials ({code}): log in again, or see AWS_PROFILE"
    said = error.response.get("Error", {}).get("Message", "")
    what = f"{error.operation_name}: {' '.join(str(said).split()) or code}"
    if is_denied(error):
        return f"AWS denies {what}"
    return f"AWS refuses {what}"


NOBODY = "000000000000"  # the account in a dry run, which asks nobody
_NO_ROLE = "ROLE-TO-BE-NAMED"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Whose account it is, and whose name a job runs in.

    Attributes:
        role: ARN.
        output: `s3://…/`.
        account: Number; `NOBODY` in a dry run.
        notes: What a dry run had to make up.
    """

    role: str
    output: str
    account: str
    notes: tuple[str, ...] = ()


def imagined_owner(settings: LaunchSettings, defaults: Defaults, region: str) -> Owner:
    """Settle role and output without asking AWS; what is not known has a mark in its place."""
    role = settings.role or defaults.role
    output = settings.output or defaults.output
    notes = []
    if not role:
        notes.append("no role is configured: launching takes --role")
    elif not is_role_arn(role):
        notes.append(f"the account of role {role} is asked for when launching")
    if not output:
        notes.append("no output is configured: launching takes the account's default bucket")
    return Owner(
        role=role if role and is_role_arn(role) else _arn(role or _NO_ROLE, region),
        output=_folder(output or _default_output(region, NOBODY)),
        account=NOBODY,
        notes=tuple(notes),
    )


def find_owner(settings: LaunchSettings, defaults: Defaults, region: str, session: Any) -> Owner:
    """Ask AWS who we are; settle role and output.

    Raises:
        LaunchError: No credentials, no role, or no role of that name.
    """
    with told():
        account: str = session.client("sts").get_caller_identity()["Account"]
    role = settings.role or defaults.role
    if not role:
        raise LaunchError(
            "no role: give --role, the name of one that SageMaker may take, or put "
            "SageMaker.TrainingJob.RoleArn into the SageMaker SDK's config.yaml"
        )
    output = settings.output or defaults.output or _default_output(region, account)
    return Owner(
        role=role if is_role_arn(role) else _arn_of(role, session),
        output=_folder(output),
        account=account,
    )


def fresh_name(verb: str) -> str:
    """Make a name that no job has: by verb, UTC time and four random digits."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"tilezoo-{verb}-{now}-{secrets.token_hex(2)}"


def _arn_of(name: str, session: Any) -> str:
    from botocore.exceptions import ClientError

    with told():
        try:
            arn: str = session.client("iam").get_role(RoleName=name)["Role"]["Arn"]
        except ClientError as error:
            if error_code(error) == "NoSuchEntity":
                raise LaunchError(
                    f"no role {name!r} in this account: give --role with the name or ARN of a role "
                    "that SageMaker may take"
                ) from error
            raise
    return arn


def _arn(name: str, region: str) -> str:
    partition = "aws-cn" if region.startswith("cn-") else "aws"
    partition = "aws-us-gov" if region.startswith("us-gov-") else partition
    return f"arn:{partition}:iam::{NOBODY}:role/{name}"


def _default_output(region: str, account: str) -> str:
    """In the bucket that the SageMaker SDK takes by default."""
    return f"s3://sagemaker-{region}-{account}/tilezoo"


def _folder(uri: str) -> str:
    check_s3_folder("--output", uri)
    return uri.rstrip("/") + "/"
