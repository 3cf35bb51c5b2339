"""results.json, as it is read and written: what was measured, how, and what may be said of it.

Fields stand in the order of the file's keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from tilezoo.errors import ProbeError
from tilezoo.io import (
    canonical_json,
    from_builtins,
    read_state,
    sha256_text,
    to_builtins,
    write_json,
)
from tilezoo.probe.options import Metric, Protocol, SplitKind, Task

RESULTS = "results.json"
NO_AUGMENTATION = "none: saved vectors are of one view of each tile"
FEW_BLOCKS = "Intervals from so few blocks are rough, and rather too narrow."
NEIGHBOURS = (
    "The split is random though tiles have places: neighbours of test tiles are learnt from, which "
    "may raise scores. --split both with --block-km tells by how much."
)
SHARED_GROUPS = "Groups stand on both sides of the given split"  # how a note about it begins
_DIGITS = 6

T = TypeVar("T")
Unit = Literal["tile", "block", "group"]  # what a resample draws
LeakageStatus = Literal["unknown", "overlap", "none_found"]


@dataclass(frozen=True, kw_only=True)
class Metrics(Generic[T]):
    """One value for each metric but `ece`, which comes last wherever these are written."""

    accuracy: T
    balanced_accuracy: T
    f1_micro: T
    f1_macro: T
    ap_micro: T
    ap_macro: T

    def of(self, metric: str) -> T:
        """The value of a metric by its name, `ece` too."""
        value: T = getattr(self, metric)
        return value


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def has_width(self) -> bool:
        """Whether its interval is more than a point."""
        return self.low != self.high


@dataclass(frozen=True, kw_only=True)
class MethodScores(Metrics[Score]):
    """Scores of one way of probing; `ap_per_class` by class."""

    ap_per_class: dict[str, Score]
    ece: Score


ScoresByMethod = dict[str, MethodScores]  # `linear`, `knn`, `centroid`


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """What is known of one table's pretraining tiles and the test set.

    Attributes:
        status: Whether test tiles were seen in pretraining.
        test_tiles: Size of the test set.
        pretraining_tiles: Size of the list; None when there is no list.
        ids_sha256: Of the list.
        same_id: Test tiles that are in the list.
        same_place: Test tiles a fifth of whose bounds or more are covered by one in the list; None
            where either side has no footprints.
        examples: Ids of a few test tiles that were seen.
        said: All this in one sentence.
    """

    status: LeakageStatus
    test_tiles: int
    pretraining_tiles: int | None = None
    ids_sha256: str | None = None
    same_id: int | None = None
    same_place: int | None = None
    examples: tuple[str, ...] = ()
    said: str


@dataclass(frozen=True, kw_only=True)
class SplitRecipe:
    """How tiles were split, the side of a block if ground was, and hashes of the parts' ids."""

    kind: SplitKind
    block_deg: float | None
    block_km: float | None
    train_sha256: str
    validation_sha256: str
    test_sha256: str

    @property
    def side(self) -> str:
        """The side of a block of ground; empty where there are none."""
        if self.block_km is not None:
            return f"{self.block_km:g} km"
        return "" if self.block_deg is None else f"{self.block_deg:g}°"


@dataclass(frozen=True, kw_only=True)
class LinearRecipe:
    """How the linear probe is trained: by L-BFGS (`c`), or by SGD (all that L-BFGS lacks)."""

    method: str
    c: list[float] | UnsetType = UNSET
    lr: float | UnsetType = UNSET
    momentum: float | UnsetType = UNSET
    weight_decay: int | UnsetType = UNSET
    schedule: str | UnsetType = UNSET
    batch: int | UnsetType = UNSET
    epochs: int | UnsetType = UNSET
    augmentation: str | UnsetType = UNSET
    features: str
    fitted_on: str


