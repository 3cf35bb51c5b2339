"""`tilezoo show`."""

import json
from pathlib import Path

from tilezoo.cli.models import facts_of
from tilezoo.cli.options import Json, command
from tilezoo.io import to_builtins
from tilezoo.zoo.catalog import entry
from tilezoo.zoo.options import ShowOptions


@command(ShowOptions, Json)
def run(options: ShowOptions, own: Json) -> None:
    """Show what a model takes, how it is pooled, and where it comes from."""
    folder = Path(options.name)
    facts = _facts_of_folder(folder) if folder.is_dir() else facts_of(entry(str(options.name)))
    if own.as_json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for inner, stated in value.items():
                print(f"  {inner}: {_text(stated)}")
        else:
            print(f"{key}: {_text(value)}")


def _facts_of_folder(folder: Path) -> dict[str, object]:
    from tilezoo.zoo import find_model

    model = find_model(folder)
    return {
        "name": model.name,
        "architecture": model.architecture,
        "contract": to_builtins(model.contract),
        "pooling": model.pooling,
        "weights_sha256": model.weights_sha256,
        "space": model.space().fingerprint,
    }


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
