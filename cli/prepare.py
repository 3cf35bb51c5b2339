"""`tilezoo prepare`: metadata of data sets that are known by name."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from tilezoo.bigearthnet.options import PrepareOptions
from tilezoo.cli.options import Json, command

if TYPE_CHECKING:
    from rich.table import Table

    from tilezoo.bigearthnet.metadata import PrepareResult
    from tilezoo.bigearthnet.rows import Group

app = typer.Typer(no_args_is_help=True, help="Make the metadata of a known data set.")


@app.callback()
def _root() -> None:
    """Keep `bigearthnet` a command of its own, even while it is the only one."""


@app.command("bigearthnet")
@command(PrepareOptions, Json)
def prepare_patches(options: PrepareOptions, own: Json) -> None:
    """Write BigEarthNet's metadata as one GeoParquet file: labels, splits, places, times.

    A patch that cannot be read is a row in OUT's `.errors.parquet`.

    Example: tilezoo prepare bigearthnet BigEarthNet-v1.0 -o metadata.parquet
    """
    from tilezoo.bigearthnet.metadata import prepare_bigearthnet

    result = prepare_bigearthnet.with_options(options)
    if own.as_json:
        print(json.dumps(result.to_json()))
    else:
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
