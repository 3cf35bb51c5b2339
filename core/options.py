"""What a verb can be asked, stated once: a frozen dataclass that checks itself.

    @options
    class IndexOptions(Progress):
        table: str | Path = argument("TABLE", kw_only=False, help="A folder made by `embed`.")
        kind: Kind = option(default="auto", help="auto: flat up to 100,000 rows, ivf above.")
        limit: int | None = option(default=None, unset="all", min=1, help="Only so many rows.")

    @verb(IndexOptions)
    def build_index(options: IndexOptions) -> IndexFacts: ...

`build_index("table", kind="ivf")` is the Python function, typed and documented by the class;
`build_index.with_options(chosen)` runs it from an options object; `tilezoo.cli.options.command`
makes the command. Both build the one object, so both refuse alike. `tilezoo.option_texts` writes
it into manifests, commands and docs.

Options that several verbs share are classes to inherit from (`class EmbedOptions(Bands, Cut):`);
a field declared again restates the inherited one. `--help`, signatures and requests name a class's
own fields first, then those of its bases as they are written.

A value that is read from an option's text is a `functools.cached_property` of the class. It is
computed as the object is made, so a text that makes no sense is refused there. What several
options say together is refused in `def check(self) -> None`; every base's runs too, bases first.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)

from tilezoo.errors import OptionError

C = TypeVar("C")
P = ParamSpec("P")
O_contra = TypeVar("O_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
REQUIRED: Any = inspect.Parameter.empty  # stands where there is no default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One thing that a verb can be asked.

    Attributes:
        place: Where it can be given: without and with a name before it, or in Python only.
        name: Of the field and of the Python function's parameter.
        kind: The field's type; a text where it cannot be evaluated, and is not checked.
        default: What it is unless given; REQUIRED where it must be.
        flags: As on the command line: `--out`, `-o`; `--compile/--no-compile`; none: by the name.
        metavar: What stands for the value in `--help`; an argument's name.
        help: One or two sentences.
        unset: What None means, `by device`; said in brackets behind the help.
        min: Smallest number allowed.
        max: Largest number allowed.
        envvar: An environment variable that gives it on the command line.
        read_as: What the command line reads, where the field's type does not say it.
        command_value: Given by the command line to what is in Python only.
        recorded: Kept in the request of manifests; not, what changes no result.
    """

    place: Literal["argument", "option", "python"]
    name: str = ""
    kind: Any = None
    default: Any = REQUIRED
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    help: str
    unset: str | None = None
    min: float | None = None
    max: float | None = None
    envvar: str | None = None
    read_as: Any = None
    command_value: Any = REQUIRED
    recorded: bool = True

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is REQUIRED

    @property
    def flag(self) -> str:
        """The name that messages and commands call it by: `--tile-px`, or an argument's."""
        if self.place == "argument":
            return self.metavar or self.name.upper()
        long = [flag for flag in self.flags if flag.startswith("--")]
        return (long or self.flags or [f"--{self.name.replace('_', '-')}"])[0].partition("/")[0]

    @property
    def text(self) -> str:
        """The help, and what the option is when it is not given."""
        return f"{self.help}  [{self.unset}]" if self.unset else self.help

    @property
    def checked(self) -> bool:
        """Whether values are held to the type; not what only type checkers import."""
        return not isinstance(self.kind, str)

    def check(self, value: object) -> None:
        """Refuse a value of another type, or out of bounds."""
        if self.checked and not fits(value, self.kind):
            raise OptionError(f"{self.flag} {value!r}: should be {describe(self.kind)}")
        if isinstance(value, Real):
            number = float(value)
            if self.min is not None and not number >= self.min:
                raise OptionError(f"{self.flag} {value}: must be {self.min} or more")
            if self.max is not None and not number <= self.max:
                raise OptionError(f"{self.flag} {value}: must be {self.max} or less")

    def words(self, value: object) -> list[str]:
        """What stands on a command line for a value that is not the default."""
        if isinstance(value, bool) and self.place == "option":
            return [self.flag if value else f"--no-{self.flag[2:]}"]
        is_list = isinstance(value, Sequence) and not isinstance(value, str)
        each = [str(one) for one in (cast("Sequence[object]", value) if is_list else [value])]
        return each if self.place == "argument" else [w for one in each for w in (self.flag, one)]