@dataclass(frozen=True, kw_only=True)
class VoteRecipe:
    """How neighbours (of several `k`) or centroids are asked."""

    k: list[int] | UnsetType = UNSET
    temperature: float
    features: str
    fitted_on: str


@dataclass(frozen=True, kw_only=True)
class BootstrapRecipe:
    """How intervals are estimated."""

    replicates: int
    unit: Unit
    level: float
    macro_scores: str


@dataclass(frozen=True, kw_only=True)
class CurveRecipe:
    """How the label-efficiency curve is made."""

    percent: list[float]
    seeds: int
    fitted_on: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides scores but the vectors, with one hash over it."""

    protocol: Protocol
    task: Task
    classes: tuple[str, ...]
    dropped_classes: tuple[str, ...]
    labels_sha256: str
    split: SplitRecipe
    linear: LinearRecipe
    knn: VoteRecipe
    centroid: VoteRecipe
    predicted: str
    chosen_by: Metric
    ece_bins: int
    bootstrap: BootstrapRecipe
    label_efficiency: CurveRecipe
    seed: int
    sha256: str = ""

    def hashed(self) -> str:
        """Hash all the rest."""
        written = {key: value for key, value in to_builtins(self).items() if key != "sha256"}
        return sha256_text(canonical_json(written))


@dataclass(frozen=True, kw_only=True)
class TableFacts:
    """Which vectors were probed."""

    fingerprint: str
    space: str
    weights_sha256: str
    model: str
    pooling: str
    bands: list[str]
    value_range: list[int | float]
    dimension: int


@dataclass(frozen=True, kw_only=True)
class PartCounts:
    """Tiles of each part."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True, kw_only=True)
class TileCounts(PartCounts):
    """Tiles that were learnt from, tested on, resampled and left out."""

    resampled_units: int
    unlabelled: int
    labels_without_tile: int
    without_split: int
    near_test: int


@dataclass(frozen=True, kw_only=True)
class FitFacts:
    """What was chosen for a fit, and how the fit went; L-BFGS, kNN and SGD each state their own."""

    c: float | UnsetType = UNSET
    k: int | UnsetType = UNSET
    validation: float | UnsetType = UNSET
    at_edge: bool | UnsetType = UNSET
    chosen_on: int | UnsetType = UNSET
    passes: int | UnsetType = UNSET
    converged: bool | UnsetType = UNSET
    epochs: int | UnsetType = UNSET


