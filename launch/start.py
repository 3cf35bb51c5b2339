"""Start the processes of a job in its container, and hand SIGTERM on to them.

The SDK's start script is a shell, which as the container's first process would keep SIGTERM (a spot
instance is reclaimed, a job is stopped) to itself. It puts this program in its place by `exec`.
Standard library only: it runs before anything is installed, and without the package.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

_FAILURE = Path("/opt/ml/output/failure")
_GRACE_S = 110.0  # of the 120 seconds between SIGTERM and SIGKILL


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
        print("tilezoo was asked to stop: handed on to the job's processes", flush=True)
        child.send_signal(number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code  # as a shell tells of a signal


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
