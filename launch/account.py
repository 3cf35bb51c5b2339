"""Where a job lies in the user's account: role, output and name, asked for, configured or made up."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tilezoo.errors import LaunchError
from tilezoo.launch.aws import told
from tilezoo.launch.defaults import Defaults
from tilezoo.launch.settings import LaunchSettings, check_s3_folder, is_role_arn

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

    from tilezoo.launch.aws import error_code

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
