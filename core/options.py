"""Texts that options are given in, turned into values."""

import inspect
import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from tilezoo.errors import OptionError


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


def check_least(option: str, value: int | None, least: int) -> None:
    """Refuse a count below `least`; None is not given and fine."""
    if value is not None and value < least:
        raise OptionError(f"{option} {value}: must be {least} or more")


def parse_value_range(text: str | None) -> tuple[float, float] | None:
    """Read `--value-range LOW,HIGH`."""
    if text is None:
        return None
    low, high = parse_numbers(text, "--value-range", count=2, example="0,2000")
    if not low < high:
        raise OptionError(f"--value-range {text}: the first number must be the smaller one")
    return low, high


def command_line(
    verb: str,
    arguments: Sequence[object],
    options: Mapping[str, object],
    defaults: Mapping[str, object],
) -> str:
    """Write the command that does something again, as a shell takes it.

    Args:
        verb: `probe`.
        arguments: What stands without an option before it.
        options: By their names in Python; a list gives its option several times.
        defaults: Options that have these values are left out.
    """
    words = ["tilezoo", verb, *map(str, arguments)]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value == defaults.get(name):
            continue
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        else:
            each = [value] if isinstance(value, str) or not isinstance(value, Sequence) else value
            words += [word for one in each for word in (option, str(one))]
    return shlex.join(words)


def defaults(function: Callable[..., object]) -> dict[str, object]:
    """The values that a function's parameters have unless given."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters}


def parse_shard(text: str | None) -> tuple[int, int]:
    """Read `--shard I/N` (I from 0); (0, 1) for the whole."""
    if text is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    shard, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not shard < count:
        raise OptionError(f"--shard {text!r} should be I/N with I from 0 to N-1, for example 0/4")
    return shard, count
