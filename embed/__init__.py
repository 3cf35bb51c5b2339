"""Tiles to vectors to table."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.embed.options import EmbedOptions as EmbedOptions
    from tilezoo.embed.run import EmbedResult as EmbedResult
    from tilezoo.embed.run import embed as embed

__getattr__ = exports(__name__, EmbedOptions="options", EmbedResult="run", embed="run")
