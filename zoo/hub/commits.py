"""Commits to a hub: lines of JSON that change a branch's files, all of them or none."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tilezoo.errors import NotInRegistryError, RegistryError
from tilezoo.zoo.history import Note
from tilezoo.zoo.hub.blobs import is_large
from tilezoo.zoo.hub.errors import RefusedError
from tilezoo.zoo.hub.files import check_sha256
from tilezoo.zoo.hub.ignore import GITIGNORE, MOST_BYTES, IgnoreRules, find_rules
from tilezoo.zoo.hub.schemas import (
    CommitDeletion,
    CommitFile,
    CommitHeader,
    CommitLfsFile,
    CommitLine,
    PreuploadBody,
    check_body,
    parse_body,
    read_body,
    read_lines,
)
from tilezoo.zoo.hub.state import Hub, base_url, hub_of, model_of, ref_of, sender_of
from tilezoo.zoo.naming import check_file, check_path, is_revision
from tilezoo.zoo.revisions import NewFile, RegistryFile
from tilezoo.zoo.stores import retry_overtaken

_MOST_FILES = 1000  # in one question before an upload; huggingface_hub asks 256 at a time
_MOST_CHANGES = 20_000
# As huggingface.co words it.
_MOVED = "The branch was updated since you opened this page. Please refresh and try again."
_SAMPLE_BYTES = 512  # of a file that is announced


@dataclass(frozen=True, slots=True)
class Add:
    """Put the file with this hash at a path; it was uploaded, or the model has it."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Take a file away, or a folder with all that is in it; also where the client can't tell."""

    path: str
    is_folder: bool


@dataclass(slots=True)
class Changes:
    """What a commit asks for, noted line by line.

    Attributes:
        parent: The revision the branch must be at, if the client cares.
        each: The changes in their order.
        title: What they are called.
        message: What else is said of them.
    """

    parent: str | None = None
    each: list[Add | Delete] = field(default_factory=list)
    title: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a commit.

    Attributes:
        revision: Where the branch is now.
        ignored: Files that were left out, as `.gitignore` says.
    """

    revision: str
    ignored: Sequence[str]


async def preupload(request: Request) -> Response:
    """Say of each file whether it goes into the commit, is uploaded first, or is left out."""
    hub, name, branch = hub_of(request), model_of(request), ref_of(request)
    _refuse_pull_request(request)
    body = await read_body(request, hub.limits.json_bytes, PreuploadBody)
    if len(body.files) > _MOST_FILES:
        raise RefusedError(413, f"{len(body.files)} files at once; {_MOST_FILES} at most")
    for file in body.files:
        _check_new(file.path)
        if file.size > hub.limits.file_bytes:
            most = hub.limits.file_bytes
            raise RefusedError(413, f"{file.path}: {file.size} bytes; a file has {most}")
    answers = await run_in_threadpool(_answer_files, hub, name, branch, body)
    return JSONResponse({"files": answers})


async def commit(request: Request) -> Response:
    """Change a branch's files; writers of one model take turns, so none is lost."""
    hub, name, branch = hub_of(request), model_of(request), ref_of(request)
    _refuse_pull_request(request)
    await run_in_threadpool(_head, hub, name, branch)
    changes = await _read_changes(request, hub)
    async with hub.turn(name):
        author = sender_of(request).name
        applied = await run_in_threadpool(apply, hub, name, branch, changes, author)
    left_out = f"ignored by {GITIGNORE}: {', '.join(applied.ignored)}" if applied.ignored else ""
    url = f"{base_url(request)}/{name}/commit/{applied.revision}"
    answer = {"success": True, "commitUrl": url, "commitOid": applied.revision}
    return JSONResponse(answer | {"hookOutput": left_out})


def apply(hub: Hub, name: str, branch: str, changes: Changes, author: str = "") -> Applied:
    """Write the revision that changes make of a branch, then move the branch.

    Where a writer of another process was faster, they are made of what that one left.

    Raises:
        RefusedError: 412 where the branch is not where the client takes it to be.
    """
    note = Note(changes.title or "a commit", changes.message, author)

    def change() -> Applied:
        with hub.registry.lock(name):
            head = _head(hub, name, branch)
            if changes.parent not in (None, head):
                raise RefusedError(412, f"{_MOVED} {name}@{branch} is at {head} by now")
            files, ignored = _change_files(hub, name, head, changes.each)
            revision = hub.registry.write(name, files)
            hub.registry.advance(name, branch, revision, head, note)
        return Applied(revision, ignored)

    return retry_overtaken(change)


def _change_files(
    hub: Hub, name: str, head: str, changes: Iterable[Add | Delete]
) -> tuple[list[NewFile], Sequence[str]]:
    """The files of a branch's next revision, and those that it is not to have."""
    before = {file.path: file for file in hub.registry.files(name, head)}
    files = {path: _kept(file, head, path) for path, file in before.items()}
    stored: dict[str, tuple[str, RegistryFile]] | None = None
    for change in changes:
        if isinstance(change, Delete):
            _delete(files, change)
        elif staged := hub.staging.find(change.sha256):
            size = staged.stat().st_size
            files[change.path] = NewFile(
                path=change.path, size=size, sha256=change.sha256, source=staged, settled=True
            )
        else:
            stored = hub.registry.files_by_sha256(name) if stored is None else stored
            if change.sha256 not in stored:
                raise RefusedError(400, f"{change.path}: {change.sha256} was not uploaded")
            revision, file = stored[change.sha256]
            files[change.path] = _kept(file, revision, change.path)
    ignored = _ignored(hub, name, files, before)
    return [file for path, file in files.items() if path not in ignored], ignored


