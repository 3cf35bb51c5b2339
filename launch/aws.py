"""The user's AWS: sessions and clients, and its errors in one line each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tilezoo.errors import LaunchError
from tilezoo.launch.sdk import check_installed

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
