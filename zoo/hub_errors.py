"""What a hub answers when it refuses, in the form that huggingface_hub understands."""

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from tilezoo.errors import (
    NotInRegistryError,
    RegistryConflictError,
    RegistryError,
    RegistryUnreachableError,
)
from tilezoo.zoo.hub_log import log

# huggingface_hub.utils._http.hf_raise_for_status tells errors apart by these.
_CODES = {"model": "RepoNotFound", "revision": "RevisionNotFound", "file": "EntryNotFound"}


class RefusedError(RegistryError):
    """A request is refused with this HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def refusal(status: int, message: str, *, code: str | None = None) -> JSONResponse:
    """Answer with an error: the message as JSON and in the header that clients show."""
    plain = "".join(char if " " <= char <= "~" else "?" for char in message)[:300]
    headers = {"X-Error-Message": plain}
    if code:
        headers["X-Error-Code"] = code
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="tilezoo hub: the token is the password"'
    # what is left of a body that was not read must not be taken for the next request
    if status in (401, 403, 413):
        headers["Connection"] = "close"
    return JSONResponse({"error": plain}, status_code=status, headers=headers)


def answer_known(_request: Request, error: Exception) -> Response:
    """Answer an error of the registry."""
    if isinstance(error, NotInRegistryError):
        return refusal(404, str(error), code=_CODES[error.kind])
    if isinstance(error, RefusedError):
        return refusal(error.status, str(error))
    if isinstance(error, RegistryUnreachableError):
        log("storage", {"error": str(error)})  # it may name what is not the client's to know
        return refusal(503, "this hub's storage does not answer; try again later")
    return refusal(409 if isinstance(error, RegistryConflictError) else 400, str(error))


def answer_http(_request: Request, error: Exception) -> Response:
    """Answer what no route takes, in the same form."""
    if not isinstance(error, HTTPException):
        return refusal(500, "internal error")
    answer = refusal(error.status_code, error.detail)
    answer.headers.update(error.headers or {})
    return answer


def answer_gone(_request: Request, _error: Exception) -> Response:
    """Answer nobody: the client hung up in the middle of its body."""
    return refusal(400, "the request broke off")


async def unknown(_request: Request) -> Response:
    """Answer what Hugging Face has and this hub has not; clients then do without."""
    return refusal(404, "this hub has no such thing")


HANDLERS = {
    RegistryError: answer_known,
    HTTPException: answer_http,
    ClientDisconnect: answer_gone,
}
