"""Which files of a commit are left out, by git's rules of `.gitignore`; clients leave that to a hub."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from tilezoo.zoo.hub.errors import RefusedError

GITIGNORE = ".gitignore"
MOST_BYTES = 64 << 10
_MOST_RULES = 1000
_MOST_FILES = 100
# A rule becomes a regular expression, whose worst time grows with these powers of the length of a
# path's part, and, for `**`, of the number of its parts.
_MOST_STARS = 3
_MOST_DEEP = 2
_STARS = re.compile(r"(?<!\\)\*+")
_SPACES = re.compile(r"(?<!\\) +$")  # behind a rule, where git does not read them
_BELOW = "ps_d"  # pathspec's name of the "/" behind which a rule takes whatever lies below


class _Rule(NamedTuple):
    """A line of a `.gitignore`.

    Attributes:
        includes: What it says of a path it fits: that it is left out, or (`!`) that it is not.
        pattern: Which paths it fits.
        is_of_folders: Whether it speaks of folders only.
    """

    includes: bool
    pattern: re.Pattern[str]
    is_of_folders: bool

    def fits(self, path: str) -> bool:
        """Tell whether it means this path itself, not only a folder that the path lies in."""
        if self.is_of_folders and not path.endswith("/"):
            return False
        found = self.pattern.match(path)
        if not found:
            return False
        if found.groupdict().get(_BELOW):
            return found.end(_BELOW) == len(path)
        return not (path.endswith("/") and found.end() == len(path))  # `a/**` is not the folder a


class IgnoreRules:
    """The rules of a model's `.gitignore` files, each for the folder it lies in and those below."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Take the files' paths and texts.

        Raises:
            RefusedError: 400 where there are too many rules, or one has too many stars.
        """
        self._rules = {
            str(PurePosixPath(path).parent): _parse(path, text) for path, text in texts.items()
        }

    def ignores(self, path: str) -> bool:
        """Tell whether a file is left out: by itself, or with a folder it lies in."""
        return bool(self._rules) and any(self._names(part) for part in _parts(path))

    def _names(self, path: str) -> bool:
        """Tell what the last rule that fits says, those of the nearest folder going first."""
        for folder in (str(parent) for parent in PurePosixPath(path).parents):
            below = path if folder == "." else path.removeprefix(f"{folder}/")
            for rule in reversed(self._rules.get(folder, ())):
                if rule.fits(below):
                    return rule.includes
        return False


def find_rules(paths: Iterable[str]) -> list[str]:
    """Find the `.gitignore` files.

    Raises:
        RefusedError: 400 where there are too many.
    """
    found = [path for path in paths if PurePosixPath(path).name == GITIGNORE]
    if len(found) > _MOST_FILES:
        raise RefusedError(400, f"more than {_MOST_FILES} files called {GITIGNORE}")
    return found


def _parts(path: str) -> Iterator[str]:
    """The folders that a file lies in, from the top, each with '/' behind; then the file."""
    names = path.split("/")
    yield from ("/".join(names[:count]) + "/" for count in range(1, len(names)))
    yield path


def _parse(path: str, text: str) -> Sequence[_Rule]:
    lines = text.split("\n")
    if len(text) > MOST_BYTES or len(lines) > _MOST_RULES:
        raise RefusedError(400, f"{path}: more than {_MOST_RULES} rules, or {MOST_BYTES} bytes")
    if any(_is_costly(line) for line in lines):
        most = f"{_MOST_STARS} `*` in a part, or {_MOST_DEEP} `**`"
        raise RefusedError(400, f"{path}: a rule has more than {most}")
    return [rule for line in lines for rule in _rules(line)]


def _is_costly(line: str) -> bool:
    parts = line.split("/")
    stars = max(len(_STARS.findall(part)) for part in parts)
    return stars > _MOST_STARS or parts.count("**") > _MOST_DEEP


def _rules(line: str) -> Iterator[_Rule]:
    """Compile a line; a comment, or what is no rule, gives none, as with git."""
    text = _SPACES.sub("", line.removesuffix("\r"))
    body = _SPACES.sub(lambda spaces: "\\ " * len(spaces[0]), text.removesuffix("/"))
    try:
        pattern = GitIgnoreSpecPattern(body)
    except ValueError:
        return
    if pattern.include is not None and pattern.regex is not None:
        yield _Rule(pattern.include, pattern.regex, text.endswith("/"))
