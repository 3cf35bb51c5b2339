"""`tilezoo hub`."""

from tilezoo.cli.options import command
from tilezoo.zoo.options import HubOptions


@command(HubOptions)
def run(options: HubOptions) -> None:
    """Serve a registry over Hugging Face's API, for huggingface_hub, hf, timm and transformers.

    Example: tilezoo hub models/ & HF_ENDPOINT=http://127.0.0.1:8765 hf download org/name
    """
    try:
        from tilezoo.zoo.hub.app import serve
    except ModuleNotFoundError as error:
        from tilezoo.errors import OptionError

        raise OptionError(f"{error.name} is not installed: pip install 'tilezoo[hub]'") from error
    serve.with_options(options)
