"""What clients of Hugging Face ask besides, and what a hub says of models that are damaged."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hubbing import client, git_blob_id, large, running_hub, small

from tilezoo.zoo.registry import Registry

NAME = "org/model"
WEIGHTS = bytes(range(256)) * 4000


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    base = tmp_path_factory.mktemp("hub")
    with running_hub(base / "root", base / "log") as hub:
        hub.create(NAME)
        oid = hub.upload(NAME, WEIGHTS)
        lines = [small("config.json", b"{}"), small("s/a", b"1"), small("s/b/c", b"2")]
        assert hub.commit(NAME, large("model.safetensors", oid), *lines).status == 200
        yield hub


def commits(hub, name, ref="main", query="") -> list[dict]:
    answer = hub.ask("GET", f"/api/models/{name}/commits/{ref}{query}")
    assert answer.status == 200, answer
    return answer.json()


def titles(hub, name, ref="main") -> list[str]:
    return [commit["title"] for commit in commits(hub, name, ref)]


def put(hub, name, title, branch="main", **files) -> str:
    lines = [small(path, content) for path, content in files.items()]
    answer = hub.commit(
        name, *lines, header={"summary": title, "description": f"{title}!"}, branch=branch
    )
    assert answer.status == 200, answer
    return answer.json()["commitOid"]


@pytest.mark.parametrize("key", ["deletedFile", "deletedFolder"])
@pytest.mark.parametrize("path", ["s", "s/"])
def test_a_folder_is_deleted_with_and_without_a_slash(hub, key, path):
    name = f"org/{key}-{len(path)}"
    hub.create(name)
    put(hub, name, "files", **{"s/a": b"1", "s/b/c": b"2", "sa": b"3"})
    assert hub.commit(name, {"key": key, "value": {"path": path}}).status == 200
    assert hub.files(name) == {"sa": b"3"}


def test_who_may_read_and_write_is_told(tmp_path):
    (tmp_path / "tokens").write_text("r read\nw write\n")
    root = tmp_path / "root"
    Registry(root).create(NAME)
    with running_hub(root, tmp_path / "log", "--token-file", tmp_path / "tokens") as hub:
        for token, write, name, status in (
            ("r", "", NAME, 200), ("r", "/write", NAME, 403), ("w", "/write", NAME, 200),
            ("w", "", "org/none", 404), ("x", "", NAME, 401),
        ):  # fmt: skip
            headers = {"Authorization": f"Bearer {token}"}
            answer = hub.ask("GET", f"/api/models/{name}/auth-check{write}", **headers)
            assert answer.status == status, (token, write, name, answer)


@pytest.mark.parametrize(
    "path",
    ["/api/models/gpt2", "/api/models/gpt2/revision/main", "/api/models/gpt2/tree/main",
     "/api/models/gpt2/auth-check", "/api/models/org/none", "/api/models/org/none/discussions",
     "/api/models/a--b/c", "/api/datasets/org/x", "/api/datasets/x/revision/main",
     "/api/datasets/org/x/tree/main", "/api/spaces/org/x", "/api/kernels/org/x",
     "/gpt2/resolve/main/config.json", "/org/none/resolve/main/a", "/org/none/raw/main/a",
     "/datasets/org/x/resolve/main/a", "/datasets/x/resolve/main/a", "/spaces/org/x/resolve/main/a",
     "/org/none/resolve/refs%2Fpr%2F1/a"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_no_model_here_is_a_repository_not_found(hub, path, method):
    answer = hub.ask(method, path)
    assert (answer.status, answer.headers.get("x-error-code")) == (404, "RepoNotFound")


def test_what_a_model_has_not_is_no_missing_repository(hub):
    for path in (f"/api/models/{NAME}/discussions", "/api/collections", "/api/nothing/x"):
        answer = hub.ask("GET", path)
        assert (answer.status, answer.headers.get("x-error-code")) == (404, None)
    assert hub.ask("GET", "/api/datasets").json() == hub.ask("GET", "/api/spaces").json() == []


@pytest.mark.parametrize(
    "path",
    ["/{n}/resolve/{r}/config.json", "/{n}/raw/{r}/config.json", "/api/models/{n}/tree/{r}",
     "/api/models/{n}/tree/{r}/s%2Fb", "/api/models/{n}/revision/{r}", "/api/models/{n}/commits/{r}"],
)  # fmt: skip
def test_a_branch_goes_by_its_whole_name_and_others_with_a_slash_are_no_revision(hub, path):
    plain = hub.ask("GET", path.format(n=NAME, r="main"))
    for ref in ("refs%2Fheads%2Fmain", "refs%2fheads%2fmain"):
        answer = hub.ask("GET", path.format(n=NAME, r=ref))
        assert (answer.status, answer.body) == (200, plain.body)
    for ref in ("refs%2Fpr%2F1", "feature%2Fx", "%2F", "..%2F..", "v9", "refs%2Fheads%2F..%2Fx"):
        answer = hub.ask("GET", path.format(n=NAME, r=ref))
        assert (answer.status, answer.headers["x-error-code"]) == (404, "RevisionNotFound")


def test_small_files_are_called_as_git_calls_them(hub, tmp_path):
    listed = hub.ask("GET", f"/api/models/{NAME}/tree/main?recursive=true").json()
    entries = {entry["path"]: entry for entry in listed if entry["type"] == "file"}
    assert {path for path, entry in entries.items() if "lfs" in entry} == {"model.safetensors"}
    for path, content in {"config.json": b"{}", "s/a": b"1", "s/b/c": b"2"}.items():
        (tmp_path / "file").write_bytes(content)
        done = subprocess.run(["git", "hash-object", tmp_path / "file"], capture_output=True,
                              text=True, check=True)  # fmt: skip
        oid = done.stdout.strip()
        assert entries[path]["oid"] == oid == git_blob_id(content)
        head = hub.ask("HEAD", f"/{NAME}/resolve/main/{path}")
        assert head.headers["etag"] == f'"{oid}"'
        assert "x-linked-etag" not in head.headers
        asked = {"files": [{"path": path, "size": len(content)}]}
        told = hub.ask("POST", f"/api/models/{NAME}/preupload/main", asked).json()["files"][0]
        assert (told["oid"], told["uploadMode"]) == (oid, "regular")
    siblings = hub.ask("GET", f"/api/models/{NAME}?blobs=true").json()["siblings"]
    assert {one["rfilename"]: one["blobId"] for one in siblings} == {
        path: entry["oid"] for path, entry in entries.items()
    }


def test_a_history_tells_what_led_to_a_branch_the_newest_first(hub):
    name = "org/history"
    hub.create(name)
    first = put(hub, name, "one", a=b"1")
    put(hub, name, "two", a=b"2")
    assert put(hub, name, "back", a=b"1") == first
    found = commits(hub, name)
    assert [each["title"] for each in found] == ["back", "two", "one", "initial commit"]
    assert found[0]["id"] == found[2]["id"] == first
    assert found[0]["message"] == "back!"
    assert [each["date"] for each in found] == sorted(
        (each["date"] for each in found), reverse=True
    )
    assert [author["user"] for author in found[0]["authors"]] == ["writer"]
    assert "formatted" not in found[0]
    shown = commits(hub, name, query="?expand[]=formatted")[0]["formatted"]
    assert shown == {"title": "back", "message": "back!"}
    page = hub.ask("GET", f"/api/models/{name}/commits/main?limit=3")
    assert [each["title"] for each in page.json()] == ["back", "two", "one"]
    rest = page.headers["link"].partition(">")[0].removeprefix(f"<{hub.url}")
    assert [each["title"] for each in hub.ask("GET", rest).json()] == ["initial commit"]


def test_branches_have_histories_of_their_own(hub):
    name = "org/branches"
    hub.create(name)
    put(hub, name, "one", a=b"1")
    hub.ask("POST", f"/api/models/{name}/branch/dev", {})
    put(hub, name, "on main", a=b"2")
    put(hub, name, "on dev", branch="dev", a=b"3")
    assert titles(hub, name) == ["on main", "one", "initial commit"]
    assert titles(hub, name, "dev") == ["on dev", "one", "initial commit"]
    before = hub.files(name)
    squashed = hub.ask("POST", f"/api/models/{name}/super-squash/main", {"message": "all"})
    assert squashed.status == 200
    assert titles(hub, name) == ["all"]
    assert titles(hub, name, "dev") == ["on dev", "one", "initial commit"]
    assert hub.files(name) == before
    put(hub, name, "after", a=b"4")
    assert titles(hub, name) == ["after", "all"]


def test_what_was_published_from_a_folder_begins_a_history(tmp_path):
    registry = Registry(tmp_path / "root")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/a").write_bytes(b"1")
    registry.publish(tmp_path / "model", NAME)
    with running_hub(tmp_path / "root", tmp_path / "log") as hub:
        assert titles(hub, NAME) == ["published"]
        put(hub, NAME, "by hub", b=b"2")
        (tmp_path / "model/a").write_bytes(b"3")
        registry.publish(tmp_path / "model", NAME)
        assert titles(hub, NAME) == ["tilezoo publish", "by hub", "published"]


def test_who_last_changed_a_file_or_folder_is_told(hub):
    name = "org/last"
    hub.create(name)
    put(hub, name, "one", a=b"1", **{"s/x": b"1", "s/t/y": b"1"})
    put(hub, name, "two", a=b"2")
    put(hub, name, "three", b=b"3", **{"s/t/y": b"2"})
    listed = hub.ask("GET", f"/api/models/{name}/tree/main?recursive=true&expand=true").json()
    assert {each["path"]: each["lastCommit"]["title"] for each in listed} == {
        "a": "two", "b": "three", "s": "three", "s/x": "one", "s/t": "three", "s/t/y": "three",
    }  # fmt: skip
    body = {"paths": ["s/x", "none"], "expand": True}
    asked = hub.ask(
        "POST", f"/api/models/{name}/paths-info/main", body, Content_Type="application/json"
    )
    assert [each["lastCommit"]["title"] for each in asked.json()] == ["one"]


def test_a_model_gets_another_name_with_all_it_has(hub):
    hub.create("org/old")
    put(hub, "org/old", "one", a=b"1")
    hub.ask("POST", "/api/models/org/old/tag/main", {"tag": "v1"})
    hub.create("org/taken")
    move = {"fromRepo": "org/old", "toRepo": "org/taken"}
    refused = hub.ask("POST", "/api/repos/move", move)
    assert refused.status == 409
    assert "called org/taken already exists" in refused.json()["error"]
    assert hub.ask("POST", "/api/repos/move", move | {"toRepo": "new/name"}).status == 200
    for path in ("/api/models/{}", "/{}/resolve/v1/a?download=true", "/api/models/{}/tree/v1"):
        led = hub.ask("GET", path.format("org/old"))
        assert (led.status, led.headers["location"]) == (307, path.format("new/name"))
    assert hub.ask("GET", "/org/old/resolve/v1/none").status == 307
    assert hub.commit("org/old", small("a", b"2")).status == 404
    assert "org/old" not in {model["id"] for model in hub.ask("GET", "/api/models").json()}
    assert hub.files("new/name", "v1") == {"a": b"1"}
    assert titles(hub, "new/name") == ["one", "initial commit"]
    for wrong in (
        {"fromRepo": "../x"},
        {"toRepo": "a/../b"},
        {"toRepo": "bare"},
        {"type": "space"},
    ):
        body = {"fromRepo": "new/name", "toRepo": "new/other"} | wrong
        assert hub.ask("POST", "/api/repos/move", body).status == 400
    back = {"fromRepo": "new/name", "toRepo": "org/old"}
    assert hub.ask("POST", "/api/repos/move", back).status == 200
    assert hub.files("org/old") == {"a": b"1"}
    assert hub.ask("GET", "/api/models/new/name").headers["location"] == "/api/models/org/old"
    hub.ask("DELETE", "/api/repos/delete", {"name": "old", "organization": "org"})
    assert hub.ask("GET", "/api/models/new/name").status == 404


def test_users_have_names_and_models_without_an_organisation_are_theirs(tmp_path):
    (tmp_path / "tokens").write_text("w write ada\nr read\n* read\n")
    with running_hub(
        tmp_path / "root", tmp_path / "log", "--token-file", tmp_path / "tokens"
    ) as hub:
        write = {"Authorization": "Bearer w"}
        made = hub.ask("POST", "/api/repos/create", {"name": "mine"}, **write)
        assert made.json()["name"] == "ada/mine"
        assert hub.ask("GET", "/api/whoami-v2", **write).json()["name"] == "ada"
        assert hub.commit("ada/mine", small("a", b"1"), **write).status == 200
        assert hub.files("ada/mine") == {"a": b"1"}  # by somebody without a token
        assert commits(hub, "ada/mine")[0]["authors"] == [{"user": "ada"}]
        assert hub.commit("ada/mine", small("a", b"2")).status == 401
        assert hub.ask("GET", "/api/models/ada/mine/auth-check/write").status == 401
        wrong = hub.ask("GET", "/api/models", Authorization="Bearer nope")
        assert wrong.status == 401


def test_clients_get_an_answer_and_no_exception(hub, tmp_path):
    code = """
