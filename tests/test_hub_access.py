"""Who may read and write on a hub."""

import pytest
from hubbing import hf, large, running_hub, small
from starlette.requests import HTTPConnection

from tilezoo.errors import OptionError
from tilezoo.zoo.hub.errors import RefusedError
from tilezoo.zoo.hub.state import check_access, read_tokens
from tilezoo.zoo.registry import Registry

NAME = "org/model"
READ, WRITE = {"Authorization": "Bearer r-1"}, {"Authorization": "Bearer w-2"}
READS = [
    ("GET", "/"),
    ("GET", "/org/model"),
    ("GET", "/api/models"),
    ("GET", "/api/models/org/model"),
    ("GET", "/api/models/org/model/tree/main"),
    ("GET", "/api/models/org/model/refs"),
    ("POST", "/api/models/org/model/paths-info/main"),
    ("GET", "/org/model/resolve/main/config.json"),
    ("HEAD", "/org/model/resolve/main/config.json"),
    ("GET", "/api/whoami-v2"),
]
WRITES = [
    ("POST", "/api/repos/create"),
    ("DELETE", "/api/repos/delete"),
    ("POST", "/api/models/org/model/preupload/main"),
    ("POST", "/api/models/org/model/commit/main"),
    ("POST", "/api/models/org/model/branch/dev"),
    ("DELETE", "/api/models/org/model/branch/main"),
    ("POST", "/api/models/org/model/tag/main"),
    ("DELETE", "/api/models/org/model/tag/v1"),
    ("POST", "/org/model.git/info/lfs/objects/batch"),
    # what could be taken for reading
    ("POST", "/api/models/org/model/commit/main?x=/paths-info/main"),
    ("POST", "/api/models/paths-info/x/commit/main"),
    ("POST", "/api/models/a/b/commit/api/validate-yaml"),
    ("POST", "/uploads/" + "0" * 64),
    ("DELETE", "/uploads/../api/models/org/model/tag/v1"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    base = tmp_path_factory.mktemp("hub")
    (base / "model").mkdir()
    (base / "model/config.json").write_text("{}")
    Registry(base / "root").publish(base / "model", NAME)
    return base / "root"


@pytest.fixture(scope="module")
def closed(root, tmp_path_factory):
    """A hub with tokens."""
    base = tmp_path_factory.mktemp("closed")
    (base / "tokens").write_text("# ours\nr-1 read\n\nw-2 write  # of the CI\n")
    with running_hub(root, base / "log", "--token-file", base / "tokens") as hub:
        yield hub


@pytest.mark.parametrize(("method", "path"), READS + WRITES)
def test_nothing_goes_without_a_token_where_tokens_are_set(closed, method, path):
    answer = closed.ask(method, path, None if method in ("GET", "HEAD") else {})
    assert answer.status == 401
    assert "WWW-Authenticate".lower() in answer.headers
    wrong = closed.ask(method, path, Authorization="Bearer r-12")
    assert wrong.status == 401
    assert wrong.headers["x-error-message"] == "Invalid credentials in Authorization header"


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_token_that_reads_does_not_write(closed, method, path):
    answer = closed.ask(method, path, {}, **READ)
    assert answer.status == 403
    assert "may only read" in answer.headers["x-error-message"]


@pytest.mark.parametrize(("method", "path"), READS)
def test_a_token_that_reads_reads(closed, method, path):
    assert closed.ask(method, path, {} if method == "POST" else None, **READ).status == 200


def test_a_token_that_writes_writes_and_says_so(closed):
    assert closed.create("org/by-token", **WRITE).status == 200
    assert closed.commit("org/by-token", small("a", b"1"), **WRITE).status == 200
    who = closed.ask("GET", "/api/whoami-v2", **WRITE).json()
    assert who["auth"]["accessToken"]["role"] == "write"


def test_hf_says_what_is_wrong_with_a_token(closed, tmp_path):
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(AssertionError, match="may only read"):
        hf(closed, tmp_path, "upload", NAME, tmp_path / "x.txt", token="r-1")
    with pytest.raises(AssertionError, match=r"401|authenticated|token"):
        hf(closed, tmp_path, "download", NAME)
    hf(closed, tmp_path, "download", NAME, token="r-1")


def test_an_upload_needs_the_address_it_was_given(closed, root):
    oid = "0" * 64
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": 5}]}
    answer = closed.ask("POST", f"/{NAME}.git/info/lfs/objects/batch", batch, **WRITE)
    href = answer.json()["objects"][0]["actions"]["upload"]["href"].removeprefix(closed.url)
    for other in (
        href.replace("size=5", "size=6"), href.replace("0" * 64, "1" * 64), href[:-1],
        href.replace("until=", "until=9"), f"/uploads/{oid}", f"/uploads/{oid}?size=x&until=x&sign=",
    ):  # fmt: skip
        assert closed.ask("PUT", other, b"12345").status == 403
    assert closed.ask("PUT", href, b"12345").status == 422  # not what hashes to zeros
    assert not (root / f".tilezoo/tmp/{oid}").exists()
    commit = closed.commit(NAME, large("a", oid), **WRITE)
    assert (commit.status, "not uploaded" in commit.json()["error"]) == (400, True)


def request(client="127.0.0.1", host="127.0.0.1:8765", method="POST", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {
        "type": "http", "method": method, "path": "/api/repos/create", "scheme": "http",
        "client": (client, 5000), "headers": [(b"host", host.encode()), *pairs],
    }  # fmt: skip
    return HTTPConnection(scope)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:80", "[::1]:8765", "LOCALHOST"])
def test_without_tokens_a_program_on_this_machine_writes(host):
    assert check_access(request(host=host), None).right == "write"


@pytest.mark.parametrize(
    "given",
    [
        {"client": "10.0.0.7"},
        {"client": ""},
        {"x_forwarded_for": "10.0.0.7"},  # a proxy on this machine
        {"forwarded": "for=10.0.0.7"},
        {"origin": "https://example.com"},  # a page in this machine's browser
        {"sec_fetch_site": "cross-site"},
        {"host": "rebound.example.com"},  # a page whose name leads here
        {"host": "127.0.0.1.example.com"},
        {"host": ""},
    ],
)
def test_without_tokens_nobody_else_writes(given):
    with pytest.raises(RefusedError, match="from its own machine only") as caught:
        check_access(request(**given), None)
    assert caught.value.status == 403
    assert check_access(request(method="GET", **given), None).right == "read"


def test_a_password_typed_into_a_browser_reads_only(tmp_path):
    (tmp_path / "t").write_text("w-2 write")
    basic = {"authorization": "Basic eDp3LTI="}  # x:w-2
    tokens = read_tokens(tmp_path / "t")
    assert check_access(request(method="GET", **basic), tokens).right == "read"
    with pytest.raises(RefusedError, match="may only read"):
        check_access(request(**basic), tokens)


@pytest.mark.parametrize("text", ["", "# none", "token", "token admin", "a b read", "\udcff"])
def test_a_token_file_that_is_none_is_refused_without_showing_it(tmp_path, text):
    (tmp_path / "t").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(OptionError, match="--token-file") as caught:
        read_tokens(tmp_path / "t")
    assert "admin" not in str(caught.value)
    with pytest.raises(OptionError, match="No such file"):
        read_tokens(tmp_path / "none")


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A hub that anybody reads, with a private model beside a public one."""
    base = tmp_path_factory.mktemp("public")
    (base / "tokens").write_text("r-1 read\nw-2 write ada\n* read\n")
    with running_hub(base / "root", base / "log", "--token-file", base / "tokens") as hub:
        for name, private in (("org/public", False), ("org/private", True), ("own/private", True)):
            org, _, short = name.partition("/")
            body = {"name": short, "organization": org, "private": private}
            assert hub.ask("POST", "/api/repos/create", body, **WRITE).status == 200
            assert hub.commit(name, small("README.md", b"secret"), **WRITE).status == 200
        yield hub


PRIVATE = [
    ("GET", "/org/private"),
    ("GET", "/org/private/tree/main"),
    ("GET", "/org/private/resolve/main/README.md"),
    ("HEAD", "/org/private/resolve/main/README.md"),
    ("GET", "/org/private/raw/main/README.md"),
    ("GET", "/org/private.git/resolve/main/README.md"),
    ("GET", "/org/private/resolve/refs%2Fheads%2Fmain/README.md"),
    ("GET", "/api/models/org/private"),
    ("GET", "/api/models/org/private.git"),
    ("GET", "/api/models/org/private/revision/main"),
    ("GET", "/api/models/org/private/refs"),
    ("GET", "/api/models/org/private/tree/main"),
    ("GET", "/api/models/org/private/tree/main?recursive=true&expand=true"),
    ("GET", "/api/models/org/private/commits/main"),
    ("GET", "/api/models/org/private/auth-check"),
    ("GET", "/api/models/org/private/nothing"),
    ("POST", "/api/models/org/private/paths-info/main"),
]


@pytest.mark.parametrize(("method", "path"), PRIVATE)
def test_who_has_no_token_finds_no_private_model(public, method, path):
    body = {"paths": ["README.md"]} if method == "POST" else None
    hidden = public.ask(method, path, body)
    missing = public.ask(method, path.replace("private", "missing"), body)
    assert (hidden.status, hidden.body) == (404, missing.body.replace(b"missing", b"private"))
    assert hidden.headers["x-error-code"] == "RepoNotFound"
    if not path.endswith("nothing"):
        assert public.ask(method, path, body, **READ).status == 200
        assert public.ask(method, path.replace("private", "public"), body).status == 200


def test_lists_show_private_models_to_those_with_a_token(public):
    for headers, names in (
        ({}, {"org/public"}),
        (READ, {"org/public", "org/private", "own/private"}),
    ):
        listed = public.ask("GET", "/api/models", **headers).json()
        assert {model["id"] for model in listed} == names
        assert {model["id"] for model in listed if model["private"]} == names - {"org/public"}
        page = public.ask("GET", "/", **headers).body.decode()
        assert ("org/private" in page, "own/private" in page) == (bool(headers), bool(headers))


def test_a_model_is_made_private_and_public_by_those_who_write(public):
    path = "/api/models/org/public/settings"
    assert public.ask("PUT", path, {"private": True}, **READ).status == 403
    assert public.ask("PUT", path, {"private": True}).status == 401
    assert public.ask("PUT", path, {"gated": "auto"}, **WRITE).status == 400
    assert public.ask("PUT", path, {"visibility": "protected"}, **WRITE).status == 400
    for body, status in (({"private": True}, 404), ({"visibility": "public"}, 200)):
        assert public.ask("PUT", path, body, **WRITE).status == 200
        assert public.ask("GET", "/api/models/org/public").status == status
    missing = public.ask("PUT", "/api/models/org/none/settings", {"private": True}, **WRITE)
    assert missing.status == 404


def test_who_has_no_token_is_not_led_to_a_private_model(public):
    made = {"name": "before", "organization": "org", "private": True}
    public.ask("POST", "/api/repos/create", made, **WRITE)
    move = {"fromRepo": "org/before", "toRepo": "org/after"}
    assert public.ask("POST", "/api/repos/move", move, **WRITE).status == 200
    assert public.ask("GET", "/api/models/org/before").status == 404
    assert public.ask("GET", "/api/models/org/after").status == 404
    assert public.ask("GET", "/api/models/org/before", **READ).status == 307
    public.ask("DELETE", "/api/repos/delete", {"name": "org/after"}, **WRITE)
