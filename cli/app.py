"""The `tilezoo` command: every verb, and the one place where errors become text."""

import os
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


def main() -> None:
    """Run the command line; a known error is one line on stderr and its own exit code."""
    try:
        app()
    except TilezooError as error:
        if os.environ.get("TILEZOO_DEBUG"):
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
