"""`tilezoo models`."""

import json

from tilezoo.cli.options import Json, command
from tilezoo.zoo.catalog import CatalogEntry, entries, is_here


@command(Json)
def run(own: Json) -> None:
    """List the models of the zoo, and which are here already."""
    if own.as_json:
        print(json.dumps([facts_of(one) for one in entries()], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    for heading in ("vector", "pixels", "px", "licence", "here"):
        table.add_column(heading, no_wrap=heading != "licence", overflow="fold")
    for one in entries():
        values = (str(one.dimension), _pixels(one), str(one.contract.size_px), one.licence)
        table.add_row(one.name, *values, _here(one))
    Console().print(table)


def facts_of(one: CatalogEntry) -> dict[str, object]:
    """What `--json` says of a model of the catalogue."""
    return {**one.to_json(), "available": is_here(one)}


def _pixels(one: CatalogEntry) -> str:
    """Bands and unit in a few characters."""
    bands = one.contract.bands
    named = "RGB" if {"red", "green", "blue"} == set(bands) else ",".join(bands)
    return f"{named if len(bands) <= 3 else f'{len(bands)} bands'} {one.contract.unit}"


def _here(one: CatalogEntry) -> str:
    if is_here(one):
        return "yes"
    missing = {"package": "tilezoo[demo]", "ours": "not yet", "hub": "gated" if one.gated else "-"}
    return missing[one.kind]
