"""Build the documentation into build/site, from pages and from the code itself.

The pages keep the places that they have in the repository, so that their links hold here and there;
README.md is the first. `options.md` is rendered from the commands that are registered, the pages
under `api/` name what the rooms hand out and their modules. Nothing is fetched.

    python docs/build_site.py
"""

import ast
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from typer.models import ArgumentInfo, ParameterInfo
from typer.utils import get_params_from_function

from tilezoo.options import describe

if TYPE_CHECKING:
    from typer import Typer

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PAGES = BUILD / "docs"
TREE = BUILD / "types"  # the package, laid out by .ci/link_package.py
COPIED = ("docs", "MODEL_CARDS", "benchmarks", "*.md")
SHOWN = (".css", ".md", ".png")
LISTED = ("MODEL_CARDS",)  # folders whose every file is there
# A module's own name and line are the page's title already.
BARE = "    options: {show_root_heading: false, show_root_toc_entry: false}\n"


def build_site() -> None:
    """Write all pages, then have them rendered; a warning is an error."""
    shutil.rmtree(PAGES, ignore_errors=True)
    copy_pages()
    write_page("options.md", render_commands())
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config["nav"] += [{"Models": list(model_pages())}, {"API": list(write_api())}]
    (BUILD / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    render = ["-m", "zensical", "build", "--strict", "--clean", "-f", "mkdocs.yml"]
    subprocess.run([sys.executable, *render], cwd=BUILD, check=True)


def copy_pages() -> None:
    """Copy what is to be read; a folder that pages link to gets a page that lists it."""
    for path in (p for pattern in COPIED for p in sorted(ROOT.glob(pattern))):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in SHOWN or path.name in LISTED:
                copy_file(file, PAGES / file.relative_to(ROOT))
    for folder in (path for name in LISTED for path in [PAGES / name, *(PAGES / name).glob("*/")]):
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        lines = [f"- [{name.removesuffix('.md')}]({name})" for name in names]
        (folder / "index.md").write_text("\n".join([f"# {folder.name}", "", *lines, ""]))


def copy_file(file: Path, target: Path) -> None:
    """Copy one file; in a page, links to a folder become links to its list."""
    if file.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".md":
        text = file.read_text(encoding="utf-8")
        target.write_text(re.sub(r"\]\(([^):]+/)\)", r"](\1index.md)", text), encoding="utf-8")
    else:
        shutil.copyfile(file, target)


def write_page(name: str, text: str) -> None:
    """Write one page, UTF-8."""
    path = PAGES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def model_pages() -> Iterator[str | dict[str, str]]:
    """Yield the title and path of each model card."""
    yield "MODEL_CARDS/index.md"
    for path in sorted((ROOT / "MODEL_CARDS").glob("*.md")):
        yield {path.stem: str(path.relative_to(ROOT))}


def render_commands() -> str:
    """Write every command with its options, as the program itself has them."""
    from tilezoo.cli.app import app

    parts = ["# Commands", f"{app.info.help}", "`tilezoo COMMAND --help` says the same."]
    for words, command in walk_commands(app, "tilezoo"):
        parts += [f"## {words}", tell_command(inspect.getdoc(command) or ""), tabulate(command)]
    return "\n\n".join(parts) + "\n"


def walk_commands(app: "Typer", words: str) -> Iterator[tuple[str, Callable[..., None]]]:
    """Yield each command's words and function, those of groups behind the others."""
    for command in app.registered_commands:
        if command.callback and not command.hidden:
            name = command.name or command.callback.__name__.replace("_", "-")
            yield f"{words} {name}", command.callback
    for group in app.registered_groups:
        if group.typer_instance:
            yield from walk_commands(group.typer_instance, f"{words} {group.name}")


def tell_command(text: str) -> str:
    """Set a command's examples apart from its prose."""
    return re.sub(r"^Example: (.*)$", r"```\n\1\n```", text, flags=re.MULTILINE)


def tabulate(command: Callable[..., None]) -> str:
    """Write a command's parameters as a table; the same facts that `--help` is made of."""
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for name, one in get_params_from_function(command).items():
        info = one.default
        cells = (name_option(name, info), describe(one.annotation), tell_default(info), info.help)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def name_option(name: str, info: ParameterInfo) -> str:
    """Write what stands on the command line: `--out` `-o`, or an argument's name."""
    flags = info.param_decls or [f"--{name.replace('_', '-')}"]
    if isinstance(info, ArgumentInfo):
        flags = [info.metavar or name.upper()]
    return " ".join(f"`{flag}`" for flag in flags)


def tell_default(info: ParameterInfo) -> str:
    """Say what is taken when nothing is given."""
    if info.default is ...:
        return "required"
    if isinstance(info.default, bool):
        return "on" if info.default else "off"
    return "" if info.default in (None, (), []) else f"`{info.default}`"


def write_api() -> Iterator[dict[str, Any]]:
    """Write a page for each room and module; yield what the menu shows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name in sorted(project["tool"]["setuptools"]["packages"]):
        package = TREE.joinpath(*name.split("."))
        modules = sorted(set(package.glob("*.py")) - {package / "__init__.py"})
        menu: list[Any] = [write_room(name, package / "__init__.py")]
        for module in modules:
            page = f"api/{name}.{module.stem}.md"
            write_page(page, f"# {name}.{module.stem}\n\n::: {name}.{module.stem}\n{BARE}")
            menu.append({module.stem: page})
        yield {name: menu}


def write_room(name: str, init: Path) -> str:
    """Write a room's page, what it hands out in full; return its path."""
    page, text = f"api/{name}.md", init.read_text(encoding="utf-8")
    purpose = ast.get_docstring(ast.parse(text)) or ""
    handed_out = re.findall(r"^    from (\S+) import (\w+) as \2$", text, flags=re.MULTILINE)
    blocks = [f"::: {module}.{public}\n" for module, public in handed_out]
    write_page(page, "\n\n".join([f"# {name}", purpose, *blocks]))
    return page


if __name__ == "__main__":
    build_site()
