"""`tilezoo jobs …`."""

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from tilezoo.cli.options import Json, command
from tilezoo.launch.options import (
    AttachOptions,
    FetchOptions,
    FollowLog,
    JobOptions,
    ListOptions,
    LogOptions,
)

if TYPE_CHECKING:
    from tilezoo.launch.jobs import JobStatus

app = typer.Typer(no_args_is_help=True, help="Jobs on SageMaker: list, follow, stop, fetch.")


@app.command("list")
@command(ListOptions, Json)
def list_all(options: ListOptions, own: Json) -> None:
    """List training jobs, the newest first.

    Example: tilezoo jobs list --contains tilezoo
    """
    from tilezoo.launch import list_jobs

    found = list_jobs.with_options(options)
    if own.as_json:
        print(json.dumps([_to_json(one) for one in found], indent=2))
        return
    for one in found:
        print(f"{one.created:%Y-%m-%d %H:%M}  {one.status:<12}{one.name}")


@app.command("status")
@command(JobOptions, Json)
def show_status(options: JobOptions, own: Json) -> None:
    """Say how a job goes; of a failed one the reason and the end of its log.

    Example: tilezoo jobs status tilezoo-pretrain-20261122-232501-ab12
    """
    from tilezoo.launch import job_status

    _print(job_status.with_options(options), own)


@app.command("log")
@command(LogOptions, FollowLog)
def print_log(options: LogOptions, own: FollowLog) -> None:
    """Print a job's log.

    Example: tilezoo jobs log tilezoo-pretrain-20261122-232501-ab12 --follow
    """
    from tilezoo.launch import follow_log

    follow_log.with_options(replace(options, until_end=own.follow, write=print))


@app.command("stop")
@command(JobOptions, Json)
def stop(options: JobOptions, own: Json) -> None:
    """Stop a job; a pretraining writes a checkpoint first.

    Example: tilezoo jobs stop tilezoo-pretrain-20261122-232501-ab12
    """
    from tilezoo.launch import stop_job

    _print(stop_job.with_options(options), own)


@app.command("attach")
@command(AttachOptions, Json)
def follow_job(options: AttachOptions, own: Json) -> None:
    """Follow a job's log to its end.

    Example: tilezoo jobs attach tilezoo-pretrain-20261122-232501-ab12
    """
    from tilezoo.launch import attach

    _print(attach.with_options(options), own)


@app.command("fetch")
@command(FetchOptions)
def fetch(options: FetchOptions) -> None:
    """Bring what a job has written here; again, only what is missing or changed.

    Example: tilezoo jobs fetch tilezoo-pretrain-20261122-232501-ab12 -o run
    """
    from tilezoo.launch import fetch_result

    print(f"{options.out}: {fetch_result.with_options(options)} files")


def _print(status: "JobStatus", own: Json) -> None:
    if own.as_json:
        print(json.dumps(_to_json(status), indent=2))
        return
    from tilezoo.launch.jobs import failure_text

    if status.status == "Failed":
        print(failure_text(status))
        return
    where = f" on {status.count} × {status.instance}" if status.instance else ""
    billed = f", {status.billable_s / 60:.0f} min billed" if status.billable_s else ""
    result = f"\n{status.result}" if status.result else ""
    print(f"{status.name}: {status.status}{where}{billed}{result}")


def _to_json(status: "JobStatus") -> dict[str, object]:
    facts = asdict(status)
    times = {name: facts[name] and facts[name].isoformat() for name in ("created", "ended")}
    return {**facts, **times}
