"""`tilezoo probe`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tilezoo.cli.options import command
from tilezoo.errors import OptionError
from tilezoo.options import option, options
from tilezoo.probe.options import ProbeOptions

if TYPE_CHECKING:
    from tilezoo.probe import ProbeResult


@options
class Output:
    """Where results go besides the folder; commands alone have it."""

    update_card: str | None = option(
        default=None,
        metavar="DIR",
        help="A model directory whose card gets the results too.",
    )
    as_json: bool = option("--json", default=False, help="Print results.json.", recorded=False)

    def check(self) -> None:
        """Refuse a folder that is no model directory before hours go into results for its card."""
        if self.update_card is not None:
            from tilezoo.zoo.modeldir import read_model_dir

            read_model_dir(Path(self.update_card))


@command(ProbeOptions, Output)
def run(options: ProbeOptions, output: Output) -> None:
    """Probe saved vectors with labels: linear, kNN and centroid, with intervals.

    Several tables are compared on the same tiles and resamples. The same command gives the same
    results.json.

    Example: tilezoo probe ours=table-a imagenet=table-b --labels labels.csv -o probe
    """
    from tilezoo.probe import probe

    if output.update_card and not options.dataset:
        raise OptionError(
            "--update-card needs --dataset: what the card shall call tiles and labels"
        )
    result = probe.with_options(options)
    show_result(result, output, report=options.report, dataset=options.dataset or "")


def show_result(result: "ProbeResult", output: Output, *, report: bool, dataset: str) -> None:
    """Print results, say where the rest is, and write them into a model's card if that is asked."""
    if output.as_json:
        print(json.dumps(result.results, indent=2, ensure_ascii=False))
    else:
        print(result.to_terminal())
    typer.echo(f"wrote {result.out}/results.json in {result.seconds:.0f} s", err=True)
    if report:
        typer.echo(f"look at {result.out}/report.html", err=True)
    if output.update_card:
        from tilezoo.compare.card import update_card

        typer.echo(f"wrote {update_card(output.update_card, result.found, dataset)}", err=True)
