"""The main path: a command → a checked request → a job on SageMaker."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilezoo.errors import OptionError
from tilezoo.launch.account import find_owner, fresh_name, imagined_owner
from tilezoo.launch.aws import find_region, open_session, split_s3, told
from tilezoo.launch.command import JobCommand, job_command
from tilezoo.launch.distribution import Distribution, choose_distribution
from tilezoo.launch.estimate import Estimate, estimate
from tilezoo.launch.images import find_image
from tilezoo.launch.instances import find_instance
from tilezoo.launch.jobs import attach
from tilezoo.launch.preflight import check_image, preflight
from tilezoo.launch.request import Places, Request, build_request
from tilezoo.launch.rules import check_request
from tilezoo.launch.sdk import check_installed, user_config
from tilezoo.launch.settings import BackendWish, LaunchSettings, parse_pairs
from tilezoo.progress import progress, say

DEFAULT_INSTANCE = "ml.g5.2xlarge"  # one GPU of 24 GB


@dataclass(frozen=True, kw_only=True)
class LaunchResult:
    """What a launch came to.

    Attributes:
        name: Of the job.
        request: The body of CreateTrainingJob.
        estimate: Of its price.
        result: The S3 folder where the command's result will lie.
        arn: Of the job; None in a dry run.
        status: `Completed`, …; None where nobody waited.
        notes: What a user may want to know.
    """

    name: str
    request: Mapping[str, Any]
    estimate: Estimate
    result: str
    arn: str | None
    status: str | None
    notes: tuple[str, ...]


def launch(
    command: Sequence[str],
    *,
    instance: str = DEFAULT_INSTANCE,
    count: int = 1,
    role: str | None = None,
    region: str | None = None,
    output: str | None = None,
    name: str | None = None,
    image: str | None = None,
    backend: BackendWish = "auto",
    spot: bool = False,
    max_hours: float = 24.0,
    volume_gb: int = 100,
    env: Sequence[str] = (),
    tags: Sequence[str] = (),
    subnets: Sequence[str] = (),
    security_groups: Sequence[str] = (),
    kms_key: str | None = None,
    publish_as: str | None = None,
    wait: bool = True,
    dry_run: bool = False,
    show_progress: bool = False,
) -> LaunchResult:
    """Run a tilezoo command as a training job on Amazon SageMaker.

    Args:
        command: Words of `tilezoo pretrain|embed|probe|compare`; its data are `s3://…`.
        instance: SageMaker's name of the instances' type.
        count: Instances; several for `pretrain` only.
        role: Name or ARN of the role that the job takes.
        region: Of the service and the data.
        output: `s3://…` under which all of a job lies.
        name: Of the job.
        image: A container of one's own.
        backend: How the processes of a pretraining talk; `auto` takes SMDDP where it is fast.
        spot: Take spare capacity; a job that was cut off goes on from its checkpoint.
        max_hours: After which SageMaker stops the job.
        volume_gb: Room for data on each instance.
        env: `K=V` for the job's environment.
        tags: `K=V` put on the job.
        subnets: Of a VPC.
        security_groups: Of the VPC.
        kms_key: Encrypts the volume and what the job writes.
        publish_as: org/name to publish a finished pretraining as, in `OUTPUT/registry`.
        wait: Follow the job's log to its end.
        dry_run: Build and check the request, ask and send nothing.
        show_progress: Say on stderr what goes on.

    Raises:
        OptionError: An option or a wish that makes no sense; nothing was sent.
        LaunchError: The account, the data or the service is not ready for it; says what to do.
    """
    check_installed()
    settings = LaunchSettings(
        instance=instance,
        count=count,
        role=role,
        region=region,
        output=output,
        name=name,
        image=image,
        backend=backend,
        spot=spot,
        max_hours=max_hours,
        volume_gb=volume_gb,
        env=parse_pairs("--env", env),
        tags=parse_pairs("--tag", tags),
        subnets=tuple(subnets),
        security_groups=tuple(security_groups),
        kms_key=kms_key,
        publish_as=publish_as,
    )
    job = _job(command, settings)
    chosen = find_instance(settings.instance)
    distribution = choose_distribution(
        job.verb, chosen, count=count, wish=_wish(job, settings), image=image
    )
    job = _with_backend(job, distribution)
    price = estimate(job.verb, chosen, count=count, max_hours=max_hours)
    config = user_config()
    where = find_region(region)
    session = None if dry_run else open_session(where)
    owner = (
        find_owner(settings, config, where, session)
        if session
        else imagined_owner(settings, config, where)
    )
    places = Places(
        region=where,
        role=owner.role,
        output=owner.output,
        name=name or fresh_name(job.verb),
        image=image or find_image(where, instance, smddp=distribution.backend == "smddp"),
    )
    check_image(places.image, where)
    with tempfile.TemporaryDirectory(prefix="tilezoo-launch-") as staging:
        request = build_request(
            job, settings, distribution, places, config=config, staging=Path(staging)
        )
        check_request(request.body, chosen)
        notes = preflight(job, settings, places, chosen, session) if session else list(owner.notes)
        if show_progress:
            _say_plan(places, settings, distribution, price, notes)
        arn = _submitted(request, settings, session, show_progress=show_progress)
    status = None
    if arn and wait:
        status = attach(places.name, region=where, show_progress=show_progress).status
    return LaunchResult(
        name=places.name,
        request=request.body,
        estimate=price,
        result=places.checkpoints(job),
        arn=arn,
        status=status,
        notes=tuple(notes),
    )


def _job(command: Sequence[str], settings: LaunchSettings) -> JobCommand:
    job = job_command(command)
    if settings.publish_as and job.verb != "pretrain":
        raise OptionError(f"--publish-as is for pretrain; {job.verb} makes no model")
    return job


def _wish(job: JobCommand, settings: LaunchSettings) -> BackendWish:
    """One wish of two places that can say it: `--backend` before and after `--`."""
    own = job.backend() if job.verb == "pretrain" else None
    if own in (None, "auto"):
        return settings.backend
    if settings.backend not in ("auto", own):
        raise OptionError(
            f"--backend {settings.backend} for the job and --backend {own} for {job.verb}: "
            "say one of them"
        )
    wish: BackendWish = own  # type: ignore[assignment]  # the command line has checked it
    return wish


def _with_backend(job: JobCommand, distribution: Distribution) -> JobCommand:
    """Say the backend in the command too, so that in the job it comes true or fails."""
    if distribution.backend == "plain" or job.backend() is not None:
        return job
    return job.with_words("--backend", distribution.backend)


def _say_plan(
    places: Places,
    settings: LaunchSettings,
    distribution: Distribution,
    price: Estimate,
    notes: Sequence[str],
) -> None:
    how = (
        "one process"
        if distribution.backend == "plain"
        else f"{settings.count * distribution.processes} processes over {distribution.backend}"
    )
    say(f"{places.name}: {settings.count} × {settings.instance}, {how}, {places.image}")
    say(f"price: {price.text()}{'; spot costs less' if settings.spot else ''}")
    for note in notes:
        say(note)


def _submitted(
    request: Request, settings: LaunchSettings, session: Any, *, show_progress: bool
) -> str | None:
    """Upload the source, then create the job; its ARN. None in a dry run."""
    if session is None:
        return None
    with told():
        s3 = session.client("s3")
        files = [
            (path, f"{uri}/{path.relative_to(folder).as_posix()}")
            for uri, folder in request.uploads.items()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        key = settings.kms_key
        extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
        with progress(len(files), "uploading the source", "files", shown=show_progress) as advance:
            for path, uri in files:
                bucket, name = split_s3(uri)
                s3.upload_file(str(path), bucket, name, ExtraArgs=extra)
                advance(1)
        made = session.client("sagemaker").create_training_job(**request.body)
    arn: str = made["TrainingJobArn"]
    return arn
