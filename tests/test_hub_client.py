"""The hub works with huggingface_hub, hf and timm as they come."""

import json
import os
import sys
from pathlib import Path

import pytest
from hubbing import client, hf, running_hub

from tilezoo.zoo.registry import Registry

# What a user of huggingface_hub does, in its own process: HF_ENDPOINT is read at import.
WALK = """
import json, os, sys
from pathlib import Path
from huggingface_hub import (
    CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, HfFileSystem,
    hf_hub_download, snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError, HfHubHTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError,
    RevisionNotFoundError,
)

def refused(kind, act, *args, **named):
    try:
        act(*args, **named)
    except kind as error:
        return str(error)
    raise AssertionError(f"{act} was not refused")

folder, name, api = Path(sys.argv[1]), "org/model", HfApi()
assert api.create_repo(name).repo_id == name
api.create_repo(name, exist_ok=True)
assert "409" in refused(HfHubHTTPError, api.create_repo, name)
assert api.list_repo_files(name) == []
first = api.upload_folder(repo_id=name, folder_path=folder).oid
assert api.upload_folder(repo_id=name, folder_path=folder).oid == first
api.create_tag(name, tag="v1")
api.create_tag(name, tag="v1", exist_ok=True)
second = api.upload_file(repo_id=name, path_or_fileobj=b"7", path_in_repo="sub/new file.txt").oid
assert second != first
files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
assert api.list_repo_files(name, revision="v1") == files
assert set(api.list_repo_files(name)) == {*files, "sub/new file.txt"}
assert [item.path for item in api.list_repo_tree(name, "sub")] == ["sub/new file.txt"]
assert api.file_exists(name, "config.json") and not api.file_exists(name, "none")

snapshot = Path(snapshot_download(name, revision="v1"))
assert snapshot.name == first
for path in files:
    assert (snapshot / path).read_bytes() == (folder / path).read_bytes()
assert not (snapshot / "sub").exists()
assert Path(hf_hub_download(name, "sub/new file.txt")).read_text() == "7"
with HfFileSystem().open(f"{name}/model.safetensors", block_size=4096) as file:
    file.seek(9_000_001)
    assert file.read(1000) == (folder / "model.safetensors").read_bytes()[9_000_001:9_001_001]
assert not api.verify_repo_checksums(name, revision="v1", local_dir=folder).mismatches

info = api.model_info(name, revision="v1", files_metadata=True)
assert (info.sha, info.library_name, info.card_data.license) == (first, "timm", "mit")
assert {file.rfilename for file in info.siblings} == set(files)
assert [model.id for model in api.list_models(author="org", search="mod")] == [name]
assert [model.id for model in api.list_models(filter="timm")] == [name]
assert list(api.list_models(search="other")) == []
found = api.list_repo_refs(name)
assert [(tag.name, tag.target_commit) for tag in found.tags] == [("v1", first)]
assert [(ref.name, ref.target_commit) for ref in found.branches] == [("main", second)]

api.create_branch(name, branch="dev", revision="v1")
changes = [
    CommitOperationCopy("model.safetensors", "copy.safetensors"),
    CommitOperationAdd("big.safetensors", b"x" * 2_000_000),
    CommitOperationDelete("config.json"),
]
api.create_commit(name, changes, commit_message="changes", revision="dev")
assert set(api.list_repo_files(name, revision="dev")) == {
    *files, "copy.safetensors", "big.safetensors"} - {"config.json"}
copied = hf_hub_download(name, "copy.safetensors", revision="dev")
assert Path(copied).read_bytes() == (folder / "model.safetensors").read_bytes()
api.delete_branch(name, branch="dev")
api.delete_file("sub/new file.txt", name)
assert api.model_info(name).sha == first
api.upload_file(repo_id=name, path_or_fileobj=b"7", path_in_repo="sub/a")
api.delete_folder("sub", name)
assert api.model_info(name).sha == first

assert "safe_serialization" in refused(
    BadRequestError, api.upload_file, repo_id=name, path_or_fileobj=b"", path_in_repo="a.bin")
refused(RemoteEntryNotFoundError, hf_hub_download, name, "none")
refused(RevisionNotFoundError, hf_hub_download, name, "config.json", revision="v2")
refused(RepositoryNotFoundError, hf_hub_download, "org/none", "config.json")
stale = dict(path_or_fileobj=b"", path_in_repo="b", parent_commit=second)
assert "412" in refused(HfHubHTTPError, api.upload_file, repo_id=name, **stale)
refused(ValueError, api.upload_file, repo_id=name, path_or_fileobj=b"---\\na: [\\n---\\n",
        path_in_repo="README.md")
api.delete_tag(name, tag="v1")
api.create_repo("org/other")
api.delete_repo("org/other")
refused(RepositoryNotFoundError, api.model_info, "org/other")
print(first)
"""

