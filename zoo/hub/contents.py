"""Answers about what a model holds: its files and folders at a revision, and what led there."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import PurePosixPath
from urllib.parse import quote, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tilezoo.errors import NotInRegistryError, RegistryError
from tilezoo.zoo.history import Move, Note
from tilezoo.zoo.hub.blobs import is_large, pointer_of
from tilezoo.zoo.hub.schemas import read_paths
from tilezoo.zoo.hub.state import Hub, base_url, hub_of, model_of, ref_of
from tilezoo.zoo.naming import check_path
from tilezoo.zoo.revisions import RegistryFile

_PAGE = 100
_MOST_MOVES = 1000  # that are gone back to find who changed a file


async def tree(request: Request) -> Response:
    """List the files and folders of a revision, or of a folder in it; `expand`: who changed them."""
    hub, name = hub_of(request), model_of(request)
    folder = request.path_params.get("path", "").strip("/")
    if folder:
        check_path(folder)
    state = await run_in_threadpool(_state, hub, name, ref_of(request))
    inside = [file for file in state.files if file.path.startswith(f"{folder}/" if folder else "")]
    if folder and not inside:
        raise NotInRegistryError("file", f"{name} has no folder {folder!r}")
    paths = {*_folders(inside), *(file.path for file in inside)}
    paths = {path for path in paths if path.startswith(f"{folder}/" if folder else "")}
    if not is_true(request, "recursive"):
        paths = {path for path in paths if _lies_in(path, folder)}
    entries = await run_in_threadpool(
        _entries, hub, state, paths, expand=is_true(request, "expand")
    )
    return JSONResponse([entries[path] for path in sorted(entries)])


async def paths_info(request: Request) -> Response:
    """Describe those of the given paths that a revision has."""
    hub, name = hub_of(request), model_of(request)
    body = await read_paths(request, hub.limits.json_bytes)
    state = await run_in_threadpool(_state, hub, name, ref_of(request))
    known = {*_folders(state.files), *(file.path for file in state.files)}
    wanted = [path for path in dict.fromkeys(body.paths) if path in known]
    entries = await run_in_threadpool(_entries, hub, state, wanted, expand=body.expand)
    return JSONResponse([entries[path] for path in wanted])


async def list_commits(request: Request) -> Response:
    """List what led to a revision, the newest first, a page at a time (`p`)."""
    hub, name, ref = hub_of(request), model_of(request), ref_of(request)
    asked = request.query_params
    page, limit = (_number(asked.get(key), value) for key, value in (("p", 0), ("limit", _PAGE)))
    moves = await run_in_threadpool(hub.registry.moves, name, ref)
    size = min(max(limit, 1), _PAGE)
    shown = moves[page * size : (page + 1) * size]
    notes = [await run_in_threadpool(hub.registry.note, name, move) for move in shown]
    formatted = "formatted" in asked.getlist("expand[]") + asked.getlist("expand")
    answer = JSONResponse(
        [_commit(*one, formatted=formatted) for one in zip(shown, notes, strict=True)]
    )
    if len(moves) > (page + 1) * size:
        query = urlencode([(key, value) for key, value in asked.multi_items() if key != "p"])
        here = f"{base_url(request)}{quote(request.url.path)}"
        answer.headers["Link"] = f'<{here}?{query}&p={page + 1}>; rel="next"'
    answer.headers["X-Total-Count"] = str(len(moves))
    return answer


@dataclass(frozen=True, slots=True)
class _State:
    """A model as a request asks for it."""

    name: str
    ref: str
    revision: str
    files: tuple[RegistryFile, ...]


def _state(hub: Hub, name: str, ref: str) -> _State:
    revision = hub.registry.resolve(name, ref)
    return _State(name, ref, revision, hub.registry.files(name, revision))


def _entries(
    hub: Hub, state: _State, paths: Iterable[str], *, expand: bool
) -> dict[str, dict[str, object]]:
    """Describe files and folders."""
    known = {file.path: file for file in state.files}
    files = {path: known[path] for path in paths if path in known}
    names = hub.blob_ids.of(hub.registry, state.name, state.revision, files.values())
    entries = {
        path: _entry(known[path], names[path]) if path in known else _folder(path) for path in paths
    }
    if expand:
        for path, last in _last_commits(hub, state, entries).items():
            entries[path]["lastCommit"] = last
    return entries


def _last_commits(hub: Hub, state: _State, paths: Iterable[str]) -> dict[str, object]:
    """Go back from a state until each file or folder was another one, or not there."""
    left = set(paths)
    last: dict[str, object] = {}
    moves = hub.registry.moves(state.name, state.ref)[:_MOST_MOVES]
    now = _contents(state.files)
    for place, move in enumerate(moves):
        if not left:
            break
        before = _contents_at(hub, state.name, moves[place + 1]) if place + 1 < len(moves) else {}
        changed = {path for path in left if before.get(path) != now[path]}
        if changed:
            note = hub.registry.note(state.name, move)
            told = {"id": move.revision, "title": note.title, "date": in_iso(move.moved)}
            last |= dict.fromkeys(changed, told)
            left -= changed
    return last


def _contents_at(hub: Hub, name: str, move: Move) -> Mapping[str, object]:
    try:
        return _contents(hub.registry.files(name, move.revision))
    except RegistryError:  # a state that is gone or damaged
        return {}


def _contents(files: Sequence[RegistryFile]) -> Mapping[str, object]:
    """File → hash, folder → what lies in it."""
    inside: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file in files:
        for parent in PurePosixPath(file.path).parents:
            inside[str(parent)].append((file.path, file.sha256))
    found: dict[str, object] = {file.path: file.sha256 for file in files}
    found.update(inside)
    return found


def _commit(move: Move, note: Note, *, formatted: bool) -> dict[str, object]:
    told: dict[str, object] = {
        "id": move.revision,
        "title": note.title,
        "message": note.message,
        "date": in_iso(move.moved),
        "authors": [{"user": note.author}] if note.author else [],
    }
    html = {"title": escape(note.title), "message": escape(note.message)}
    return told | {"formatted": html} if formatted else told


def _folders(files: Iterable[RegistryFile]) -> set[str]:
    return {str(parent) for file in files for parent in PurePosixPath(file.path).parents} - {"."}


def _lies_in(path: str, folder: str) -> bool:
    return path.rpartition("/")[0] == folder


def _entry(file: RegistryFile, oid: str) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": file.path, "size": file.size, "oid": oid}
    return entry | ({"lfs": _lfs(file, "oid")} if is_large(file.path, file.size) else {})


def describe_sibling(file: RegistryFile, oid: str) -> dict[str, object]:
    """Describe a file as the answer about its model does."""
    entry: dict[str, object] = {"rfilename": file.path, "size": file.size, "blobId": oid}
    return entry | ({"lfs": _lfs(file, "sha256")} if is_large(file.path, file.size) else {})


def _lfs(file: RegistryFile, key: str) -> dict[str, object]:
    return {key: file.sha256, "size": file.size, "pointerSize": len(pointer_of(file))}


def _folder(path: str) -> dict[str, object]:
    oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "path": path, "size": 0, "oid": oid}


def is_true(request: Request, key: str) -> bool:
    """Tell whether a request's address asks for something."""
    return request.query_params.get(key, "").lower() in ("true", "1")


def _number(text: str | None, otherwise: int) -> int:
    return int(text[:9]) if text and text.isdecimal() else otherwise


def in_iso(moment: datetime) -> str:
    """Write a time as Hugging Face does."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
