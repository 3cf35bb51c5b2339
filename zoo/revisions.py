"""A revision of a model: its files, the name that their content gives it, and its listing."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from tilezoo.errors import RegistryDamagedError, RegistryError
from tilezoo.io import sha256_file
from tilezoo.zoo.naming import check_apart, check_file

_MAX_FILES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RegistryFile:
    """A file of a revision.

    Attributes:
        path: Relative to the model, with '/'.
        size: Bytes.
        sha256: Of its bytes, 64 hex digits.

    Raises:
        RegistryError: The path would leave the model's folder, or is that of a pickle.
    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        # a listing is whoever wrote the registry's word: its paths become ours on download
        check_file(self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewFile:
    """A file on its way into a revision.

    Attributes:
        path: Relative to the model, with '/'.
        size: Bytes.
        sha256: Of its bytes, 64 hex digits.
        source: A local file; or (REV, path) of a file that the same model has already.
        settled: Nobody will change the local file: it may be linked, and need not be hashed again.
    """

    path: str
    size: int
    sha256: str
    source: Path | tuple[str, str]
    settled: bool = False

    def __post_init__(self) -> None:
        check_file(self.path)


def revision_of(files: Iterable[RegistryFile | NewFile]) -> str:
    """Name the revision that these files make.

    The first 40 hex digits of the SHA-256 over one line for each file, in the order of the paths'
    UTF-8 bytes: its SHA-256, two spaces, its path, a newline. That is what
    `find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum` prints.
    """
    lines = {file.path.encode(): f"{file.sha256}  {file.path}\n".encode() for file in files}
    return hashlib.sha256(b"".join(lines[path] for path in sorted(lines))).hexdigest()[:40]


def listing_text(revision: str, files: Sequence[NewFile]) -> bytes:
    """Write down which files a revision holds."""
    rows = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in files]
    return f"{json.dumps({'revision': revision, 'files': rows}, indent=1)}\n".encode()


def parse_listing(data: bytes, where: str) -> tuple[RegistryFile, ...]:
    """Read which files a revision holds.

    Args:
        data: The listing.
        where: `NAME@REVISION`, as messages say it.

    Raises:
        RegistryDamagedError: It is damaged, or another revision's.
    """
    try:
        listing = json.loads(data)
        files = tuple(RegistryFile(**row) for row in listing["files"])
        sound = where.endswith(f"@{revision_of(files)}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        message = f"{where}: its listing is damaged ({error}); publish again"
        raise RegistryDamagedError(message) from error
    if not sound:
        message = f"{where}: its listing is not the one of this revision; publish again"
        raise RegistryDamagedError(message)
    return files


def check_together(files: Sequence[NewFile]) -> None:
    """Check that files may make a revision.

    Raises:
        RegistryError: There are too many, two of one path, or one where another needs a folder.
    """
    paths = {file.path for file in files}
    if len(paths) < len(files):
        raise RegistryError("the same path twice in one revision")
    if len(paths) > _MAX_FILES:
        raise RegistryError(f"{len(paths)} files in one revision; {_MAX_FILES} at most")
    check_apart(paths)


def local_files(folder: Path) -> list[NewFile]:
    """Find, check and hash a folder's files; links are followed."""
    if not folder.is_dir():
        raise RegistryError(f"{folder}: not a folder")
    entries = sorted(folder.rglob("*"))
    for path in entries:
        if not path.is_file() and (path.is_symlink() or not path.is_dir()):
            raise RegistryError(f"{path}: a link that leads to no file; copy what it stands for")
    found = [path for path in entries if path.is_file()]
    named = [(path, path.relative_to(folder).as_posix()) for path in found]
    named = [(path, check_file(name)) for path, name in named if not _is_ignored(name)]
    return [
        NewFile(path=name, size=path.stat().st_size, sha256=sha256_file(path), source=path)
        for path, name in named
    ]


def _is_ignored(path: str) -> bool:
    """As huggingface_hub.utils._paths.DEFAULT_IGNORE_PATTERNS."""
    parts = PurePosixPath(path).parts
    return ".git" in parts or (".cache", "huggingface") in pairwise(parts)
