"""launch: a tilezoo command → the same command as a training job on Amazon SageMaker."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.launch.jobs import attach as attach
    from tilezoo.launch.jobs import fetch_result as fetch_result
    from tilezoo.launch.jobs import follow_log as follow_log
    from tilezoo.launch.jobs import job_status as job_status
    from tilezoo.launch.jobs import list_jobs as list_jobs
    from tilezoo.launch.jobs import stop_job as stop_job
    from tilezoo.launch.run import LaunchResult as LaunchResult
    from tilezoo.launch.run import launch as launch

__getattr__ = exports(
    __name__,
    **dict.fromkeys(("LaunchResult", "launch"), "run"),
    **dict.fromkeys(
        ("attach", "fetch_result", "follow_log", "job_status", "list_jobs", "stop_job"), "jobs"
    ),
)
