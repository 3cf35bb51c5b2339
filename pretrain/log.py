"""The log: a line of JSON per ten steps, and TensorBoard's files where it is installed."""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tilezoo.io import write_text

LOG = "log.jsonl"
_BOARD = "tensorboard"


def read_log(run: Path) -> list[dict[str, Any]]:
    """Read a run's log; a last line that a kill cut off is left out."""
    path = run / LOG
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Log:
    """Writes what a run measures, line by line."""

    def __init__(self, run: Path, step: int) -> None:
        """Open a run's log, without what was written after `step`: it will come again."""
        kept = [entry for entry in read_log(run) if entry["step"] <= step]
        write_text(run / LOG, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._file = (run / LOG).open("a", encoding="utf-8")
        self._board = _board(run / _BOARD, step)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add one line; each of its numbers is a curve in TensorBoard."""
        self._file.write(json.dumps(dict(entry)) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in entry.items():
                if name not in ("step", "epoch"):
                    self._board.add_scalar(name, value, entry["step"])

    def sync(self) -> None:
        """See that what is written survives a crash, as the checkpoint beside it does."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, step: int) -> Any:
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
