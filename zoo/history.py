"""What moved a model's branches, and when: a small file for each move, found by its name.

    ROOT/org/name/history/TIME-REV-BEFORE-BRANCH.json    {"title", "message", "author"}

TIME is 19 digits of nanoseconds, REV where the branch was put and BEFORE where it was, 40 digits
each. A note is written before its branch moves; a model that is published for the first time has
none, and its history begins there. What leads to a branch is found backwards from
where it is, so a note that nothing came of, or that another writer's move overtook, is in no chain.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from tilezoo.io import from_builtins, to_builtins
from tilezoo.zoo.stores import Store

_NAME = re.compile(r"(\d{19})-([0-9a-f]{40})-([0-9a-f]{40})-(.+)\.json")
_NOTHING = "0" * 40  # what a branch was before it was there
_MAX_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Note:
    """What is said of a move.

    Attributes:
        title: In a line.
        message: Further lines.
        author: Who moved the branch; empty where nobody says.
    """

    title: str
    message: str = ""
    author: str = ""

    def __post_init__(self) -> None:
        for field in ("title", "message", "author"):
            text = getattr(self, field).encode("utf-8", "replace").decode()
            object.__setattr__(self, field, text[:_MAX_TEXT])


class Move(NamedTuple):
    """A branch was put somewhere; in the order of time.

    Attributes:
        time_ns: When, 19 digits.
        revision: Where to.
        before: Where from, zeros for nowhere.
        branch: Which one; empty where no note says.
    """

    time_ns: str
    revision: str
    before: str
    branch: str

    @property
    def moved(self) -> datetime:
        """When, UTC."""
        return datetime.fromtimestamp(int(self.time_ns) / 1e9, UTC)


def note_move(
    store: Store, name: str, branch: str, revision: str, before: str | None, note: Note
) -> None:
    """Write down that a branch is going to be moved.

    Args:
        store: Of the registry.
        name: Of the model.
        branch: Which one.
        revision: Where to.
        before: Where it is; None where its history begins.
        note: What is said of it.
    """
    move = Move(f"{time.time_ns():019}", revision, before or _NOTHING, branch)
    store.write(_file(name, move), json.dumps(to_builtins(note)).encode())


def list_moves(
    store: Store, name: str, branch: str, revision: str, written: Callable[[str], datetime]
) -> Sequence[Move]:
    """What led to a revision, the newest first.

    Args:
        store: Of the registry.
        name: Of the model.
        branch: Whose notes go first where several tell of one revision.
        revision: Where to begin.
        written: Says when a revision was stored; it is asked where the notes end.
    """
    found = (_NAME.fullmatch(file) for file in store.children(f"{name}/history"))
    moves = [*_chain([Move(*match.groups()) for match in found if match], branch, revision)]
    first = moves[-1].before if moves else revision
    if first == _NOTHING:
        return moves
    time_ns = f"{written(first).timestamp() * 1e9:019.0f}"
    return [*moves, Move(time_ns, first, _NOTHING, "")]


def read_note(store: Store, name: str, move: Move) -> Note:
    """Read what is said of a move; a model without notes was published from a folder."""
    try:
        return from_builtins(json.loads(store.read(_file(name, move))), Note)
    except (FileNotFoundError, ValueError, RecursionError):  # damaged, or there was none
        return Note("published")


def _chain(moves: Sequence[Move], branch: str, revision: str) -> Iterator[Move]:
    """Go back from a revision, each time to an earlier note; one of the same branch goes first."""
    left = sorted(moves)
    while found := [move for move in left if move.revision == revision]:
        own = [move for move in found if move.branch == branch]
        move = (own or found)[-1]
        yield move
        left = [other for other in left if other < move]
        revision = move.before


def _file(name: str, move: Move) -> str:
    return f"{name}/history/{'-'.join(move)}.json"
