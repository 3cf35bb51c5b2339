"""What `tilezoo launch` and `tilezoo jobs …` can be asked, checked before anything else is done."""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from tilezoo.errors import OptionError
from tilezoo.launch.command import JobCommand, is_s3, read_command
from tilezoo.options import Progress, argument, option, options, python_only
from tilezoo.progress import say

JobBackend = Literal["auto", "smddp", "nccl", "gloo"]
Pairs = tuple[tuple[str, str], ...]
NAME_MAX = 63
MAX_HOURS = 28 * 24  # the service's limit on a training job
_MIN_HOURS = 0.02  # what starts a container cannot do in less than a minute; the service takes 1 s
_JOB_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")  # CreateTrainingJob, TrainingJobName
_ROLE_ARN = re.compile(r"arn:aws[a-z\-]*:iam::\d{12}:role/?[\w+=,.@\-/]+", re.ASCII)
_ROLE_NAME = re.compile(r"[\w+=,.@\-]{1,64}", re.ASCII)
_ENV_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_ORG_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*", re.ASCII)


@options
class Region:
    """Where the service is."""

    region: str | None = option(
        default=None, unset="configured", help="AWS region of the jobs and their data."
    )


@options
class LaunchOptions(Region, Progress):
    """A command, and the job that it becomes."""

    command: Sequence[str] = argument(
        "COMMAND",
        kw_only=False,
        help="After --, a tilezoo command: pack, pretrain, embed, probe or compare; its data are "
        "s3://….",
    )
    instance: str = option(  # by default one GPU of 24 GB
        default="ml.g5.2xlarge", help="SageMaker's name of the instances' type."
    )
    count: int = option(default=1, help="How many instances; several for pretrain only.")
    role: str | None = option(
        default=None, unset="configured", help="Name or ARN of the role the job takes."
    )
    output: str | None = option(
        default=None,
        unset="default bucket",
        metavar="S3",
        help="s3://… under which all of a job lies.",
    )
    name: str | None = option(default=None, unset="verb and time", help="The job's name.")
    image: str | None = option(
        default=None, unset="SageMaker's PyTorch", help="The container the job runs in."
    )
    backend: JobBackend = option(
        default="auto",
        help="How processes talk. auto: SMDDP on several p4d or p4de, else NCCL on GPUs.",
    )
    spot: bool = option(
        default=False,
        help="Take spare capacity: cheaper, and may be taken away; the job goes on from its "
        "checkpoint.",
    )
    max_hours: float = option(default=24.0, help="Hours after which SageMaker stops the job.")
    volume_gb: int = option(default=100, help="Room for data on each instance.")
    env: Sequence[str] = option(
        default=(), metavar="K=V", help="A variable of the job's environment."
    )
    tags: Sequence[str] = option("--tag", default=(), metavar="K=V", help="A tag put on the job.")
    subnets: Sequence[str] = option("--subnet", default=(), help="A subnet of the job's VPC.")
    security_groups: Sequence[str] = option(
        "--security-group", default=(), help="A security group of the job's VPC."
    )
    kms_key: str | None = option(
        default=None, help="Key that encrypts the volume and what the job writes."
    )
    publish_as: str | None = option(
        default=None,
        metavar="ORG/NAME",
        help="Publish a finished pretraining in OUTPUT/registry.",
    )
    wait: bool = option(default=True, help="Follow the job's log to its end.")
    dry_run: bool = option(
        default=False, help="Print the checked request as JSON; ask and send nothing."
    )

    @cached_property
    def job(self) -> JobCommand:
        """The command as the job runs it."""
        return read_command(self.command)

    @cached_property
    def environment(self) -> Pairs:
        """Names and values of `env`."""
        pairs = _parse_pairs("--env", self.env)
        for name, _ in pairs:
            if not _ENV_NAME.fullmatch(name):
                raise OptionError(
                    f"--env {name!r}: a name has letters, digits and _ and begins with no digit"
                )
        return pairs

    @cached_property
    def tag_pairs(self) -> Pairs:
        """Names and values of `tags`."""
        return _parse_pairs("--tag", self.tags)

    @cached_property
    def wish(self) -> JobBackend:
        """How processes shall talk, said before or after the `--`."""
        own = self.job.backend
        if own is None or own == "auto":
            return self.backend
        if self.backend not in ("auto", own):
            raise OptionError(
                f"--backend {self.backend} for the job and --backend {own} for {self.job.verb}: "
                "say one of them"
            )
        wish: JobBackend = own  # type: ignore[assignment]  # the command itself checks its value
        return wish

    def check(self) -> None:
        """Refuse what the service would refuse, and what makes no sense."""
        for flag, number in (("--count", self.count), ("--volume-gb", self.volume_gb)):
            if number < 1:
                raise OptionError(f"{flag} {number}: must be 1 or more")
        if not _MIN_HOURS <= self.max_hours <= MAX_HOURS:
            raise OptionError(
                f"--max-hours {self.max_hours:g}: must be a minute ({_MIN_HOURS}) or more and at most "
                f"{MAX_HOURS} (28 days)"
            )
        _check_names(self)
        if bool(self.subnets) != bool(self.security_groups):
            raise OptionError(
                "--subnet and --security-group go together: a VPC needs one of each at least"
            )
        if self.publish_as is not None and self.job.verb != "pretrain":
            raise OptionError(f"--publish-as is for pretrain; {self.job.verb} makes no model")


