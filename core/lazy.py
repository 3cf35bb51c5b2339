"""Hand out a room's public names without importing what is heavy behind them."""

from collections.abc import Callable
from importlib import import_module


def exports(package: str, **module_of: str) -> Callable[[str], object]:
    """Make a module `__getattr__` (PEP 562) that imports each name when it is first used.

    Args:
        package: The package's `__name__`.
        module_of: Public name → the submodule that defines it.
    """

    def __getattr__(name: str) -> object:  # noqa: N807  (it becomes the package's own)
        if name not in module_of:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return __getattr__
