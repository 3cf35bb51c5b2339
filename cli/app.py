"""The `tilezoo` command: every verb, and the one place where errors become text."""

import errno
import os
import re
import sys
from importlib import import_module
from typing import Annotated

import typer

from tilezoo import __version__
from tilezoo.cli.options import Command
from tilezoo.errors import TilezooError

# One file a verb, cli/VERB.py, in the order of `--help`. A file holds the command's function,
# `run`; or, where a verb has verbs of its own, their typer app, `app`. What click is told of a
# command is `CONTEXT`. To add a verb: add the file, and its name here.
VERBS = (
    "models", "show", "download", "publish", "export", "verify", "inspect", "embed", "index",
    "search", "probe", "compare", "hub", "prepare", "pack", "pretrain", "launch", "jobs", "demo",
)  # fmt: skip

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Download backbones for overhead imagery by name, embed tiles, search them by similarity.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def find_command(verb: str) -> Command:
    """The function that typer makes a command of; not for a verb with verbs of its own."""
    found: Command = import_module(f"tilezoo.cli.{verb}").run
    return found


for _verb in VERBS:
    _file = import_module(f"tilezoo.cli.{_verb}")
    if _inner := getattr(_file, "app", None):
        app.add_typer(_inner, name=_verb)
    else:
        _context = getattr(_file, "CONTEXT", None)
        app.command(_verb, context_settings=_context)(find_command(_verb))


# What the system refuses whatever the program does, and what people do about it.
_FULL = "make room, then run the same command again"
_KIND = "a file stands where a folder should, or the other way round: choose another path"
_CLOSED = "choose a place that may be read and written"
_SYSTEM = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY), _KIND),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _CLOSED),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), "choose another path"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENODEV), "see whether the disk is still there"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
}

_TEMPORARY = re.compile(r"\.([^/]+)\.\d+\.tmp$")  # of a file that is not whole yet


def main() -> None:
    """Run the command line; a known error is one line on stderr and its own exit code."""
    try:
        app()
    except TilezooError as error:
        _stop(error, str(error), error.exit_code)
    except OSError as error:
        said = explain_refusal(error)
        if said is None:
            raise
        _stop(error, said, 1)


def _stop(error: Exception, said: str, code: int) -> None:
    if os.environ.get("TILEZOO_DEBUG"):
        raise error
    typer.secho(f"error: {said}", fg="red", err=True)
    sys.exit(code)


def explain_refusal(error: OSError) -> str | None:
    """Say in a line what the system refuses and what to do; None for what may be our own mistake."""
    fix = _SYSTEM.get(error.errno or 0)
    if fix is None:
        return None
    name = _TEMPORARY.sub(r"\1", str(error.filename2 or error.filename or ""))
    where = f"{name}: " if name else ""
    what = " ".join((error.strerror or str(error)).split())
    return f"{where}{what}; {fix}"
