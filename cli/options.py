"""The command line of options that are stated elsewhere: typer's signature of a dataclass."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Protocol, TypeVar, cast, get_origin, overload

import typer

from tilezoo.options import REQUIRED, Option, option, options, options_of, read_as

O = TypeVar("O")
E = TypeVar("E")


@options
class Json:
    """What every command that prints a result can be asked."""

    as_json: bool = option("--json", default=False, help="Print JSON for programs.", recorded=False)


class Command(Protocol):
    """What `command` makes for typer to call.

    Attributes:
        options_classes: Whose options it takes.
    """

    options_classes: tuple[type, ...]

    def __call__(self, **given: Any) -> None:
        """Run with what typer has read."""
        ...

    def build_options(self, **given: Any) -> list[object]:
        """Check what typer has read, without running anything."""
        ...


@overload
def command(asked: type[O], /) -> Callable[[Callable[[O], None]], Command]: ...
@overload
def command(asked: type[O], own: type[E], /) -> Callable[[Callable[[O, E], None]], Command]: ...
def command(*classes: type) -> Callable[[Callable[..., None]], Command]:
    """Make a function of options objects a command that typer can register.

        @command(IndexOptions, Json)
        def index_table(options: IndexOptions, own: Json) -> None:
            '''What `--help` says.'''

    Args:
        classes: The verb's options, and those that the command alone has.
    """
    stated = {cls: [one for one in options_of(cls) if one.place != "python"] for cls in classes}
    parameters = [_parameter(one) for fields in stated.values() for one in fields]

    def build_options(**given: object) -> list[object]:
        return [cls(**_values(options_of(cls), given)) for cls in classes]

    def make(function: Callable[..., None]) -> Command:
        def call(**given: object) -> None:
            function(*build_options(**given))

        made: Any = call
        made.__doc__, made.__name__ = function.__doc__, function.__name__
        made.__signature__ = inspect.Signature(parameters)
        made.build_options = build_options
        made.options_classes = classes
        return cast("Command", made)

    return make


def _values(stated: Sequence[Option], given: dict[str, object]) -> dict[str, object]:
    """What typer has read, as the class takes it: a list is a tuple, an empty one not given."""
    values: dict[str, object] = {}
    for one in stated:
        value = one.command_value if one.place == "python" else given[one.name]
        not_given = value is REQUIRED or (value is None and one.default is not None)
        if not not_given:
            values[one.name] = tuple(value) if isinstance(value, list) else value
    return values


def _parameter(one: Option) -> inspect.Parameter:
    kind = one.read_as or read_as(one.kind)
    is_list = get_origin(kind) is list
    settings: dict[str, Any] = {"help": one.text, "min": one.min, "max": one.max}
    if one.envvar:
        settings["envvar"] = one.envvar
    if one.metavar:
        settings["metavar"] = one.metavar
    if one.place == "argument":
        info: Any = typer.Argument(**settings)
    else:
        flags = one.flags or ((one.flag,) if kind is bool and not one.default else ())
        info = typer.Option(*flags, **settings)
    default = None if is_list and not one.required else one.default
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind | None if default is None else kind, info],
    )
