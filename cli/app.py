"""The `tilezoo` command: every verb, and the one place where errors become text."""

import os
import sys
from typing import Annotated

import typer

from tilezoo import __version__
from tilezoo.cli import checking, demo, jobs, models, registries
from tilezoo.cli import compare as comparing
from tilezoo.cli import embed as embedding
from tilezoo.cli import hub as serving
from tilezoo.cli import launch as launching
from tilezoo.cli import pack as packing
from tilezoo.cli import prepare as preparing
from tilezoo.cli import pretrain as pretraining
from tilezoo.cli import probe as probing
from tilezoo.cli import search as searching
from tilezoo.errors import TilezooError

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


app.command("models")(models.list_models)
app.command("show")(models.show_model)
app.command("download")(registries.download_model)
app.command("publish")(registries.publish_model)
app.command("export")(checking.export_checkpoint)
app.command("verify")(checking.verify_model)
app.command("embed")(embedding.embed_sources)
app.command("index")(searching.index_table)
app.command("search")(searching.search_table)
app.command("probe")(probing.probe_tables)
app.command("compare")(comparing.compare_models)
app.command("hub")(serving.serve_hub)
app.add_typer(preparing.app, name="prepare")
app.command("pack")(packing.pack_sources)
app.command("pretrain")(pretraining.pretrain_backbone)
# What follows the command's verb is the command's, with or without -- before it.
app.command("launch", context_settings={"allow_interspersed_args": False})(launching.launch_command)
app.add_typer(jobs.app, name="jobs")
app.command("demo")(demo.run_demo)


def main() -> None:
    """Run the command line; a known error is one line on stderr and its own exit code."""
    try:
        app()
    except TilezooError as error:
        if os.environ.get("TILEZOO_DEBUG"):
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(error.exit_code)
