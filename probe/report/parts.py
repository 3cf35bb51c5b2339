"""What a report is made of, before it is Markdown or HTML; all text is plain."""

from dataclasses import dataclass
from typing import Literal

Mood = Literal["good", "doubt", "bad"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One sentence that stands above all else."""

    text: str
    mood: Mood


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """A title (level 1) or the name of a section."""

    text: str
    level: Literal[1, 2, 3] = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Caution:
    """What a reader must know before believing the figures; nothing when there are no items."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bullets:
    """A list of sentences.

    Attributes:
        items: One a line.
        strong: These are the ones to read.
        folded: HTML shows them on demand only, under this name.
    """

    items: tuple[str, ...]
    strong: bool = False
    folded: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A value and its 95 % interval, as they are printed."""

    value: str
    low: str
    high: str


Cell = str | Score


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table; its first column names the rows.

    Attributes:
        header: Names of the columns.
        rows: As many cells each.
        folded: HTML shows it on demand only, under this name.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A figure.

    Attributes:
        file: Beside the report, with `/`.
        alt: What it shows, for those who do not see it.
        wide: It needs some width; narrow screens scroll.
    """

    file: str
    alt: str
    wide: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A tile and what is told of it.

    Attributes:
        file: Its picture, beside the report.
        lines: The first is the one to read.
    """

    file: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """Tiles side by side."""

    tiles: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Something to copy."""

    text: str


Part = Verdict | Heading | Text | Caution | Bullets | Grid | Picture | Gallery | Code
