"""`tilezoo compare`."""

from tilezoo.cli.options import command
from tilezoo.cli.probe import Output, show_result
from tilezoo.compare.options import CompareOptions


@command(CompareOptions, Output)
def run(options: CompareOptions, output: Output) -> None:
    """Embed SOURCE with each model, probe all tables, and write a report.

    Stopped at any moment, the same command goes on where it was; with other options of the probe,
    tables that are there are used again.

    Example: tilezoo compare tiles/ --labels labels.csv -m MODEL -m OTHER -o report
    """
    from tilezoo.compare.run import compare, name_of

    result = compare.with_options(options)
    show_result(
        result, output, report=True, dataset=options.dataset or name_of(options.source_list)
    )
