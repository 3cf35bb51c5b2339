"""The main path: a command → a checked request → a job on SageMaker."""

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tilezoo.launch.aws import (
    Places,
    Session,
    explain_errors,
    find_places,
    find_region,
    open_session,
    split_s3,
)
from tilezoo.launch.command import refuse_overlap
from tilezoo.launch.instances import Estimate, JobPlan, plan_job
from tilezoo.launch.jobs import attach
from tilezoo.launch.options import LaunchOptions
from tilezoo.launch.preflight import check_account, check_request
from tilezoo.launch.request import Request, build_request
from tilezoo.launch.sdk import AwsJson, check_installed, read_defaults
from tilezoo.options import verb
from tilezoo.progress import progress, say

_UPLOADS = 8  # files at a time: they are small, and S3 far away


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """What a launch came to: the job, or what it would be.

    Attributes:
        name: The job's name.
        request: The body of CreateTrainingJob.
        estimate: What it is likely to cost.
        result: The S3 folder where the command's result will lie.
        arn: Of the job; None in a dry run.
        status: `Completed`, …; None where nobody waited.
        notes: What a user may want to know.
    """

    name: str
    request: AwsJson
    estimate: Estimate
    result: str
    arn: str | None
    status: str | None
    notes: tuple[str, ...]


@verb(LaunchOptions)
def launch(options: LaunchOptions) -> LaunchResult:
    """Run a tilezoo command as a training job on Amazon SageMaker.

    Raises:
        OptionError: An option or a wish that makes no sense; nothing was sent.
        LaunchError: The account, the data or the service is not ready for it; says what to do.
    """
    check_installed()
    plan = plan_job(options)
    defaults = read_defaults()
    region = find_region(options.region)
    session = None if options.dry_run else open_session(region)
    places = find_places(plan, region, defaults, session)
    refuse_overlap("--output: the job's folder", places.job, plan.command.channels)
    with tempfile.TemporaryDirectory(prefix="tilezoo-launch-") as staging:
        request = build_request(plan, places, defaults, Path(staging))
        check_request(request.body, plan.instance)
        notes = [*places.notes, *(check_account(plan, places, session) if session else ())]
        if options.show_progress:
            _say_plan(plan, places, notes)
        arn = _submit(request, options, session) if session else None
    return LaunchResult(
        name=places.name,
        request=request.body,
        estimate=plan.price,
        result=places.checkpoints,
        arn=arn,
        status=_follow(places, options) if arn else None,
        notes=tuple(notes),
    )


def _say_plan(plan: JobPlan, places: Places, notes: Sequence[str]) -> None:
    asked, backend = plan.options, plan.distribution.backend
    how = "one process" if backend == "plain" else f"{plan.processes} processes over {backend}"
    say(f"{places.name}: {asked.count} × {asked.instance}, {how}, {places.image}")
    say(f"price: {plan.price.text()}{'; spot costs less' if asked.spot else ''}")
    for note in notes:
        say(note)


def _submit(request: Request, asked: LaunchOptions, session: Session) -> str:
    """Upload the source, then create the job; returns its ARN."""
    files = [
        (path, f"{uri}/{path.relative_to(folder).as_posix()}")
        for uri, folder in request.uploads.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    key, shown = asked.kms_key, asked.show_progress
    extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
    with explain_errors():
        s3 = session.client("s3")
        with progress(len(files), "uploading the source", "files", shown=shown) as advance:

            def upload(path: Path, uri: str) -> None:
                s3.upload_file(str(path), *split_s3(uri), ExtraArgs=extra)

            with ThreadPoolExecutor(_UPLOADS) as pool:
                for _ in pool.map(upload, *zip(*files, strict=True)):
                    advance(1)
        made = session.client("sagemaker").create_training_job(**request.body)
    arn: str = made["TrainingJobArn"]
    return arn


def _follow(places: Places, asked: LaunchOptions) -> str | None:
    """Follow the job to its end, or say how to; then say what stays."""
    if not asked.wait:
        if asked.show_progress:
            say(f"follow it: tilezoo jobs attach {places.name} --region {places.region}")
        return None
    shown = asked.show_progress
    status = attach(places.name, region=places.region, show_progress=shown).status
    if shown:
        say(
            f"its instances are gone and cost nothing any more; what it wrote stays in S3 until "
            f"aws s3 rm --recursive {places.job}"
        )
    return status