def _check_names(asked: LaunchOptions) -> None:
    """Refuse names of another form than the service's."""
    if asked.name is not None:
        check_job_name(asked.name)
    role, model = asked.role, asked.publish_as
    if role is not None and not (_ROLE_ARN.fullmatch(role) or _ROLE_NAME.fullmatch(role)):
        raise OptionError(f"--role {role!r}: give a role's name, or arn:aws:iam::ACCOUNT:role/NAME")
    if asked.output is not None:
        check_s3_folder("--output", asked.output)
    if model is not None and not _ORG_NAME.fullmatch(model):
        raise OptionError(f"--publish-as {model!r}: give org/name")


def check_job_name(name: str) -> None:
    """Refuse a job's name that SageMaker would refuse."""
    if len(name) > NAME_MAX:
        raise OptionError(
            f"--name {name!r} has {len(name)} characters: SageMaker takes at most {NAME_MAX}"
        )
    if not _JOB_NAME.fullmatch(name):
        raise OptionError(
            f"--name {name!r}: SageMaker takes letters, digits and single -, no - at either end"
        )


def check_s3_folder(flag: str, uri: str) -> None:
    """Refuse what is no place in S3."""
    if not is_s3(uri):
        raise OptionError(f"{flag} {uri!r} should be s3://BUCKET/FOLDER")


def _parse_pairs(flag: str, texts: Sequence[str]) -> Pairs:
    """Read `K=V` of each text; no name twice."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise OptionError(f"{flag} {text!r} should be NAME=VALUE")
        if name in pairs:
            raise OptionError(f"{flag} {name}: given twice")
        pairs[name] = value
    return tuple(pairs.items())


@options
class ListOptions(Region):
    """Which jobs are listed."""

    limit: int = option(default=20, min=1, help="List at most so many.")
    contains: str | None = option(default=None, help="Only names with this in them.")


@options
class JobOptions(Region):
    """Which job."""

    name: str = argument("NAME", kw_only=False, help="A job's name.")


@options
class FollowOptions(JobOptions):
    """How a job is looked at again and again."""

    look_every_s: float = python_only(default=10.0, help="Seconds between looks.")


@options
class AttachOptions(FollowOptions):
    """How a job is followed to its end."""

    show_progress: bool = python_only(
        default=True, command_value=True, help="Write its log to stderr."
    )


@options
class LogOptions(FollowOptions):
    """How a job's log is written."""

    until_end: bool = python_only(default=True, help="Go on until the job ends.")
    write: "Callable[[str], None]" = python_only(default=say, help="Takes a line.")


@options
class FollowLog:
    """What the command `tilezoo jobs log` alone has."""

    follow: bool = option("--follow", "-f", default=False, help="Go on until the job ends.")


@options
class FetchOptions(JobOptions, Progress):
    """Where a job's result is brought to."""

    out: Path = option("--out", "-o", help="Folder to bring the result to.")
