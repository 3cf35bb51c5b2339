"""`tilezoo index` and `tilezoo search`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tilezoo.cli.options import Json as OwnJson
from tilezoo.cli.options import command
from tilezoo.search.options import IndexOptions

TablePath = Annotated[Path, typer.Argument(metavar="TABLE", help="A folder made by `embed`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Query = Annotated[
    str | None, typer.Argument(metavar="[QUERY]", help="A row's id, or an image file.")
]
At = Annotated[str | None, typer.Option(help="LON,LAT: search for the tile there.")]
Count = Annotated[int, typer.Option("-k", min=1, help="How many answers.")]
Device = Annotated[str, typer.Option(help="Where an image is embedded.")]
GeoJson = Annotated[Path | None, typer.Option(help="Write footprints and scores to this file.")]
Html = Annotated[Path | None, typer.Option(help="Write a page with pictures and a map.")]
Png = Annotated[Path | None, typer.Option(help="Write a contact sheet.")]


@command(IndexOptions, OwnJson)
def index_table(options: IndexOptions, own: OwnJson) -> None:
    """Build a search index over a table and measure it there.

    Example: tilezoo index table
    """
    from tilezoo.search import build_index

    facts = build_index.with_options(options)
    if own.as_json:
        print(json.dumps(facts, indent=2))
        return
    found, rows = facts["recall_at_10"], facts["rows"]
    times = f"p50 {facts['p50_ms']:.2f} ms, p95 {facts['p95_ms']:.2f} ms"
    print(
        f"{options.table}/index: {facts['kind']} over {rows} rows, recall@10 {found:.3f}, {times}"
    )
    if found < options.recall and facts["kind"] != "flat":
        hint = f"recall stays under {options.recall}; --kind flat is exact"
        typer.secho(hint, fg="yellow", err=True)


def search_table(
    table: TablePath,
    query: Query = None,
    *,
    at: At = None,
    k: Count = 10,
    device: Device = "auto",
    as_json: Json = False,
    geojson: GeoJson = None,
    html: Html = None,
    png: Png = None,
) -> None:
    """Find the tiles that look most like a row, an image, or the tile at a place.

    Example: tilezoo search table --at 12.5,41.9 --html answers.html
    """
    from tilezoo.io import write_json
    from tilezoo.progress import say
    from tilezoo.search import search

    answers = search(table, query, at=at, k=k, device=device)
    if as_json:
        print(json.dumps(answers.to_json(), indent=2))
    else:
        from rich.console import Console

        console = Console()
        console.print(answers.to_terminal(console.width))
    if geojson:
        write_json(geojson, answers.to_geojson())
    if html:
        from tilezoo.search.page import write_page

        write_page(html, [answers], f"tilezoo search: {answers.label}")
    if png:
        from tilezoo.search.sheet import write_sheet

        write_sheet(png, [answers])
    for written in filter(None, (geojson, html, png)):
        say(f"wrote {written}")
