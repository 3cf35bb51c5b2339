"""`tilezoo models` and `tilezoo show`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tilezoo.zoo.cache import is_here
from tilezoo.zoo.catalog import CatalogEntry, entries, entry

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def list_models(*, as_json: Json = False) -> None:
    """List the models of the zoo, and which are here already."""
    if as_json:
        print(json.dumps([_facts(one) for one in entries()], indent=2))
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


def show_model(
    name: Annotated[
        str, typer.Argument(help="A name from `tilezoo models`, or a model directory.")
    ],
    *,
    as_json: Json = False,
) -> None:
    """Show what a model takes, how it is pooled, and where it comes from."""
    facts = _of_directory(Path(name)) if Path(name).is_dir() else _facts(entry(name))
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for inner, stated in value.items():
                print(f"  {inner}: {_text(stated)}")
        else:
            print(f"{key}: {_text(value)}")


def _pixels(one: CatalogEntry) -> str:
    """Bands and unit in a few characters."""
    bands = one.contract.bands
    named = "RGB" if {"red", "green", "blue"} == set(bands) else ",".join(bands)
    return f"{named if len(bands) <= 3 else f'{len(bands)} bands'} {one.contract.unit}"


def _here(one: CatalogEntry) -> str:
    if is_here(one):
        return "yes"
    return {"package": "tilezoo[demo]", "ours": "not yet", "hub": "gated" if one.gated else "-"}[
        one.kind
    ]


def _facts(one: CatalogEntry) -> dict[str, object]:
    return {**one.to_json(), "available": is_here(one)}


def _of_directory(path: Path) -> dict[str, object]:
    from tilezoo.zoo import find_model

    model = find_model(path)
    return {
        "name": model.name,
        "architecture": model.architecture,
        "contract": asdict(model.contract),
        "pooling": model.pooling,
        "weights_sha256": model.weights_sha256,
        "space": model.space().fingerprint,
    }


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
