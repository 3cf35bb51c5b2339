"""A registry names revisions by their content, keeps them whole, and lets no path out."""

import hashlib
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.errors import (
    NotInRegistryError,
    OptionError,
    RegistryConflictError,
    RegistryError,
    RegistryUnreachableError,
)
from tilezoo.zoo.naming import check_name, check_path, check_ref
from tilezoo.zoo.registry import Registry

FILES = {"config.json": b"{}", "model.safetensors": b"\0" * 3000, "sub/Zahl ü.txt": b"7"}
NAME = "org/model"


def write(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "root")


def read(registry: Registry, name: str, revision: str) -> dict[str, bytes]:
    found = {}
    for file in registry.files(name, revision):
        with registry.open(name, revision, file.path) as opened:
            found[file.path] = opened.read()
        assert hashlib.sha256(found[file.path]).hexdigest() == file.sha256
        assert len(found[file.path]) == file.size
    return found


def test_what_is_published_is_read_back(registry, model):
    revision = registry.publish(model, NAME)
    assert registry.resolve(NAME) == registry.resolve(NAME, revision) == revision
    assert read(registry, NAME, revision) == FILES
    assert registry.models() == [NAME]


def test_the_revision_is_what_sha256sum_prints(registry, model):
    lines = "find * -type f | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 sha256sum | sha256sum"
    done = subprocess.run(
        ["sh", "-c", lines], cwd=model, capture_output=True, text=True, check=True
    )
    assert registry.publish(model, NAME) == done.stdout[:40]


def test_publishing_again_changes_nothing(registry, model, tmp_path):
    first = registry.publish(model, NAME)
    before = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "root").rglob("*.json"))}
    assert registry.publish(model, NAME) == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list((tmp_path / "root/org/model/revisions").glob("*.json"))) == 1


def test_a_ref_moves_and_the_revision_it_left_stays(registry, model):
    first = registry.publish(model, NAME)
    (model / "config.json").write_bytes(b'{"a": 1}')
    second = registry.publish(model, NAME)
    assert registry.resolve(NAME) == second != first
    assert read(registry, NAME, first) == FILES


def test_tags_and_branches(registry, model):
    first = registry.publish(model, NAME)
    registry.tag(NAME, "v1")
    registry.branch(NAME, "dev", "v1")
    (model / "config.json").write_bytes(b"[]")
    registry.publish(model, NAME, "dev")
    assert registry.resolve(NAME, "v1") == registry.resolve(NAME) == first
    assert set(registry.branches(NAME)) == {"main", "dev"}
    assert registry.tags(NAME) == {"v1": first}
    with pytest.raises(RegistryConflictError, match="already"):
        registry.tag(NAME, "v1", "dev")
    with pytest.raises(RegistryConflictError, match="tag"):
        registry.publish(model, NAME, "v1")
    registry.delete_tag(NAME, "v1")
    registry.delete_branch(NAME, "dev")
    with pytest.raises(NotInRegistryError, match="no revision 'v1'; it has main"):
        registry.resolve(NAME, "v1")
    with pytest.raises(RegistryError, match="cannot be deleted"):
        registry.delete_branch(NAME, "main")


def test_a_deleted_model_is_gone_and_can_be_published_again(registry, model):
    revision = registry.publish(model, NAME)
    registry.delete(NAME)
    assert registry.models() == []
    with pytest.raises(NotInRegistryError, match="no model"):
        registry.resolve(NAME)
    with pytest.raises(NotInRegistryError, match="no model"):
        registry.delete(NAME)
    assert registry.publish(model, NAME) == revision


@pytest.mark.parametrize("name", ["a.bin", "a.PT", "sub/a.pth", "a.pkl", "a.ckpt"])
def test_pickles_are_refused_and_nothing_is_written(registry, model, tmp_path, name):
    write(model, {name: b"x"})
    with pytest.raises(RegistryError, match="safetensors"):
        registry.publish(model, NAME)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "name",
    ["model", "a/b/c", "../x", "a/..", "/etc/passwd", "a/", "/b", "a//b", ".a/b", "a/.b", "a/b--c",
     "a/b\0", "a/b c", "a/b\n", "ä/b", "a/b.git", "api/models", f"a/{'b' * 96}", "a\\b/c", ""],
)  # fmt: skip
def test_names_that_could_lead_elsewhere_are_refused(registry, model, name):
    for act in (registry.resolve, registry.create, registry.delete, registry.has):
        with pytest.raises(RegistryError, match="no name for a model"):
            act(name)
    with pytest.raises(RegistryError, match="no name for a model"):
        registry.publish(model, name)


