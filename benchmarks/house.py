"""Count what the house is built of: modules, functions, who imports whom, loose state.

    python benchmarks/house.py            # the table
    python benchmarks/house.py --modules  # and every module, with those that import it
    python benchmarks/house.py --long 40  # and every function longer than 40 lines

A module is a `.py` file that ships. A function's lines go from `def` to its last one, with its
docstring. A module's importers are the modules that import it anywhere, in functions too, but not
for types alone; circles are found in the same arrows.
"""

import argparse
import ast
import re
import statistics
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What makes commands of options, and where `--version` is, which is no verb's.
OUTSIDE = ("tilezoo.cli.options", "tilezoo.cli.app")
AIMS = {
    "files": "≤ 140",
    "lines": "≤ 24000",
    "lines of a module, median": "≥ 150",
    "lines of a function, median": "≤ 10",
    "lines of a function, 95th percentile": "≤ 40",
    "modules with one importer": "≤ 30",
    "circles of imports": "0",
    "options stated outside a dataclass": "0",
    "options stated more than once": "0",
    "[str, Any]": "≤ 40",
    "functions without types": "0",
    "except Exception": "0",
}


@dataclass(frozen=True)
class Module:
    """One file that ships."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax."""
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        """How long it is."""
        return len(self.text.splitlines())

    @cached_property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method in it, nested ones too."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
        return [node for node in ast.walk(self.tree) if isinstance(node, kinds)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--modules", action="store_true")
    parser.add_argument("--long", type=int, metavar="LINES")
    asked = parser.parse_args()
    modules = find_modules()
    importers = find_importers(modules)
    if asked.modules:
        for module in modules:
            names = " ".join(sorted(importers[module.name]))
            print(f"{module.lines:5} {module.name:36} ← {names}".replace("tilezoo.", ""))
    if asked.long:
        for module in modules:
            for function in module.functions:
                if length(function) > asked.long:
                    print(f"{length(function):5} {module.path.relative_to(ROOT)}:{function.lineno}"
                          f" {function.name}")  # fmt: skip
    print("| what | now | aim |\n|---|---|---|")
    for what, count in counts(modules, importers).items():
        print(f"| {what} | {count:g} | {AIMS[what]} |")


def find_modules() -> list[Module]:
    """Every module that ships, by pyproject's folders."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders: dict[str, str] = project["tool"]["setuptools"]["package-dir"]
    return sorted(
        (
            Module(package if path.stem == "__init__" else f"{package}.{path.stem}", path)
            for package, folder in folders.items()
            for path in (ROOT / folder).glob("*.py")
        ),
        key=lambda module: module.name,
    )


def find_importers(modules: list[Module]) -> dict[str, set[str]]:
    """Module → the modules that import it, types alone left out."""
    names = {module.name for module in modules}
    importers: dict[str, set[str]] = {name: set() for name in names}
    for module in modules:
        for name in imported(module.tree):
            target = name if name in names else name.rpartition(".")[0]
            if target in names and target != module.name:
                importers[target].add(module.name)
    return importers


def imported(tree: ast.AST) -> Iterator[str]:
    """Names that a module imports from tilezoo, not for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tilezoo"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def counts(modules: list[Module], importers: dict[str, set[str]]) -> dict[str, float]:
    """What the table says."""
    lengths = sorted(length(function) for module in modules for function in module.functions)
    options = [name for module in modules for name in stated_options(module.tree)]
    text = "\n".join(module.text for module in modules)
    return {
        "files": len(modules),
        "lines": sum(module.lines for module in modules),
        "lines of a module, median": statistics.median(module.lines for module in modules),
        "lines of a function, median": statistics.median(lengths),
        "lines of a function, 95th percentile": lengths[int(0.95 * len(lengths))],
        "modules with one importer": sum(len(of) == 1 for of in importers.values()),
        "circles of imports": len(find_circles(importers)),
        "options stated outside a dataclass": sum(
            len(re.findall(r"typer\.(?:Option|Argument)\(", module.text))
            for module in modules
            if module.name not in OUTSIDE
        ),
        "options stated more than once": len(options) - len(set(options)),
        "[str, Any]": len(re.findall(r"\[str, Any\]", text)),
        "functions without types": sum(
            function.returns is None for module in modules for function in module.functions
        ),
        "except Exception": len(re.findall(r"except (?:Base)?Exception\b|except:", text)),
    }


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` to its last."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def stated_options(tree: ast.Module) -> Iterator[str]:
    """Fields that dataclasses state as options, with their help: `name: help`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call):
            call = node.value
            if isinstance(call.func, ast.Name) and call.func.id in ("option", "argument"):
                help_ = next((word.value for word in call.keywords if word.arg == "help"), None)
                yield f"{ast.unparse(node.target)}: {ast.unparse(help_) if help_ else ''}"


def find_circles(importers: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or not."""
    reached = {name: reachable(name, importers) for name in importers}
    circles: list[set[str]] = []
    for name, others in reached.items():
        circle = {other for other in others if name in reached[other]}
        if len(circle) > 1 and circle not in circles:
            circles.append(circle)
    return circles


def reachable(name: str, importers: dict[str, set[str]]) -> set[str]:
    """Modules that import `name`, directly or not."""
    found: set[str] = set()
    left = [name]
    while left:
        for importer in importers[left.pop()] - found:
            found.add(importer)
            left.append(importer)
    return found


if __name__ == "__main__":
    main()
