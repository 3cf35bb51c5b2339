"""Programs that are stopped or killed at a moment of their work: the one harness for all of them.

Each is forked from one server that has imported everything, so that it works from its first
moment on and can be killed there; imports would take seconds.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

_IMPORTED = [
    "matplotlib.figure", "timm.models.vision_transformer", "torch.utils.tensorboard",
    "tilezoo.cli.app", "tilezoo.embed.run", "tilezoo.pretrain.run", "tilezoo.pretrain.packs.packing",
]  # fmt: skip
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_IMPORTED)
_PATIENCE_S = 120.0
_LOOK_EVERY_S = 0.001


class Program:
    """A running program; its stdout and stderr come together."""

    def __init__(
        self, code: str, *args: object, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start Python code as `python -c` does, in one thread, with these words behind it."""
        self._folder = tempfile.TemporaryDirectory()
        self._output = Path(self._folder.name) / "output"
        told = (code, ["-c", *map(str, args)], dict(environment or {}), self._output)
        self._process = _CONTEXT.Process(target=_run, args=told)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OMP_NUM_THREADS", "1")  # of the server, which starts with the first
            self._process.start()

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._process.kill()
        self.finish()

    def finish(self, timeout_s: float = _PATIENCE_S) -> str:
        """Wait for the end; give what was printed."""
        self._process.join(timeout_s)
        assert self.returncode is not None, f"still running after {timeout_s:.0f} s"
        return self._output.read_text() if self._output.exists() else ""

    def wait_for(self, moment: Callable[[], bool]) -> bool:
        """Wait until something is so; False if the program ended before."""
        end = time.monotonic() + _PATIENCE_S
        while self.returncode is None and time.monotonic() < end:
            if moment():
                return True
            time.sleep(_LOOK_EVERY_S)
        return False


def _run(code: str, words: list[str], environment: dict[str, str], output: Path) -> None:
    """Be the program, in the forked process."""
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # A test run in a shell's background ignores Ctrl-C, and what it starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = words
    os.environ |= environment
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})  # noqa: S102, a test's own code
