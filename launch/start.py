"""Start the processes of a job in its container, and hand SIGTERM on to them.

The SDK's start script is a shell, which as the container's first process would keep SIGTERM (a spot
instance is reclaimed, a job is stopped) to itself. It puts this program in its place by `exec`.
Standard library only: it runs before anything is installed, and without the package.

torchrun and mpirun are passed over: on SIGTERM the one gives its processes 30 seconds and fails, the
other one second, while a process of ours that is asked itself leaves a checkpoint and ends well.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType

_FAILURE = Path("/opt/ml/output/failure")
# Where each process of the job puts a file called by its number, while it can be asked to stop.
_PROCESSES = Path(tempfile.gettempdir()) / "tilezoo-job"


def main() -> int:
    """Run the job's command as its distribution asks; returns its exit code."""
    drivers = os.environ["SM_DISTRIBUTED_DRIVER_DIR"] if _distributed() else ""
    folder = Path(drivers or _drivers())
    sys.path[:0] = [str(folder), str(folder.parent)]
    if (folder / "smddp_driver.py").is_file():
        driver = importlib.import_module("smddp_driver")
        code = driver.run(passed_on)
    else:
        driver = importlib.import_module(
            "torchrun_driver" if _distributed() else "basic_script_driver"
        )
        if _distributed():
            driver.setup_env()
        code = passed_on(driver.create_commands())
    if code:
        _tell_failure(code)
    return int(code)


def passed_on(command: list[str]) -> int:
    """Run a command, hand SIGTERM on to it, and wait for its end; returns its exit code."""
    print("tilezoo starts:", " ".join(command), flush=True)
    child = subprocess.Popen(command)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        asked = _processes() or [child.pid]
        print(f"asked to stop: handed on to {len(asked)} processes of the job", flush=True)
        for process in asked:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code  # as a shell tells of a signal


def _processes() -> list[int]:
    """List the job's processes on this host that have told their numbers."""
    return [int(path.name) for path in _PROCESSES.glob("*")]


def _distributed() -> bool:
    return bool(json.loads(os.environ.get("SM_DISTRIBUTED_CONFIG") or "{}"))


def _drivers() -> str:
    return str(Path(os.environ["SM_INPUT_DATA_DIR"]) / "sm_drivers" / "distributed_drivers")


def _tell_failure(code: int) -> None:
    """Leave a reason where SageMaker looks for one, unless the job's processes left a better one."""
    if _FAILURE.parent.is_dir() and not _FAILURE.exists():
        _FAILURE.write_text(f"the job's command ended with exit code {code}; see its log\n")


if __name__ == "__main__":
    sys.exit(main())