class Claim(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """How much more one model scores than another by one metric, and what may be said of it.

    No dataclass, since its key `class` cannot name a field.

    Attributes:
        a: The model that is subtracted from.
        b: The model that is subtracted.
        method: How both were probed.
        metric: Name of the metric.
        absolute: First minus second.
        relative: The same as a share of the second; None where that is 0.
        low: Of the 95 % interval of `absolute`.
        high: Of the 95 % interval of `absolute`.
        p: Two-sided bootstrap p-value.
        p_holm: The same, corrected over the pairs.
        may_be_claimed: Whether it stands out from chance.
        claim: What may be said, in one sentence.
        class_name: Of a score by class.
    """

    a: str
    b: str
    method: str
    metric: str
    absolute: float
    relative: float | None
    low: float
    high: float
    p: float
    p_holm: float
    may_be_claimed: bool
    claim: str
    class_name: str | UnsetType = UNSET


class Mistake(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """A test tile that was mistaken.

    Attributes:
        id: Of the tile.
        labels: Its classes.
        class_name: The one that was predicted wrongly, or missed where it is among the labels.
        score: Of that class.
    """

    id: str
    labels: list[str]
    class_name: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """Each model's mistakes on the test set.

    Attributes:
        method: How it was probed.
        confusion: Name → counts by true class (row) and predicted class (column).
        tiles: Name → those mistaken most.
    """

    method: str
    confusion: dict[str, list[list[int]]]
    tiles: dict[str, list[Mistake]]


@dataclass(frozen=True, kw_only=True)
class _OfSubset:
    name: str
    percent: float
    seed: int
    tiles: int


@dataclass(frozen=True, kw_only=True)
class CurvePoint(Metrics[float], _OfSubset):
    """Scores of a linear probe of one part of the train set."""

    ece: float


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation over seeds; None of one seed."""

    mean: float
    deviation: float | None


@dataclass(frozen=True, kw_only=True)
class _OfFraction:
    name: str
    percent: float
    seeds: int


@dataclass(frozen=True, kw_only=True)
class CurveSummary(Metrics[Spread], _OfFraction):
    """Scores of a model at one fraction of the train set, over seeds."""

    ece: Spread


@dataclass(frozen=True, kw_only=True)
class LabelEfficiency:
    """The label-efficiency curve."""

    method: str
    fitted_on: str
    points: list[CurvePoint]
    summary: list[CurveSummary]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How much more a random split gives than one by blocks, with its 95 % interval."""

    random: float
    blocks: float
    gap: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Gaps(Metrics[Gap]):
    """The gap by every metric."""

    ece: Gap


@dataclass(frozen=True, kw_only=True)
class SplitGap:
    """Tiles of the random split; name → way of probing → gaps."""

    tiles: TileCounts
    results: dict[str, dict[str, Gaps]]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What results.json says.

    Attributes:
        versions: Of the libraries that compute scores.
        leakage: By table.
        recipe: How it was measured.
        tables: What was probed.
        tiles: How many of each kind.
        class_tiles: Class → its tiles.
        results: Model → way of probing → scores.
        controls: The same of controls.
        fits: Table → way of probing → how the fit went.
        differences: Of each pair by each metric.
        mistakes: Of models.
        notes: What must be known with the numbers.
        label_efficiency: Where it was asked for.
        split_gap: Where it was asked for.
    """

    versions: dict[str, str]
    leakage: dict[str, Leakage]
    recipe: Recipe
    tables: dict[str, TableFacts]
    tiles: TileCounts
    class_tiles: dict[str, PartCounts]
    results: dict[str, ScoresByMethod]
    controls: dict[str, ScoresByMethod]
    fits: dict[str, dict[str, FitFacts]]
    differences: list[Claim]
    mistakes: Mistakes
    notes: list[str]
    label_efficiency: LabelEfficiency | UnsetType = UNSET
    split_gap: SplitGap | UnsetType = UNSET

    @property
    def shared_groups(self) -> str | None:
        """What is said of groups on both sides of the split; None where there are none."""
        return next((note for note in self.notes if note.startswith(SHARED_GROUPS)), None)

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return dict(round_floats(to_builtins(self)))


def read_results(folder: Path) -> Results:
    """Read a probe's results.json.

    Raises:
        ProbeError: There is none, or it is damaged.
    """
    make = f"make them with `tilezoo probe … -o {folder}`"
    try:
        return read_state(folder / RESULTS, Results, fix=make, error=ProbeError)
    except OSError as error:
        raise ProbeError(f"{folder}: no results to report; {make}") from error


def parse_results(written: Mapping[str, Any]) -> Results:
    """Take what results.json says, parsed already.

    Raises:
        ProbeError: It is no results.json; the message names the field.
    """
    try:
        return from_builtins(written, Results)
    except msgspec.ValidationError as error:
        raise ProbeError(f"no results of a probe ({error}); read them from {RESULTS}") from error


def write_results(folder: Path, results: Results) -> Results:
    """Write results.json; what is returned has the numbers as they are written."""
    written = results.to_json()
    write_json(folder / RESULTS, written)
    return from_builtins(written, Results)


def round_floats(value: Any) -> Any:
    """Round numbers to six digits, so that the last bit of a sum does not change the file."""
    if isinstance(value, float):
        return round(value, _DIGITS) + 0.0  # no -0.0
    if isinstance(value, dict):
        return {key: round_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_floats(item) for item in value]
    return value