def argument(
    metavar: str,
    *,
    kw_only: Literal[False],
    help: str,
    default: Any = REQUIRED,
    read_as: Any = None,
    recorded: bool = True,
) -> Any:
    """State what is given without a name before it, in Python as on the command line.

    `kw_only=False` is said at each, since type checkers look for it there.
    """
    del kw_only
    return _field(
        Option(
            place="argument",
            metavar=metavar,
            help=help,
            default=default,
            read_as=read_as,
            recorded=recorded,
        ),
        kw_only=False,
    )


def option(
    *flags: str,
    help: str,
    default: Any = REQUIRED,
    unset: str | None = None,
    min: float | None = None,
    max: float | None = None,
    metavar: str | None = None,
    envvar: str | None = None,
    read_as: Any = None,
    recorded: bool = True,
) -> Any:
    """State what is given by name; see `Option` for what each means.

    Flags need no stating where they are the field's name. A bool has `--x` where it is off unless
    given, and `--x/--no-x` where it is on. A sequence's flag may be repeated.
    """
    return _field(
        Option(
            place="option",
            flags=flags,
            help=help,
            default=default,
            unset=unset,
            min=min,
            max=max,
            metavar=metavar,
            envvar=envvar,
            read_as=read_as,
            recorded=recorded,
        )
    )


def python_only(
    *,
    help: str,
    default: Any = REQUIRED,
    command_value: Any = REQUIRED,
) -> Any:
    """State what only Python callers can give; a command gives `command_value`, if there is one."""
    return _field(
        Option(
            place="python",
            help=help,
            default=default,
            command_value=command_value,
            recorded=False,
        )
    )


def _field(stated: Option, *, kw_only: bool = True) -> Any:
    default = dataclasses.MISSING if stated.required else stated.default
    return dataclasses.field(default=default, kw_only=kw_only, metadata={"option": stated})


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(argument, option, python_only)
)
def options(cls: type[C]) -> type[C]:
    """Make a class of stated options a frozen dataclass that checks itself as it is made.

    Raises:
        TypeError: A field is stated by nothing but a default, has a quoted type that the command
            line cannot read, or the class has a `__post_init__`.
    """
    if "__post_init__" in vars(cls) and vars(cls)["__post_init__"] is not _check_itself:
        raise TypeError(f"{cls.__name__}: what fields say together is refused in check()")
    own = [name for name, value in vars(cls).items() if isinstance(value, dataclasses.Field)]
    kinds = inspect.get_annotations(cls)
    if unstated := set(kinds) - set(own):
        raise TypeError(f"{cls.__name__}: state {sorted(unstated)} by option(…) or argument(…)")
    for name in own:
        stated = vars(cls)[name].metadata["option"]
        if stated.place != "python" and stated.read_as is None and isinstance(kinds[name], str):
            raise TypeError(f"{cls.__name__}.{name}: say read_as, what the command line reads")
    cls.__own_options__ = tuple(own)  # type: ignore[attr-defined]
    cls.__post_init__ = _check_itself  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def options_of(cls: type) -> tuple[Option, ...]:
    """All options of a class: its own first, then its bases' as they are written.

    Arguments have the order in which the class takes them, a base's first.
    """
    of = {field.name: field for field in dataclasses.fields(cls)}
    arguments = [name for name in of if of[name].metadata["option"].place == "argument"]
    names = dict.fromkeys(
        name for base in cls.__mro__ for name in vars(base).get("__own_options__", ())
    )
    in_order = iter(arguments)
    names = dict.fromkeys(next(in_order) if name in arguments else name for name in names)
    return tuple(
        dataclasses.replace(of[name].metadata["option"], name=name, kind=of[name].type)
        for name in names
    )


def _check_itself(self: object) -> None:
    for stated in options_of(type(self)):
        stated.check(getattr(self, stated.name))
    for base in reversed(type(self).__mro__):
        if check := vars(base).get("check"):
            check(self)
    for name, member in inspect.getmembers_static(type(self)):
        if isinstance(member, cached_property):
            getattr(self, name)


class Verb(Protocol[P, O_contra, R_co]):
    """A verb as a Python function: by keywords, or from an options object."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run with what is given; the parameters are the fields of the options."""
        ...

    def with_options(self, options: O_contra, /) -> R_co:
        """Run with options that are built already, as by `dataclasses.replace`."""
        ...


