"""Commits to a hub: lines of JSON that change a branch's files, all of them or none."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tilezoo.errors import NotInRegistryError
from tilezoo.zoo.hub.errors import RefusedError
from tilezoo.zoo.hub.files import check_sha256
from tilezoo.zoo.hub.schemas import (
    AnnouncedFile,
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
from tilezoo.zoo.hub.state import Hub, base_url, hub_of, model_of
from tilezoo.zoo.naming import check_file, check_path, is_revision
from tilezoo.zoo.registry import NewFile, RegistryFile

_MOST_FILES = 1000  # in one question before an upload; huggingface_hub asks 256 at a time
_MOST_CHANGES = 20_000


@dataclass(frozen=True, slots=True)
class Add:
    """Put the file with this hash at a path; it was uploaded, or the model has it."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Take a file away, or a folder with all that is in it."""

    path: str
    is_folder: bool


@dataclass(slots=True)
class Changes:
    """What a commit asks for, noted line by line.

    Attributes:
        parent: The revision the branch must be at, if the client cares.
        each: The changes in their order.
    """

    parent: str | None = None
    each: list[Add | Delete] = field(default_factory=list)


async def preupload(request: Request) -> Response:
    """Say of each file whether it goes into the commit or is uploaded first; refuse early."""
    hub, name, branch = hub_of(request), model_of(request), request.path_params["revision"]
    _refuse_pull_request(request)
    files = (await read_body(request, hub.limits.json_bytes, PreuploadBody)).files
    if len(files) > _MOST_FILES:
        raise RefusedError(413, f"{len(files)} files at once; {_MOST_FILES} at most")
    for file in files:
        check_file(file.path)
        if file.size > hub.limits.file_bytes:
            most = hub.limits.file_bytes
            raise RefusedError(413, f"{file.path}: {file.size} bytes; a file has {most}")
    there = await run_in_threadpool(_files_of_branch, hub, name, branch)
    return JSONResponse({"files": [_mode(hub, file, there) for file in files]})


async def commit(request: Request) -> Response:
    """Change a branch's files; writers of one model take turns, so none is lost."""
    hub, name, branch = hub_of(request), model_of(request), request.path_params["revision"]
    _refuse_pull_request(request)
    await run_in_threadpool(_head, hub, name, branch)
    changes = await _read_changes(request, hub)
    async with hub.turn(name):
        revision = await run_in_threadpool(apply, hub, name, branch, changes)
    url = f"{base_url(request)}/{name}/commit/{revision}"
    return JSONResponse(
        {"success": True, "commitUrl": url, "commitOid": revision, "hookOutput": ""}
    )


def apply(hub: Hub, name: str, branch: str, changes: Changes) -> str:
    """Write the revision that changes make of a branch, then move the branch; give the revision.

    Raises:
        RefusedError: 412 where the branch is not where the client takes it to be.
    """
    with hub.registry.lock(name):
        head = _head(hub, name, branch)
        if changes.parent not in (None, head):
            raise RefusedError(412, f"{branch} is at {head} by now: look at it and commit again")
        files = _change_files(hub, name, head, changes.each)
        revision = hub.registry.write(name, files)
        hub.registry.advance(name, branch, revision, head)
    return revision


def _change_files(hub: Hub, name: str, head: str, changes: Iterable[Add | Delete]) -> list[NewFile]:
    """The files of a branch's next revision."""
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
    return list(files.values())


def _kept(file: RegistryFile, revision: str, path: str) -> NewFile:
    return NewFile(path=path, size=file.size, sha256=file.sha256, source=(revision, file.path))


def _delete(files: dict[str, NewFile], change: Delete) -> None:
    inside = f"{change.path}/"
    doomed = [path for path in files if path.startswith(inside)] if change.is_folder else []
    doomed += [change.path] if change.path in files else []
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
            changes.parent = check_body(line.value, CommitHeader).parentCommit or None
        case "file":
            small = check_body(line.value, CommitFile)
            path = check_file(small.path)
            _, sha256 = hub.staging.keep(_content(small, hub.limits.inline_bytes))
            changes.each.append(Add(path, sha256))
        case "lfsFile":
            large = check_body(line.value, CommitLfsFile)
            changes.each.append(Add(check_file(large.path), check_sha256(large.oid)))
        case "deletedFile" | "deletedFolder":
            path = check_path(check_body(line.value, CommitDeletion).path.rstrip("/"))
            changes.each.append(Delete(path, is_folder=line.key == "deletedFolder"))
        case _:
            raise RefusedError(400, f"a commit line of kind {line.key[:40]!r} is not known here")


def _content(file: CommitFile, limit: int) -> bytes:
    if file.encoding != "base64":
        raise RefusedError(400, "a file in a commit is encoded in base64")
    try:
        data = base64.b64decode(file.content, validate=True)
    except ValueError as error:
        raise RefusedError(400, "a file in the commit is no base64") from error
    if len(data) > limit:
        raise RefusedError(413, f"a file in a commit has {limit} bytes at most; upload it by LFS")
    return data


def _mode(hub: Hub, file: AnnouncedFile, there: dict[str, RegistryFile]) -> dict[str, object]:
    by_lfs = file.size > hub.limits.inline_bytes // 2
    # by this a client sees that nothing changed; for small files it would be git's hash
    oid = there[file.path].sha256 if by_lfs and file.path in there else None
    mode = "lfs" if by_lfs else "regular"
    return {"path": file.path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def _files_of_branch(hub: Hub, name: str, branch: str) -> dict[str, RegistryFile]:
    files = hub.registry.files(name, _head(hub, name, branch))
    return {file.path: file for file in files}


def _head(hub: Hub, name: str, branch: str) -> str:
    """Where a branch is; only branches take commits."""
    revision = hub.registry.resolve(name, branch)
    if is_revision(branch) or branch not in hub.registry.branches(name):
        raise RefusedError(400, f"{branch} is no branch: tags and revisions do not change")
    return revision


def _refuse_pull_request(request: Request) -> None:
    if request.query_params.get("create_pr") == "1":
        raise RefusedError(400, "this hub has no pull requests: commit to a branch")
