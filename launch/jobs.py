"""Jobs that were launched: what there are, how they go, their logs, their end and their results."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tilezoo.errors import InterruptedRunError, LaunchError
from tilezoo.io import whole_file
from tilezoo.launch.aws import Session, error_code, explain_errors, open_session, split_s3
from tilezoo.launch.options import (
    AttachOptions,
    FetchOptions,
    JobOptions,
    ListOptions,
    LogOptions,
)
from tilezoo.launch.sdk import AwsJson
from tilezoo.options import verb
from tilezoo.progress import progress, say

_GROUP = "/aws/sagemaker/TrainingJobs"
_ENDED = ("Completed", "Failed", "Stopped")
_LAST_LINES = 20


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """How a job goes.

    Attributes:
        name: The job's name.
        status: `InProgress`, `Completed`, `Failed`, `Stopping`, `Stopped`.
        phase: What it does: `Starting`, `Downloading`, `Training`, `Uploading`, `Interrupted`, …
        reason: Why it failed; None where it did not.
        instance: Type of each instance.
        count: How many instances.
        created: When it was launched.
        ended: When it ended; None while it runs.
        billable_s: Seconds that are billed, of each instance.
        result: The S3 folder where the command's result lies.
        last_lines: The end of the log of a job that failed.
    """

    name: str
    status: str
    phase: str | None
    reason: str | None
    instance: str | None
    count: int | None
    created: datetime | None
    ended: datetime | None
    billable_s: int | None
    result: str | None
    last_lines: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status in _ENDED


@verb(ListOptions)
def list_jobs(options: ListOptions) -> list[JobStatus]:
    """List training jobs of the account, the newest first."""
    client = open_session(options.region).client("sagemaker")
    more = {"NameContains": options.contains} if options.contains else {}
    found: list[JobStatus] = []
    with explain_errors():
        pages = client.get_paginator("list_training_jobs").paginate(
            SortBy="CreationTime", SortOrder="Descending", **more
        )
        for page in pages:
            found += [_read_status(job) for job in page["TrainingJobSummaries"]]
            if len(found) >= options.limit:
                break
    return found[: options.limit]


@verb(JobOptions)
def job_status(options: JobOptions) -> JobStatus:
    """Say how a job goes; of a failed one also the reason and the end of its log.

    Raises:
        LaunchError: No job of that name.
    """
    session = open_session(options.region)
    status = _describe(options.name, session)
    if status.status != "Failed":
        return status
    lines = tuple(line for _host, line in _Log(options.name, session).new())
    return replace(status, last_lines=lines[-_LAST_LINES:])


@verb(LogOptions)
def follow_log(options: LogOptions) -> JobStatus:
    """Write a job's log line by line, until it ends.

    Raises:
        LaunchError: No job of that name.
        InterruptedRunError: Ctrl-C; the job goes on.
    """
    name, session = options.name, open_session(options.region)
    log = _Log(name, session)
    phase = None
    try:
        while True:
            status = _describe(name, session)  # first: so nothing is missed at the end
            if options.until_end and status.phase != phase:
                phase = status.phase
                options.write(f"-- {status.status}: {phase}")
            for host, line in log.new():
                options.write(f"{host}: {line}" if (status.count or 1) > 1 else line)
            if status.over or not options.until_end:
                return status
            time.sleep(options.look_every_s)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"{name} goes on: `tilezoo jobs attach {name}` follows it, `tilezoo jobs stop {name}` "
            "ends it"
        ) from None


@verb(JobOptions)
def stop_job(options: JobOptions) -> JobStatus:
    """Ask a job to stop; a pretraining writes a checkpoint first.

    Raises:
        LaunchError: No job of that name.
    """
    session = open_session(options.region)
    status = _describe(options.name, session)
    if not status.over:
        with explain_errors():
            session.client("sagemaker").stop_training_job(TrainingJobName=options.name)
        status = _describe(options.name, session)
    return status


@verb(AttachOptions)
def attach(options: AttachOptions) -> JobStatus:
    """Wait for a job's end, with its log.

    Raises:
        LaunchError: The job failed; gives its reason and the last lines of its log.
        InterruptedRunError: Ctrl-C; the job goes on.
    """
    status = follow_log(
        options.name,
        region=options.region,
        write=say if options.show_progress else _write_nothing,
        look_every_s=options.look_every_s,
    )
    if status.status == "Failed":
        raise LaunchError(failure_text(job_status(options.name, region=options.region)))
    return status


@verb(FetchOptions)
def fetch_result(options: FetchOptions) -> int:
    """Bring what a job has written to a folder; run again, it fetches what is missing or changed.

    Returns:
        How many files lie there.

    Raises:
        LaunchError: No job of that name, or it has written nothing.
    """
    name, session = options.name, open_session(options.region)
    status = _describe(name, session)
    if status.result is None:
        raise LaunchError(f"{name}: keeps no checkpoints, so its result is not known to tilezoo")
    bucket, prefix = split_s3(status.result.rstrip("/") + "/")
    s3 = session.client("s3")
    with explain_errors():
        found = list(_list_files(bucket, prefix, s3))
        if not found:
            raise LaunchError(f"{name}: nothing lies under {status.result} ({status.status})")
        size = sum(file.size for file in found)
        with progress(size, f"fetching {name}", "bytes", shown=options.show_progress) as advance:
            for file in found:
                target = _inside(options.out, file.key.removeprefix(prefix))
                if not _is_there(target, file):
                    _download(s3, bucket, file, target)
                advance(file.size)
    return len(found)


def failure_text(status: JobStatus) -> str:
    """Say why a job failed, with the end of its log."""
    reason = status.reason or "no reason given"
    return "\n".join((f"{status.name} failed: {reason}", *(f"  {x}" for x in status.last_lines)))


@dataclass(frozen=True, kw_only=True)
class _File:
    key: str
    size: int
    changed_s: float


def _list_files(bucket: str, prefix: str, s3: Any) -> Iterator[_File]:
    """Give what lies under a prefix, but for keys that stand for folders."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for one in page.get("Contents", ()):
            if not one["Key"].endswith("/"):
                changed_s = one["LastModified"].timestamp()
                yield _File(key=one["Key"], size=one["Size"], changed_s=changed_s)


