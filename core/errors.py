"""Every error a user can cause. Each message says what, where and what next, in one line."""

import shlex
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

TileErrorKind = Literal[
    "missing",  # the path leads nowhere (a dangling link, say)
    "unreadable",  # the file is broken, forbidden or no image
    "contract",  # bands or dtype are not what the backbone takes
    "nodata",  # no valid pixel
    "invalid_pixels",  # NaN or infinity where no nodata value excuses it
    "too_small",
    "too_large",
    "link_loop",
    "changed",  # the file was written to after the run had listed its tiles
]


def where_to_look(uri: str) -> str:
    """Say what shows a source that is refused, and what would do for it."""
    return f"tilezoo inspect {shlex.quote(uri)} shows what is there"


class TilezooError(Exception):
    """Base of all known errors; the command line prints it as one line and exits."""

    exit_code = 1


class UnknownModelError(TilezooError):
    """No model has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        others = [other for other in known if other != name]
        near = get_close_matches(name, others, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        super().__init__(
            f"No model {name!r}, and no folder of that name. {hint}`tilezoo models` shows every name."
        )
        self.name = name


class ModelError(TilezooError):
    """A model directory is incomplete, inconsistent or damaged."""


class ContractError(TilezooError):
    """Pixels do not fit what the backbone takes."""


class SourceError(TilezooError):
    """A SOURCE cannot be used at all."""


class OptionError(TilezooError):
    """An option has a value that makes no sense."""

    exit_code = 2


class TableError(TilezooError):
    """A table is missing, unfinished, damaged or belongs to another run."""


class SpaceError(TilezooError):
    """Vectors of different spaces were about to be compared."""


class VectorIndexError(TilezooError):
    """An index is missing, stale or of another table."""


class LabelsError(TilezooError):
    """Labels cannot be read, or do not belong to these tiles."""


class PackError(TilezooError):
    """A pack of training tiles is missing, unfinished, damaged or unfit."""


class PretrainError(TilezooError):
    """A pretraining cannot start, go on, or be trusted."""


class ProbeError(TilezooError):
    """Tables and labels cannot be probed as asked."""


class LaunchError(TilezooError):
    """A job cannot be launched, found, followed or fetched."""


class RegistryError(TilezooError):
    """A registry refuses a name, a file or a change."""


class RegistryConflictError(RegistryError):
    """What should be made exists already, or changed in the meantime."""


class RegistryOvertakenError(RegistryConflictError):
    """Another writer was faster; the same change may go through on what it made."""


class RegistryUnreachableError(RegistryError):
    """Where a registry's files lie does not answer, or forbids it."""


class RegistryDamagedError(RegistryError):
    """What a registry holds of a model is not what was written there."""


class NotInRegistryError(RegistryError):
    """A registry holds no such model, revision or file."""

    def __init__(self, kind: Literal["model", "revision", "file"], message: str) -> None:
        super().__init__(message)
        self.kind: Literal["model", "revision", "file"] = kind


class TooManyFailedError(TilezooError):
    """The run finished, but more tiles failed than allowed."""

    exit_code = 3


class InterruptedRunError(TilezooError):
    """The user stopped the run; what is done is kept."""

    exit_code = 130


class TileError(TilezooError):
    """One tile gives no vector; the run goes on and writes it down."""

    def __init__(self, kind: TileErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: TileErrorKind = kind
