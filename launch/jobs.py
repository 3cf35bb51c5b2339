"""Jobs that were launched: what there are, how they go, their logs, their end and their results."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tilezoo.errors import InterruptedRunError, LaunchError
from tilezoo.io import whole_file
from tilezoo.launch.aws import error_code, find_region, open_session, split_s3, told
from tilezoo.progress import progress, say

_GROUP = "/aws/sagemaker/TrainingJobs"
_ENDED = ("Completed", "Failed", "Stopped")
_LOOK_EVERY_S = 10.0
_LAST_LINES = 20


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """How a job goes.

    Attributes:
        name: Its.
        status: `InProgress`, `Completed`, `Failed`, `Stopping`, `Stopped`.
        phase: Within it: `Starting`, `Downloading`, `Training`, `Uploading`, `Interrupted`, …
        reason: Why it failed; None where it did not.
        instance: Type.
        count: Instances.
        created: When, UTC.
        ended: When; None where it has not.
        billable_s: Seconds on the bill, of each instance.
        result: The S3 folder where the command's result lies.
        last_lines: Of the log, where it failed.
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


def list_jobs(
    *, region: str | None = None, limit: int = 20, contains: str | None = None
) -> list[JobStatus]:
    """List training jobs of the account, the newest first.

    Args:
        region: None: the configured one.
        limit: At most so many.
        contains: Only names with this in them.
    """
    client = open_session(find_region(region)).client("sagemaker")
    more = {"NameContains": contains} if contains else {}
    found: list[JobStatus] = []
    with told():
        pages = client.get_paginator("list_training_jobs").paginate(
            SortBy="CreationTime", SortOrder="Descending", **more
        )
        for page in pages:
            found += [_summary(job) for job in page["TrainingJobSummaries"]]
            if len(found) >= limit:
                break
    return found[:limit]


def job_status(name: str, *, region: str | None = None) -> JobStatus:
    """Say how a job goes; of a failed one also the reason and the end of its log.

    Raises:
        LaunchError: No job of that name.
    """
    session = open_session(find_region(region))
    status = _described(name, session)
    if status.status != "Failed":
        return status
    lines = tuple(line for _host, line in _Log(name, session).new())[-_LAST_LINES:]
    return _with_lines(status, lines)


def follow_log(
    name: str,
    *,
    region: str | None = None,
    until_end: bool = True,
    write: Callable[[str], None] = say,
    look_every_s: float = _LOOK_EVERY_S,
) -> JobStatus:
    """Write a job's log line by line, until it ends.

    Args:
        name: The job's.
        region: None: the configured one.
        until_end: False: only what is there by now.
        write: Takes a line.
        look_every_s: Seconds between looks.

    Raises:
        LaunchError: No job of that name.
        InterruptedRunError: Ctrl-C; the job goes on.
    """
    session = open_session(find_region(region))
    log = _Log(name, session)
    phase = None
    try:
        while True:
            status = _described(name, session)  # first: so nothing is missed at the end
            if until_end and status.phase != phase:
                phase = status.phase
                write(f"-- {status.status}: {phase}")
            for host, line in log.new():
                write(f"{host}: {line}" if (status.count or 1) > 1 else line)
            if status.over or not until_end:
                return status
            time.sleep(look_every_s)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"{name} goes on: `tilezoo jobs attach {name}` follows it, `tilezoo jobs stop {name}` "
            "ends it"
        ) from None


def stop_job(name: str, *, region: str | None = None) -> JobStatus:
    """Ask a job to stop; a pretraining writes a checkpoint first.

    Raises:
        LaunchError: No job of that name.
    """
    session = open_session(find_region(region))
    status = _described(name, session)
    if not status.over:
        with told():
            session.client("sagemaker").stop_training_job(TrainingJobName=name)
        status = _described(name, session)
    return status


def attach(
    name: str,
    *,
    region: str | None = None,
    show_progress: bool = True,
    look_every_s: float = _LOOK_EVERY_S,
) -> JobStatus:
    """Wait for a job's end, with its log.

    Raises:
        LaunchError: The job failed; gives its reason and the last lines of its log.
        InterruptedRunError: Ctrl-C; the job goes on.
    """
    status = follow_log(
        name,
        region=region,
        write=say if show_progress else _nothing,
        look_every_s=look_every_s,
    )
    if status.status == "Failed":
        raise LaunchError(failure_text(job_status(name, region=region)))
    return status


def failure_text(status: JobStatus) -> str:
    """Say why a job failed, with the end of its log."""
    reason = status.reason or "no reason told"
    return "\n".join((f"{status.name} failed: {reason}", *(f"  {x}" for x in status.last_lines)))


def fetch_result(
    name: str, *, out: Path, region: str | None = None, show_progress: bool = False
) -> int:
    """Bring what a job has written to a folder; run again, it fetches what is missing or changed.

    Returns:
        How many files lie there.

    Raises:
        LaunchError: No job of that name, or it has written nothing.
    """
    session = open_session(find_region(region))
    status = _described(name, session)
    if status.result is None:
        raise LaunchError(f"{name}: keeps no checkpoints, so its result is not known to tilezoo")
    bucket, prefix = split_s3(status.result.rstrip("/") + "/")
    s3 = session.client("s3")
    with told():
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [
            (one["Key"], one["Size"], one["LastModified"].timestamp())
            for page in pages
            for one in page.get("Contents", ())
            if not one["Key"].endswith("/")
        ]
        if not found:
            raise LaunchError(f"{name}: nothing lies under {status.result} ({status.status})")
        size = sum(size for _, size, _ in found)
        with progress(size, f"fetching {name}", "bytes", shown=show_progress) as advance:
            for key, length, changed in found:
                target = _inside(out, key.removeprefix(prefix))
                if not _is_there(target, length, changed):
                    _download(s3, bucket, key, target, changed)
                advance(length)
    return len(found)


def _inside(out: Path, name: str) -> Path:
    """Put a key's name under a folder, and nowhere else."""
    target = out / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise LaunchError(f"{name!r} leads out of {out}; not fetched")
    return target


def _is_there(target: Path, size: int, changed: float) -> bool:
    if not target.is_file():
        return False
    found = target.stat()
    return found.st_size == size and abs(found.st_mtime - changed) < 1


def _download(s3: Any, bucket: str, key: str, target: Path, changed: float) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as temporary:
        s3.download_file(bucket, key, str(temporary))
        os.utime(temporary, (changed, changed))


class _Log:
    """The log streams of a job, one a host, read from where the last look ended."""

    def __init__(self, name: str, session: Any) -> None:
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

        with told():
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
            with told():
                found = self._client.get_log_events(
                    logGroupName=_GROUP, logStreamName=stream, startFromHead=True, **more
                )
            for event in found["events"]:
                yield event["message"].rstrip("\n")
            self._tokens[stream] = found["nextForwardToken"]
            if found["nextForwardToken"] == token or not found["events"]:
                return


def _described(name: str, session: Any) -> JobStatus:
    from botocore.exceptions import ClientError

    with told():
        try:
            job = session.client("sagemaker").describe_training_job(TrainingJobName=name)
        except ClientError as error:
            if error_code(error) in ("ValidationException", "ResourceNotFound"):
                raise LaunchError(
                    f"no training job {name!r} in {session.region_name}: `tilezoo jobs list` shows "
                    "what there is"
                ) from error
            raise
    return _summary(job)


def _summary(job: dict[str, Any]) -> JobStatus:
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


def _with_lines(status: JobStatus, lines: tuple[str, ...]) -> JobStatus:
    from dataclasses import replace

    return replace(status, last_lines=lines)


def _nothing(_line: str) -> None:
    pass
