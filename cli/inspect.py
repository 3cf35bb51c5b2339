"""`tilezoo inspect`."""

import json

from tilezoo.cli.options import Json, command
from tilezoo.embed.options import InspectOptions


@command(InspectOptions, Json)
def run(options: InspectOptions, own: Json) -> None:
    """Show what would be read, what a model would be fed, and the command that works.

    Headers are read, and small windows of some images: nothing is written but --png.

    Example: tilezoo inspect scene.tif --png seen.png
    """
    from tilezoo.embed import inspect
    from tilezoo.embed.inspection.terminal import to_terminal
    from tilezoo.io import to_builtins

    found = inspect.with_options(options)
    print(json.dumps(to_builtins(found), indent=2) if own.as_json else to_terminal(found))
