"""Answers about models: what there is, of which files, under which refs; and changes of those."""

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tilezoo.errors import NotInRegistryError, RegistryConflictError, RegistryError
from tilezoo.zoo.cards import cut_card
from tilezoo.zoo.history import Note
from tilezoo.zoo.hub.contents import describe_sibling, in_iso, is_true
from tilezoo.zoo.hub.errors import RefusedError, log
from tilezoo.zoo.hub.page import CardFacts, card_facts, check_front_matter, read_card
from tilezoo.zoo.hub.schemas import (
    BranchBody,
    CardBody,
    MoveBody,
    RepositoryBody,
    SettingsBody,
    SquashBody,
    TagBody,
    read_body,
)
from tilezoo.zoo.hub.state import Hub, Sender, base_url, hub_of, model_of, ref_of, sender_of
from tilezoo.zoo.hub.visibility import is_private, set_private
from tilezoo.zoo.naming import check_name
from tilezoo.zoo.registry import MAIN
from tilezoo.zoo.revisions import RegistryFile

# As huggingface.co words it.
_NO_FACTS = "empty or missing yaml metadata in repo card"


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
        facts = await run_in_threadpool(facts_unless_damaged, hub, name)
        if facts and wanted <= {*facts.card.tags, facts.card.pipeline_tag}:
            answers.append(facts.to_json())
        if limit.isdecimal() and len(answers) >= int(limit[:9]):
            break
    return JSONResponse(answers)


async def list_others(_request: Request) -> Response:
    """List datasets or spaces, of which this hub has none."""
    return JSONResponse([])


async def model_info(request: Request) -> Response:
    """Describe a model at its main branch or at a revision; `blobs`: its files, too."""
    hub, name, ref = hub_of(request), model_of(request), ref_of(request)
    facts = await run_in_threadpool(model_facts, hub, name, ref)
    answer = facts.to_json()
    if is_true(request, "blobs"):
        files = (hub.registry, name, facts.revision, facts.files)
        names = await run_in_threadpool(hub.blob_ids.of, *files)
        answer["siblings"] = [describe_sibling(file, names[file.path]) for file in facts.files]
    return JSONResponse(answer)


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
            "lastModified": in_iso(self.modified),
            "private": self.is_private,
            "gated": False,
            "disabled": False,
            "usedStorage": sum(file.size for file in self.files),
            "siblings": [{"rfilename": file.path} for file in self.files],
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
        is_private=_is_private(hub, name),
        files=files,
        card=card_facts(read_card(hub.registry, name, revision, files)),
    )


def _is_private(hub: Hub, name: str) -> bool:
    if hub.tokens is None:
        return False
    return not hub.tokens.is_public or is_private(hub.registry, name)


def facts_unless_damaged(hub: Hub, name: str) -> ModelFacts | None:
    """Look up what there is to tell of a model; one that is damaged is told in the log only."""
    try:
        return model_facts(hub, name, MAIN)
    except (RegistryError, OSError) as error:
        log("damaged", {"model": name, "error": str(error)})
        return None


async def squash(request: Request) -> Response:
    """Let a branch's history begin where the branch is."""
    hub, name, branch = hub_of(request), model_of(request), ref_of(request)
    body = await read_body(request, hub.limits.json_bytes, SquashBody)
    note = Note(body.message or f"Super-squash branch {branch!r}", "", sender_of(request).name)
    await run_in_threadpool(hub.registry.squash, name, branch, note)
    return JSONResponse({"success": True})


async def check_right(request: Request) -> Response:
    """Answer whoever may read a model, or write it, as the address says; others came no further."""
    await run_in_threadpool(hub_of(request).registry.resolve, model_of(request))
    return JSONResponse({})


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
    hub, name, branch = hub_of(request), model_of(request), unquote(request.path_params["branch"])
    if request.method == "DELETE":
        if branch == MAIN:
            raise RefusedError(400, f"Cannot delete refs/heads/{MAIN}; delete {name} instead")
        await run_in_threadpool(_delete_branch, hub, name, branch)
    else:
        body = await read_body(request, hub.limits.json_bytes, BranchBody)
        await run_in_threadpool(_make_branch, hub, name, branch, body.startingPoint or MAIN)
    return JSONResponse({"success": True})


def _make_branch(hub: Hub, name: str, branch: str, start: str) -> None:
    if branch in hub.registry.branches(name):
        raise RegistryConflictError(f"Reference refs/heads/{branch} already exists in {name}")
    hub.registry.branch(name, branch, start)


def _delete_branch(hub: Hub, name: str, branch: str) -> None:
    hub.registry.resolve(name)
    if branch not in hub.registry.branches(name):
        message = f"Invalid rev id: {name} has no refs/heads/{branch[:100]}"
        raise NotInRegistryError("revision", message)
    hub.registry.delete_branch(name, branch)


