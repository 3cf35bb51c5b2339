"""A registry of models: immutable revisions named by their content, and refs that point to them.

    ROOT/org/name/refs/main              a branch: the revision it points to, 40 hex digits
    ROOT/org/name/refs/tags/v1           a tag, the same
    ROOT/org/name/revisions/REV/…        the files
    ROOT/org/name/revisions/REV.json     their paths, sizes and SHA-256, written last

A revision is there when its listing is; whatever broke off before that is not seen, and written
again by the next who publishes it. A listing proves itself: its hash is its name.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tilezoo.errors import NotInRegistryError, RegistryConflictError, RegistryError
from tilezoo.io import sha256_file
from tilezoo.zoo.naming import (
    check_apart,
    check_file,
    check_name,
    check_path,
    check_ref,
    is_revision,
)
from tilezoo.zoo.remote_stores import open_store
from tilezoo.zoo.stores import Store

MAIN = "main"
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


class Registry:
    """Models in a folder, in a bucket (`s3://bucket/prefix`) or under a URL that fsspec opens.

    Attributes:
        root: Where it is, as messages say it; `shown_as` in its place for those who must not know.
        store: Its files.
    """

    def __init__(self, root: str | Path, *, shown_as: str | None = None) -> None:
        self.root = shown_as or str(root)
        self.store: Store = open_store(root)

    def publish(self, folder: Path, name: str, ref: str = MAIN) -> str:
        """Store a folder's files as a revision and point a branch to it; give the revision.

        The same files make the same revision wherever they are stored, and storing them again
        changes nothing. `.git` and huggingface_hub's `.cache` are left out, as its uploads do.

        Raises:
            RegistryError: A name or a file is refused; nothing was changed.
        """
        check_name(name)
        check_ref(ref)
        files = _local_files(folder)
        if not files:
            raise RegistryError(f"{folder}: no files to publish")
        revision = self.write(name, files)
        with self.lock(name):
            if not self.has(name):
                self._point(f"{name}/refs/{MAIN}", revision)
            self.move(name, ref, revision)
        return revision

    def models(self) -> list[str]:
        """List the models' names, sorted."""
        orgs = [org for org in self.store.children("") if not org.startswith(".")]
        names = [f"{org}/{name}" for org in orgs for name in self.store.children(org)]
        return [name for name in names if _is_name(name) and self.has(name)]

    def has(self, name: str) -> bool:
        """Tell whether there is a model of this name."""
        return self.store.exists(f"{check_name(name)}/refs/{MAIN}")

    def resolve(self, name: str, ref: str = MAIN) -> str:
        """Find the revision that a branch, a tag or a revision's own 40 digits name.

        Raises:
            NotInRegistryError: No such model, or nothing of that name in it.
        """
        check_name(name)
        if is_revision(ref):
            revision = ref if self.store.exists(_listing(name, ref)) else None
        else:
            revision = self._read_ref(name, f"refs/{check_ref(ref)}", f"refs/tags/{ref}")
        if revision:
            return revision
        if not self.has(name):
            raise NotInRegistryError("model", f"no model {name} in the registry {self.root}")
        known = ", ".join([*self.branches(name), *self.tags(name)])
        raise NotInRegistryError("revision", f"{name} has no revision {ref!r}; it has {known}")

    def files(self, name: str, revision: str) -> tuple[RegistryFile, ...]:
        """List a revision's files, sorted by path, from its listing.

        Raises:
            NotInRegistryError: There is no such revision.
            RegistryError: The listing is damaged.
        """
        check_name(name)
        if not is_revision(revision):
            raise RegistryError(f"{revision!r} is no revision; resolve() finds the one of a ref")
        try:
            data = self.store.read(_listing(name, revision))
        except FileNotFoundError as error:
            message = f"{name} has no revision {revision} in the registry {self.root}"
            raise NotInRegistryError("revision", message) from error
        return _parse_listing(data, f"{name}@{revision}")

    def file(self, name: str, revision: str, path: str) -> RegistryFile:
        """Find one file of a revision.

        Raises:
            NotInRegistryError: There is no such file.
        """
        check_path(path)
        for file in self.files(name, revision):
            if file.path == path:
                return file
        raise NotInRegistryError("file", f"{name}@{revision} has no file {path!r}")

    def open(self, name: str, revision: str, path: str) -> BinaryIO:
        """Open a file of a revision to read.

        Raises:
            NotInRegistryError: There is no such file.
        """
        self.file(name, revision, path)
        try:
            return self.store.open(f"{name}/revisions/{revision}/{path}")
        except FileNotFoundError as error:
            message = f"{name}@{revision}: {path} is listed but gone; publish it again"
            raise NotInRegistryError("file", message) from error

    def files_by_sha256(self, name: str) -> dict[str, tuple[str, RegistryFile]]:
        """SHA-256 → (revision, file), of every file that a branch or tag of the model leads to."""
        revisions = {*self.branches(name).values(), *self.tags(name).values()}
        return {
            file.sha256: (revision, file)
            for revision in sorted(revisions)
            for file in self.files(name, revision)
        }

    def branches(self, name: str) -> dict[str, str]:
        """The branches of a model and the revisions they point to."""
        return self._refs(check_name(name), "refs")

    def tags(self, name: str) -> dict[str, str]:
        """The tags of a model and the revisions they name."""
        return self._refs(check_name(name), "refs/tags")

    def last_change(self, name: str, branch: str = MAIN) -> datetime:
        """When a branch was last moved, UTC."""
        return self.store.last_change(f"{check_name(name)}/refs/{check_ref(branch)}")

    def create(self, name: str) -> str:
        """Make a model without files; give its (empty) revision.

        Raises:
            RegistryConflictError: It is there already.
        """
        with self.lock(check_name(name)):
            if self.has(name):
                raise RegistryConflictError(f"{name} is there already")
            revision = self.write(name, [])
            self._point(f"{name}/refs/{MAIN}", revision)
            return revision

    def write(self, name: str, files: Iterable[NewFile]) -> str:
        """Store a revision whole, without pointing anything to it; give the revision."""
        wanted = sorted(files, key=lambda file: file.path)
        _check_together(wanted)
        revision = revision_of(wanted)
        if not self.store.exists(_listing(check_name(name), revision)):
            for file in wanted:
                self._store(file, name, f"{name}/revisions/{revision}/{file.path}")
            self.store.write(_listing(name, revision), _listing_text(revision, wanted))
        return revision

    def move(self, name: str, branch: str, revision: str) -> None:
        """Point a branch, new or not, to a revision that is there."""
        if branch in self.tags(name):
            raise RegistryConflictError(f"{name} has a tag {branch!r}: name the branch otherwise")
        before = self._read_ref(name, f"refs/{check_ref(branch)}")
        if before != revision:
            self._point(f"{name}/refs/{branch}", self.resolve(name, revision), before)

    def advance(self, name: str, branch: str, revision: str, head: str) -> None:
        """Point a branch to the revision that was made from its head.

        Raises:
            RegistryConflictError: The head is another by now; nothing was changed.
        """
        if revision != head:
            self._point(f"{name}/refs/{check_ref(branch)}", revision, head)

    def branch(self, name: str, branch: str, start: str = MAIN) -> None:
        """Make a branch at a branch, a tag or a revision."""
        with self.lock(name):
            revision = self.resolve(name, start)
            self._check_free(name, branch)
            self._point(f"{name}/refs/{branch}", revision)

    def tag(self, name: str, tag: str, start: str = MAIN) -> None:
        """Make a tag at a branch, a tag or a revision.

        Raises:
            RegistryConflictError: The name is taken: tags do not move.
        """
        with self.lock(name):
            revision = self.resolve(name, start)
            self._check_free(name, tag)
            self._point(f"{name}/refs/tags/{tag}", revision)

    def delete_branch(self, name: str, branch: str) -> None:
        """Delete a branch; `main` stays as long as the model does."""
        if branch == MAIN:
            raise RegistryError(f"{MAIN} cannot be deleted; delete the model {name} instead")
        self._delete_ref(name, f"refs/{check_ref(branch)}")

    def delete_tag(self, name: str, tag: str) -> None:
        """Delete a tag."""
        self._delete_ref(name, f"refs/tags/{check_ref(tag)}")

    def delete(self, name: str) -> None:
        """Delete a model with all its revisions."""
        with self.lock(check_name(name)):
            self.resolve(name)
            self.store.delete(f"{name}/refs/{MAIN}")
            self.store.delete_folder(name)

    def lock(self, name: str) -> AbstractContextManager[object]:
        """Keep others from moving this model's refs; a thread that has it must not ask again."""
        return self.store.lock(check_name(name))

    def _read_ref(self, name: str, *refs: str) -> str | None:
        """Read the first ref that is there."""
        for ref in refs:
            with suppress(FileNotFoundError):
                revision = self.store.read(f"{name}/{ref}").decode("ascii", "replace").strip()
                if not is_revision(revision):
                    raise RegistryError(
                        f"{name}/{ref} in the registry {self.root} is damaged: set it again"
                    )
                return revision
        return None

    def _point(self, ref: str, revision: str, before: str | None = None) -> None:
        """Point a ref to a revision if it points where it did `before`; None where it is new."""
        there = None if before is None else f"{before}\n".encode()
        self.store.replace(ref, f"{revision}\n".encode(), there)

    def _refs(self, name: str, folder: str) -> dict[str, str]:
        names = [ref for ref in self.store.children(f"{name}/{folder}") if ref != "tags"]
        found = {ref: self._read_ref(name, f"{folder}/{ref}") for ref in names}
        return {ref: revision for ref, revision in found.items() if revision}

    def _check_free(self, name: str, ref: str) -> None:
        taken = {check_ref(ref)} & {*self.branches(name), *self.tags(name)}
        if taken:
            raise RegistryConflictError(f"{name} has a branch or tag {ref!r} already")

    def _delete_ref(self, name: str, ref: str) -> None:
        with self.lock(name):
            if not self.store.exists(f"{name}/{ref}"):
                short = ref.rsplit("/", 1)[-1]
                raise NotInRegistryError("revision", f"{name} has no branch or tag {short!r} there")
            self.store.delete(f"{name}/{ref}")

    def _store(self, file: NewFile, name: str, target: str) -> None:
        if isinstance(file.source, tuple):
            revision, path = file.source
            self.store.copy(f"{name}/revisions/{revision}/{path}", target)
        elif file.settled:
            self.store.adopt(file.source, target)
        else:
            self.store.put(file.source, target, file.sha256)


def _listing(name: str, revision: str) -> str:
    return f"{name}/revisions/{revision}.json"


def _listing_text(revision: str, files: Sequence[NewFile]) -> bytes:
    rows = [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in files]
    return f"{json.dumps({'revision': revision, 'files': rows}, indent=1)}\n".encode()


def _parse_listing(data: bytes, where: str) -> tuple[RegistryFile, ...]:
    try:
        listing = json.loads(data)
        files = tuple(RegistryFile(**row) for row in listing["files"])
        sound = where.endswith(f"@{revision_of(files)}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RegistryError(f"{where}: its listing is damaged ({error}); publish again") from error
    if not sound:
        raise RegistryError(f"{where}: its listing is not the one of this revision; publish again")
    return files


def _check_together(files: Sequence[NewFile]) -> None:
    paths = {file.path for file in files}
    if len(paths) < len(files):
        raise RegistryError("the same path twice in one revision")
    if len(paths) > _MAX_FILES:
        raise RegistryError(f"{len(paths)} files in one revision; {_MAX_FILES} at most")
    check_apart(paths)


def _local_files(folder: Path) -> list[NewFile]:
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


def _is_name(name: str) -> bool:
    try:
        return check_name(name) == name
    except RegistryError:
        return False
