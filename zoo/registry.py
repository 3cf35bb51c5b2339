"""A registry of models: immutable revisions named by their content, and refs that point to them.

    ROOT/org/name/refs/main              a branch: the revision it points to, 40 hex digits
    ROOT/org/name/refs/tags/v1           a tag, the same
    ROOT/org/name/revisions/REV/…        the files
    ROOT/org/name/revisions/REV.json     their paths, sizes and SHA-256, written last
    ROOT/org/name/history/…              what moved a branch, and when: see history

A revision is there when its listing is; whatever broke off before that is not seen, and written
again by the next who publishes it. A listing proves itself: its hash is its name.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from tilezoo.errors import (
    NotInRegistryError,
    RegistryConflictError,
    RegistryDamagedError,
    RegistryError,
)
from tilezoo.zoo.history import Move, Note, list_moves, note_move, read_note
from tilezoo.zoo.naming import (
    check_name,
    check_path,
    check_ref,
    is_ref,
    is_revision,
)
from tilezoo.zoo.remote_stores import open_store
from tilezoo.zoo.revisions import (
    NewFile,
    RegistryFile,
    check_together,
    listing_text,
    local_files,
    parse_listing,
    revision_of,
)
from tilezoo.zoo.stores import Store, retry_overtaken

MAIN = "main"
_MOVED = "moved"  # a file of this name is where a model was, and says what it is called now
PUBLISHED = Note("tilezoo publish")


class Registry:
    """Models in a folder, in a bucket (`s3://bucket/prefix`) or under a URL that fsspec opens.

    Attributes:
        root: Where it is, as messages say it; `shown_as` in its place for those who must not know.
        store: Its files.
    """

    def __init__(self, root: str | Path, *, shown_as: str | None = None) -> None:
        self.root = shown_as or str(root)
        self.store: Store = open_store(root)

    def publish(self, folder: Path, name: str, ref: str = MAIN, note: Note = PUBLISHED) -> str:
        """Store a folder's files as a revision and point a branch to it; give the revision.

        The same files make the same revision wherever they are stored, and storing them again
        changes nothing. `.git` and huggingface_hub's `.cache` are left out, as its uploads do.

        Raises:
            RegistryError: A name or a file is refused; nothing was changed.
        """
        check_name(name)
        check_ref(ref)
        files = local_files(folder)
        if not files:
            raise RegistryError(f"{folder}: no files to publish")
        revision = self.write(name, files)
        with self.lock(name):
            if ref != MAIN and not self.has(name):
                self.move(name, MAIN, revision, note)
            self.move(name, ref, revision, note)
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
            revision = (
                self._read_ref(name, f"refs/{ref}", f"refs/tags/{ref}") if is_ref(ref) else None
            )
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
        return parse_listing(data, f"{name}@{revision}")

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
            raise RegistryDamagedError(message) from error

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

    def moves(self, name: str, ref: str = MAIN) -> Sequence[Move]:
        """What led to a branch, a tag or a revision, the newest first.

        Of what was stored before registries kept a history, the last state alone is told.
        """
        revision = self.resolve(name, ref)
        branch = ref if ref in self.branches(name) else MAIN

        def written(revision: str) -> datetime:
            try:
                return self.store.last_change(_listing(name, revision))
            except FileNotFoundError:
                return self.last_change(name)

        return list_moves(self.store, name, branch, revision, written)

    def note(self, name: str, move: Move) -> Note:
        """What is said of a move."""
        return read_note(self.store, check_name(name), move)

    def squash(self, name: str, branch: str, note: Note) -> None:
        """Let a branch's history begin where the branch is; its files stay as they are."""
        with self.lock(name):
            if branch not in self.branches(name):
                raise NotInRegistryError("revision", f"{name} has no branch {branch!r}")
            revision = self.resolve(name, branch)
            note_move(self.store, name, branch, revision, None, note)

    def create(self, name: str, author: str = "") -> str:
        """Make a model without files; give its (empty) revision.

        Raises:
            RegistryConflictError: It is there already.
        """
        with self.lock(check_name(name)):
            if self.has(name):
                raise RegistryConflictError(f"{name} is there already")
            revision = self.write(name, [])
            self._advance(name, MAIN, revision, None, Note("initial commit", "", author))
            return revision

    def write(self, name: str, files: Iterable[NewFile]) -> str:
        """Store a revision whole, without pointing anything to it; give the revision."""
        wanted = sorted(files, key=lambda file: file.path)
        check_together(wanted)
        revision = revision_of(wanted)
        if not self.store.exists(_listing(check_name(name), revision)):
            for file in wanted:
                self._store(file, name, f"{name}/revisions/{revision}/{file.path}")
            self.store.write(_listing(name, revision), listing_text(revision, wanted))
        return revision

    def move(self, name: str, branch: str, revision: str, note: Note = PUBLISHED) -> None:
        """Point a branch, new or not, to a revision that is there, wherever it was before."""
        if branch in self.tags(name):
            raise RegistryConflictError(f"{name} has a tag {branch!r}: name the branch otherwise")

        def point() -> None:
            before = self._read_ref(name, f"refs/{check_ref(branch)}")
            if before != revision:
                self._advance(name, branch, self._there(name, revision), before, note)

        retry_overtaken(point)

    def advance(
        self, name: str, branch: str, revision: str, head: str, note: Note = PUBLISHED
    ) -> None:
        """Point a branch to the revision that was made from its head.

        Raises:
            RegistryConflictError: The head is another by now; nothing was changed.
        """
        if revision != head:
            self._advance(name, check_ref(branch), revision, head, note)

    def _advance(self, name: str, branch: str, revision: str, head: str | None, note: Note) -> None:
        # noted first: a note that nothing came of is not in the chain that leads to a branch
        if head is not None or note is not PUBLISHED:
            note_move(self.store, name, branch, revision, head, note)
        self._point(f"{name}/refs/{branch}", revision, head)

    def _there(self, name: str, revision: str) -> str:
        if not self.store.exists(_listing(name, revision)):
            raise NotInRegistryError("revision", f"{name} has no revision {revision}")
        return revision

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

    def rename(self, name: str, new: str) -> None:
        """Call a model otherwise, with all its revisions, refs and history.

        Raises:
            RegistryConflictError: There is one of the new name.
        """
        main = f"refs/{MAIN}"
        with self.lock(name):
            self.resolve(name)
            if self.has(check_name(new)):
                raise RegistryConflictError(f"A model repository called {new} already exists")
            paths = [path.removeprefix(f"{name}/") for path in self.store.files_below(name)]
            for path in sorted(paths, key=lambda path: path == main):  # by which it is there
                self.store.copy(f"{name}/{path}", f"{new}/{path}")
            self.store.delete(f"{name}/{main}")
            self.store.delete_folder(name)
            self.store.write(f"{name}/{_MOVED}", new.encode())
            if self.store.exists(f"{new}/{_MOVED}"):  # it is called as it was before
                self.store.delete(f"{new}/{_MOVED}")

    def moved_to(self, name: str) -> str | None:
        """What a model is called now that had this name; None where no other has it."""
        try:
            new = self.store.read(f"{check_name(name)}/{_MOVED}").decode("ascii", "replace")
            return new if self.has(new) else None
        except (FileNotFoundError, RegistryError):
            return None

    def lock(self, name: str) -> AbstractContextManager[object]:
        """Keep others from moving this model's refs; a thread that has it must not ask again."""
        return self.store.lock(check_name(name))

    def _read_ref(self, name: str, *refs: str) -> str | None:
        """Read the first ref that is there."""
        for ref in refs:
            with suppress(FileNotFoundError):
                revision = self.store.read(f"{name}/{ref}").decode("ascii", "replace").strip()
                if not is_revision(revision):
                    raise RegistryDamagedError(
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


def _is_name(name: str) -> bool:
    try:
        return check_name(name) == name
    except RegistryError:
        return False
