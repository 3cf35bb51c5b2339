"""Download: a model by name, from wherever it lives, verified, into a model directory."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tilezoo.errors import ModelError, NotInRegistryError, RegistryError, UnknownModelError
from tilezoo.io import cache_folder, made_whole, sha256_file, sha256_text
from tilezoo.progress import say
from tilezoo.zoo.catalog import CatalogEntry, entries
from tilezoo.zoo.modeldir import ModelDir, read_model_dir
from tilezoo.zoo.naming import check_name, check_ref, is_revision
from tilezoo.zoo.registry import Registry

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


HUB = "hf://"


def download(name: str, *, registry: str | None = None, to: str | Path | None = None) -> ModelDir:
    """Bring a model here and check it.

    Args:
        name: A name from `tilezoo models`, or `org/name`; `@REV` chooses a branch, tag or
            revision.
        registry: `hf://` (the endpoint in force), a folder, `s3://…`, or `https://…` of a hub;
            `TILEZOO_REGISTRY` unless given, else the Hub.
        to: Copy it to this folder, which timm loads by `local-dir:`.

    Raises:
        UnknownModelError: No such model.
        ModelError: It cannot be had, or is not what it says.
    """
    wanted, revision = split_name(name)
    model = _found(wanted, revision, registry or os.environ.get("TILEZOO_REGISTRY"))
    return model if to is None else _copied(model, Path(to))


def split_name(name: str) -> tuple[str, str | None]:
    """Split `NAME@REV`."""
    wanted, _, revision = name.partition("@")
    return wanted, revision or None


def _found(wanted: str, revision: str | None, registry: str | None) -> ModelDir:
    known = {entry.name: entry for entry in entries()}
    if wanted in known:
        return catalogued(known[wanted], revision)
    try:
        check_name(wanted)
    except RegistryError as error:
        raise UnknownModelError(wanted, known) from error
    return from_registry(wanted, revision, registry or HUB)


def catalogued(entry: CatalogEntry, revision: str | None = None) -> ModelDir:
    """Bring a model of the catalogue here, by its own source."""
    from tilezoo.zoo.foreign import catalogued_model

    if revision is not None:
        fix = "name it by org/name to choose a revision"
        raise ModelError(f"{entry.name}: the zoo pins its revision; {fix}")
    return catalogued_model(entry)


def from_registry(name: str, revision: str | None, registry: str) -> ModelDir:
    """Bring `org/name` here from a registry of any kind."""
    if registry == HUB:
        return read_model_dir(hub_snapshot(name, revision), name)
    if registry.startswith(("http://", "https://")):
        return read_model_dir(hub_snapshot(name, revision, registry), name)
    return _from_store(name, revision or "main", registry)


def _from_store(name: str, ref: str, root: str) -> ModelDir:
    if not is_revision(ref):
        check_ref(ref)
    cache = cache_folder() / "registries" / sha256_text(root)[:16] / name.replace("/", "--")
    source = Registry(root)
    revision = _resolved(source, name, ref, cache)
    folder = cache / revision
    if not folder.is_dir():
        _copy_revision(source, name, revision, folder)
    return read_model_dir(folder, name)


def _resolved(source: Registry, name: str, ref: str, cache: Path) -> str:
    """Find the revision of a ref; where the registry cannot be asked, the one it last had."""
    known = cache / "refs" / ref
    try:
        _check_reachable(source.root)
        revision = source.resolve(name, ref)
    except NotInRegistryError as error:
        raise ModelError(str(error)) from error
    except (RegistryError, OSError) as error:
        return _last_seen(cache, ref, f"{name} is not in the cache, and {source.root}: {error}")
    if not known.is_file() or known.read_text(encoding="utf-8") != revision:
        _remember(known, revision)
    return revision


def _check_reachable(root: str) -> None:
    """A folder that is gone (an unplugged disk) is no registry without models."""
    if "://" not in root and not Path(root).expanduser().is_dir():
        raise FileNotFoundError("no such folder")


def _last_seen(cache: Path, ref: str, otherwise: str) -> str:
    known = cache / "refs" / ref
    if (cache / ref).is_dir():
        return ref
    if known.is_file():
        say(f"the registry cannot be reached; taking {cache.name} as it was last seen")
        return known.read_text(encoding="utf-8").strip()
    raise ModelError(otherwise)


def _remember(path: Path, revision: str) -> None:
    from tilezoo.io import write_text

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, revision)
    except OSError as error:
        raise _unwritable(path.parent, error) from error


def _copy_revision(source: Registry, name: str, revision: str, folder: Path) -> None:
    """Copy a revision's files, each held to its hash; one process at a time.

    What a broken-off copy has finished is kept beside and not copied again.
    """
    partial = folder.parent / f".{revision}.partial"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{revision}.lock"):
            if folder.is_dir():
                return
            partial.mkdir(exist_ok=True)
            for file in source.files(name, revision):
                _copy_file(source, name, revision, file.path, file.sha256, partial)
            partial.replace(folder)
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    except RegistryError as error:
        raise ModelError(str(error)) from error


def _copy_file(
    source: Registry, name: str, revision: str, path: str, sha256: str, partial: Path
) -> None:
    target = partial / path
    if target.is_file() and sha256_file(target) == sha256:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open(name, revision, path) as stored, target.open("wb") as copy:
        shutil.copyfileobj(stored, copy, 1 << 20)
    found = sha256_file(target)
    if found != sha256:
        target.unlink()
        why = f"SHA-256 {found[:16]}…, listed as {sha256[:16]}…"
        raise ModelError(f"{name}@{revision[:12]}: {path} came damaged ({why}); try again")


def _copied(model: ModelDir, target: Path) -> ModelDir:
    if target.exists() and any(target.iterdir()):
        raise ModelError(f"{target} is not empty; choose another --to")
    with made_whole(target) as making:
        shutil.copytree(model.path, making)  # follows links, as a cache has them
    return read_model_dir(target, model.name)


def _unwritable(folder: Path, error: OSError) -> ModelError:
    fix = "set TILEZOO_CACHE to a folder you may write"
    return ModelError(f"{folder}: {error.strerror or error}; {fix}")
