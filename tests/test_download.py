"""Download and publish: what comes out of a registry is what went in, or an error."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import making
import pyarrow as pa
import pytest
from hubbing import running_hub

from tilezoo.errors import ModelError, RegistryError, UnknownModelError
from tilezoo.training_ids import TRAINING_IDS, write_training_ids
from tilezoo.zoo import download, find_model, publish, verify
from tilezoo.zoo.cards import Origin
from tilezoo.zoo.complete import complete_model_dir
from tilezoo.zoo.modeldir import MODEL_FILES, read_model_dir
from tilezoo.zoo.registry import Registry

NAME = "org/tiny"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = making.write_vit(tmp_path_factory.mktemp("model") / "tiny")
    write_training_ids(path / TRAINING_IDS, pa.array(["a", "b"]), None)
    return complete_model_dir(read_model_dir(path), name=NAME, origin=Origin(licence="MIT")).path


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TILEZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def registry(model, tmp_path) -> Path:
    publish(model, name=NAME, registry=str(tmp_path / "registry"))
    return tmp_path / "registry"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def stored(registry: Path, file: str) -> Path:
    return next(registry.glob(f"{NAME}/revisions/*/{file}"))


def test_what_is_downloaded_is_what_was_published(model, registry, own_cache):
    got = download(NAME, registry=str(registry))
    assert own_cache in got.path.parents
    assert contents(got.path) == contents(model)
    assert got.space().fingerprint == read_model_dir(model).space().fingerprint


def test_publishing_again_gives_the_same_revision(model, registry, tmp_path):
    first = Registry(registry).resolve(NAME)
    assert publish(model, name=NAME, registry=str(registry)) == first
    assert publish(model, name=NAME, registry=str(tmp_path / "other")) == first
    assert publish(model, name="an/other", registry=str(registry)) == first


@pytest.mark.usefixtures("own_cache")
def test_a_revision_stays_when_main_moves_on(model, registry, tmp_path):
    first = Registry(registry).resolve(NAME)
    other = making.write_vit(tmp_path / "other", seed=3)
    complete_model_dir(read_model_dir(other), name=NAME, origin=Origin())
    second = publish(other, name=NAME, registry=str(registry))
    assert second != first
    old = download(f"{NAME}@{first}", registry=str(registry))
    new = download(NAME, registry=str(registry))
    assert old.weights_sha256 == read_model_dir(model).weights_sha256
    assert new.weights_sha256 == read_model_dir(other).weights_sha256
    with pytest.raises(ModelError, match="no revision 'v9'"):
        download(f"{NAME}@v9", registry=str(registry))


@pytest.mark.usefixtures("own_cache")
def test_files_of_others_in_a_registry_stay_there(registry, model, tmp_path):
    extended = Path(shutil.copytree(model, tmp_path / "extended"))
    (extended / "notes.txt").write_text("by another program")
    Registry(registry).publish(extended, NAME)
    assert contents(download(NAME, registry=str(registry)).path) == contents(model)


@pytest.mark.usefixtures("own_cache")
def test_a_copy_is_a_directory_that_timm_loads(registry, tmp_path):
    import timm

    download(NAME, registry=str(registry), to=tmp_path / "copy")
    assert timm.create_model(f"local-dir:{tmp_path / 'copy'}", pretrained=True).embed_dim == 192
    with pytest.raises(ModelError, match="not empty"):
        download(NAME, registry=str(registry), to=tmp_path / "copy")


@pytest.mark.usefixtures("own_cache")
def test_the_environment_names_the_registry(registry, monkeypatch):
    monkeypatch.setenv("TILEZOO_REGISTRY", str(registry))
    assert find_model(NAME).architecture == "vit_tiny_patch16_224"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "golden.safetensors"])
@pytest.mark.parametrize("harm", ["flip", "truncate"])
def test_a_damaged_file_is_told_and_the_cache_stays_sound(registry, own_cache, file, harm):
    path = stored(registry, file)
    whole = path.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    path.write_bytes(flipped if harm == "flip" else whole[:100])
    with pytest.raises(ModelError, match=rf"{file} came damaged"):
        download(NAME, registry=str(registry))
    assert not list(own_cache.glob("registries/*/*/[0-9a-f]*/*"))
    path.write_bytes(whole)
    assert download(NAME, registry=str(registry)).weights_sha256


def test_damage_in_the_cache_is_found(registry, own_cache):
    weights = download(NAME, registry=str(registry)).path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="weights are damaged"):
        download(NAME, registry=str(registry))
    assert own_cache.is_dir()


def test_what_is_cached_works_without_the_registry(registry, own_cache, capsys):
    first = download(NAME, registry=str(registry))
    registry.rename(registry.with_name("unplugged"))
    assert download(NAME, registry=str(registry)).path == first.path
    assert f"as it was last seen, {datetime.now(UTC):%Y-%m-%d} " in capsys.readouterr().err
    shutil.rmtree(own_cache)
    with pytest.raises(ModelError, match=NAME):
        download(NAME, registry=str(registry))


def test_a_cache_that_cannot_be_written_is_told(registry, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TILEZOO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="TILEZOO_CACHE"):
        download(NAME, registry=str(registry))


def test_two_processes_at_once_both_get_it(registry, own_cache):
    code = "import sys; from tilezoo.zoo import download; print(download(*sys.argv[1:2], registry=sys.argv[2]).path)"
    running = [making.python(code, NAME, registry) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(paths) == 1
    assert own_cache in Path(paths.pop()).parents


def test_a_killed_download_goes_on_where_it_was(registry, own_cache):
    code = (
        "import os, sys, tilezoo.zoo.downloader as d\n"
        "real = d._copy_file\n"
        "def copy(*words):\n"
        "    real(*words)\n"
        "    os.kill(os.getpid(), 9)\n"
        "d._copy_file = copy\n"
        "d.download(sys.argv[1], registry=sys.argv[2])"
    )
    killed = making.python(code, NAME, registry)
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    kept = [path for path in own_cache.rglob(".*.partial/*") if path.is_file()]
    assert len(kept) == 1
    stored(registry, kept[0].name).write_bytes(b"not asked for again")
    assert contents(download(NAME, registry=str(registry)).path)
    assert own_cache.is_dir()


@pytest.mark.parametrize("name", ["nonsense", "../up", "a/b/c", "/etc", "org/../x"])
def test_names_that_are_none_are_unknown(name):
    with pytest.raises(UnknownModelError, match="tilezoo models"):
        download(name)


def test_a_directory_that_does_not_verify_is_not_published(model, tmp_path):
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text())
    config["tilezoo"]["pooling"] = "mean"
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="failed"):
        publish(broken, name=NAME, registry=str(tmp_path / "r"))
    assert not (tmp_path / "r").exists()


def test_other_files_are_left_behind(model, tmp_path):
    extra = Path(shutil.copytree(model, tmp_path / "extra"))
    (extra / "notes.txt").write_text("private")
    publish(extra, name=NAME, registry=str(tmp_path / "r"))
    names = [
        file.path
        for file in Registry(tmp_path / "r").files(NAME, Registry(tmp_path / "r").resolve(NAME))
    ]
    assert "notes.txt" not in names
    assert "model.safetensors" in names


def test_publishing_needs_a_registry(model, monkeypatch):
    monkeypatch.delenv("TILEZOO_REGISTRY", raising=False)
    with pytest.raises(ModelError, match="--registry"):
        publish(model, name=NAME)


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    code = "from tilezoo.cli.app import main; main()"
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code, "download", "timm/nothing"],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: timm/nothing: not in the cache")
    assert len(done.stderr.splitlines()) == 1


def test_one_model_has_one_revision_in_folder_s3_and_hub_and_comes_back_as_it_was(
    model, registry, bucket, own_cache, tmp_path
):
    """In processes of their own, as huggingface_hub reads its settings when it is imported."""
    first = Registry(registry).resolve(NAME)
    assert publish(model, name=NAME, registry=f"{bucket}/models") == first
    assert contents(download(NAME, registry=f"{bucket}/models").path) == contents(model)
    with running_hub(tmp_path / "hub", tmp_path / "log") as hub:
        command = [sys.executable, "-c", "from tilezoo.cli.app import main; main()"]
        env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "TILEZOO_CACHE": str(own_cache)}

        def run(*words: object) -> str:
            done = subprocess.run(
                [*command, *map(str, words), "--registry", hub.url],
                capture_output=True, text=True, check=False, env=env,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        for _ in range(2):
            assert run("publish", model, "--as", NAME).strip() == f"{NAME}@{first}"
        run("download", NAME, "--to", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(model)
    assert (tmp_path / "back" / TRAINING_IDS).is_file()
    assert {check.verdict for check in verify(tmp_path / "back")} == {"ok"}


THERE_AND_BACK = """
import sys
from pathlib import Path
from tilezoo.zoo import download, publish, verify
model, registry, other, work = sys.argv[1:]
first = publish(model, name="org/tiny", registry=registry)
got = download("org/tiny", registry=registry, to=Path(work) / "back").path
assert {check.verdict for check in verify(got)} == {"ok"}, verify(got)
assert publish(got, name="org/tiny", registry=other) == first
download("org/tiny", registry=other, to=Path(work) / "again")
print(first)
"""


@pytest.mark.parametrize("kind", ["folder", "bucket", "memory", "hub"])
def test_every_file_of_a_model_directory_survives_each_kind_of_registry(
    kind, model, own_cache, tmp_path, request
):
    """In a process of its own, as huggingface_hub reads its settings when it is imported."""
    assert sorted(contents(model)) == sorted(MODEL_FILES)
    with ExitStack() as running:
        if kind == "hub":
            hubs = [running_hub(tmp_path / name, tmp_path / f"{name}.log") for name in "ab"]
            places = [running.enter_context(hub).url for hub in hubs]
        elif kind == "bucket":
            bucket = request.getfixturevalue("bucket")
            places = [f"{bucket}/{name}" for name in ("there", "on")]
        else:
            places = [{"folder": f"{tmp_path}/{name}", "memory": f"memory://{name}"}[kind]
                      for name in "ab"]  # fmt: skip
        done = making.python(THERE_AND_BACK, model, *places, tmp_path)
        said, _ = done.communicate(timeout=120)
    assert done.returncode == 0, said
    assert contents(tmp_path / "back") == contents(tmp_path / "again") == contents(model)
    assert said.split()[-1] == Registry(tmp_path / "plain").publish(model, NAME)
    assert own_cache.is_dir()


def test_a_directory_that_is_not_complete_says_what_is_missing(model, tmp_path):
    partial = Path(shutil.copytree(model, tmp_path / "partial"))
    config = json.loads((partial / "config.json").read_text())
    config["tilezoo"]["pretraining"] = {"ids_sha256": "0" * 64}
    (partial / "config.json").write_text(json.dumps(config))
    for name in ("mlm.json", TRAINING_IDS, "SHA256SUMS"):
        (partial / name).unlink()
    found = {check.name: check for check in verify(partial)}["complete"]
    assert found.verdict == "not there"
    assert found.detail == f"no mlm.json, {TRAINING_IDS}, SHA256SUMS"


HUB_STATES = """
import sys
from pathlib import Path
from tilezoo.zoo import download, publish
publish(sys.argv[1], name="org/tiny", registry=sys.argv[2])
print(download("org/tiny", registry=sys.argv[2]).weights_sha256)
"""
HUB_DOWN = """
import sys
from tilezoo.zoo import download
print(download("org/tiny", registry=sys.argv[1]).weights_sha256)
"""


def test_a_hub_that_is_down_is_answered_by_what_was_last_seen_of_it_and_of_no_other(
    model, own_cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "2")
    other = making.write_vit(tmp_path / "other", seed=3)
    complete_model_dir(read_model_dir(other), name=NAME, origin=Origin())

    def run(code: str, *words: object) -> tuple[int, str]:
        done = making.python(code, *words)
        said, _ = done.communicate(timeout=120)
        return done.returncode, said

    with running_hub(tmp_path / "a", tmp_path / "a.log") as first:
        assert run(HUB_STATES, model, first.url)[0] == 0
        with running_hub(tmp_path / "b", tmp_path / "b.log") as second:
            assert run(HUB_STATES, other, second.url)[0] == 0
        code, said = run(HUB_DOWN, second.url)
        assert code == 0
        assert read_model_dir(other).weights_sha256 in said
        assert f"the hub {second.url} cannot be reached; taking {NAME} " in said
        assert f"as it was last seen, {datetime.now(UTC):%Y-%m-%d} " in said
        assert read_model_dir(model).weights_sha256 in run(HUB_DOWN, first.url)[1]
    code, said = run(HUB_DOWN, "http://127.0.0.1:9")
    assert code == 1
    assert "the hub http://127.0.0.1:9 cannot be reached" in said
    assert own_cache.is_dir()


@pytest.mark.parametrize("answers", ["500", "silence"])
def test_a_hub_that_fails_or_hangs_ends_in_one_line(tmp_path, answers):
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(server, answers), daemon=True).start()
    env = {
        "PATH": os.environ["PATH"],
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}",
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    }
    code = "from tilezoo.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "download", "org/tiny"],
        capture_output=True, text=True, check=False, env=env, timeout=60,
    )  # fmt: skip
    server.close()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: org/tiny: ")
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


def _serve(server: socket.socket, answers: str) -> None:
    held = []
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        held.append(connection)
        if answers == "500":
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            connection.close()


@pytest.mark.parametrize("path", ["../../../owned", "/tmp/owned", "a/../../owned", "model.pth"])
def test_a_listing_cannot_write_elsewhere_or_bring_a_pickle(tmp_path, own_cache, path):
    """A hostile registry: its listing is consistent, but its path leads out of the folder."""
    content = b"owned"
    digest = hashlib.sha256(content).hexdigest()
    revision = hashlib.sha256(f"{digest}  {path}\n".encode()).hexdigest()[:40]
    home = tmp_path / "evil" / NAME
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(f"{revision}\n")
    (home / "revisions" / revision).mkdir(parents=True)
    listing = {"revision": revision, "files": [{"path": path, "size": 5, "sha256": digest}]}
    (home / "revisions" / f"{revision}.json").write_text(json.dumps(listing))
    if not path.startswith("/"):
        (home / "revisions" / revision / "a").mkdir()
        (home / "revisions" / revision / path).write_bytes(content)  # what a server would hand out
    with pytest.raises(ModelError):
        download(NAME, registry=str(tmp_path / "evil"))
    assert not [found for found in own_cache.rglob("*") if found.name in {"owned", "model.pth"}]
    assert not Path("/tmp/owned").exists()


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("ref", ["..", "../..", "/etc", "a/../b"])
def test_a_revision_that_is_a_path_is_refused(registry, ref):
    with pytest.raises(RegistryError, match="no name for a branch or tag"):
        download(f"{NAME}@{ref}", registry=str(registry))
