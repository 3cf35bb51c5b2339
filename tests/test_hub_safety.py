"""A hub lets no path out, loses no commit, and survives being killed."""

import hashlib
import http.client
import json
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from hubbing import large, running_hub, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilezoo.zoo.hub.files import wanted_range

NAME = "org/model"
WEIGHTS = random.Random(1).randbytes(3_000_000)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a registry's root in it, and something beside it that must stay unread."""
    base = tmp_path_factory.mktemp("base")
    (base / "secret.txt").write_text("never served")
    return base


@pytest.fixture(scope="module")
def hub(base, tmp_path_factory):
    with running_hub(base / "root", tmp_path_factory.mktemp("log") / "log") as hub:
        assert hub.create(NAME).status == 200
        oid = hub.upload(NAME, WEIGHTS)
        lines = [large("model.safetensors", oid), small("config.json", b"{}"), small("s/a", b"1")]
        assert hub.commit(NAME, *lines).status == 200
        yield hub


WAYS_OUT = [
    "../secret.txt", "../../../../../secret.txt", "..%2f..%2f..%2f..%2f..%2fsecret.txt",
    "%2e%2e/%2e%2e/%2e%2e/secret.txt", "/etc/passwd", "%2fetc%2fpasswd", "a\\..\\b", "a%5c..%5cb",
    "a%00b", "%00", "./config.json", "s//a", "s/../config.json", "%c0%ae%c0%ae/x", "..%252f..%252fx",
    "x" * 3000, "%2e", "..", "config.json/", "config.json/..", "~root",
    "file:%2f%2f%2fetc%2fpasswd", "%0a", "s%2f..%2f..%2f..%2frefs%2fmain",
]  # fmt: skip


@pytest.mark.parametrize("path", WAYS_OUT)
def test_no_path_leads_out(hub, base, path):
    for address in (
        f"/{NAME}/resolve/main/{path}", f"/api/models/{NAME}/tree/main/{path}",
        f"/{NAME}/resolve/{path}/config.json", f"/api/models/{path}", f"/{path}",
        f"/api/models/org/{path}/refs", f"/{path}/resolve/main/config.json", path,
    ):  # fmt: skip
        answer = hub.ask("GET", address if address.startswith("/") else f"/{address}")
        assert 400 <= answer.status < 500 or answer.body == b"{}", (address, answer)
        assert b"never served" not in answer.body
        assert b"root:" not in answer.body
        assert str(base).encode() not in answer.body


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/x", "a//b", "", ".", "a\0b", "a\\b", "\ud800", "x" * 300, "a\n",
             "x.pkl", "y/z.PTH", "s", "s/a/b"],
)  # fmt: skip
def test_no_commit_writes_outside_or_across(hub, base, path):
    before = sorted(base.rglob("*"))
    head = hub.ask("GET", f"/api/models/{NAME}").json()["sha"]
    oid = hashlib.sha256(WEIGHTS).hexdigest()
    good = path.startswith(("s", "x.", "y/"))  # but not here: across another file, or a pickle
    for line in (small(path, b"1"), large(path, oid)):
        assert hub.commit(NAME, line).status == (400 if good else 422)
    delete = {"key": "deletedFolder", "value": {"path": path}}
    refused = hub.commit(NAME, delete, {"key": "nothing", "value": {}})
    assert refused.status == 400
    asked = {"files": [{"path": path, "size": 1}]}
    preupload = hub.ask("POST", f"/api/models/{NAME}/preupload/main", asked)
    assert preupload.status == (200 if path in ("s", "s/a/b") else 400 if good else 422)
    assert hub.ask("GET", f"/api/models/{NAME}").json()["sha"] == head
    assert [path for path in sorted(base.rglob("*")) if ".tilezoo" not in path.parts] == [
        path for path in before if ".tilezoo" not in path.parts
    ]


