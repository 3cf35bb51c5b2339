"""Tiles to vectors to table; and what would be read, before."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.embed.inspection.findings import Inspection as Inspection
    from tilezoo.embed.inspection.run import inspect as inspect
    from tilezoo.embed.options import EmbedOptions as EmbedOptions
    from tilezoo.embed.run import EmbedResult as EmbedResult
    from tilezoo.embed.run import embed as embed

__getattr__ = exports(
    __name__,
    EmbedOptions="options",
    EmbedResult="run",
    Inspection="inspection.findings",
    embed="run",
    inspect="inspection.run",
)
