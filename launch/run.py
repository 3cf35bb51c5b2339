"""The main path: a command → a checked request → a job on SageMaker."""

import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilezoo.errors import LaunchError, OptionError
from tilezoo.launch.aws import (
    find_owner,
    find_region,
    fresh_name,
    imagined_owner,
    open_session,
    split_s3,
    told,
)
from tilezoo.launch.command import JobCommand, job_command
from tilezoo.launch.distribution import Distribution, choose_distribution
from tilezoo.launch.instances import Estimate, Instance, estimate, find_image, find_instance
from tilezoo.launch.jobs import attach
from tilezoo.launch.preflight import check_image, check_request, preflight
from tilezoo.launch.request import Places, Request, build_request
from tilezoo.launch.sdk import check_installed, user_config
from tilezoo.launch.settings import BackendWish, LaunchSettings, parse_pairs, read_defaults
from tilezoo.progress import progress, say

DEFAULT_INSTANCE = "ml.g5.2xlarge"  # one GPU of 24 GB
_UPLOADS = 8  # files at a time: they are small, and S3 far away


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


@dataclass(frozen=True, kw_only=True)
class _Plan:
    job: JobCommand
    instance: Instance
    distribution: Distribution
    price: Estimate


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
        command: Words of `tilezoo pack|pretrain|embed|probe|compare`; its data are `s3://…`.
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
    plan = _planned(command, settings)
    config = user_config()
    settings = replace(settings, region=find_region(region))
    session = None if dry_run else open_session(settings.region)
    places, notes = _placed(plan, settings, config, session)
    with tempfile.TemporaryDirectory(prefix="tilezoo-launch-") as staging:
        request = build_request(
            plan.job, settings, plan.distribution, places, config=config, staging=Path(staging)
        )
        check_request(request.body, plan.instance)
        if session:
            notes += preflight(plan.job, settings, places, plan.instance, session)
        if show_progress:
            _say_plan(plan, places, settings, notes)
        arn = _submit(request, settings, session, show_progress=show_progress) if session else None
    status = _followed(places, wait=wait, show_progress=show_progress) if arn else None
    return LaunchResult(
        name=places.name,
        request=request.body,
        estimate=plan.price,
        result=places.checkpoints(plan.job),
        arn=arn,
        status=status,
        notes=tuple(notes),
    )


def processes_of(
    command: Sequence[str],
    *,
    instance: str = DEFAULT_INSTANCE,
    count: int = 1,
    image: str | None = None,
    backend: BackendWish = "auto",
) -> int:
    """Count the processes that a launch would start on all its instances.

    Raises:
        OptionError: An option or a wish that makes no sense.
    """
    settings = LaunchSettings(instance=instance, count=count, image=image, backend=backend)
    return count * _planned(command, settings).distribution.processes


def _planned(command: Sequence[str], settings: LaunchSettings) -> _Plan:
    """Settle all that needs no account: what runs, on what, how, and for how much."""
    job = job_command(command)
    if settings.publish_as and job.verb != "pretrain":
        raise OptionError(f"--publish-as is for pretrain; {job.verb} makes no model")
    instance = find_instance(settings.instance)
    distribution = choose_distribution(
        job.verb, instance, count=settings.count, wish=_wish(job, settings), image=settings.image
    )
    return _Plan(
        job=_with_backend(job, distribution),
        instance=instance,
        distribution=distribution,
        price=estimate(job.verb, instance, count=settings.count, max_hours=settings.max_hours),
    )


def _placed(
    plan: _Plan, settings: LaunchSettings, config: Mapping[str, Any], session: Any
) -> tuple[Places, list[str]]:
    """Settle where the job lies: in the caller's account, or in nobody's for a dry run."""
    region = str(settings.region)
    smddp = plan.distribution.backend == "smddp"
    image = settings.image or find_image(region, settings.instance, smddp=smddp)
    check_image(image, region)
    defaults = read_defaults(config)
    if defaults.isolated and not settings.image:
        raise LaunchError(
            "your SageMaker config keeps jobs from the network (EnableNetworkIsolation), and "
            "SageMaker's container lacks packages: give --image with one that holds them"
        )
    owner = (
        find_owner(settings, defaults, region, session)
        if session
        else imagined_owner(settings, defaults, region)
    )
    name = settings.name or fresh_name(plan.job.verb)
    places = Places(region=region, role=owner.role, output=owner.output, name=name, image=image)
    return places, list(owner.notes)


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


def _say_plan(plan: _Plan, places: Places, settings: LaunchSettings, notes: Sequence[str]) -> None:
    processes = settings.count * plan.distribution.processes
    how = "one process"
    if plan.distribution.backend != "plain":
        how = f"{processes} processes over {plan.distribution.backend}"
    say(f"{places.name}: {settings.count} × {settings.instance}, {how}, {places.image}")
    say(f"price: {plan.price.text()}{'; spot costs less' if settings.spot else ''}")
    for note in notes:
        say(note)


def _submit(
    request: Request, settings: LaunchSettings, session: Any, *, show_progress: bool
) -> str:
    """Upload the source, then create the job; returns its ARN."""
    files = [
        (path, f"{uri}/{path.relative_to(folder).as_posix()}")
        for uri, folder in request.uploads.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    key = settings.kms_key
    extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
    with told():
        s3 = session.client("s3")
        with progress(len(files), "uploading the source", "files", shown=show_progress) as advance:

            def upload(path: Path, uri: str) -> None:
                s3.upload_file(str(path), *split_s3(uri), ExtraArgs=extra)

            with ThreadPoolExecutor(_UPLOADS) as pool:
                for _ in pool.map(upload, *zip(*files, strict=True)):
                    advance(1)
        made = session.client("sagemaker").create_training_job(**request.body)
    arn: str = made["TrainingJobArn"]
    return arn


def _followed(places: Places, *, wait: bool, show_progress: bool) -> str | None:
    """Follow the job to its end, or say how to; then say what stays."""
    if not wait:
        if show_progress:
            say(f"follow it: tilezoo jobs attach {places.name} --region {places.region}")
        return None
    status = attach(places.name, region=places.region, show_progress=show_progress).status
    if show_progress:
        say(
            f"its instances are gone and cost nothing any more; what it wrote stays in S3 until "
            f"aws s3 rm --recursive {places.job}"
        )
    return status
