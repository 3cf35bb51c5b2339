"""`tilezoo jobs …`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tilezoo.cli.launch import Json, Region

if TYPE_CHECKING:
    from tilezoo.launch.jobs import JobStatus

app = typer.Typer(no_args_is_help=True, help="Jobs on SageMaker: list, follow, stop, fetch.")

Name = Annotated[str, typer.Argument(help="A job's name.")]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]
Contains = Annotated[str | None, typer.Option(help="Only names with this in them.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder to bring the result to.")]


@app.command("list")
def list_all(
    *,
    limit: Limit = 20,
    contains: Contains = None,
    region: Region = None,
    as_json: Json = False,
) -> None:
    """List training jobs, the newest first.

    Example: tilezoo jobs list --contains tilezoo
    """
    from tilezoo.launch import list_jobs

    found = list_jobs(region=region, limit=limit, contains=contains)
    if as_json:
        print(json.dumps([_facts(one) for one in found], indent=2))
        return
    for one in found:
        print(f"{one.created:%Y-%m-%d %H:%M}  {one.status:<12}{one.name}")


@app.command("status")
def status(name: Name, *, region: Region = None, as_json: Json = False) -> None:
    """Say how a job goes; of a failed one the reason and the end of its log.

    Example: tilezoo jobs status tilezoo-pretrain-20261122-232501-ab12
    """
    from tilezoo.launch import job_status

    _tell(job_status(name, region=region), as_json=as_json)


@app.command("log")
def log(name: Name, *, follow: Follow = False, region: Region = None) -> None:
    """Print a job's log.

    Example: tilezoo jobs log tilezoo-pretrain-20261122-232501-ab12 --follow
    """
    from tilezoo.launch import follow_log

    follow_log(name, region=region, until_end=follow, write=print)


@app.command("stop")
def stop(name: Name, *, region: Region = None, as_json: Json = False) -> None:
    """Stop a job; a pretraining writes a checkpoint first.

    Example: tilezoo jobs stop tilezoo-pretrain-20261122-232501-ab12
    """
    from tilezoo.launch import stop_job

    _tell(stop_job(name, region=region), as_json=as_json)


@app.command("attach")
def attach(name: Name, *, region: Region = None, as_json: Json = False) -> None:
    """Follow a job's log to its end.

    Example: tilezoo jobs attach tilezoo-pretrain-20261122-232501-ab12
    """
    from tilezoo.launch import attach as follow

    _tell(follow(name, region=region), as_json=as_json)


@app.command("fetch")
def fetch(name: Name, *, out: Out, region: Region = None) -> None:
    """Bring what a job has written here; again, only what is missing or changed.

    Example: tilezoo jobs fetch tilezoo-pretrain-20261122-232501-ab12 -o run
    """
    from tilezoo.launch import fetch_result

    print(f"{out}: {fetch_result(name, out=out, region=region, show_progress=True)} files")


def _tell(status: "JobStatus", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_facts(status), indent=2))
        return
    from tilezoo.launch.jobs import failure_text

    if status.status == "Failed":
        print(failure_text(status))
        return
    where = f" on {status.count} × {status.instance}" if status.instance else ""
    billed = f", {status.billable_s / 60:.0f} min billed" if status.billable_s else ""
    result = f"\n{status.result}" if status.result else ""
    print(f"{status.name}: {status.status}{where}{billed}{result}")


def _facts(status: "JobStatus") -> dict[str, object]:
    facts = asdict(status)
    times = {name: facts[name] and facts[name].isoformat() for name in ("created", "ended")}
    return {**facts, **times}
