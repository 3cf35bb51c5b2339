"""Models on the Hugging Face Hub, or on any server that speaks its API."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilezoo.errors import ModelError
from tilezoo.io import sha256_file

# What a model directory holds; a repository's pickles and other formats stay where they are.
_WANTED = (
    "config.json",
    "model.safetensors",
    "README.md",
    "golden.safetensors",
    "mlm.json",
    "SHA256SUMS",
)


def hub_snapshot(repo: str, revision: str | None, endpoint: str | None = None) -> Path:
    """Bring a repository's model files into huggingface_hub's cache and check their hashes.

    Args:
        repo: `org/name`.
        revision: Branch, tag or commit; `main` unless given.
        endpoint: Another server than the one in force (`HF_ENDPOINT`, else huggingface.co).

    Raises:
        ModelError: It cannot be had, or what came is not what was promised.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    with explained(repo, revision):
        found = Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(_WANTED),
                endpoint=endpoint,
                local_files_only=not _answers(repo, revision, endpoint),
            )
        )
    if not (found / "config.json").is_file():
        raise ModelError(f"{repo} holds no config.json: not a timm model, or nothing yet")
    for path in found.iterdir():
        _check_blob(path)
    return found


def _answers(repo: str, revision: str | None, endpoint: str | None) -> bool:
    """Ask for the repository, with the time-out that snapshot_download does not set."""
    from huggingface_hub import HfApi, constants, errors

    if constants.HF_HUB_OFFLINE:
        return False
    wait = constants.HF_HUB_ETAG_TIMEOUT
    try:
        HfApi(endpoint=endpoint).model_info(repo, revision=revision, timeout=wait)
    except errors.HfHubHTTPError:
        raise
    except (errors.HTTPError, OSError):  # type: ignore[attr-defined]  # an import of its own
        return False
    return True


def hub_file(repo: str, file: str, revision: str | None) -> Path:
    """Bring one file of a repository into huggingface_hub's cache.

    Raises:
        ModelError: It cannot be had, or what came is not what was promised.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import hf_hub_download

    with explained(repo, revision):
        found = Path(hf_hub_download(repo, file, revision=revision))
    _check_blob(found)
    return found


@contextmanager
def explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line that says what to do."""
    from huggingface_hub import errors

    name = f"{repo}@{revision}" if revision else repo
    try:
        yield
    except errors.GatedRepoError as error:
        fix = "ask for access on its page, then log in with `hf auth login`"
        raise ModelError(f"{name}: access has to be asked for; {fix}") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        fix = "check the name, or log in with `hf auth login` if it is private"
        raise ModelError(f"{name}: no such repository or revision; {fix}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        fix = "go online once, or choose a folder with --registry"
        raise ModelError(
            f"{name}: not in the cache and the hub cannot be reached; {fix}"
        ) from error
    # The error of whichever library it speaks HTTP with (requests, httpx, httpx2).
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:  # type: ignore[attr-defined]  # an import of its own
        raise ModelError(f"{name}: {' '.join(str(error).split())[:200]}") from error


def _check_blob(path: Path) -> None:
    """The cache calls a large file by its SHA-256: hold it to that.

    Raises:
        ModelError: It is damaged; it was removed, so that the same command brings it anew.
    """
    blob = path.resolve()
    if len(blob.name) == 64 and blob != path and sha256_file(blob) != blob.name:
        blob.unlink()
        raise ModelError(f"{path.name} was damaged in the cache and is removed; run this again")
