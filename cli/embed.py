"""`tilezoo embed`."""

import json

from tilezoo.cli.options import Json, command
from tilezoo.embed.options import EmbedOptions


@command(EmbedOptions, Json)
def run(options: EmbedOptions, own: Json) -> None:
    """Embed tiles into a table of GeoParquet parts.

    Stopped at any moment, the same command goes on where it was. A tile that cannot be
    embedded is a row in errors.parquet.

    Example: tilezoo embed tiles/ -o table
    """
    from tilezoo.embed import embed

    result = embed.with_options(options)
    if own.as_json:
        facts = {"table": str(result.table), "rows": result.rows, "failed": result.failed}
        print(json.dumps({**facts, "precision": result.precision, "seconds": result.seconds}))
        return
    failed = f", {result.failed} in errors.parquet" if result.failed else ""
    rate = f", {result.rows / result.seconds:.1f} tiles/s" if result.seconds > 1 else ""
    print(f"{result.table}: {result.rows} tiles embedded in {result.precision}{failed}{rate}")