async def change_tag(request: Request) -> Response:
    """Tag a revision (POST), or delete a tag (DELETE)."""
    hub, name, revision = hub_of(request), model_of(request), ref_of(request)
    if request.method == "DELETE":
        await run_in_threadpool(hub.registry.delete_tag, name, revision)
    else:
        tag = (await read_body(request, hub.limits.json_bytes, TagBody)).tag
        await run_in_threadpool(hub.registry.tag, name, tag, revision)
    return JSONResponse({"success": True})


async def create_model(request: Request) -> Response:
    """Make a model without files; 409 with its address where it is there already."""
    hub = hub_of(request)
    body = await read_body(request, hub.limits.json_bytes, RepositoryBody)
    name, private = _full_name(body, sender_of(request)), _asks_private(body)
    answer: dict[str, object] = {"url": f"{base_url(request)}/{name}", "name": name, "id": name}
    try:
        await run_in_threadpool(hub.registry.create, name, sender_of(request).name)
    except RegistryConflictError as error:
        return JSONResponse(answer | {"error": str(error)}, status_code=409)
    if private:
        await run_in_threadpool(set_private, hub.registry, name, private=True)
    return JSONResponse(answer)


async def change_settings(request: Request) -> Response:
    """Make a model private or public."""
    hub, name = hub_of(request), model_of(request)
    body = await read_body(request, hub.limits.json_bytes, SettingsBody)
    if body.gated:
        raise RefusedError(400, "this hub gates no models; make them private")
    private = _asks_private(body)
    if private is not None:
        await run_in_threadpool(set_private, hub.registry, name, private=private)
    return JSONResponse({"private": await run_in_threadpool(_is_private, hub, name)})


def _asks_private(body: RepositoryBody | SettingsBody) -> bool | None:
    """What a body says of who finds a model, in either of its two words; None for nothing."""
    if body.visibility not in (None, "public", "private"):
        raise RefusedError(400, "a model is public or private")
    return body.private if body.visibility is None else body.visibility == "private"


async def delete_model(request: Request) -> Response:
    """Delete a model with all its revisions."""
    hub = hub_of(request)
    body = await read_body(request, hub.limits.json_bytes, RepositoryBody)
    name = _full_name(body, sender_of(request))
    async with hub.turn(name):
        await run_in_threadpool(hub.registry.delete, name)
    return JSONResponse({"success": True})


async def move_model(request: Request) -> Response:
    """Call a model otherwise."""
    hub = hub_of(request)
    body = await read_body(request, hub.limits.json_bytes, MoveBody)
    _refuse_other_kinds(body.type)
    async with hub.turn(check_name(body.fromRepo)):
        await run_in_threadpool(hub.registry.rename, body.fromRepo, body.toRepo)
    return JSONResponse({"success": True, "url": f"{base_url(request)}/{body.toRepo}"})


async def validate_yaml(request: Request) -> Response:
    """Check a card's front matter before it is uploaded."""
    body = await read_body(request, hub_of(request).limits.json_bytes, CardBody)
    problem = await run_in_threadpool(check_front_matter, body.content)
    errors = [{"message": problem}] if problem else []
    warnings = (
        [] if problem or cut_card(body.content.lstrip())[0].strip() else [{"message": _NO_FACTS}]
    )
    status = 400 if errors else 200
    return JSONResponse({"errors": errors, "warnings": warnings}, status_code=status)


async def who_am_i(request: Request) -> Response:
    """Say whose the token that came is, and what it may do."""
    sender = sender_of(request)
    token = {"displayName": "tilezoo hub", "role": sender.right}
    return JSONResponse(
        {
            "type": "user",
            "id": sender.name,
            "name": sender.name,
            "fullname": f"a token that may {sender.right}",
            "email": None,
            "avatarUrl": "",
            "isPro": False,
            "auth": {"type": "access_token", "accessToken": token},
            "orgs": [],
        }
    )


def _full_name(body: RepositoryBody, sender: Sender) -> str:
    """The model's name; without an organisation it is the sender's own."""
    _refuse_other_kinds(body.type)
    org = body.organization or (None if "/" in body.name else sender.user)
    if org is None and "/" not in body.name:
        fix = "call it ORG/NAME, or name the token's user in the token file: TOKEN write USER"
        raise RefusedError(400, f"{body.name[:100]!r} has no organisation: {fix}")
    return check_name(f"{org}/{body.name}" if org else body.name)


def _refuse_other_kinds(kind: str | None) -> None:
    if kind not in (None, "model"):
        raise RefusedError(400, "this hub holds models only")


def _ref(name: str, kind: str, revision: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": revision}
