"""`tilezoo index`."""

import json

import typer

from tilezoo.cli.options import Json, command
from tilezoo.search.options import IndexOptions


@command(IndexOptions, Json)
def run(options: IndexOptions, own: Json) -> None:
    """Build a search index over a table and measure it there.

    Example: tilezoo index table
    """
    from tilezoo.search import build_index

    facts = build_index.with_options(options)
    if own.as_json:
        print(json.dumps(facts, indent=2))
        return
    recall, rows = facts["recall_at_10"], facts["rows"]
    times = f"p50 {facts['p50_ms']:.2f} ms, p95 {facts['p95_ms']:.2f} ms"
    print(
        f"{options.table}/index: {facts['kind']} over {rows} rows, recall@10 {recall:.3f}, {times}"
    )
    if recall < options.recall and facts["kind"] != "flat":
        hint = f"recall stays under {options.recall}; --kind flat is exact"
        typer.secho(hint, fg="yellow", err=True)
