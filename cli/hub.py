"""`tilezoo hub`."""

from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[
    str, typer.Argument(metavar="ROOT", help="A folder, or a URL such as s3://bucket/prefix.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")]
Host = Annotated[str, typer.Option(help="The address to listen at; 0.0.0.0 for all.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="Lines `TOKEN read` or `TOKEN write`. Without it anybody who reaches the hub reads, "
        "and only programs on this machine write."
    ),
]
FileSize = Annotated[int, typer.Option(min=1, help="The largest file taken, in MB.")]


def serve_hub(
    root: Root,
    *,
    port: Port = 8765,
    host: Host = "127.0.0.1",
    token_file: TokenFile = None,
    max_file_mb: FileSize = 16_384,
) -> None:
    """Serve a registry over Hugging Face's API, for huggingface_hub, hf, timm and transformers.

    Example: tilezoo hub models/ & HF_ENDPOINT=http://127.0.0.1:8765 hf download org/name
    """
    try:
        from tilezoo.zoo.hub.app import serve
        from tilezoo.zoo.hub.state import Limits
    except ModuleNotFoundError as error:
        from tilezoo.errors import OptionError

        raise OptionError(f"{error.name} is not installed: pip install 'tilezoo[hub]'") from error
    limits = Limits(file_bytes=max_file_mb * 1_000_000)
    serve(root, host=host, port=port, token_file=token_file, limits=limits)
