"""Options are stated once: the function, the command, requests and docs say what the class says."""

import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tilezoo.cli.app import app
from tilezoo.cli.options import Json, command
from tilezoo.errors import OptionError
from tilezoo.option_texts import option_table, parse_value_range, to_command, to_request
from tilezoo.options import Progress, argument, option, options, options_of, python_only, verb
from tilezoo.search.options import IndexOptions

Precision = Literal["fp32", "bf16"]
CORE = Path(__file__).parent.parent / "core"


@options
class Bands:
    value_range: str | None = option(default=None, help="LOW,HIGH.")

    @cached_property
    def value_limits(self) -> tuple[float, float] | None:
        return parse_value_range(self.value_range)

    def check(self) -> None:
        if self.value_range == "0,13":
            raise OptionError("--value-range 0,13: unlucky")


@options
class Compute:
    device: str = option(default="auto", help="auto, cpu, cuda.", recorded=False)
    precision: Literal["auto"] | Precision = option(default="auto", help="Of sums.")


@options
class DrawOptions(Bands, Compute, Progress):
    sources: list[str] | tuple[str, ...] = argument("SOURCE...", kw_only=False, help="Files.")
    out: str | Path = option("--out", "-o", help="The folder.")
    tile_px: int | None = option(default=None, unset="whole", min=4, max=4096, help="Side.")
    share: float = option(default=0.5, min=0, help="How | much.")
    k: int = option("-k", default=10, min=1, help="How many.")
    tags: tuple[str, ...] = option("--tag", default=(), help="May be repeated.")
    overwrite: bool = option(default=False, help="Throw away.")
    report: bool = option(default=True, help="Write a page.")
    model: "str | Thing" = option(default="tiny", read_as=str, help="A name.")
    device: str = option(default="cpu", help="Where it is drawn.", recorded=False)
    thing: "Thing | None" = python_only(default=None, help="Of your own.")

    def check(self) -> None:
        if self.tile_px and self.k > self.tile_px:
            raise OptionError(f"-k {self.k} needs a larger --tile-px")


class Thing:
    pass


@verb(DrawOptions)
def draw(options: DrawOptions) -> DrawOptions:
    """Draw what is asked.

    Raises:
        OptionError: It makes no sense.
    """
    return options


def parse(words: list[str]) -> DrawOptions:
    """What a command line of `draw` is understood as."""
    asked: list[DrawOptions] = []

    @command(DrawOptions, Json)
    def draw_command(options: DrawOptions, _own: Json) -> None:
        """Draw."""
        asked.append(options)

    one = typer.Typer(rich_markup_mode=None)
    one.command()(draw_command)
    done = CliRunner().invoke(one, words)
    if done.exit_code:
        raise done.exception or RuntimeError(done.output)
    return asked[0]


WRONG = [
    {"tile_px": 3},
    {"tile_px": 5000},
    {"k": 0},
    {"share": -0.5},
    {"precision": "fp8"},
    {"value_range": "5,1"},
    {"value_range": "0,13"},
    {"tile_px": 8, "k": 9},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_the_function_and_the_command_refuse_alike(wrong):
    with pytest.raises(OptionError, match=r"^-(-[a-z]|k)") as refused:
        draw(["a"], out="o", **wrong)
    assert refused.value.exit_code == 2
    flags = {"k": "-k"}
    words = [
        w for k, v in wrong.items() for w in (flags.get(k, f"--{k.replace('_', '-')}"), str(v))
    ]
    with pytest.raises((OptionError, SystemExit)) as stopped:
        parse(["a", "-o", "o", *words])
    code = getattr(stopped.value, "exit_code", getattr(stopped.value, "code", None))
    assert code == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tile_px": "8"}, "--tile-px '8': should be a whole number"),
        ({"tile_px": True}, "--tile-px True: should be a whole number"),
        ({"tile_px": 3}, "--tile-px 3: must be 4 or more"),
        ({"share": float("nan")}, "--share nan: must be 0 or more"),
        ({"precision": "fp8"}, "--precision 'fp8': should be auto, fp32 or bf16"),
        ({"overwrite": 1}, "--overwrite 1: should be yes or no"),
        ({"tags": "one"}, "--tag 'one': should be several of text"),
        ({"out": None}, "--out None: should be text or a path"),
        ({"sources": [1]}, "SOURCE... [1]: should be several of text"),
    ],
)
def test_a_refusal_names_the_option_the_value_and_what_it_should_be(wrong, told):
    with pytest.raises(OptionError) as refused:
        DrawOptions(**{"sources": ["a"], "out": "o", **wrong})
    assert str(refused.value) == told


