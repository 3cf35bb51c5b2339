"""`tilezoo search`."""

import json
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from tilezoo.cli import STARTED
from tilezoo.cli.options import Json, command
from tilezoo.options import option, options
from tilezoo.search.options import SearchOptions

if TYPE_CHECKING:
    from tilezoo.search import Answers


@options
class Files(Json):
    """Where answers are written besides the terminal."""

    geojson: Path | None = option(default=None, help="Write footprints and scores to this file.")
    html: Path | None = option(default=None, help="Write a page with pictures and a map.")
    png: Path | None = option(default=None, help="Write a contact sheet.")


@command(SearchOptions, Files)
def run(options: SearchOptions, own: Files) -> None:
    """Find the tiles that look most like a row, an image, or the tile at a place.

    Example: tilezoo search table --at 12.5,41.9 --html answers.html
    """
    from tilezoo.search import search

    answers = search.with_options(options)
    if own.as_json:
        print(json.dumps(answers.to_json(), indent=2))
    else:
        from rich.console import Console

        console = Console()
        console.print(answers.to_terminal(console.width))
    _write(answers, own)
    _tell_time(answers)


def _tell_time(answers: "Answers") -> None:
    from tilezoo.progress import say

    took = answers.took
    say(
        f"{perf_counter() - STARTED:.2f} s in all, {took.whole_s:.2f} s of it to search "
        f"({1000 * took.index_s:.1f} ms in the open index)"
    )


def _write(answers: "Answers", files: Files) -> None:
    from tilezoo.io import write_json
    from tilezoo.progress import say

    if files.geojson:
        write_json(files.geojson, answers.to_geojson())
    if files.html:
        from tilezoo.search.page import write_page

        write_page(files.html, [answers], f"tilezoo search: {answers.label}")
    if files.png:
        from tilezoo.search.page import write_sheet

        write_sheet(files.png, [answers])
    for path in filter(None, (files.geojson, files.html, files.png)):
        say(f"wrote {path}")
