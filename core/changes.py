"""Which files have changed since tiles were made of them: sizes and times of change, by source."""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tilezoo.formats import list_headers, split_part, suffix_of
from tilezoo.io import whole_file
from tilezoo.sources import Source
from tilezoo.vrt import list_vrt_files
from tilezoo.zips import split_zipped

Mark = tuple[int, int]  # bytes of a source's files; their time of change in ns, mixed if several
_GONE = (0, 0)
_MOST_BEHIND = 64  # files of a mosaic that are looked at for each of its tiles


def mark_source(source: Source) -> Mark:
    """Look at a source's files; two marks are equal unless a file was written to in between."""
    found = [_look_at(path) for path in _list_files(source)]
    if len(found) == 1:
        return found[0]
    mixed = blake2b(b"".join(struct.pack("<qq", *one) for one in found), digest_size=8).digest()
    return sum(size for size, _ in found), int.from_bytes(mixed, "little", signed=True)


def mark_sources(sources: Sequence[Source]) -> NDArray[np.int64]:
    """Look at the files of all sources, shape (N, 2)."""
    marks = (number for source in sources for number in mark_source(source))
    return np.fromiter(marks, np.int64, 2 * len(sources)).reshape(-1, 2)


def _look_at(path: str) -> Mark:
    zipped = split_zipped(path)
    try:
        found = os.stat(zipped[0] if zipped else path)
    except (OSError, ValueError):  # told when it is read
        return _GONE
    return found.st_size, found.st_mtime_ns


def _list_files(source: Source) -> Iterable[str]:
    if zipped := split_zipped(source.path):
        return [zipped[0]]
    if source.endings:
        return [source.path + ending for ending in source.endings]
    path, _part = split_part(source.path)
    if suffix_of(path) != ".vrt":
        return [path, *list_headers(path)]
    behind = _list_behind(path, *_look_at(path))
    return [path, *(behind if len(behind) <= _MOST_BEHIND else ())]


@lru_cache(maxsize=64)
def _list_behind(path: str, _size: int, _changed_ns: int) -> tuple[str, ...]:
    return tuple(list_vrt_files(path))


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What the sources of a run were when their tiles were made, as a hidden file keeps it.

    Attributes:
        plan: Hash of which tiles the run has.
        of_sources: A mark each, shape (N, 2).
    """

    plan: str
    of_sources: NDArray[np.int64]

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read marks; None where there are none, or they are damaged: then they tell nothing."""
        try:
            with np.load(path, allow_pickle=False) as kept:
                return cls(plan=str(kept["plan"]), of_sources=kept["of_sources"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def save(self, path: Path) -> None:
        """Write marks, whole or not at all."""
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, plan=np.array(self.plan), of_sources=self.of_sources)