TIMM = """
import sys
import timm, torch
from huggingface_hub import HfApi
from timm.models import push_to_hf_hub

torch.manual_seed(0)
args = dict(img_size=32, depth=2, in_chans=4)
model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **args).eval()
push_to_hf_hub(model, "org/timm", model_args=args, safe_serialization=True)
again = timm.create_model("hf-hub:org/timm", pretrained=True).eval()
for key, tensor in model.state_dict().items():
    assert torch.equal(tensor, again.state_dict()[key]), key
image = torch.rand(2, 4, 32, 32)
with torch.inference_mode():
    assert torch.equal(model(image), again(image))
try:
    push_to_hf_hub(model, "org/pickled", model_args=args)
except Exception as error:
    assert "safe_serialization=True" in str(error), error
else:
    raise AssertionError("a pickle was taken")
assert HfApi().list_repo_files("org/pickled") == []
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as of a model, whose weights are larger than 10 MB."""
    folder = tmp_path_factory.mktemp("made") / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')
    (folder / "model.safetensors").write_bytes(os.urandom(12_000_000))
    (folder / "README.md").write_text("---\nlicense: mit\nlibrary_name: timm\n---\n# Größe\n")
    (folder / "empty.txt").write_bytes(b"")
    return folder


def test_huggingface_hub_does_all_it_can_and_the_revision_is_a_folders(model, tmp_path):
    with running_hub(tmp_path / "root", tmp_path / "log") as hub:
        revision = client(hub, tmp_path / "home", sys.executable, "-c", WALK, model).strip()
    assert revision == Registry(tmp_path / "other").publish(model, "org/model")
    assert revision == Registry(tmp_path / "root").resolve("org/model")


def test_the_same_over_a_bucket(model, tmp_path, bucket):
    root = f"{bucket}/hub"
    with running_hub(root, tmp_path / "log") as hub:
        revision = client(hub, tmp_path / "home", sys.executable, "-c", WALK, model).strip()
        registry = Registry(root)
        assert registry.resolve("org/model") == revision
        with registry.open("org/model", revision, "model.safetensors") as file:
            assert file.read() == (model / "model.safetensors").read_bytes()


def test_the_hf_command_uploads_and_downloads(model, tmp_path):
    home = tmp_path / "home"
    with running_hub(tmp_path / "root", tmp_path / "log") as hub:
        hf(hub, home, "upload", "org/model", model, ".")
        hf(hub, home, "upload", "org/model", model / "config.json", "copy/config.json")
        hf(hub, home, "download", "org/model", "--local-dir", tmp_path / "got")
    for path in model.iterdir():
        assert (tmp_path / "got" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "got/copy/config.json").exists()


def test_timm_pushes_and_loads_bit_equal_and_its_pickle_is_refused(tmp_path):
    with running_hub(tmp_path / "root", tmp_path / "log") as hub:
        client(hub, tmp_path / "home", sys.executable, "-c", TIMM)


def test_what_was_published_to_the_folder_is_served(model, tmp_path):
    revision = Registry(tmp_path / "root").publish(model, "org/model")
    with running_hub(tmp_path / "root", tmp_path / "log") as hub:
        info = hub.ask("GET", "/api/models/org/model").json()
        assert info["sha"] == revision
        assert info["library_name"] == "timm"
        got = hub.files("org/model")
    assert got == {path.name: path.read_bytes() for path in model.iterdir()}


def test_the_log_is_lines_of_json_without_secrets(model, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("hf_secret_w write\n")
    with running_hub(tmp_path / "root", tmp_path / "log", "--token-file", tokens) as hub:
        hf(hub, tmp_path / "home", "upload", "org/model", model, ".", token="hf_secret_w")
    text = hub.log.read_text()
    events = [json.loads(line) for line in text.splitlines()]
    assert events[0]["event"] == "listening"
    put = next(event for event in events if event.get("method") == "PUT")
    assert (put["status"], put["bytes_in"]) == (200, 12_000_000)
    assert "hf_secret_w" not in text
    assert "sign" not in put["path"]
