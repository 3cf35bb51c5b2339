"""What a job runs: the installed package, its entry scripts, and what the container may lack."""

import re
import shutil
from collections.abc import Iterator
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "tilezoo"
ROOMS = ("cli", "embed", "launch", "pretrain", "probe", "search", "zoo")
ENTRY = "tilezoo_job.py"  # what every process of a job runs
START = "tilezoo_start.py"  # what the container runs first; it starts the processes
REQUIREMENTS = "requirements.txt"
_SUFFIXES = (".py", ".json", ".typed")
# SageMaker's PyTorch containers hold these, built for their GPUs: never install over them.
_OF_CONTAINER = ("torch", "torchvision")
_SEARCH_ALONE = ("faiss-cpu",)  # no verb that is launched uses it


def write_source(folder: Path, *, extras: tuple[str, ...] = ()) -> None:
    """Lay out the folder that is shipped into a job.

    Args:
        folder: Made, with `tilezoo/`, models that come with it, the two scripts and
            `requirements.txt`.
        extras: Extras of tilezoo whose packages the job needs too, say `("s3",)`.
    """
    for name in (PACKAGE, *(f"{PACKAGE}.{room}" for room in ROOMS)):
        _copy_package(name, folder.joinpath(*name.split(".")))
    own = _folder_of(f"{PACKAGE}.launch")
    shutil.copyfile(own / "entry.py", folder / ENTRY)
    shutil.copyfile(own / "start.py", folder / START)
    lines = "".join(f"{line}\n" for line in job_requirements(extras))
    (folder / REQUIREMENTS).write_text(lines, encoding="utf-8")


def job_requirements(extras: tuple[str, ...] = ()) -> list[str]:
    """List what a job installs: what tilezoo needs, without what the container is built around."""
    wanted = [line for line in requires(PACKAGE) or () if _applies(line, extras)]
    plain = [line.split(";")[0].strip() for line in wanted]
    return sorted(line for line in plain if _name(line) not in (*_OF_CONTAINER, *_SEARCH_ALONE))


def _copy_package(name: str, target: Path) -> None:
    target.mkdir(parents=True)
    own = _folder_of(name)
    for path in _code(own):
        shutil.copyfile(path, target / path.name)
    for config in own.glob("*/config.json"):
        shutil.copytree(config.parent, target / config.parent.name)


def _folder_of(name: str) -> Path:
    """Find where a package lies; in an editable install each room has a place of its own."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        msg = f"{name} is not installed"
        raise ModuleNotFoundError(msg)
    return Path(spec.origin).parent


def _code(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES)


def _applies(line: str, extras: tuple[str, ...]) -> bool:
    extra = re.search(r"extra\s*==\s*[\"']([^\"']+)", line)
    return extra is None or extra[1] in extras


def _name(line: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", line)
    return match[0].lower() if match else line
