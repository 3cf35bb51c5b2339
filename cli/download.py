"""`tilezoo download`."""

from tilezoo.cli.options import command
from tilezoo.zoo.options import DownloadOptions


@command(DownloadOptions)
def run(options: DownloadOptions) -> None:
    """Bring a model here, verified.

    Example: tilezoo download efficientnet-lite0-imagenet --to lite0
    """
    from tilezoo.zoo import download

    model = download.with_options(options)
    print(f"{model.path}: {model.architecture}, space {model.space().fingerprint}")
