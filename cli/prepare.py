"""`tilezoo prepare`: metadata of data sets that are known by name."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilezoo.cli.embed import Workers

if TYPE_CHECKING:
    from rich.table import Table

    from tilezoo.bigearthnet.metadata import Group, PrepareResult

app = typer.Typer(no_args_is_help=True, help="Make the metadata of a known data set.")

Root = Annotated[
    Path,
    typer.Argument(
        metavar="ROOT",
        help="The folder of patches, v1's or v2's, or one above it; or a Parquet, CSV or text list "
        "of patches' names.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The GeoParquet file to write.")]
Metadata = Annotated[
    list[Path] | None,
    typer.Option(
        help="Parquet of labels by patch, the old tools' or v2's; may be given more than once.  "
        "[v2's metadata.parquet in or near ROOT]"
    ),
]
Lists = Annotated[
    Path | None,
    typer.Option(help="Folder with v1's official lists.  [those of bigearthnet-common]"),
]
NoLists = Annotated[
    bool, typer.Option("--no-lists", help="Leave v1's splits, countries, snow and cloud unknown.")
]
MaxErrors = Annotated[
    int, typer.Option(min=0, help="Patches that may fail; more end the finished run with exit 3.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")]


@app.callback()
def _root() -> None:
    """Keep `bigearthnet` a command of its own, even while it is the only one."""


@app.command("bigearthnet")
def prepare_patches(
    root: Root,
    *,
    out: Out,
    metadata: Metadata = None,
    lists: Lists = None,
    no_lists: NoLists = False,
    max_errors: MaxErrors = 0,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write BigEarthNet's metadata as one GeoParquet file: labels, splits, places, times.

    A patch that cannot be read is a row in OUT's `.errors.parquet`.

    Example: tilezoo prepare bigearthnet BigEarthNet-v1.0 -o metadata.parquet
    """
    from tilezoo.bigearthnet.metadata import prepare_bigearthnet

    result = prepare_bigearthnet(
        root,
        out=out,
        metadata=metadata or (),
        lists=lists,
        no_lists=no_lists,
        max_errors=max_errors,
        workers=workers,
        show_progress=True,
    )
    if as_json:
        print(json.dumps(result.to_json()))
        return
    _print_counts(result)


def _print_counts(result: "PrepareResult") -> None:
    failed = f"; {result.failed} failed, see {result.errors}" if result.errors else ""
    strangers = f", {result.unlisted} of them not in the official lists" if result.unlisted else ""
    print(f"{result.path}: {result.rows} patches{strangers}{failed}")
    print(
        f"{result.recommended} recommended, {result.snow} under snow, "
        f"{result.cloud_or_shadow} under cloud or shadow"
    )
    _print_groups(result.groups)


def _print_groups(groups: "Mapping[Group, int]") -> None:
    """Print splits across, countries and seasons down."""
    from rich.console import Console
    from rich.table import Table

    present = {group[0] for group in groups}
    splits = [name for name in ("train", "validation", "test", None) if name in present]
    table = Table(box=None)
    table.add_column("")
    for heading in (*(name or "no split" for name in splits), "all"):
        table.add_column(heading, justify="right")
    _add_row(table, "all", splits, groups)
    for place, unknown in ((1, "no country"), (2, "no season")):
        table.add_section()
        for name in sorted({group[place] for group in groups}, key=str):
            own = {group: count for group, count in groups.items() if group[place] == name}
            _add_row(table, name or unknown, splits, own)
    Console().print(table)


def _add_row(
    table: "Table", name: str, splits: "Sequence[str | None]", groups: "Mapping[Group, int]"
) -> None:
    counts = [sum(n for group, n in groups.items() if group[0] == split) for split in splits]
    table.add_row(name, *map(str, counts), str(sum(groups.values())))
