"""Have the API's pages show a verb as it is called: each option with type, default and help.

A verb is written as a function of one options object, and called with the options as keywords
(`tilezoo.options.verb`). mkdocstrings reads the source and would show the former; it loads this
file as an extension, which gives it the latter.
"""

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import griffe

from tilezoo.options import choices_of, fits


class VerbPages(griffe.Extension):
    """Give every function made by `@verb` the parameters and the docstring that callers see."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the verbs of a package once all of it is read."""
        for function in find_verbs(pkg):
            show_call(function)


def find_verbs(module: griffe.Module) -> Iterator[griffe.Function]:
    """Yield the functions that are made by `@verb(…)`, those of inner modules too."""
    for member in module.members.values():
        if member.is_alias:
            continue
        if isinstance(member, griffe.Module):
            yield from find_verbs(member)
        elif isinstance(member, griffe.Function) and options_class(member):
            yield member


def options_class(function: griffe.Function) -> griffe.Class | None:
    """Find the class that `@verb` is given; None for other functions."""
    for decorator in function.decorators:
        call = decorator.value
        if isinstance(call, griffe.ExprCall) and call.canonical_path == "tilezoo.options.verb":
            return function.modules_collection[call.arguments[0].canonical_path]
    return None


def show_call(function: griffe.Function) -> None:
    """Put the call's parameters and docstring in the place of the written ones."""
    called = getattr(import_module(function.module.path), function.name)
    written = options_class(function).all_members
    function.parameters = griffe.Parameters(
        *(
            griffe.Parameter(
                one.name,
                annotation=write_type(one.annotation, written[one.name].annotation),
                kind=griffe.ParameterKind(one.kind.description),
                default=None if one.default is one.empty else repr(one.default),
            )
            for one in inspect.signature(called).parameters.values()
        )
    )
    function.docstring.value = inspect.cleandoc(called.__doc__)


def write_type(kind: Any, written: griffe.Expr | str) -> griffe.Expr | str:
    """Write a type as its class does, short and with links; a name for choices, as the choices."""
    choices = ", ".join(map(repr, choices_of(kind)))
    return f"Literal[{choices}]{' | None' * fits(None, kind)}" if choices else written