@pytest.mark.parametrize("name", ["../x", "a/..", "/etc/x", "a/b/c", "a", "a/b\0", "api/x", "é/x"])
def test_no_name_of_a_model_leads_out(hub, name):
    body = {"name": name, "organization": None}
    assert hub.ask("POST", "/api/repos/create", body).status == 400
    assert hub.ask("DELETE", "/api/repos/delete", body).status == 400


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/repos/create", {"name": 3}, "$.name"),
        ("/api/repos/create", {}, "name"),
        (f"/api/models/{NAME}/tag/main", {"tag": ["v1"]}, "$.tag"),
        (f"/api/models/{NAME}/preupload/main", {"files": [{"path": "a"}]}, "size"),
        (f"/{NAME}.git/info/lfs/objects/batch", {"operation": "upload", "objects": 1}, "$.objects"),
        (f"/{NAME}.git/info/lfs/objects/batch",
         {"operation": "upload", "objects": [{"oid": "0" * 64, "size": -1}]}, "$.objects[0].size"),
    ],
)  # fmt: skip
def test_a_body_of_another_form_is_refused_by_the_field(hub, path, body, field):
    answer = hub.ask("POST", path, body)
    assert answer.status == 400
    assert field in answer.json()["error"]


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-0", 206, (0, 1)), ("bytes=5-9", 206, (5, 10)), ("bytes=-10", 206, (-10, None)),
        ("bytes=2999990-", 206, (-10, None)), ("bytes=10-99999999", 206, (10, None)),
        ("bytes=0-", 206, (0, None)), ("bytes=-9999999", 206, (0, None)), ("bytes=9-5", 200, None),
        ("bytes=3000000-", 416, None), ("bytes=-0", 416, None), ("bytes=1-2,5-6", 200, None),
        ("lines=1-2", 200, None), ("bytes=-", 200, None), ("", 200, None),
    ],
)  # fmt: skip
def test_ranges(hub, asked, status, part):
    path = f"/{NAME}/resolve/main/model.safetensors"
    answer = hub.ask("GET", path, Range=asked)
    assert answer.status == status
    if status != 416:
        wanted = WEIGHTS[slice(*part)] if part else WEIGHTS
        assert answer.body == wanted
        assert answer.headers["x-linked-size"] == "3000000"
        head = hub.ask("HEAD", path, Range=asked)
        assert (head.status, head.body) == (status, b"")
        assert head.headers["content-length"] == str(len(wanted))


@given(st.text(max_size=30) | st.from_regex(r"bytes=\d*-\d*", fullmatch=True), st.integers(0, 50))
def test_a_range_lies_within_the_file(header, size):
    try:
        part = wanted_range(header, size)
    except ValueError:
        return
    assert part is None or 0 <= part[0] < part[1] <= size


def test_headers_name_the_content(hub):
    path = f"/{NAME}/resolve/main/model.safetensors"
    answer = hub.ask("HEAD", path)
    sha = hashlib.sha256(WEIGHTS).hexdigest()
    assert answer.headers["etag"] == answer.headers["x-linked-etag"] == f'"{sha}"'
    assert answer.headers["x-repo-commit"] == hub.ask("GET", f"/api/models/{NAME}").json()["sha"]
    assert hub.ask("GET", path, If_None_Match=f'"{sha}"').status == 304
    stale = hub.ask("GET", path, Range="bytes=0-0", If_Range='"other"')
    assert (stale.status, stale.body) == (200, WEIGHTS)
    missing = hub.ask("GET", f"/{NAME}/resolve/main/none")
    assert missing.headers["x-error-code"] == "EntryNotFound"
    assert missing.headers["x-repo-commit"] == answer.headers["x-repo-commit"]
    assert hub.ask("GET", "/api/agent-harnesses").status == 404


