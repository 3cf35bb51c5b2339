"""What every process of a job runs: one tilezoo command, its paths put where this container has them.

Shipped beside the package as a script. Standard library only until the command itself starts, and no
more than its hyperparameters is asked for: SageMaker's own toolkit, its SDK's drivers, mpirun and
torchrun all start it alike.
"""

import argparse
import ast
import importlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

_ML = "/opt/ml"
# /opt/ml as a whole word, or after an option or a name: --labels=/opt/ml/…, vit=/opt/ml/…
_ML_WORD = re.compile(r"(?P<before>([^\s/=]+=)?)/opt/ml(?P<rest>(/.*)?)", re.DOTALL)
_CHANNELS = "/input/data/"
# Parts of /opt/ml, and who says that they are elsewhere.
_MOVED = (
    ("/input/data", "SM_INPUT_DATA_DIR"),
    ("/input", "SM_INPUT_DIR"),
    ("/output", "SM_OUTPUT_DIR"),
    ("/model", "SM_MODEL_DIR"),
)
_CURVES = "TILEZOO_TENSORBOARD"  # names the folder where a pretraining's curves go
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "SM_CURRENT_HOST_RANK")
_MODEL = "model"  # the folder of a finished pretraining's model, beside its checkpoints
_REASON_LENGTH = 1024  # what SageMaker shows of a reason


class JobError(Exception):
    """What the job is to run cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a job's hyperparameters ask for.

    Attributes:
        command: Words after `tilezoo`.
        publish_as: `org/name` for the model of a finished pretraining; None for no publishing.
        registry: Where it is published; None for the one in force.
    """

    command: tuple[str, ...]
    publish_as: str | None = None
    registry: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns its exit code, and leaves the reason of a failure for SageMaker."""
    with _Reasons(Path(place(f"{_ML}/output/failure", os.environ))) as reasons:
        try:
            job = read_job(sys.argv[1:] if arguments is None else arguments, os.environ)
        except JobError as error:
            _say(f"error: {error}")
            code, reason = 2, str(error)
        else:
            with _stop_as_ctrl_c(), _write_number():
                code, reason = _run(job)
        if code:
            reasons.leave(reason)
    return code


def read_job(arguments: Sequence[str], environment: Mapping[str, str]) -> Job:
    """Read what to run from the script's words, else from SM_HPS.

    Raises:
        JobError: There is no command, or it cannot be read.
    """
    stated = _read_environment(environment) | _read_arguments(arguments)
    command = _read_words(stated.get("command"))
    return Job(
        command=tuple(place(word, environment) for word in command),
        publish_as=stated.get("publish_as") or None,
        registry=stated.get("registry") or None,
    )


def place(word: str, environment: Mapping[str, str]) -> str:
    """Put a path under /opt/ml where this container has it; other words stay as they are."""
    found = _ML_WORD.fullmatch(word)
    if found is None:
        return word
    return found["before"] + _find_place(found["rest"], environment)


def is_first(environment: Mapping[str, str]) -> bool:
    """Whether this process is the one of all the job's that writes what there is one of."""
    stated = next((environment[name] for name in _RANKS if name in environment), None)
    if stated is None:
        hosts = sorted(json.loads(environment.get("SM_HOSTS") or "[]"))
        return not hosts or environment.get("SM_CURRENT_HOST") in (None, hosts[0])
    return int(stated) == 0


def _read_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Read `--command … --publish_as …`, spelt with `_` or `-`; words for others are named and left out."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("command", "publish_as", "registry"):
        parser.add_argument(*{f"--{name}", f"--{name.replace('_', '-')}"}, dest=name)
    found, others = parser.parse_known_args(list(arguments))
    if others:
        _say(f"not for tilezoo, left out: {' '.join(others)}")
    return {name: value for name, value in vars(found).items() if value is not None}


def _read_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Read SM_HPS, where the SDK's drivers and the toolkit put the hyperparameters as JSON."""
    try:
        stated = json.loads(environment.get("SM_HPS") or "{}")
    except ValueError as error:
        raise JobError(f"SM_HPS is no JSON ({error}); give --command instead") from error
    named = {str(name).replace("-", "_"): value for name, value in dict(stated).items()}
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in named.items()}


def _read_words(stated: str | None) -> list[str]:
    """Read the command's words: JSON, JSON in JSON, or a list as the toolkit prints it."""
    if not stated:
        raise JobError("no command; give --command with a JSON list of the words after `tilezoo`")
    read = _parse(stated)
    read = _parse(read) if isinstance(read, str) else read
    if not isinstance(read, list) or not read or not all(isinstance(word, str) for word in read):
        raise JobError(f"--command {stated[:80]}: not a JSON list of words")
    return read


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:  # the toolkit turns a list into text by str()
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _find_place(rest: str, environment: Mapping[str, str]) -> str:
    """Find where the part of /opt/ml that is named by `rest` lies."""
    if rest.startswith(_CHANNELS):
        channel, slash, inside = rest.removeprefix(_CHANNELS).partition("/")
        if place := environment.get(f"SM_CHANNEL_{channel.upper()}"):
            return place + slash + inside
    for part, name in _MOVED:
        place = environment.get(name)
        if place and (rest == part or rest.startswith(f"{part}/")):
            return place + rest.removeprefix(part)
    return environment.get("SAGEMAKER_BASE_DIR", _ML) + rest