def _inside(out: Path, name: str) -> Path:
    """Put a key's name under a folder, and nowhere else."""
    target = out / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise LaunchError(f"{name!r} leads out of {out}; not fetched")
    return target


def _is_there(target: Path, file: _File) -> bool:
    if not target.is_file():
        return False
    found = target.stat()
    return found.st_size == file.size and abs(found.st_mtime - file.changed_s) < 1


def _download(s3: Any, bucket: str, file: _File, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as temporary:
        s3.download_file(bucket, file.key, str(temporary))
        os.utime(temporary, (file.changed_s, file.changed_s))


class _Log:
    """The log streams of a job, one a host, read from where the last look ended."""

    def __init__(self, name: str, session: Session) -> None:
        self._name = name
        self._client = session.client("logs")
        self._tokens: dict[str, str] = {}

    def new(self) -> Iterator[tuple[str, str]]:
        """Give (host, line) of what is new."""
        for stream in self._streams():
            host = stream.removeprefix(f"{self._name}/").rpartition("-")[0]
            for line in self._lines(stream):
                yield host, line

    def _streams(self) -> list[str]:
        from botocore.exceptions import ClientError

        with explain_errors():
            try:
                pages = self._client.get_paginator("describe_log_streams").paginate(
                    logGroupName=_GROUP, logStreamNamePrefix=f"{self._name}/"
                )
                names = [one["logStreamName"] for page in pages for one in page["logStreams"]]
            except ClientError as error:
                if error_code(error) == "ResourceNotFoundException":  # no job has logged yet
                    return []
                raise
        return sorted(names)

    def _lines(self, stream: str) -> Iterator[str]:
        while True:
            token = self._tokens.get(stream)
            more = {"nextToken": token} if token else {}
            with explain_errors():
                found = self._client.get_log_events(
                    logGroupName=_GROUP, logStreamName=stream, startFromHead=True, **more
                )
            for event in found["events"]:
                yield event["message"].rstrip("\n")
            self._tokens[stream] = found["nextForwardToken"]
            if found["nextForwardToken"] == token or not found["events"]:
                return


def _describe(name: str, session: Session) -> JobStatus:
    from botocore.exceptions import ClientError

    with explain_errors():
        try:
            job = session.client("sagemaker").describe_training_job(TrainingJobName=name)
        except ClientError as error:
            if error_code(error) in ("ValidationException", "ResourceNotFound"):
                raise LaunchError(
                    f"no training job {name!r} in {session.region_name}: `tilezoo jobs list` shows "
                    "what there is"
                ) from error
            raise
    return _read_status(job)


def _read_status(job: AwsJson) -> JobStatus:
    resources = job.get("ResourceConfig", {})
    return JobStatus(
        name=job["TrainingJobName"],
        status=job["TrainingJobStatus"],
        phase=job.get("SecondaryStatus"),
        reason=job.get("FailureReason") or None,
        instance=resources.get("InstanceType"),
        count=resources.get("InstanceCount"),
        created=job.get("CreationTime"),
        ended=job.get("TrainingEndTime"),
        billable_s=job.get("BillableTimeInSeconds"),
        result=job.get("CheckpointConfig", {}).get("S3Uri"),
    )


def _write_nothing(_line: str) -> None:
    pass
