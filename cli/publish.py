"""`tilezoo publish`."""

from tilezoo.cli.options import command
from tilezoo.zoo.options import PublishOptions


@command(PublishOptions)
def run(options: PublishOptions) -> None:
    """Publish a model directory to a registry, if it verifies.

    Example: tilezoo publish model --as my-org/my-vit --registry s3://bucket/models
    """
    from tilezoo.zoo import publish

    print(f"{options.name}@{publish.with_options(options)}")