def test_storage_that_fails_is_503_and_only_the_log_says_where(tmp_path):
    with running_hub(tmp_path / "root", tmp_path / "log") as hub:
        hub.create(NAME)
        (tmp_path / "root/org/model/refs/main").unlink()
        (tmp_path / "root/org/model/refs/main").mkdir()
        answer = hub.ask("GET", f"/api/models/{NAME}")
    assert answer.status == 503
    assert b"directory" not in answer.body
    assert any("directory" in str(event.get("error")) for event in hub.logged())


def test_what_is_too_large_is_refused(tmp_path):
    with running_hub(tmp_path / "root", tmp_path / "log", "--max-file-mb", 1) as hub:
        hub.create(NAME)
        asked = {"files": [{"path": "a", "size": 1_000_001}]}
        assert hub.ask("POST", f"/api/models/{NAME}/preupload/main", asked).status == 413
        batch = {"operation": "upload", "objects": [{"oid": "0" * 64, "size": 1_000_001}]}
        entry = hub.ask("POST", f"/{NAME}.git/info/lfs/objects/batch", batch).json()["objects"][0]
        assert entry["error"]["code"] == 413
        href = hub.upload_path(NAME, "0" * 64, 1_000_000)
        assert _refused_early(hub, "PUT", href, b"0" * 1_000_001) == 413
        assert _refused_early(hub, "POST", "/api/repos/create", b" " * 5_000_000) == 413
        line = json.dumps(small("a", b"0" * 1_100_000)).encode()
        assert _refused_early(hub, "POST", f"/api/models/{NAME}/commit/main", line) == 413
        line = json.dumps(small("a", b"0" * 3_100_000)).encode()
        assert _refused_early(hub, "POST", f"/api/models/{NAME}/commit/main", line) == 413
        assert hub.files(NAME) == {}
        assert not list((tmp_path / "root/.tilezoo/tmp").glob("*.part"))


def _refused_early(hub, method, path, body) -> int:
    """Send a body in pieces without a length; the answer may come before its end."""
    connection = http.client.HTTPConnection(urlsplit(hub.url).netloc, timeout=30)
    pieces = (body[start : start + 65536] for start in range(0, len(body), 65536))
    headers = {"Transfer-Encoding": "chunked"}
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, pieces, headers, encode_chunked=True)
    return connection.getresponse().status