def _run(job: Job) -> tuple[int, str]:
    """Run the command, and what follows a finished pretraining; the exit code and its reason."""
    _find_package()
    if curves := os.environ.get(_CURVES):
        os.environ[_CURVES] = place(curves, os.environ)
    first = is_first(os.environ)
    if first:
        _say(f"tilezoo {_version()} runs: {' '.join(job.command)}")
    code, reason = _run_tilezoo(job.command)
    if code or job.command[0] != "pretrain" or not first:
        return code, reason
    run = Path(_find_out(job.command))
    if not _is_finished(run):
        _say(f"{run}: not at its end, so no model is made of it; the same launch goes on")
        return 0, ""
    return _make_model(run, job)


def _find_package() -> None:
    """Let Python find the package that was shipped beside this script, here and in children."""
    here = Path(__file__).resolve().parent
    if (here / "tilezoo").is_dir():
        sys.path[:] = [str(here), *(path for path in sys.path if path != str(here))]
        old = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{here}{os.pathsep}{old}" if old else str(here)


def _version() -> str:
    package = importlib.import_module("tilezoo")
    return f"{package.__version__} ({Path(str(package.__file__)).parent})"


def _run_tilezoo(words: Sequence[str]) -> tuple[int, str]:
    """Run a command in this process, which is the one MPI knows; the exit code and its reason."""
    command = importlib.import_module("tilezoo.cli.app")
    before, sys.argv = sys.argv, ["tilezoo", *words]
    try:
        command.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        error = ended.__context__  # the one that the command line has made a line of
        reason = str(error) if isinstance(error, Exception) else ""
        return code, reason or f"`tilezoo {words[0]}` ended with exit code {code}; see the log"
    finally:
        sys.argv = before
    return 0, ""


def _find_out(command: Sequence[str]) -> str:
    """Find the run's folder among a command's words."""
    for name, word in itertools.pairwise(command):
        if name in ("-o", "--out"):
            return word
    stated = [word.removeprefix("--out=") for word in command if word.startswith("--out=")]
    return stated[0] if stated else place(f"{_ML}/checkpoints", os.environ)


def _is_finished(run: Path) -> bool:
    """Whether a pretraining's log ends at its last step."""
    log, request = run / "log.jsonl", run / "run.json"
    if not log.is_file() or not request.is_file():
        return False
    steps = json.loads(request.read_text(encoding="utf-8"))["steps"]
    lines = log.read_text(encoding="utf-8").splitlines()
    return bool(lines) and bool(json.loads(lines[-1])["step"] == steps)


def _make_model(run: Path, job: Job) -> tuple[int, str]:
    """Export the teacher beside the checkpoints and as the job's model; publish it when asked."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / _MODEL
        name = ("--name", job.publish_as) if job.publish_as else ()
        code, reason = _run_tilezoo(("export", str(run), "-o", str(made), *name))
        if code:
            return code, reason
        for target in (run / _MODEL, Path(place(f"{_ML}/model", os.environ))):
            _copy_model(made, target)
            _say(f"{target}: the model")
        return _publish(made, job)


def _copy_model(made: Path, target: Path) -> None:
    """Copy a model over whatever a job that was cut off has left there."""
    if target.name == _MODEL and target.is_dir() and not os.path.ismount(target):
        shutil.rmtree(target)
    shutil.copytree(made, target, dirs_exist_ok=True)


def _publish(made: Path, job: Job) -> tuple[int, str]:
    if job.publish_as is None:
        return 0, ""
    where = ("--registry", job.registry) if job.registry else ()
    return _run_tilezoo(("publish", str(made), "--as", job.publish_as, *where))


@contextmanager
def _stop_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does; `pretrain` has a way of its own while it trains."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _write_number() -> Iterator[None]:
    """Write down this process's number for the one that hands SIGTERM on (see start.py)."""
    number = Path(tempfile.gettempdir()) / "tilezoo-job" / str(os.getpid())
    number.parent.mkdir(exist_ok=True)
    number.touch()
    try:
        yield
    finally:
        number.unlink(missing_ok=True)


class _Reasons:
    """Where SageMaker looks for why a job failed; an error that ends the block is a reason too."""

    def __init__(self, failure: Path) -> None:
        self._failure = failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            self.leave(f"{type(error).__name__}: {error}")

    def leave(self, reason: str) -> None:
        """Write a reason in a line; the first process's word stands."""
        line = " ".join(reason.split())[:_REASON_LENGTH]
        # there is one already, or this is no container
        with (
            suppress(FileExistsError, FileNotFoundError),
            self._failure.open("x", encoding="utf-8") as file,
        ):
            file.write(line + "\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
