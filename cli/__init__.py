"""The command line, and what spans rooms."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.cli.comparison import compare as compare

__getattr__ = exports(__name__, compare="comparison")
