"""Models from a hub: brought here by huggingface_hub, checked, and kept apart from other hubs'."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from tilezoo.errors import ModelError
from tilezoo.io import sha256_file
from tilezoo.progress import say
from tilezoo.zoo.catalog import hub_address, hub_cache
from tilezoo.zoo.modeldir import CONFIG, MODEL_FILES, set_hub_switches
from tilezoo.zoo.naming import is_revision

HUB = "hf://"
_MAIN = "main"


def is_hub(registry: str) -> bool:
    """Tell whether a registry speaks Hugging Face's API."""
    return registry == HUB or registry.startswith(("http://", "https://"))


def endpoint_of(registry: str) -> str | None:
    """The address of a hub; None for the one in force (`HF_ENDPOINT`, else huggingface.co)."""
    return None if registry == HUB else registry


def fetch_snapshot(repo: str, revision: str | None, endpoint: str | None = None) -> Path:
    """Bring a repository's model files into the cache of its hub and check their hashes.

    A hub that cannot be reached is answered by what was last seen of it, and of no other.

    Args:
        repo: `org/name`.
        revision: Branch, tag or commit; `main` unless given.
        endpoint: See `endpoint_of`.

    Raises:
        ModelError: It cannot be had, or what came is not what was promised.
    """
    set_hub_switches()
    from huggingface_hub import snapshot_download

    with explain_hub_errors(repo, revision, endpoint):
        answers = _answers(repo, revision, endpoint)
        folder = Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(MODEL_FILES),
                endpoint=endpoint,
                cache_dir=hub_cache(endpoint),
                local_files_only=not answers,
            )
        )
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{repo} holds no {CONFIG}: not a timm model, or nothing yet")
    for path in folder.iterdir():
        _check_blob(path)
    if not is_revision(revision or _MAIN):
        _tell_age(folder, repo, revision or _MAIN, endpoint, answers=answers)
    return folder


def fetch_file(repo: str, file: str, revision: str | None) -> Path:
    """Bring one file of a repository into the cache of its hub.

    Raises:
        ModelError: It cannot be had, or what came is not what was promised.
    """
    set_hub_switches()
    from huggingface_hub import hf_hub_download

    with explain_hub_errors(repo, revision):
        path = Path(hf_hub_download(repo, file, revision=revision, cache_dir=hub_cache(None)))
    _check_blob(path)
    return path


def _tell_age(folder: Path, repo: str, ref: str, endpoint: str | None, *, answers: bool) -> None:
    """Note that a hub named this state of a model just now; or say when it last did."""
    from huggingface_hub import constants

    cache = hub_cache(endpoint) or Path(constants.HF_HUB_CACHE)
    known = cache / f"models--{repo.replace('/', '--')}" / "refs" / ref
    with suppress(OSError):  # a cache that may be read only
        if answers:
            known.touch()
        else:
            say_last_seen(f"the hub {hub_address(endpoint)}", f"{repo} {folder.name[:12]}", known)


def say_last_seen(where: str, what: str, known: Path) -> None:
    """Tell that what cannot be asked is answered by what was seen when a file was written."""
    seen = datetime.fromtimestamp(known.stat().st_mtime, UTC)
    say(f"{where} cannot be reached; taking {what} as it was last seen, {seen:%Y-%m-%d %H:%M} UTC")


@contextmanager
def explain_hub_errors(
    repo: str, revision: str | None, endpoint: str | None = None
) -> Iterator[None]:
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
            f"{name}: not in the cache and the hub {hub_address(endpoint)} cannot be reached; {fix}"
        ) from error
    # The error of whichever library it speaks HTTP with (requests, httpx, httpx2).
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:  # type: ignore[attr-defined]  # an import of its own
        raise ModelError(f"{name}: {' '.join(str(error).split())[:200]}") from error


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


def _check_blob(path: Path) -> None:
    """Hold a file to what the cache calls it: its SHA-256, or git's hash of it.

    Raises:
        ModelError: It is damaged; it was removed, so that the same command brings it anew.
    """
    blob = path.resolve()
    if blob != path and _hash_as(blob.name, blob) != blob.name:
        blob.unlink()
        raise ModelError(f"{path.name} was damaged in the cache and is removed; run this again")


def _hash_as(name: str, path: Path) -> str:
    """Hash a file the way a hub did that gave it this name; another name is its own."""
    if re.fullmatch("[0-9a-f]{64}", name):
        return sha256_file(path)
    if re.fullmatch("[0-9a-f]{40}", name):
        content = path.read_bytes()  # small: larger files are called by their SHA-256
        return hashlib.sha1(
            b"blob %d\0" % len(content) + content, usedforsecurity=False
        ).hexdigest()
    return name
