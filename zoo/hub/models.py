"""Answers about models: what there is, of which files, under which refs; and changes of those."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tilezoo.errors import NotInRegistryError, RegistryConflictError
from tilezoo.zoo.hub.errors import RefusedError
from tilezoo.zoo.hub.page import CardFacts, card_facts, check_front_matter, read_card
from tilezoo.zoo.hub.schemas import (
    BranchBody,
    CardBody,
    RepositoryBody,
    TagBody,
    read_body,
    read_paths,
)
from tilezoo.zoo.hub.state import Hub, base_url, hub_of, model_of
from tilezoo.zoo.naming import check_name, check_path
from tilezoo.zoo.registry import MAIN, RegistryFile

_MOST_LISTED = 1000


async def list_models(request: Request) -> Response:
    """List models, by name; `search`, `author`, `filter`, `pipeline_tag` and `limit` narrow it."""
    hub, asked = hub_of(request), request.query_params
    limit = asked.get("limit", "")
    names = await run_in_threadpool(hub.registry.models)
    wanted = {*asked.getlist("filter"), *asked.getlist("pipeline_tag")}
    answers: list[dict[str, object]] = []
    for name in names:
        if asked.get("author") not in (None, name.split("/")[0]):
            continue
        if asked.get("search", "").lower() not in name.lower():
            continue
        facts = await run_in_threadpool(model_facts, hub, name, MAIN)
        if wanted <= {*facts.card.tags, facts.card.pipeline_tag}:
            answers.append(facts.to_json())
        if limit.isdecimal() and len(answers) >= int(limit[:9]):
            break
    return JSONResponse(answers)


async def model_info(request: Request) -> Response:
    """Describe a model at its main branch or at a revision."""
    revision = request.path_params.get("revision", MAIN)
    facts = await run_in_threadpool(model_facts, hub_of(request), model_of(request), revision)
    return JSONResponse(facts.to_json())


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What a hub tells of a model.

    Attributes:
        name: `org/name`.
        revision: The one that is described.
        modified: When the main branch was last moved.
        is_private: Whether a token is asked for.
        files: Of the revision.
        card: What its card states.
    """

    name: str
    revision: str
    modified: datetime
    is_private: bool
    files: tuple[RegistryFile, ...]
    card: CardFacts

    def to_json(self) -> dict[str, object]:
        """What huggingface_hub's ModelInfo takes, as far as a registry knows it."""
        return {
            "id": self.name,
            "modelId": self.name,
            "author": self.name.split("/")[0],
            "sha": self.revision,
            "lastModified": self.modified.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "private": self.is_private,
            "gated": False,
            "disabled": False,
            "usedStorage": sum(file.size for file in self.files),
            "siblings": [_sibling(file) for file in self.files],
            **self.card.to_json(),
        }


def model_facts(hub: Hub, name: str, ref: str) -> ModelFacts:
    """Look up what there is to tell of a model at a branch, a tag or a revision."""
    revision = hub.registry.resolve(name, ref)
    files = hub.registry.files(name, revision)
    return ModelFacts(
        name=name,
        revision=revision,
        modified=hub.registry.last_change(name),
        is_private=hub.tokens is not None,
        files=files,
        card=card_facts(read_card(hub.registry, name, revision, files)),
    )


async def tree(request: Request) -> Response:
    """List the files and folders of a revision, or of a folder in it."""
    hub, name = hub_of(request), model_of(request)
    folder = request.path_params.get("path", "").strip("/")
    if folder:
        check_path(folder)
    files = await run_in_threadpool(_files_at, hub, name, request.path_params["revision"])
    inside = [file for file in files if file.path.startswith(f"{folder}/" if folder else "")]
    if folder and not inside:
        raise NotInRegistryError("file", f"{name} has no folder {folder!r}")
    entries = {path: _folder(path) for path in _folders(inside) if path.startswith(folder)}
    entries = {path: entry for path, entry in entries.items() if path != folder}
    entries |= {file.path: _entry(file) for file in inside}
    if request.query_params.get("recursive", "").lower() not in ("true", "1"):
        entries = {path: entry for path, entry in entries.items() if _lies_in(path, folder)}
    return JSONResponse([entries[path] for path in sorted(entries)])


async def paths_info(request: Request) -> Response:
    """Describe those of the given paths that a revision has."""
    hub, name = hub_of(request), model_of(request)
    paths = await read_paths(request, hub.limits.json_bytes)
    files = await run_in_threadpool(_files_at, hub, name, request.path_params["revision"])
    known = {path: _folder(path) for path in _folders(files)}
    known |= {file.path: _entry(file) for file in files}
    return JSONResponse([known[path] for path in paths if path in known])


