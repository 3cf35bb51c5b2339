"""A hub leaves out what `.gitignore` files name, as git does."""

import subprocess
import time
from base64 import b64encode
from pathlib import Path

import pytest
from hubbing import running_hub, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilezoo.zoo.hub.errors import RefusedError
from tilezoo.zoo.hub.ignore import IgnoreRules

NAME = "org/model"
WORDS = ["a", "b", "ab", "x.log", ".env", "runs", "A"]
ATOMS = st.sampled_from(
    [*WORDS, "*", "?", "**", "[ab]", "[!a]", "*.log", "a*", "\\*", " ", "\\!a", "#a", "a ", "\\"]
)
RULES = st.builds(
    lambda sign, top, atoms, end: f"{sign}{top}{'/'.join(atoms)}{end}",
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.lists(ATOMS, min_size=1, max_size=3),
    st.sampled_from(["", "/", " "]),
).filter(lambda rule: rule.split("/").count("**") <= 2)
TEXTS = st.lists(RULES, min_size=1, max_size=5).map("\n".join)
PATHS = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("/".join), max_size=30
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    for name in ("a", "runs"):
        (folder / name).mkdir()
    return folder


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TEXTS, TEXTS, st.sampled_from(["a", "runs"]), PATHS)
def test_what_is_left_out_is_what_git_leaves_out(repository, top, nested, folder, paths):
    texts = {".gitignore": top, f"{folder}/.gitignore": nested}
    for path, text in texts.items():
        (repository / path).write_text(text)
    asked = {path for path in paths if not (repository / path).is_dir()}
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", "-z", "--stdin"],
        cwd=repository, input="".join(f"{path}\0" for path in asked), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    (repository / folder / ".gitignore").unlink()
    rules = IgnoreRules(texts)
    assert {path for path in asked if rules.ignores(path)} == {*done.stdout.split("\0")} - {""}


@pytest.mark.parametrize("text", ["a*" * 4, "**/a/" * 3, "x\n" * 1001, "x" * 70_000])
def test_rules_that_could_take_for_ever_are_refused(text):
    with pytest.raises(RefusedError, match="more than"):
        IgnoreRules({".gitignore": text})


@pytest.mark.parametrize("rule", ["a*a*a*b", "**/a/**/b", "*/*/*/*/*/*/*b", "[!b]*[!b]*[!b]*b"])
@pytest.mark.parametrize("path", ["a" * 200, "a/" * 300 + "a", "/".join(["a" * 100] * 6)])
def test_the_costliest_rules_that_are_taken_take_little_time(rule, path):
    start = time.perf_counter()
    assert not IgnoreRules({".gitignore": rule}).ignores(path)
    assert time.perf_counter() - start < 5


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    base = tmp_path_factory.mktemp("hub")
    with running_hub(base / "root", base / "log") as hub:
        yield hub


def ignored(hub, name, *paths, field=None, sampled=None) -> set[str]:
    """Ask before an upload; give what the hub says to leave out."""
    files = [{"path": path, "size": 1} for path in paths]
    if sampled:
        path, text = sampled
        files.append({"path": path, "size": len(text), "sample": b64encode(text).decode()})
    body = {"files": files} | ({} if field is None else {"gitIgnore": field})
    answer = hub.ask("POST", f"/api/models/{name}/preupload/main", body)
    assert answer.status == 200, answer
    return {file["path"] for file in answer.json()["files"] if file["shouldIgnore"]}


def test_the_field_goes_before_what_is_sampled_and_this_before_what_is_stored(hub):
    hub.create("org/order")
    assert ignored(hub, "org/order", ".env", "a") == set()
    assert ignored(hub, "org/order", ".env", "a", sampled=(".gitignore", b".env\n")) == {".env"}
    assert hub.commit("org/order", small(".gitignore", b"*.log\nruns/\n")).status == 200
    asked = ("x.log", "s/x.log", "runs/1/e", ".env", "a")
    assert ignored(hub, "org/order", *asked) == {"x.log", "s/x.log", "runs/1/e"}
    assert ignored(hub, "org/order", *asked, sampled=(".gitignore", b".env")) == {".env"}
    sampled = (".gitignore", b".env")
    assert ignored(hub, "org/order", *asked, field="a", sampled=sampled) == {"a"}
    assert ignored(hub, "org/order", *asked, field="") == set()


def test_a_commit_leaves_out_what_it_ignores_and_says_so(hub):
    hub.create(NAME)
    assert hub.commit(NAME, small("kept.log", b"1")).status == 200
    lines = [small(".env", b"secret"), small("config.json", b"{}"), small("s/.gitignore", b"x\n"),
             small(".gitignore", b".env\n*.log\n"), small("new.log", b"2"), small("s/x", b"3"),
             small("kept.log", b"4")]  # fmt: skip
    answer = hub.commit(NAME, *lines)
    assert answer.status == 200
    assert answer.json()["hookOutput"] == "ignored by .gitignore: .env, new.log, s/x"
    files = hub.files(NAME)
    assert set(files) == {".gitignore", "config.json", "kept.log", "s/.gitignore"}
    assert files["kept.log"] == b"4"  # as git, which goes on with what it has
    assert hub.ask("GET", f"/{NAME}/resolve/main/.env").status == 404
    delete = {"key": "deletedFile", "value": {"path": ".gitignore"}}
    assert hub.commit(NAME, delete, small(".env", b"no secret")).status == 200
    assert hub.files(NAME)[".env"] == b"no secret"


def test_rules_that_cannot_be_kept_are_refused_before_they_are_stored(hub):
    hub.create("org/costly")
    assert hub.commit("org/costly", small(".gitignore", b"*a" * 9), small("x", b"")).status == 400
    assert hub.files("org/costly") == {}
