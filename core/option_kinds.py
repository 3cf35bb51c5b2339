"""Types of options: whether a value fits, how people say them, what a command line reads."""

from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin


def describe(kind: Any) -> str:
    """Say a type as people do: `a whole number`; `auto, flat or ivf`."""
    origin, inside = get_origin(kind), get_args(kind)
    if choices := choices_of(kind):
        return join_or([str(one) for one in choices])
    if origin in (Union, UnionType):
        each = [describe(one) for one in inside if one is not NoneType]
        return join_or(list(dict.fromkeys(each)))
    if origin and issubclass(origin, Sequence):
        return f"several of {describe(inside[0])}"
    plain = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return plain.get(kind, "yes or no" if kind is bool else getattr(kind, "__name__", str(kind)))


def join_or(words: Sequence[str]) -> str:
    """Join words as a sentence does: `a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of a type; an integer is a number too, and a bool is neither."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inside)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if origin and issubclass(origin, Sequence):
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and all(fits(one, inside[0]) for one in cast("Sequence[object]", value))
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def choices_of(kind: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of a union of Literals (and None); empty for other types."""
    if get_origin(kind) in (Union, UnionType):
        parts = [choices_of(one) for one in get_args(kind) if one is not NoneType]
        return tuple(one for part in parts for one in part) if all(parts) else ()
    return get_args(kind) if get_origin(kind) is Literal else ()


def read_as(kind: Any) -> Any:
    """The type that a command line reads for a field's: the first that text can be.

    Several types with a sequence among them are read as a list of texts; with a path, as a path.
    """
    parts = [one for one in get_args(kind) if one is not NoneType]
    parts = parts if get_origin(kind) in (Union, UnionType) else [kind]
    lists = [one for one in parts if _is_sequence(one)]
    if lists:
        inner = read_as(get_args(lists[0])[0])
        return list[str if inner is Path else inner]  # type: ignore[misc]
    if choices := choices_of(kind):
        return Literal[choices]
    return Path if Path in parts else parts[0]


def _is_sequence(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Sequence)
