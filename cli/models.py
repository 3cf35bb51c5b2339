"""`tilezoo models` and `tilezoo show`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tilezoo.zoo.catalog import CatalogEntry, entries, entry, is_installed

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
    for heading in ("vector", "pixels", "trained on", "licence", "here"):
        table.add_column(heading)
    for one in entries():
        facts = _facts(one)
        pixels = f"{','.join(one.contract.bands)} {one.contract.unit}"
        here = "yes" if facts["available"] else f"pip install 'tilezoo[{one.extra}]'"
        table.add_row(one.name, str(one.dimension), pixels, one.trained_on, one.licence, here)
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


def _facts(one: CatalogEntry) -> dict[str, object]:
    return {**one.to_json(), "available": is_installed(one)}


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
