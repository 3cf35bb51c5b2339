"""What `tilezoo probe` can be asked, and the groups that `compare` shares with it.

Light, for `--help`: nothing here imports torch.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tilezoo.errors import OptionError
from tilezoo.options import Progress, argument, option, options, python_only

if TYPE_CHECKING:
    from tilezoo.probe.sgd import Views

Task = Literal["multilabel", "multiclass"]
SplitKind = Literal["given", "random", "blocks", "both"]
Protocol = Literal["standard", "dino"]
Rare = Literal["error", "drop"]
Metric = Literal["accuracy", "ap_micro", "ap_macro"]


@options
class Labelled:
    """What is learnt."""

    labels: str | Path = option(
        read_as=str,
        help="Parquet, CSV, GeoPackage, Shapefile or GeoJSON with id, label or labels, and split "
        "if there is one; or `folder`: a tile's class is the folder it lies in.",
    )


@options
class Probing:
    """Every choice that can change a probe's scores."""

    split: SplitKind | None = option(
        default=None,
        unset="given by the labels, else random",
        help="both: blocks, and the gap to random.",
    )
    block_deg: float | None = option(default=None, help="Side of a block of ground, degrees.")
    block_km: float | None = option(default=None, help="Side of a block of ground, kilometres.")
    protocol: Protocol = option(
        default="standard",
        help="standard: L-BFGS, C swept; dino: its SGD, without augmentation (see `compare`).",
    )
    task: Task | None = option(
        default=None, unset="by the labels", help="Whether a tile may have several classes."
    )
    metric: Metric | None = option(
        default=None,
        unset="by the task",
        help="What C and k are chosen by, and headlines are about; ap_macro where few tiles have "
        "the class that is looked for.",
    )
    rare: Rare = option(default="error", help="What to do with classes that train or test lack.")
    fractions: str | None = option(
        default=None, help="1,10,100: percent of train, for a label-efficiency curve."
    )
    seeds: int = option(default=1, min=1, help="Subsets drawn at each fraction.")
    # Of fewer than 100 resamples there is no 2.5 % tail to speak of.
    bootstrap: int = option(default=1000, min=100, help="Resamples of the test set.")
    seed: int = option(default=0, min=0, help="Of all that is drawn.")

    @cached_property
    def percents(self) -> tuple[float, ...]:
        """The fractions of the train set, percent, each once, rising; none for no curve."""
        return parse_fractions(self.fractions)

    @property
    def has_blocks(self) -> bool:
        """Whether ground is divided into blocks."""
        return self.block_deg is not None or self.block_km is not None

    def metric_of(self, task: Task) -> Metric:
        """Name the metric that C and k are chosen by.

        Raises:
            OptionError: It is accuracy, and tiles have several classes.
        """
        if task == "multilabel" and self.metric == "accuracy":
            raise OptionError(
                "--metric accuracy: where tiles have several classes, choose by ap_micro or ap_macro"
            )
        return self.metric or ("accuracy" if task == "multiclass" else "ap_micro")

    def check(self) -> None:
        """Refuse blocks of two sides, of none where they are asked for, or of none that can be."""
        if self.block_deg is not None and self.block_km is not None:
            raise OptionError("--block-deg and --block-km both give the side of a block; keep one")
        for name, side, most in (
            ("--block-deg", self.block_deg, 90.0),
            ("--block-km", self.block_km, 5000.0),
        ):
            if side is not None and not 0 < side <= most:
                raise OptionError(f"{name} {side:g}: must be above 0 and at most {most:g}")
        if self.split in ("blocks", "both") and not self.has_blocks:
            raise OptionError(
                f"--split {self.split} needs the side of a block, longer than the distance over "
                "which tiles resemble each other: --block-km 10, say"
            )


@options
class Reported:
    """What a report says besides its figures."""

    dataset: str | None = option(default=None, help="What the report calls tiles and labels.")
    note: str | None = option(default=None, help="What the report says before any figure.")


@options
class Comparison:
    """What tables are held against, and what is written."""

    control: Sequence[str | Path] = option(
        default=(),
        read_as=list[str],
        metavar="NAME=TABLE",
        help="A table that shows what little is worth.",
    )
    out: str | Path = option("--out", "-o", help="Folder for results.")
    device: str = option(default="auto", help="auto, cpu, cuda, cuda:1.", recorded=False)
    report: bool = option(default=True, help="Write report.html, report.md and pictures too.")


@options
class ProbeOptions(Labelled, Comparison, Probing, Reported, Progress):
    """What is probed, and how."""

    tables: str | Path | Sequence[str | Path] = argument(
        "TABLE...",
        kw_only=False,
        read_as=list[str],
        help="Folders made by `embed`, TABLE or NAME=TABLE; several of the same tiles are compared.",
    )
    views: "Views | None" = python_only(
        default=None,
        help="What shows train tiles anew in each epoch of DINO's protocol, for every table and "
        "control; `compare`, which has the tiles, gives it.",
    )

    @property
    def table_list(self) -> list[str | Path]:
        """The tables, be there one or several."""
        return [self.tables] if isinstance(self.tables, str | Path) else list(self.tables)


def parse_fractions(text: str | None) -> tuple[float, ...]:
    """Read `--fractions 1,10,100`: percent of the train set, each once, rising."""
    try:
        percents = () if text is None else tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as error:
        raise OptionError(
            f"--fractions {text!r} should be percent divided by commas: 1,10,100"
        ) from error
    for percent in percents:
        if not 0 < percent <= 100:
            raise OptionError(f"--fractions {percent:g}: percent above 0 and at most 100")
    return percents