async def refs(request: Request) -> Response:
    """List branches and tags."""
    hub, name = hub_of(request), model_of(request)
    await run_in_threadpool(hub.registry.resolve, name)
    branches = await run_in_threadpool(hub.registry.branches, name)
    tags = await run_in_threadpool(hub.registry.tags, name)
    return JSONResponse(
        {
            "branches": [_ref(ref, "heads", revision) for ref, revision in branches.items()],
            "tags": [_ref(ref, "tags", revision) for ref, revision in tags.items()],
            "converts": [],
            "pullRequests": [],
        }
    )


async def change_branch(request: Request) -> Response:
    """Make a branch (POST) or delete it (DELETE)."""
    hub, name, branch = hub_of(request), model_of(request), request.path_params["branch"]
    if request.method == "DELETE":
        await run_in_threadpool(hub.registry.delete_branch, name, branch)
    else:
        body = await read_body(request, hub.limits.json_bytes, BranchBody)
        start = body.startingPoint or MAIN
        await run_in_threadpool(hub.registry.branch, name, branch, start)
    return JSONResponse({"success": True})


async def change_tag(request: Request) -> Response:
    """Tag a revision (POST), or delete a tag (DELETE)."""
    hub, name, revision = hub_of(request), model_of(request), request.path_params["revision"]
    if request.method == "DELETE":
        await run_in_threadpool(hub.registry.delete_tag, name, revision)
    else:
        tag = (await read_body(request, hub.limits.json_bytes, TagBody)).tag
        await run_in_threadpool(hub.registry.tag, name, tag, revision)
    return JSONResponse({"success": True})


async def create_model(request: Request) -> Response:
    """Make a model without files; 409 with its address where it is there already."""
    hub = hub_of(request)
    name = _full_name(await read_body(request, hub.limits.json_bytes, RepositoryBody))
    answer = {"url": f"{base_url(request)}/{name}", "name": name, "id": name}
    try:
        await run_in_threadpool(hub.registry.create, name)
    except RegistryConflictError as error:
        return JSONResponse(answer | {"error": str(error)}, status_code=409)
    return JSONResponse(answer)


async def delete_model(request: Request) -> Response:
    """Delete a model with all its revisions."""
    hub = hub_of(request)
    name = _full_name(await read_body(request, hub.limits.json_bytes, RepositoryBody))
    async with hub.turn(name):
        await run_in_threadpool(hub.registry.delete, name)
    return JSONResponse({"success": True})


async def validate_yaml(request: Request) -> Response:
    """Check a card's front matter before it is uploaded."""
    body = await read_body(request, hub_of(request).limits.json_bytes, CardBody)
    problem = await run_in_threadpool(check_front_matter, body.content)
    errors = [{"message": problem}] if problem else []
    return JSONResponse({"errors": errors, "warnings": []}, status_code=400 if errors else 200)


async def who_am_i(request: Request) -> Response:
    """Say what the token that came may do."""
    right = request.state.right
    token = {"displayName": "tilezoo hub", "role": right}
    return JSONResponse(
        {
            "type": "user",
            "name": f"{right}r" if right == "read" else "writer",
            "fullname": f"a token that may {right}",
            "auth": {"type": "access_token", "accessToken": token},
            "orgs": [],
        }
    )


def _full_name(body: RepositoryBody) -> str:
    if body.type not in (None, "model"):
        raise RefusedError(400, "this hub holds models only")
    org = body.organization
    return check_name(f"{org}/{body.name}" if org else body.name)


def _files_at(hub: Hub, name: str, ref: str) -> tuple[RegistryFile, ...]:
    return hub.registry.files(name, hub.registry.resolve(name, ref))


def _folders(files: Iterable[RegistryFile]) -> set[str]:
    return {str(parent) for file in files for parent in PurePosixPath(file.path).parents} - {"."}


def _lies_in(path: str, folder: str) -> bool:
    return path.rpartition("/")[0] == folder


def _entry(file: RegistryFile) -> dict[str, object]:
    return {"type": "file", "path": file.path, "size": file.size, **_git(file, "oid")}


def _sibling(file: RegistryFile) -> dict[str, object]:
    git = _git(file, "sha256")
    return {
        "rfilename": file.path,
        "size": file.size,
        "blobId": git["oid"],
        "lfs": git["lfs"],
    }


def _git(file: RegistryFile, key: str) -> dict[str, object]:
    """What git would hold of a file: every one is a Git LFS pointer, so SHA-256 names them all."""
    lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{file.sha256}")
    pointer = "".join(f"{line}\n" for line in (*lines, f"size {file.size}")).encode()
    blob = b"blob %d\0" % len(pointer) + pointer
    oid = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    return {"oid": oid, "lfs": {key: file.sha256, "size": file.size, "pointerSize": len(pointer)}}


def _folder(path: str) -> dict[str, object]:
    oid = hashlib.sha1(path.encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "path": path, "size": 0, "oid": oid}


def _ref(name: str, kind: str, revision: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": revision}
