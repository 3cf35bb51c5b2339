"""A hub's page shows cards to people, and cards cannot do anything there."""

import json
import re

import pytest
from hubbing import running_hub
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.zoo.hub.page import check_front_matter, front_matter
from tilezoo.zoo.registry import Registry

HOSTILE = "---\nlicense: mit\n---\n# Hi <script>alert(1)</script> </pre> <img src=x onerror=y> ü\n"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    base = tmp_path_factory.mktemp("pages")
    (base / "model").mkdir()
    (base / "model/README.md").write_text(HOSTILE, encoding="utf-8")
    registry = Registry(base / "root")
    registry.publish(base / "model", "org/hostile")
    registry.create("org/empty")
    with running_hub(base / "root", base / "log") as hub:
        yield hub


@pytest.mark.parametrize("path", ["/", "/org/hostile", "/org/hostile/tree/main"])
def test_cards_are_shown_escaped_under_a_policy_without_scripts(page, path):
    answer = page.ask("GET", path)
    text = answer.body.decode()
    assert answer.status == 200
    assert "org/hostile" in text
    assert "Hi &lt;script&gt;alert(1)&lt;/script&gt; &lt;/pre&gt;" in text
    assert "ü" in text
    assert not re.search(r"<(script|img)|onerror=(?!y&gt;)", text)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_lists_models_without_a_card_and_says_how_to_use_them(page):
    text = page.ask("GET", "/").body.decode()
    assert "2 models" in text
    assert "no card" in text
    assert f"HF_ENDPOINT={page.url} HF_HUB_DISABLE_XET=1" in text


def test_a_file_is_never_shown_as_a_page(page):
    answer = page.ask("GET", "/org/hostile/resolve/main/README.md")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("yaml", "facts"),
    [
        ("license: mit\ntags: [a, 1]", {"license": "mit", "tags": ["a", 1]}),
        ("d: 2020-01-01\nn: .nan\ni: -.inf", {"d": "2020-01-01", "n": "nan", "i": "-inf"}),
        ("", {}),
        ("- a list", None),
        ("a: &x [1]\nb: *x", None),
        ("a: " + "[" * 60_000, None),
        ("a: b\n" * 60_000, None),
        ("a: " + "9" * 5000, None),
        ("a: [", None),
        ("!!python/object/apply:os.system [ls]", None),
        ("d: 2020-99-99", None),
    ],
)
def test_front_matter(yaml, facts):
    card = f"---\n{yaml}\n---\ntext"
    assert front_matter(card) == facts
    assert bool(check_front_matter(card)) == (facts is None)


@given(st.text(st.sampled_from("-:{}[]&*!|>'\"#%@`,?\n\t abc019.~<=\ud800\x00é")))
def test_any_front_matter_is_facts_that_json_holds_or_refused(text):
    facts = front_matter(f"---\n{text}\n---\n")
    assert facts is None or json.dumps(facts, allow_nan=False)