from huggingface_hub import CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError
api = HfApi()
assert api.repo_exists("org/model") and not api.repo_exists("gpt2")
assert not api.repo_exists("org/x", repo_type="dataset")
assert not api.repo_exists("org/x", repo_type="space")
assert not api.file_exists("gpt2", "config.json")
assert not api.revision_exists("org/model", "refs/pr/1")
assert api.revision_exists("org/model", "refs/heads/main")
api.auth_check("org/model")
for name, kind in (("gpt2", "model"), ("org/x", "dataset")):
    try:
        hf_hub_download(name, "config.json", repo_type=kind)
    except RepositoryNotFoundError:
        continue
    raise AssertionError(name)
api.create_repo("org/client")
api.upload_file(repo_id="org/client", path_or_fileobj=b"1", path_in_repo="folder/a")
before = api.list_repo_commits("org/client")
assert [commit.title for commit in before] == ["Upload folder/a with huggingface_hub", "initial commit"]
api.create_commit("org/client", [CommitOperationDelete("folder")], commit_message="gone")
assert api.list_repo_files("org/client") == []
assert api.list_repo_commits("org/client")[0].title == "gone"
assert list(api.list_datasets()) == []
"""
    client(hub, tmp_path, sys.executable, "-c", code)


def harm_ref(root: Path, text: str) -> None:
    (root / "org/bad/refs/main").write_text(text)


def harm_file(root: Path, file: str, content: bytes | None) -> None:
    path = next((root / "org/bad/revisions").glob(f"*/{file}"))
    path.unlink()  # it may be a link to another revision's
    if content is not None:
        path.write_bytes(content)


def harm_listing(root: Path, text: str) -> None:
    next((root / "org/bad/revisions").glob("*.json")).write_text(text)


HARMS = {
    "a ref to nowhere": (lambda root: harm_ref(root, "0" * 40), 404),
    "a garbled ref": (lambda root: harm_ref(root, "garbage"), 500),
    "an empty ref": (lambda root: harm_ref(root, ""), 500),
    "a garbled listing": (lambda root: harm_listing(root, "{"), 500),
    "another listing": (lambda root: harm_listing(root, '{"files": []}'), 500),
    "a cut file": (lambda root: harm_file(root, "model.safetensors", b"x"), 500),
    "a file too long": (lambda root: harm_file(root, "model.safetensors", b"x" * 5000), 500),
    "a missing file": (lambda root: harm_file(root, "model.safetensors", None), 500),
    "a missing small file": (lambda root: harm_file(root, "config.json", None), None),
    "a missing card": (lambda root: harm_file(root, "README.md", None), None),
    "a stray file": (lambda root: (shutil.rmtree(root / "org/bad"), (root / "org/bad").write_text("")), 404),
}  # fmt: skip


@pytest.fixture(scope="module")
def harmed_hub(tmp_path_factory):
    base = tmp_path_factory.mktemp("harmed")
    (base / "model").mkdir()
    for path, content in SOUND.items():
        (base / "model" / path).write_bytes(content)
    with running_hub(base / "root", base / "log") as hub:
        yield hub, base


SOUND = {"model.safetensors": b"\0" * 3000, "config.json": b"{}", "README.md": b"# hi"}


@pytest.fixture
def harmed(harmed_hub):
    """A hub and its root, with a model to be harmed and one beside it."""
    hub, base = harmed_hub
    for name in ("org/bad", "org/good"):
        Registry(base / "root").publish(base / "model", name)
    yield hub, base / "root"
    shutil.rmtree(base / "root/org/bad", ignore_errors=True)
    (base / "root/org/bad").unlink(missing_ok=True)


@pytest.mark.parametrize("harm", HARMS)
def test_one_damaged_model_leaves_the_others_listed_and_its_file_is_an_error(harmed, harm):
    hub, root = harmed
    do_harm, status = HARMS[harm]
    lines = len(hub.logged())
    do_harm(root)
    listed = hub.ask("GET", "/api/models")
    assert listed.status == 200
    assert "org/good" in {model["id"] for model in listed.json()}
    index = hub.ask("GET", "/")
    assert index.status == 200
    assert "org/good" in index.body.decode()
    for method in ("GET", "HEAD"):
        answer = hub.ask(method, "/org/bad/resolve/main/model.safetensors")
        assert answer.status == (status or 200)
    if not status:
        assert hub.ask("GET", "/api/models/org/bad").status == 200
    assert hub.files("org/good") == SOUND
    new = hub.logged()[lines:]
    assert not [event for event in new if "traceback" in event]
    if harm not in ("a stray file", "a missing small file"):
        assert any(event["event"] == "damaged" for event in new)