@pytest.mark.parametrize(
    "path", ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\\b", "a\0", "\ud800", "x" * 201,
             "x/" * 400 + "y", "a\nb"],
)  # fmt: skip
def test_paths_that_could_lead_elsewhere_are_refused(registry, model, path):
    revision = registry.publish(model, NAME)
    for act in (registry.open, registry.file):
        with pytest.raises(RegistryError, match="path of a file"):
            act(NAME, revision, path)


@pytest.mark.parametrize("ref", ["../main", "a/b", "tags", "a" * 97, "0" * 40, "", ".x", "a..b"])
def test_refs_that_could_lead_elsewhere_are_refused(registry, model, ref):
    registry.publish(model, NAME)
    with pytest.raises(RegistryError, match="revision"):
        registry.publish(model, NAME, ref)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_checked_name_stays_below_the_root(first, second):
    for check, text in ((check_name, f"{first}/{second}"), (check_path, first), (check_ref, first)):
        try:
            checked = check(text)
        except RegistryError:
            continue
        assert (Path("/r") / checked).resolve().is_relative_to("/r")
        assert (Path("/r") / checked).resolve() != Path("/r")


def test_a_file_where_another_needs_a_folder_is_refused(registry, tmp_path):
    from tilezoo.zoo.revisions import NewFile

    local = write(tmp_path / "x", {"f": b""}) / "f"
    empty = hashlib.sha256(b"").hexdigest()
    files = [NewFile(path=path, size=0, sha256=empty, source=local) for path in ("a", "a/b")]
    with pytest.raises(RegistryError, match="folder of another"):
        registry.write(NAME, files)


def test_a_publication_that_broke_off_is_not_seen_and_can_be_repeated(registry, model, tmp_path):
    first = registry.publish(model, NAME)
    (model / "config.json").write_bytes(b"[]")
    revision = registry.publish(model, NAME)
    root = tmp_path / "root/org/model"
    (root / f"revisions/{revision}.json").unlink()  # the listing, which is written last
    (root / f"revisions/{revision}/config.json").write_bytes(b"half")
    (root / "refs/main").write_text(first)
    assert read(registry, NAME, registry.resolve(NAME)) == FILES
    with pytest.raises(NotInRegistryError):
        registry.resolve(NAME, revision)
    assert registry.publish(model, NAME) == revision
    assert read(registry, NAME, revision)["config.json"] == b"[]"


def test_a_changed_listing_is_refused(registry, model, tmp_path):
    revision = registry.publish(model, NAME)
    path = tmp_path / f"root/org/model/revisions/{revision}.json"
    listing = json.loads(path.read_text())
    listing["files"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(listing))
    with pytest.raises(RegistryError, match="not the one of this revision"):
        registry.files(NAME, revision)


def test_what_the_hub_client_leaves_out_is_left_out(registry, model):
    clean = registry.publish(model, NAME)
    write(model, {".git/config": b"", ".cache/huggingface/x": b"", "a/.git/y": b""})
    assert registry.publish(model, NAME) == clean