def verb(
    cls: Callable[P, O_contra],
) -> Callable[[Callable[[O_contra], R_co]], Verb[P, O_contra, R_co]]:
    """Make a function of an options object the verb that takes these options as its parameters.

    The function's docstring gets an `Args:` section of the options' helps, before `Raises:`.
    """
    kinds = cast("type", cls)

    def make(function: Callable[[O_contra], R_co]) -> Verb[P, O_contra, R_co]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R_co:
            return function(cls(*args, **kwargs))

        made: Any = call
        result = inspect.signature(function).return_annotation
        made.__signature__ = signature_of(kinds).replace(return_annotation=result)
        made.__doc__ = _with_args(function.__doc__ or "", options_of(kinds))
        made.with_options = function
        return cast("Verb[P, O_contra, R_co]", made)

    return make


def signature_of(cls: type) -> inspect.Signature:
    """The parameters of the Python function, in the order that `--help` has."""
    kinds = {True: inspect.Parameter.POSITIONAL_OR_KEYWORD, False: inspect.Parameter.KEYWORD_ONLY}
    parameters = [
        inspect.Parameter(
            one.name,
            kinds[one.place == "argument"],
            default=one.default,
            annotation=one.kind,
        )
        for one in options_of(cls)
    ]
    return inspect.Signature(sorted(parameters, key=lambda one: one.kind))


def _with_args(docstring: str, stated: Iterable[Option]) -> str:
    """Put an `Args:` section before the first of the others, in the signature's order."""
    in_order = sorted(stated, key=lambda one: one.place != "argument")
    args = "\n".join(["Args:", *(f"    {one.name}: {one.text}" for one in in_order)])
    text = inspect.cleandoc(docstring)
    other = re.search(r"^(Returns|Raises|Yields|Example):", text, re.MULTILINE)
    at = other.start() if other else len(text)
    return "\n\n".join(filter(None, (text[:at].rstrip(), args, text[at:]))) + "\n"


@options
class Progress:
    """Every verb that takes a while; a command always shows how far it is."""

    show_progress: bool = python_only(
        default=False, command_value=True, help="Show a bar (or lines) on stderr."
    )


# Types of options: how people say them, whether a value fits, what a command line reads.


def describe(kind: Any) -> str:
    """Say a type as people do: `a whole number`; `auto, flat or ivf`."""
    origin, inside = get_origin(kind), get_args(kind)
    if choices := choices_of(kind):
        return join_or([str(one) for one in choices])
    if origin in (Union, UnionType):
        each = [describe(one) for one in inside if one is not NoneType]
        return join_or(list(dict.fromkeys(each)))
    if origin and issubclass(origin, Sequence):
        return f"several of {describe(inside[0])}"
    plain = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return plain.get(kind, "yes or no" if kind is bool else getattr(kind, "__name__", str(kind)))


def join_or(words: Sequence[str]) -> str:
    """Join words as a sentence does: `a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def fits(value: object, kind: Any) -> bool:
    """Whether a value is of a type; an integer is a number too, and a bool is neither."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inside)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inside)
    if origin and issubclass(origin, Sequence):
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and all(fits(one, inside[0]) for one in cast("Sequence[object]", value))
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def choices_of(kind: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of a union of Literals (and None); empty for other types."""
    if get_origin(kind) in (Union, UnionType):
        parts = [choices_of(one) for one in get_args(kind) if one is not NoneType]
        return tuple(one for part in parts for one in part) if all(parts) else ()
    return get_args(kind) if get_origin(kind) is Literal else ()


def read_as(kind: Any) -> Any:
    """The type that a command line reads for a field's: the first that text can be.

    Several types with a sequence among them are read as a list of texts; with a path, as a path.
    """
    parts = [one for one in get_args(kind) if one is not NoneType]
    parts = parts if get_origin(kind) in (Union, UnionType) else [kind]
    lists = [one for one in parts if _is_sequence(one)]
    if lists:
        inner = read_as(get_args(lists[0])[0])
        return list[str if inner is Path else inner]  # type: ignore[misc]
    if choices := choices_of(kind):
        return Literal[choices]
    return Path if Path in parts else parts[0]


def _is_sequence(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Sequence)