def test_a_command_gives_what_the_function_takes():
    words = ["a", "b", "-o", "o", "--tile-px", "16", "--tag", "x", "--tag", "y", "--no-report"]
    by_command = parse([*words, "--value-range", "0,2000"])
    by_function = draw(
        ("a", "b"),
        out=Path("o"),
        tile_px=16,
        tags=("x", "y"),
        report=False,
        value_range="0,2000",
        show_progress=True,
    )
    assert by_command == by_function
    assert by_command.value_limits == (0, 2000)


def test_options_are_frozen_and_replaced():
    asked = DrawOptions(["a"], out="o")
    with pytest.raises(FrozenInstanceError):
        asked.k = 3
    assert draw.with_options(replace(asked, k=3)).k == 3
    with pytest.raises(OptionError, match="-k 0"):
        replace(asked, k=0)


def test_a_signature_names_own_options_first_and_then_those_of_groups():
    names = list(inspect.signature(draw).parameters)
    assert names[:3] == ["sources", "out", "tile_px"]
    assert names[-3:] == ["value_range", "precision", "show_progress"]
    assert inspect.signature(draw).parameters["sources"].default is inspect.Parameter.empty
    assert inspect.signature(draw).return_annotation is DrawOptions


def test_arguments_of_a_group_come_before_those_of_its_users():
    @options
    class OneFile:
        file: str = argument("FILE", kw_only=False, help="A file.")

    @options
    class AskOptions(OneFile):
        query: str | None = argument("QUERY", kw_only=False, default=None, help="A text.")
        k: int = option("-k", default=10, help="How many.")

    @verb(AskOptions)
    def ask(options: AskOptions) -> AskOptions:
        """Ask."""
        return options

    assert list(inspect.signature(ask).parameters) == ["file", "query", "k"]
    assert ask("a.txt", "why?") == AskOptions(file="a.txt", query="why?")


def test_a_docstring_tells_every_option_before_what_is_raised():
    told = inspect.getdoc(draw)
    assert (
        told.index("Draw what") < told.index("Args:\n    sources: Files.") < told.index("Raises:")
    )
    assert "    tile_px: Side.  [whole]\n" in told
    assert told.endswith("OptionError: It makes no sense.")


def test_an_inherited_option_can_be_restated():
    restated = {one.name: one for one in options_of(DrawOptions)}["device"]
    assert (restated.default, restated.help) == ("cpu", "Where it is drawn.")
    assert DrawOptions(["a"], out="o").device == "cpu"


def test_help_shows_what_the_class_states():
    shown = CliRunner().invoke(app, ["index", "--help"], env={"COLUMNS": "200"}).stdout
    for one in options_of(IndexOptions):
        if one.place != "python":
            assert one.flag in shown
            assert one.help in shown
    assert "[default: 0.99]" in shown


def test_a_request_is_what_may_change_the_result():
    request = to_request(DrawOptions([], out=Path("o"), tags=("x",)), tile_px=224)
    assert json.loads(json.dumps(request)) == request
    assert request["tags"] == ["x"]
    assert request["out"] == "o"
    assert request["tile_px"] == 224
    assert not {"device", "thing", "show_progress"} & set(request)