def test_many_publish_at_once(tmp_path):
    folders = [write(tmp_path / str(i), {"config.json": b"%d" % i}) for i in range(8)]
    found: list[str] = []

    def publish(folder: Path) -> None:
        found.append(Registry(tmp_path / "root").publish(folder, NAME))

    threads = [threading.Thread(target=publish, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registry = Registry(tmp_path / "root")
    assert len(set(found)) == 8
    assert registry.resolve(NAME) in found
    assert sorted(read(registry, NAME, each)["config.json"] for each in found) == [
        b"%d" % i for i in range(8)
    ]


def test_a_bucket_gives_the_same_revision_and_bytes_as_a_folder(registry, model, bucket):
    remote = Registry(f"{bucket}/registry")
    assert remote.models() == []
    revision = remote.publish(model, NAME)
    assert revision == registry.publish(model, NAME)
    assert read(remote, NAME, revision) == FILES
    assert remote.publish(model, NAME) == revision
    remote.tag(NAME, "v1")
    assert remote.tags(NAME) == {"v1": revision}
    assert remote.branches(NAME) == {"main": revision}
    assert remote.models() == [NAME]
    remote.delete_tag(NAME, "v1")
    assert remote.tags(NAME) == {}
    remote.delete(NAME)
    assert remote.models() == []


def test_of_two_writers_of_a_bucket_the_slower_one_undoes_nothing(model, bucket):
    first, second = (Registry(f"{bucket}/registry") for _ in range(2))  # as in two processes
    head = first.publish(model, NAME)
    (model / "config.json").write_bytes(b"[]")
    faster = first.publish(model, NAME)
    with pytest.raises(RegistryConflictError, match="another writer"):
        second.advance(NAME, "main", head, head=head[::-1])
    with pytest.raises(RegistryConflictError, match="another writer"):
        second.store.replace(f"{NAME}/refs/main", b"mine", head.encode())
    with pytest.raises(RegistryConflictError, match="another writer"):
        second.store.replace(f"{NAME}/refs/main", b"mine", None)
    assert first.resolve(NAME) == faster


def test_a_file_of_a_bucket_is_read_from_anywhere_in_it(model, bucket):
    remote = Registry(f"{bucket}/registry")
    content = bytes(range(256)) * 50_000
    (model / "model.safetensors").write_bytes(content)
    revision = remote.publish(model, NAME)
    with remote.open(NAME, revision, "model.safetensors") as file:
        assert file.read(10) == content[:10]
        assert file.seek(9_000_001) == 9_000_001
        assert file.read(300) == content[9_000_001:9_000_301]
        assert file.read() == content[9_000_301:]
        assert file.read() == b""


def test_a_file_that_changes_while_it_is_sent_does_not_appear(model, bucket):
    store = Registry(f"{bucket}/registry").store
    large = model / "large"
    large.write_bytes(bytes(20 << 20))  # several parts
    for file in (model / "config.json", large):
        with pytest.raises(RegistryError, match="changed while it was being stored"):
            store.put(file, "org/other", hashlib.sha256(b"before").hexdigest())
        assert not store.exists("org/other")


def test_a_profile_says_where_a_bucket_is(model, bucket, tmp_path, monkeypatch):
    keys = "aws_access_key_id = a\naws_secret_access_key = b\n"
    place = f"region = us-east-1\nendpoint_url = {os.environ['AWS_ENDPOINT_URL']}\n"
    (tmp_path / "config").write_text(f"[profile zoo]\n{keys}{place}")
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(RegistryUnreachableError, match="AWS_PROFILE"):
        Registry(f"{bucket}/registry")
    monkeypatch.setenv("AWS_PROFILE", "zoo")
    assert Registry(f"{bucket}/registry").publish(model, NAME)


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there_is_one_clear_error(model):
    nowhere = Registry("s3://no-such-bucket/x")
    with pytest.raises(NotInRegistryError, match="no model org/model in the registry s3://no-such"):
        nowhere.resolve(NAME)
    with pytest.raises(RegistryUnreachableError, match="storage failed"):
        nowhere.publish(model, NAME)


def test_a_file_is_no_registry(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="a registry is a folder"):
        Registry(tmp_path / "file")


def test_whatever_fsspec_opens_is_a_registry(model):
    remote = Registry("memory://registry")
    revision = remote.publish(model, NAME)
    assert remote.resolve(NAME) == revision
    assert read(remote, NAME, revision) == FILES
    remote.delete(NAME)
    assert remote.models() == []


def test_an_unknown_scheme_is_one_clear_error():
    with pytest.raises(OptionError, match="nowhere"):
        Registry("nowhere://x")


def test_links_to_files_are_followed_and_others_are_not_skipped_in_silence(
    registry, model, tmp_path
):
    plain = registry.publish(model, NAME)
    (model / "config.json").rename(tmp_path / "blob")
    (model / "config.json").symlink_to(tmp_path / "blob")
    assert registry.publish(model, NAME) == plain
    (model / "folder").symlink_to(tmp_path)
    with pytest.raises(RegistryError, match="leads to no file"):
        registry.publish(model, NAME)
