"""compare: the same tiles embedded with each backbone, probed, reported."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.compare.run import compare as compare

__getattr__ = exports(__name__, compare="run")
