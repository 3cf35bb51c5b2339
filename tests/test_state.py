"""State files are dataclasses: written as ever, and read with the wrong field named."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import UNSET, UnsetType

from tilezoo.errors import PackError, TableError
from tilezoo.io import read_state, to_builtins, write_json, write_state


@dataclass(frozen=True, kw_only=True)
class Inner:
    count: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class State:
    rows: int
    loss: float | None
    names: tuple[str, ...]
    inner: Inner
    parts: dict[str, Inner]
    later: int | UnsetType = UNSET


INNER = {"count": 1, "path": "a/ü"}
RAW = {"rows": 3, "loss": 0.25, "names": ["x"], "inner": INNER, "parts": {"p": INNER}}


def read(path: Path, **how: object) -> State:
    return read_state(path, State, fix="make it anew with `tilezoo x`", **how)


@pytest.fixture
def file(tmp_path) -> Path:
    write_json(tmp_path / "state.json", RAW)
    return tmp_path / "state.json"


def test_a_file_is_read_and_written_with_the_same_bytes(file):
    before = file.read_bytes()
    state = read(file)
    assert state.inner == Inner(count=1, path=Path("a/ü"))
    write_state(file, state)
    assert file.read_bytes() == before
    assert read(file, strict=True) == state


def test_a_number_that_is_none_of_jsons_is_read_as_it_was_written(file):
    write_json(file, {**RAW, "loss": float("nan")})
    assert read(file).loss != read(file).loss


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rows": "3"}, r"Expected `int`, got `str` - at `\$\.rows`"),
        ({"inner": {"path": "a"}}, r"missing required field `count` - at `\$\.inner`"),
        ({"parts": {"p": {**INNER, "count": None}}}, r"at `\$\.parts\[\.\.\.\]\.count`"),
    ],
)
def test_a_file_that_does_not_fit_names_itself_the_fix_and_the_field(file, changed, told):
    write_json(file, {**RAW, **changed})
    with pytest.raises(TableError, match=rf"state\.json is damaged; make it anew.*{told}") as wrong:
        read(file)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize("content", [b"", b'{"rows": 3', b"\xff\xfe", b"[]"])
def test_a_broken_file_is_the_error_that_was_asked_for(file, content):
    file.write_bytes(content)
    with pytest.raises(PackError, match="damaged"):
        read(file, error=PackError)


def test_keys_of_a_newer_writer_are_ignored_unless_the_reader_is_strict(file):
    newer = {**RAW, "parts": {"p": {**INNER, "new": 1}}, "later": 7}
    write_json(file, newer)
    assert to_builtins(read(file)) == {**RAW, "names": ("x",), "later": 7}
    with pytest.raises(TableError, match=r"unknown key - at `\$\.parts\.p\.new`"):
        read(file, strict=True)


def test_a_file_that_is_nested_without_end_is_refused(file):
    file.write_text("[" * 200_000)
    with pytest.raises(TableError, match="is damaged; make it anew"):
        read(file)