def test_a_table_of_options_says_flags_types_defaults_and_help():
    table = option_table(DrawOptions).splitlines()
    assert "| `--out` `-o` | text or a path | required | The folder. |" in table
    assert "| `--tile-px` | a whole number | whole | Side. |" in table
    assert r"| `--share` | a number | `0.5` | How \| much. |" in table
    assert "| `--report` | yes or no | on | Write a page. |" in table
    assert not [row for row in table if "thing" in row]


TEXT = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=8)
ASKED = st.builds(
    DrawOptions,
    st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    out=TEXT.map(Path),
    tile_px=st.none() | st.integers(100, 4096),
    share=st.floats(0, allow_nan=False, allow_infinity=False),
    k=st.integers(1, 100),
    tags=st.lists(TEXT, max_size=3).map(tuple),
    overwrite=st.booleans(),
    report=st.booleans(),
    model=TEXT,
    device=TEXT,
    precision=st.sampled_from(["auto", "fp32", "bf16"]),
    value_range=st.sampled_from([None, "0,1", "-3,2.5"]),
    show_progress=st.just(True),
)


@given(ASKED)
def test_a_written_command_asks_for_the_same_again(asked):
    words = shlex.split(to_command("draw", asked))
    assert words[:2] == ["tilezoo", "draw"]
    assert parse(words[2:]) == asked


def test_defaults_are_left_out_of_a_command():
    asked = DrawOptions(["a b"], out="o", tags=("x", "y"), report=False, show_progress=True)
    assert to_command("draw", asked) == "tilezoo draw 'a b' --out o --tag x --tag y --no-report"


def test_an_option_without_a_statement_cannot_be_declared():
    with pytest.raises(TypeError, match=r"state \['seed'\]"):

        @options
        class Seeded:
            seed: int = 0

    with pytest.raises(TypeError, match="read_as"):

        @options
        class Quoted:
            model: "Thing" = option(help="One.")


SNIPPET = """
from pathlib import Path
from typing import Literal
from tilezoo.options import Progress, argument, option, options, verb

@options
class Cut:
    tile_px: int | None = option(default=None, help="Side.")
    def check(self) -> None: ...

@options
class Asked(Cut, Progress):
    source: str | Path = argument("SOURCE", kw_only=False, help="A file.")
    out: str = option("-o", help="A folder.")
    kind: Literal["a", "b"] = option(default="a", help="Which.")
    def check(self) -> None: ...

@verb(Asked)
def draw(options: Asked) -> int:
    return options.tile_px or 0

reveal_type(draw("tiles", out="o", tile_px=4, kind="b", show_progress=True))
reveal_type(draw.with_options(Asked("tiles", out="o")))
draw("tiles")
draw("tiles", out=1)
draw("tiles", out="o", kind="c")
draw("tiles", out="o", tile="4")
Asked("tiles", out="o").out = "x"
"""


@pytest.mark.slow
def test_type_checkers_know_a_verbs_parameters(tmp_path):
    pytest.importorskip("mypy")
    package = tmp_path / "tilezoo"
    package.mkdir()
    for name in ("__init__.py", "options.py", "option_texts.py", "errors.py", "py.typed"):
        shutil.copy(CORE / name, package)
    (tmp_path / "snippet.py").write_text(SNIPPET)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "snippet.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = [line for line in done.stdout.splitlines() if re.search(r"Revealed|error:", line)]
    expected = [
        'Revealed type is "int"',
        'Revealed type is "int"',
        'Missing named argument "out"',
        'Argument "out" .* incompatible type "int"; expected "str"',
        """Argument "kind" .* incompatible type "Literal\\['c'\\]\"""",
        'Unexpected keyword argument "tile"',
        'Property "out" .* is read-only',
    ]
    for line, pattern in zip(told, expected, strict=True):
        assert re.search(pattern, line), done.stdout
