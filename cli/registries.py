"""`tilezoo download` and `tilezoo publish`."""

from pathlib import Path
from typing import Annotated

import typer

RegistryOption = Annotated[
    str | None,
    typer.Option(
        envvar="TILEZOO_REGISTRY",
        help="hf:// (the endpoint in force), a folder, s3://…, or https://… of a hub.",
    ),
]
Name = Annotated[
    str, typer.Argument(help="A name from `tilezoo models`, or org/name; @REV chooses a revision.")
]
To = Annotated[Path | None, typer.Option(help="Copy it to this folder, which timm loads.")]
Source = Annotated[Path, typer.Argument(help="A model directory made by `tilezoo export`.")]
As = Annotated[str, typer.Option("--as", help="org/name to publish it as.")]


def download_model(name: Name, *, registry: RegistryOption = None, to: To = None) -> None:
    """Bring a model here, verified.

    Example: tilezoo download efficientnet-lite0-imagenet --to lite0
    """
    from tilezoo.zoo import download

    model = download(name, registry=registry, to=to)
    print(f"{model.path}: {model.architecture}, space {model.space().fingerprint}")


def publish_model(source: Source, *, name: As, registry: RegistryOption = None) -> None:
    """Publish a model directory to a registry, if it verifies.

    Example: tilezoo publish model --as my-org/my-vit --registry s3://bucket/models
    """
    from tilezoo.zoo import publish

    print(f"{name}@{publish(source, name=name, registry=registry)}")
