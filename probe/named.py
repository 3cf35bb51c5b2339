"""Tables by name: `NAME=TABLE`, or the folder's own name."""

import re
from collections.abc import Sequence
from pathlib import Path

from tilezoo.errors import ProbeError
from tilezoo.table import Table, open_table

PRIOR = "prior"  # the control that is always there
_NAME = re.compile(r"[\w-][\w.-]*")  # it becomes part of a file's name


def open_named(texts: Sequence[str | Path], taken: Sequence[str] = ()) -> dict[str, Table]:
    """Open tables by `NAME=TABLE` or `TABLE`.

    Args:
        texts: As the user wrote them.
        taken: Names that are in use.

    Raises:
        ProbeError: Two tables have one name, or a name cannot be part of a file's.
        TableError: A table cannot be opened.
    """
    found: dict[str, Table] = {}
    used = {name.casefold() for name in (*taken, PRIOR)}
    for text in texts:
        name, path = parse_named(str(text))
        if name.casefold() in used:
            raise ProbeError(
                f"two tables are called {name!r} ({path} is the second); name them: "
                f"NAME={path}{' (prior is the control of labels alone)' * (name == PRIOR)}"
            )
        used.add(name.casefold())
        found[name] = open_table(path)
    return found


def parse_named(text: str) -> tuple[str, str]:
    """Read `NAME=PATH`, or a path whose last part is the name.

    Raises:
        ProbeError: The name cannot be part of a file's.
    """
    given, equals, rest = text.partition("=")
    if equals and not Path(text).exists():
        name, path = given.strip(), rest
    else:
        name, path = Path(text).resolve().name, text
    if not _NAME.fullmatch(name):
        raise ProbeError(
            f"{name!r} cannot name a table or model: letters, digits, '.', '_' and '-' can; "
            f"write NAME={path}"
        )
    return name, path
