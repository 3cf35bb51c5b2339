"""Which names a registry takes: of models, of refs, of the files in a model."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from tilezoo.errors import RegistryError
from tilezoo.zoo.modeldir import PICKLES

# As huggingface_hub.utils.validate_repo_id has it, with the organisation always there.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_NAME = re.compile(rf"(?P<org>{_PART})/(?P<name>{_PART})")
_REF = re.compile(_PART)
_REVISION = re.compile(r"[0-9a-f]{40}")
_MAX_NAME = 96
_MAX_PART_BYTES = 200  # file systems take 255
_MAX_PATH_BYTES = 700  # S3 keys take 1024, with the root, the name and the revision
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\\]")
# First words of the hub's own addresses, and of Hugging Face's.
_RESERVED = frozenset({"api", "datasets", "models", "spaces", "uploads"})
_TAGS = "tags"


def check_name(name: str) -> str:
    """Return a model's name if it is `ORG/NAME` as Hugging Face takes it.

    Raises:
        RegistryError: It is not.
    """
    match = _NAME.fullmatch(name)
    plain = len(name) <= _MAX_NAME and "--" not in name and ".." not in name
    if not (match and plain) or name.endswith(".git") or match["org"].lower() in _RESERVED:
        raise RegistryError(
            f"{_short(name)} is no name for a model: ORG/NAME is, of letters, digits, '-', '_' and "
            f"'.', {_MAX_NAME} at most, without '--' and '..'"
        )
    return name


def check_ref(ref: str) -> str:
    """Return the name of a branch or tag if it may be one.

    Raises:
        RegistryError: It looks like a path or a revision, or is too long.
    """
    if not is_ref(ref):
        raise RegistryError(
            f"{_short(ref)} is no name for a branch or tag: letters, digits, '-', '_' and '.' make "
            f"one, {_MAX_NAME} at most; 40 hex digits would be a revision"
        )
    return ref


def is_ref(text: str) -> bool:
    """Tell whether a branch or a tag may be called so."""
    plain = len(text) <= _MAX_NAME and ".." not in text and text != _TAGS
    return plain and _REF.fullmatch(text) is not None and not is_revision(text)


def is_revision(text: str) -> bool:
    """Tell whether a text has the form of a revision, 40 hex digits."""
    return _REVISION.fullmatch(text) is not None


def check_path(path: str) -> str:
    """Return the path of a file in a model if it is relative, plain and not too long.

    Raises:
        RegistryError: It could lead elsewhere, or not every store could hold it.
    """
    parts = path.split("/")
    if _UNPRINTABLE.search(path) or any(part in ("", ".", "..") for part in parts):
        raise RegistryError(
            f"{_short(path)} is no path of a file: it must be relative, with '/', without '..'"
        )
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError as error:
        raise RegistryError(f"{_short(path)} is no path of a file: not valid text") from error
    if max(lengths) > _MAX_PART_BYTES or sum(lengths) + len(parts) > _MAX_PATH_BYTES:
        raise RegistryError(f"{_short(path)}: too long for the path of a file")
    return path


def check_file(path: str) -> str:
    """Return the path of a file that is to be stored: a good path, and no pickle.

    Raises:
        RegistryError: It is not.
    """
    check_path(path)
    if PurePosixPath(path).suffix.lower() in PICKLES:
        raise RegistryError(
            f"{_short(path)} may be a pickle, which runs code when it is read; store the weights "
            "as .safetensors (timm: push_to_hf_hub(..., safe_serialization=True))"
        )
    return path


def check_apart(paths: Iterable[str]) -> None:
    """Check that no file lies where another one needs a folder.

    Raises:
        RegistryError: One does.
    """
    files = set(paths)
    for path in files:
        for parent in PurePosixPath(path).parents:
            if str(parent) in files:
                raise RegistryError(f"{_short(str(parent))} is a file and the folder of another")


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
