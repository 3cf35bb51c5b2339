"""Whole files or none, their hashes, and state files: JSON read into frozen dataclasses.

A state file's content is one frozen dataclass, its fields in the order of the file's keys. A key that
is not always there is `name: int | UnsetType = UNSET` (msgspec's); one that may be null is
`int | None`. Keys that a newer writer adds are ignored unless a reader is strict.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tilezoo.errors import TableError, TilezooError

_CHUNK = 1 << 20


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` only if the block succeeds.

    The bytes are synced before the rename, so a crash leaves the old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def make_readable(path: Path) -> None:
    """Give a file the permissions that new files have here; safetensors writes for its owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a name for a folder to be made; rename it to `folder` only if the block succeeds.

    Raises:
        OSError: `folder` is there and holds something.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as making:
        made = Path(making) / "made"
        yield made
        made.replace(folder)


def refuse_used_folder(folder: Path, flag: str, error: type[TilezooError]) -> None:
    """Refuse to make a folder where something is already.

    Args:
        folder: To be made.
        flag: The option that names it, for the message.
        error: What is raised where it holds something, or it or one above it is a file.
    """
    there = next((each for each in (folder, *folder.parents) if each.exists()), None)
    if there is not None and not there.is_dir():
        above = "" if there == folder else f"{folder}: "
        raise error(f"{above}{there} is a file, no folder; choose another {flag}")
    if there == folder and any(folder.iterdir()):
        raise error(f"{folder} is not empty; choose another {flag}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def canonical_json(value: object) -> str:
    """Serialise `value` in the one form that hashes are taken over: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_text(text: str) -> str:
    """Hash `text` (UTF-8); 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash a file's bytes without reading it whole; 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where verified copies of models are kept: `TILEZOO_CACHE`, else the user's cache folder."""
    if chosen := os.environ.get("TILEZOO_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tilezoo"


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
    # msgspec's ValidationError and json's errors are ValueErrors; the other comes of deep nesting.
    except (ValueError, RecursionError) as wrong:
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
