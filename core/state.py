"""State files: JSON read into frozen dataclasses and written from them.

A file's content is one frozen dataclass, its fields in the order of the file's keys. A key that
is not always there is `name: int | UnsetType = UNSET` (msgspec's); one that may be null is
`int | None`. Keys that a newer writer adds are ignored unless a reader is strict.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tilezoo.errors import TableError, TilezooError
from tilezoo.io import write_json

T = TypeVar("T")


def read_state(
    path: Path,
    kind: type[T],
    *,
    fix: str,
    error: type[TilezooError] = TableError,
    strict: bool = False,
) -> T:
    """Read a JSON file as the dataclass it holds.

    Args:
        path: The file; that it is there is the caller's to see.
        kind: A frozen dataclass, or any type msgspec converts to.
        fix: What the user does about a file that does not fit: `make it anew with …`.
        error: What is raised then, with the file, the fix and the wrong field in one line.
        strict: Refuse keys that `kind` does not have.

    Raises:
        OSError: The file cannot be opened.
    """
    try:
        raw = json.loads(path.read_bytes())
        value = from_builtins(raw, kind)
        if strict and (unknown := _unknown(raw, to_builtins(value), "$")):
            raise ValueError(f"unknown key - at `{unknown}`")
    except ValueError as wrong:  # msgspec's ValidationError and json's errors are ValueErrors
        raise error(f"{path} is damaged; {fix} ({wrong})") from wrong
    return value


def write_state(path: Path, value: object) -> None:
    """Write a dataclass as indented JSON, keys in the order of its fields, whole or not at all."""
    write_json(path, to_builtins(value))


def from_builtins(raw: object, kind: type[T]) -> T:
    """Turn parsed JSON into `kind`.

    Raises:
        msgspec.ValidationError: It does not fit; the message names the field.
    """
    return msgspec.convert(raw, kind, dec_hook=_from_text)


def to_builtins(value: object) -> Any:
    """Turn a dataclass into what JSON has: dicts, lists, numbers, texts; a path is its text."""
    return msgspec.to_builtins(value, enc_hook=_to_text)


def _from_text(kind: type, value: Any) -> object:
    if kind is object:  # what others define, of any form
        return value
    if issubclass(kind, Path):
        return kind(value)
    raise NotImplementedError(f"no {kind} in state files")


def _to_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"no {type(value)} in state files")


def _unknown(raw: Any, known: Any, place: str) -> str | None:
    """The first key of `raw` that `known` lacks, as `$.parameters.nlist`."""
    if isinstance(raw, dict) and isinstance(known, dict):
        pairs = [(f"{place}.{key}", value, known.get(key)) for key, value in raw.items()]
        missing = [f"{place}.{key}" for key in raw if key not in known]
    elif isinstance(raw, list) and isinstance(known, list | tuple):
        pairs = [(f"{place}[{n}]", *pair) for n, pair in enumerate(zip(raw, known, strict=False))]
        missing = []
    else:
        return None
    deeper = (_unknown(inner, other, at) for at, inner, other in pairs)
    return next(iter(missing), None) or next(filter(None, deeper), None)
