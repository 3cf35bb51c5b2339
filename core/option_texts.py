"""Texts of options: read into values, and written in manifests, as commands and for the docs."""

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from tilezoo.errors import OptionError
from tilezoo.options import describe, options_of


def to_request(chosen: object, **settled: object) -> dict[str, object]:
    """What manifests keep of options: recorded fields by name, as JSON has them.

    Args:
        chosen: An options object.
        settled: Values that a run has found for what was not given, by name.
    """
    asked = {
        one.name: getattr(chosen, one.name) for one in options_of(type(chosen)) if one.recorded
    }
    return {name: _jsonable(value) for name, value in {**asked, **settled}.items()}


def _jsonable(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_jsonable(one) for one in value]
    return value


def to_command(name: str, chosen: object) -> str:
    """Write the command that does something again, as a shell takes it; defaults are left out."""
    places: dict[str, list[str]] = {"argument": [], "option": []}
    for one in options_of(type(chosen)):
        value = getattr(chosen, one.name)
        if one.place in places and (one.required or value != one.default):
            places[one.place] += one.words(value)
    words = [places["argument"], places["option"]]
    if any(word.startswith("-") for word in places["argument"]):
        words = [places["option"], ["--"], places["argument"]]
    return shlex.join(["tilezoo", *name.split(), *(word for part in words for word in part)])


def option_table(cls: type) -> str:
    """Write a class's options as a Markdown table: option, type, default, meaning."""
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for one in options_of(cls):
        if one.place != "python":
            name = " ".join(f"`{flag}`" for flag in one.flags or (one.flag,))
            default = "required" if one.required else one.unset or _default_text(one.default)
            cells = (name, describe(one.read_as or one.kind), default, one.help)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _default_text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None or value == () else f"`{value}`"


def parse_numbers(text: str, option: str, *, count: int, example: str) -> tuple[float, ...]:
    """Read `count` finite numbers divided by commas (or colons or spaces)."""
    parts = [part for part in re.split(r"[,:\s]+", text.strip()) if part]
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise OptionError(f"{option} {text!r} should be {count} numbers, for example {example}")
    return numbers


def parse_value_range(text: str | tuple[float, float] | None) -> tuple[float, float] | None:
    """Read `--value-range LOW,HIGH`; what is read stays."""
    if text is None or isinstance(text, tuple):
        return text
    low, high = parse_numbers(text, "--value-range", count=2, example="0,2000")
    if not low < high:
        raise OptionError(f"--value-range {text}: the first number must be the smaller one")
    return low, high


def parse_nodata(text: str | None) -> float | None:
    """Read `--nodata V`, a number or `nan`."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"--nodata {text!r} should be a number or nan, for example 0") from None


def parse_shard(text: str | None) -> tuple[int, int]:
    """Read `--shard I/N` (I from 0); (0, 1) for the whole."""
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    shard, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not shard < count:
        raise OptionError(f"--shard {text!r} should be I/N with I from 0 to N-1, for example 0/4")
    return shard, count
