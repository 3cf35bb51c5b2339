"""Every choice that can change a probe's scores, as data that checks itself."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from tilezoo.errors import OptionError
from tilezoo.options import check_least

Task = Literal["multilabel", "multiclass"]
SplitKind = Literal["given", "random", "blocks", "both"]
Protocol = Literal["standard", "dino"]
Rare = Literal["error", "drop"]
Metric = Literal["accuracy", "ap_micro", "ap_macro"]

_LEAST_REPLICATES = 100  # fewer have no 2.5 % tail to speak of


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What the user may choose.

    Attributes:
        split: `given` by the labels, made at `random`, by `blocks` of ground, or `both` of the
            latter to measure the gap; None: given where the labels hold splits, else random.
        block_deg: Side of a block, degrees.
        block_km: Side of a block, kilometres; one of the two at most.
        protocol: How the linear probe is trained.
        task: None: multi-class if each tile has exactly one class.
        metric: What C and k are chosen by, and what headlines are about; None: accuracy where each
            tile has one class, else micro AP.
        rare: Whether classes that train or test lack are an error, or left out.
        fractions: Of the train set, percent, for the label-efficiency curve; none for no curve.
        seeds: How many subsets are drawn at each fraction.
        bootstrap: Replicates.
        seed: Of splits, subsets, SGD and resamples.
    """

    split: SplitKind | None
    block_deg: float | None
    block_km: float | None
    protocol: Protocol
    task: Task | None
    metric: Metric | None
    rare: Rare
    fractions: tuple[float, ...]
    seeds: int
    bootstrap: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse values that make no sense together or alone."""
        check_least("--bootstrap", self.bootstrap, _LEAST_REPLICATES)
        check_least("--seeds", self.seeds, 1)
        check_least("--seed", self.seed, 0)
        if self.block_deg is not None and self.block_km is not None:
            raise OptionError("--block-deg and --block-km both give the side of a block; keep one")
        for option, side, most in (
            ("--block-deg", self.block_deg, 90.0),
            ("--block-km", self.block_km, 5000.0),
        ):
            if side is not None and not 0 < side <= most:
                raise OptionError(f"{option} {side:g}: must be above 0 and at most {most:g}")
        if self.split in ("blocks", "both") and not self.has_blocks:
            raise OptionError(
                f"--split {self.split} needs the side of a block, longer than the distance over "
                "which tiles resemble each other: --block-km 10, say"
            )
        for percent in self.fractions:
            if not 0 < percent <= 100:
                raise OptionError(f"--fractions {percent:g}: percent above 0 and at most 100")

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

    def without_curve(self) -> Self:
        """The same without a label-efficiency curve."""
        return replace(self, fractions=())


def parse_fractions(text: str | None) -> tuple[float, ...]:
    """Read `--fractions 1,10,100`: percent of the train set, each once, rising."""
    if text is None:
        return ()
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as error:
        raise OptionError(
            f"--fractions {text!r} should be percent divided by commas: 1,10,100"
        ) from error