def test_twenty_commits_at_once_to_two_hubs_lose_none(tmp_path):
    root = tmp_path / "root"
    with running_hub(root, tmp_path / "1") as one, running_hub(root, tmp_path / "2") as two:
        one.create(NAME)
        statuses = []

        def commit(number: int) -> None:
            hub, data = (one, two)[number % 2], b"%d" % number * 100_000
            oid = hub.upload(NAME, data)
            lines = [large(f"large/{number}", oid), small(f"{number}.txt", b"%d" % number)]
            statuses.append(hub.commit(NAME, *lines).status)

        threads = [threading.Thread(target=commit, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [200] * 20
        found = two.files(NAME)
    assert found == {f"{number}.txt": b"%d" % number for number in range(20)} | {
        f"large/{number}": b"%d" % number * 100_000 for number in range(20)
    }


@pytest.mark.slow
def test_forty_commits_at_once_to_two_hubs_of_one_bucket_lose_none(bucket, tmp_path):
    root = f"{bucket}/writers"
    with running_hub(root, tmp_path / "1") as one, running_hub(root, tmp_path / "2") as two:
        one.create(NAME)

        def commit(number: int) -> int:
            line = small(f"{number}.txt", b"%d" % number)
            return (one, two)[number % 2].commit(NAME, line).status

        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(commit, range(40)))
        found = two.files(NAME)
        commits = one.ask("GET", f"/api/models/{NAME}/commits/main").json()
    assert statuses == [200] * 40
    assert found == {f"{number}.txt": b"%d" % number for number in range(40)}
    assert len({each["id"] for each in commits}) == 41


def test_only_one_of_two_commits_on_the_same_parent_holds(hub):
    hub.create("org/parent")
    head = hub.ask("GET", "/api/models/org/parent").json()["sha"]
    first = hub.commit("org/parent", small("a", b"1"), header={"parentCommit": head})
    second = hub.commit("org/parent", small("b", b"2"), header={"parentCommit": head})
    assert (first.status, second.status) == (200, 412)
    assert hub.files("org/parent") == {"a": b"1"}


def test_a_commit_goes_to_a_branch_only(hub):
    head = hub.ask("GET", f"/api/models/{NAME}").json()["sha"]
    hub.ask("POST", f"/api/models/{NAME}/tag/main", {"tag": "fixed"})
    for ref, status in (("fixed", 400), (head, 400), ("none", 404)):
        assert hub.commit(NAME, small("x", b""), branch=ref).status == status
    pull = hub.ask("POST", f"/api/models/{NAME}/commit/main?create_pr=1", b"")
    assert "pull requests" in pull.json()["error"]


def test_a_commit_that_fails_changes_nothing(hub):
    before = hub.files(NAME)
    missing = {"key": "deletedFile", "value": {"path": "none"}}
    assert hub.commit(NAME, small("new", b"1"), missing).status == 404
    assert hub.commit(NAME, small("new", b"1"), large("y", "0" * 64)).status == 400
    assert hub.files(NAME) == before


def test_killed_in_the_middle_of_an_upload_the_last_good_revision_stays(tmp_path):
    root = tmp_path / "root"
    with running_hub(root, tmp_path / "1") as hub:
        hub.create(NAME)
        hub.commit(NAME, large("w", hub.upload(NAME, WEIGHTS)))
        oid = hashlib.sha256(WEIGHTS[::-1]).hexdigest()
        href = hub.upload_path(NAME, oid, len(WEIGHTS))
        half = http.client.HTTPConnection(urlsplit(hub.url).netloc)
        half.putrequest("PUT", href)
        half.putheader("Content-Length", str(len(WEIGHTS)))
        half.endheaders(WEIGHTS[::-1][: len(WEIGHTS) // 2])
        time.sleep(0.3)
        assert list((root / ".tilezoo/tmp").glob("*.part"))
        hub.kill()
        half.close()
    with running_hub(root, tmp_path / "2") as hub:
        assert hub.files(NAME) == {"w": WEIGHTS}
        assert hub.commit(NAME, large("x", oid)).status == 400
        assert hub.commit(NAME, large("x", hub.upload(NAME, WEIGHTS[::-1]))).status == 200
        assert hub.files(NAME) == {"w": WEIGHTS, "x": WEIGHTS[::-1]}


def test_killed_at_any_time_what_was_acknowledged_is_there(tmp_path):
    root, kept = tmp_path / "root", {"0": b"0"}
    for round_ in range(3):
        with running_hub(root, tmp_path / f"log{round_}") as hub:
            hub.create(NAME)
            if round_ == 0:
                assert hub.commit(NAME, small("0", b"0")).status == 200
            threading.Timer(random.Random(round_).uniform(0.1, 0.5), hub.process.kill).start()
            try:
                for number in range(1000):
                    data = os.urandom(200_000)
                    lines = [
                        large(f"{round_}-{number}", hub.upload(NAME, data)),
                        small("n", data[:9]),
                    ]
                    if hub.commit(NAME, *lines).status == 200:
                        kept |= {f"{round_}-{number}": data, "n": data[:9]}
            except (OSError, http.client.HTTPException):
                pass
            hub.process.wait()
    with running_hub(root, tmp_path / "log") as hub:
        found = hub.files(NAME)
    # the last commit of a round may have been made without being acknowledged
    assert {path: found[path] for path in kept if path != "n"} == {
        path: data for path, data in kept.items() if path != "n"
    }
    assert len(found) <= len(kept) + 3


TEXTS = st.text(max_size=12) | st.sampled_from(
    ["main", NAME, "org", "model", "config.json", "..", "%2e%2e", "%00", "%2f", "0" * 40, "0" * 64,
     "a" * 5000, "\ud800", "s/a", ""]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
KEYS = ["key", "value", "path", "oid", "size", "content", "encoding", "operation", "objects",
        "files", "name", "organization", "type", "tag", "startingPoint", "paths", "summary",
        "parentCommit", "sample", "message"]  # fmt: skip
OBJECTS = st.dictionaries(st.sampled_from(KEYS), JSON | st.lists(st.dictionaries(
    st.sampled_from(KEYS), JSON, max_size=4), max_size=3), max_size=6)  # fmt: skip
LINES = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["header", "file", "lfsFile", "deletedFile", "deletedFolder"])
            | TEXTS,
            "value": OBJECTS | JSON,
        }
    ),
    max_size=4,
)
BODIES = st.one_of(
    st.binary(max_size=40),
    JSON.map(json.dumps).map(str.encode),
    OBJECTS.map(json.dumps).map(str.encode),
    LINES.map(lambda lines: "\n".join(map(json.dumps, lines)).encode()),
    st.just(b"[" * 100_000),
    st.just(b'{"name": ' + b"9" * 5000 + b"}"),
)
SHAPES = [
    "/", "/{}", "/{}/{}", "/{}/{}/resolve/{}/{}", "/org/model/resolve/main/{}",
    "/org/model/resolve/{}/config.json", "/api/models?search={}&filter={}&limit={}&author={}",
    "/api/models/{}/{}", "/api/models/org/model/revision/{}", "/api/models/org/model/tree/{}/{}",
    "/api/models/org/model/tree/main?recursive={}&cursor={}", "/api/models/org/model/{}/{}",
    "/api/models/org/model/commit/{}", "/api/models/org/model/commit/main?create_pr={}",
    "/api/models/org/model/preupload/main", "/api/models/org/model/paths-info/{}",
    "/api/models/org/model/tag/{}", "/api/models/org/model/branch/{}", "/api/repos/create",
    "/api/repos/{}", "/org/model.git/info/lfs/objects/batch", "/uploads/{}?size={}&until={}&sign={}",
    "/api/validate-yaml", "/api/{}/{}", "/org/model/{}/{}", "/api/whoami-v2",
]  # fmt: skip


