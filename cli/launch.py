"""`tilezoo launch`."""

import inspect
import json
from contextlib import redirect_stderr
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING

import typer

from tilezoo.cli.options import Command, Json, command
from tilezoo.errors import OptionError
from tilezoo.launch.options import LaunchOptions

if TYPE_CHECKING:
    from tilezoo.pretrain.options import PretrainOptions

# What follows the command's verb is the command's, with or without -- before it.
CONTEXT = {"allow_interspersed_args": False}


@command(LaunchOptions, Json)
def run(options: LaunchOptions, own: Json) -> None:
    """Run a tilezoo command as a training job on Amazon SageMaker.

    Each s3://… of the command is brought into the job; what it writes to -o lies in S3 as it goes.
    The same launch with -o s3://… goes on where a job was stopped.

    Example: tilezoo launch --instance ml.g5.2xlarge -- pretrain s3://bucket/shards -o run
    """
    from tilezoo.launch import launch

    check_command(options)
    result = launch.with_options(options)
    if options.dry_run:
        print(json.dumps(result.request, indent=2, ensure_ascii=False))
    elif own.as_json:
        print(json.dumps(asdict(result), indent=2, ensure_ascii=False))
    else:
        status = f"{result.status}, " if result.status else ""
        print(f"{result.name}: {status}result in {result.result}")


def check_command(options: LaunchOptions) -> None:
    """Read a command as the job will, so that a slip is reported before anything is sent.

    Raises:
        OptionError: No such option, a value that does not fit, or a batch that does not divide
            among the job's processes.
    """
    from tilezoo.cli.app import find_command
    from tilezoo.pretrain.options import PretrainOptions

    verb, *words = options.job.words
    for read in read_words(find_command(verb), verb, words):
        if isinstance(read, PretrainOptions):
            check_batch(read, options)


def read_words(run: Command, verb: str, words: list[str]) -> list[object]:
    """Read the words of a command as typer does for `run`, without running it.

    Returns:
        The options objects that `run` would take.

    Raises:
        OptionError: What typer, or the options, say of words that do not fit.
        typer.Exit: The words ask for `--help`, which is printed.
    """
    read: list[list[object]] = []

    def keep(**given: object) -> None:
        read.append(run.build_options(**given))

    keep.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
    keep.__doc__ = run.__doc__
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(verb)(keep)
    said = StringIO()
    try:
        with redirect_stderr(said):
            app(words, prog_name=f"tilezoo {verb}")
    except SystemExit as end:
        if end.code:
            fault = said.getvalue().rpartition("Error: ")[2].strip()
            raise OptionError(f"tilezoo {verb}: {fault}") from end
    if not read:
        raise typer.Exit
    return read[0]


def check_batch(training: "PretrainOptions", launched: LaunchOptions) -> None:
    """See that a pretraining's recipe is one, and that its batches divide among the processes.

    Raises:
        OptionError: No such recipe or setting, or a batch that does not divide.
    """
    from tilezoo.launch.instances import plan_job
    from tilezoo.pretrain.recipe import find_recipe

    size = find_recipe(training.recipe, training.settings).batch_size
    processes = plan_job(launched).processes
    if size % processes:
        raise OptionError(
            f"batch_size={size} does not divide among {processes} processes: "
            f"--set batch_size={max(1, round(size / processes)) * processes}"
        )