def _ignored(
    hub: Hub, name: str, files: Mapping[str, NewFile], before: Mapping[str, RegistryFile]
) -> Sequence[str]:
    """New files that the `.gitignore` files say to leave out; git goes on with those it has."""
    sources = {path: files[path].source for path in find_rules(files)}
    rules = IgnoreRules({path: _text(hub, name, source) for path, source in sources.items()})
    return [path for path in files if path not in before and rules.ignores(path)]


def _text(hub: Hub, name: str, source: Path | tuple[str, str]) -> str:
    opened = source.open("rb") if isinstance(source, Path) else hub.registry.open(name, *source)
    with opened as file:
        return file.read(MOST_BYTES + 1).decode("utf-8", "replace")


def _kept(file: RegistryFile, revision: str, path: str) -> NewFile:
    return NewFile(path=path, size=file.size, sha256=file.sha256, source=(revision, file.path))


def _delete(files: dict[str, NewFile], change: Delete) -> None:
    inside = f"{change.path}/"
    doomed = [change.path] if change.path in files else []
    if change.is_folder or not doomed:  # clients say that it is a folder by a '/' behind it only
        doomed += [path for path in files if path.startswith(inside)]
    if not doomed:
        raise NotInRegistryError("file", f"{change.path} is not there to be deleted")
    for path in doomed:
        del files[path]


async def _read_changes(request: Request, hub: Hub) -> Changes:
    """Read a commit line by line; the bytes of small files go to the disk as they come."""
    changes, limits = Changes(), hub.limits
    async for line in read_lines(request, limits.commit_bytes, limits.inline_bytes * 2):
        if not line.strip():
            continue
        if len(changes.each) == _MOST_CHANGES:
            raise RefusedError(413, f"more than {_MOST_CHANGES} changes in one commit")
        await run_in_threadpool(_note, changes, parse_body(line, CommitLine), hub)
    return changes


def _note(changes: Changes, line: CommitLine, hub: Hub) -> None:
    match line.key:
        case "header":
            header = check_body(line.value, CommitHeader)
            changes.parent = header.parentCommit or None
            changes.title, changes.message = header.summary or "", header.description or ""
        case "file":
            small = check_body(line.value, CommitFile)
            path = _check_new(small.path)
            content = _content(small, hub.limits.inline_bytes)
            _, sha256 = hub.staging.keep(content)
            hub.blob_ids.note(sha256, content)
            changes.each.append(Add(path, sha256))
        case "lfsFile":
            large = check_body(line.value, CommitLfsFile)
            changes.each.append(Add(_check_new(large.path), check_sha256(large.oid)))
        case "deletedFile" | "deletedFolder":
            path = check_path(check_body(line.value, CommitDeletion).path.rstrip("/"))
            changes.each.append(Delete(path, is_folder=line.key == "deletedFolder"))
        case _:
            raise RefusedError(400, f"a commit line of kind {line.key[:40]!r} is not known here")


def _check_new(path: str) -> str:
    """Return the path of a file that is to be stored.

    Raises:
        RefusedError: 422 for what is no path, as Hugging Face answers; RegistryError for a pickle.
    """
    try:
        check_path(path)
    except RegistryError as error:
        raise RefusedError(422, str(error)) from error
    return check_file(path)


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RefusedError(400, "a file in the commit is no base64") from error


def _content(file: CommitFile, limit: int) -> bytes:
    if file.encoding != "base64":
        raise RefusedError(400, "a file in a commit is encoded in base64")
    data = _decode(file.content)
    if len(data) > limit:
        raise RefusedError(413, f"a file in a commit has {limit} bytes at most; upload it by LFS")
    return data


def _answer_files(hub: Hub, name: str, branch: str, body: PreuploadBody) -> list[dict[str, object]]:
    head = _head(hub, name, branch)
    there = {file.path: file for file in hub.registry.files(name, head)}
    rules = IgnoreRules(_announced_rules(hub, name, head, there, body))
    asked = [there[file.path] for file in body.files if file.path in there]
    names = hub.blob_ids.of(hub.registry, name, head, asked)
    return [
        {
            "path": file.path,
            "uploadMode": "lfs" if is_large(file.path, file.size) else "regular",
            "shouldIgnore": file.path not in there and rules.ignores(file.path),
            # by this a client sees that nothing changed
            "oid": _oid(there[file.path], names) if file.path in there else None,
        }
        for file in body.files
    ]


def _oid(file: RegistryFile, names: Mapping[str, str]) -> str:
    return file.sha256 if is_large(file.path, file.size) else names[file.path]


def _announced_rules(
    hub: Hub, name: str, head: str, there: Iterable[str], body: PreuploadBody
) -> dict[str, str]:
    """Path → text: what the body says goes before what it samples, this before what is stored."""
    texts = {path: _text(hub, name, (head, path)) for path in find_rules(there)}
    announced = {file.path: file for file in body.files if file.size <= _SAMPLE_BYTES}
    for path in find_rules(announced):
        if sample := announced[path].sample:
            texts[path] = _decode(sample).decode("utf-8", "replace")
    return texts if body.gitIgnore is None else texts | {GITIGNORE: body.gitIgnore}


def _head(hub: Hub, name: str, branch: str) -> str:
    """Where a branch is; only branches take commits."""
    revision = hub.registry.resolve(name, branch)
    if is_revision(branch) or branch not in hub.registry.branches(name):
        raise RefusedError(400, f"{branch} is no branch: tags and revisions do not change")
    return revision


def _refuse_pull_request(request: Request) -> None:
    if request.query_params.get("create_pr") == "1":
        raise RefusedError(400, "this hub has no pull requests: commit to a branch")