@st.composite
def addresses(draw) -> str:
    shape = draw(st.sampled_from(SHAPES))
    safe = draw(st.sampled_from(["", "/%", "/"]))
    words = [
        quote(draw(TEXTS).encode("utf-8", "surrogatepass"), safe=safe)
        for _ in range(shape.count("{}"))
    ]
    return shape.format(*words)


HEADERS = st.dictionaries(
    st.sampled_from(["Range", "If-Range", "If-None-Match", "Authorization", "Content-Type", "Host",
                     "X-Forwarded-Proto", "X-Forwarded-For"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
    | st.sampled_from(["bytes=0-", "Basic eDp4", "application/json", "[::1", "a b", "5"]),
    max_size=2,
)  # fmt: skip


@settings(
    max_examples=500, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"]),
    addresses(),
    BODIES,
    HEADERS,
)
def test_nothing_makes_the_hub_stumble(hub, method, path, body, headers):
    try:
        answer = hub.ask(method, path, None if method in ("GET", "HEAD") else body, **headers)
    except (http.client.HTTPException, ConnectionError):
        # h11 itself hangs up on what is no HTTP
        assert hub.ask("GET", "/api/whoami-v2").status == 200
        return
    assert answer.status < 500, (method, path, body, headers, answer)


def test_after_all_that_nothing_went_wrong_and_nothing_lies_elsewhere(hub, base):
    assert hub.ask("GET", "/").status == 200
    assert {path.name for path in base.iterdir()} == {"secret.txt", "root"}
    assert not [event for event in hub.logged() if "traceback" in event]
    assert Path(base / "secret.txt").read_text() == "never served"
