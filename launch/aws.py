"""The user's AWS: sessions, errors in one line each, and where in the account a job lies."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from tilezoo.errors import LaunchError
from tilezoo.launch.instances import JobPlan, check_image, find_image
from tilezoo.launch.options import check_s3_folder
from tilezoo.launch.sdk import Defaults, check_installed

NOBODY = "000000000000"  # the account in a dry run, which asks nobody
_NO_ROLE = "ROLE-TO-BE-NAMED"
_DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "Forbidden")
_BAD_KEYS = (
    "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId",
    "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException",
)  # fmt: skip
_NO_CREDENTIALS = (
    "no AWS credentials: run `aws configure` or `aws sso login`, or set AWS_PROFILE, or "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


class Session(Protocol):
    """What is used of a boto3 session."""

    region_name: str | None

    def client(self, service_name: str, /, **options: Any) -> Any:
        """Make a client of a service."""
        ...


def find_region(region: str | None) -> str:
    """Settle the region: the one named, else the configured one.

    Raises:
        LaunchError: None is configured.
    """
    if region:
        return region
    found: str | None = _open(None).region_name
    if not found:
        raise LaunchError("no region: give --region, or set AWS_DEFAULT_REGION or `aws configure`")
    return found


def open_session(region: str | None) -> Session:
    """Open a boto3 session on the user's own configuration.

    Args:
        region: None: the configured one.

    Raises:
        LaunchError: The extra is not installed, the profile named is not there, or no region.
    """
    session: Session = _open(find_region(region))
    return session


def _open(region: str | None) -> Any:
    check_installed()
    import boto3

    with explain_errors():
        return boto3.Session(region_name=region)


@contextmanager
def explain_errors() -> Iterator[None]:
    """Turn what botocore raises in the block into one line with what to do."""
    from boto3.exceptions import Boto3Error  # an upload that failed
    from botocore import exceptions as of_botocore

    try:
        yield
    except (of_botocore.NoCredentialsError, of_botocore.PartialCredentialsError) as error:
        raise LaunchError(_NO_CREDENTIALS) from error
    except of_botocore.ClientError as error:
        raise LaunchError(_explain(error)) from error
    except of_botocore.EndpointConnectionError as error:
        raise LaunchError(f"{error}; is the network there, and is the region right?") from error
    except (of_botocore.BotoCoreError, Boto3Error) as error:
        raise LaunchError(f"AWS: {' '.join(str(error).split())}") from error


def _explain(error: Any) -> str:
    code = error_code(error)
    if code in _BAD_KEYS:
        return f"AWS does not accept these credentials ({code}): log in again, or see AWS_PROFILE"
    said = error.response.get("Error", {}).get("Message", "")
    what = f"{error.operation_name}: {' '.join(str(said).split()) or code}"
    return f"AWS {'denies' if is_denied(error) else 'refuses'} {what}"


def error_code(error: Any) -> str:
    """The code of a botocore `ClientError`."""
    code: str = error.response.get("Error", {}).get("Code", "")
    return code


def is_denied(error: Any) -> bool:
    """Whether an error says that the caller may not ask."""
    return error_code(error) in _DENIED


def split_s3(uri: str) -> tuple[str, str]:
    """Split `s3://BUCKET/KEY` into bucket and key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a job lies and in whose name it runs, settled before anything is built.

    Attributes:
        region: Where the service is.
        role: ARN of the role it takes.
        output: `s3://…/` under which everything lies.
        name: The job's name.
        image: Its container.
        out: The S3 folder the command itself names for its result; None where it names none.
        notes: What a dry run has to make up.
    """

    region: str
    role: str
    output: str
    name: str
    image: str
    out: str | None
    notes: tuple[str, ...] = ()

    @property
    def job(self) -> str:
        """The folder of this one job."""
        return f"{self.output}{self.name}/"

    @property
    def checkpoints(self) -> str:
        """Where the command's result lies: at its own `-o s3://…`, else fresh for this job."""
        return self.out or f"{self.job}checkpoints/"

    @property
    def registry(self) -> str:
        """Where a finished pretraining is published."""
        return f"{self.output}registry"


def find_places(plan: JobPlan, region: str, defaults: Defaults, session: Session | None) -> Places:
    """Settle where a job lies: in the caller's account, or in nobody's for a dry run.

    Args:
        plan: What runs.
        region: Where.
        defaults: For what the options leave open.
        session: Of the user; None asks nobody.

    Raises:
        LaunchError: No credentials, no role, no role of that name, or no container.
    """
    asked = plan.options
    image = _find_container(plan, region, defaults)
    role, output = asked.role or defaults.role, asked.output or defaults.output
    notes: tuple[str, ...] = ()
    account = NOBODY
    if session:
        role, account = _find_role(role, session)
    else:
        notes = tuple(_missing(role, output))
        role = role if role and _is_arn(role) else _imagine_arn(role or _NO_ROLE, region)
    return Places(
        region=region,
        role=role,
        output=_end_folder(output or f"s3://sagemaker-{region}-{account}/tilezoo"),  # the SDK's own
        name=asked.name or _make_name(plan.command.verb),
        image=image,
        out=plan.command.out,
        notes=notes,
    )


def _find_container(plan: JobPlan, region: str, defaults: Defaults) -> str:
    """The user's own container, which the service can use there; else SageMaker's."""
    own = plan.options.image
    if own:
        check_image(own, region)
        return own
    smddp = plan.distribution.backend == "smddp"
    image = find_image(region, plan.instance.name, smddp=smddp)
    if defaults.isolated:
        raise LaunchError(
            "your SageMaker config keeps jobs from the network (EnableNetworkIsolation), and "
            "SageMaker's container lacks packages: give --image with one that holds them"
        )
    return image


def _find_role(role: str | None, session: Session) -> tuple[str, str]:
    """Ask AWS for a role's ARN and the caller's account."""
    with explain_errors():
        account: str = session.client("sts").get_caller_identity()["Account"]
    if not role:
        raise LaunchError(
            "no role: give --role, the name of one that SageMaker may take, or put "
            "SageMaker.TrainingJob.RoleArn into the SageMaker SDK's config.yaml"
        )
    return (role if _is_arn(role) else _find_arn(role, session)), account


def _find_arn(name: str, session: Session) -> str:
    from botocore.exceptions import ClientError

    with explain_errors():
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


def _missing(role: str | None, output: str | None) -> Iterator[str]:
    """Say what a launch has to be given, or asks for."""
    if not role:
        yield "no role is configured: launching takes --role"
    elif not _is_arn(role):
        yield f"the account of role {role} is asked for when launching"
    if not output:
        yield "no output is configured: launching takes the account's default bucket"


def _is_arn(role: str) -> bool:
    return role.startswith("arn:")


def _imagine_arn(name: str, region: str) -> str:
    partition = "aws-cn" if region.startswith("cn-") else "aws"
    partition = "aws-us-gov" if region.startswith("us-gov-") else partition
    return f"arn:{partition}:iam::{NOBODY}:role/{name}"


def _end_folder(uri: str) -> str:
    check_s3_folder("--output", uri)
    return uri.rstrip("/") + "/"


def _make_name(verb: str) -> str:
    """Make a name that no job has: by verb, UTC time and four random digits."""
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    return f"tilezoo-{verb}-{now}-{secrets.token_hex(2)}"
