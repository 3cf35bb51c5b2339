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
    from tilezoo.io import to_builtins
    from tilezoo.search import build_index

    facts = build_index.with_options(options)
    if own.as_json:
        print(json.dumps(to_builtins(facts), indent=2))
        return
    times = f"p50 {facts.p50_ms:.2f} ms, p95 {facts.p95_ms:.2f} ms once open"
    print(
        f"{options.table}/index: {facts.kind} over {facts.rows} rows, "
        f"recall@10 {facts.recall_at_10:.3f}, {times}; opening takes {facts.open_ms:.0f} ms"
    )
    if facts.recall_at_10 < options.recall and facts.kind != "flat":
        hint = f"recall stays under {options.recall}; --kind flat is exact"
        typer.secho(hint, fg="yellow", err=True)
