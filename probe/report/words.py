"""What a report says in sentences; every figure in them is one of results.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from tilezoo.probe.options import Task
from tilezoo.probe.results import (
    FEW_BLOCKS,
    NEIGHBOURS,
    NO_AUGMENTATION,
    Claim,
    FitFacts,
    Leakage,
    Mistake,
    Recipe,
    Results,
    TableFacts,
)

Mood = Literal["good", "doubt", "bad"]

# What tables show of each model, headlines' usual metric first.
MAIN: Mapping[Task, tuple[str, str]] = {
    "multiclass": ("accuracy", "ap_macro"),
    "multilabel": ("ap_micro", "ap_macro"),
}
METHODS: Mapping[str, str] = {"linear": "Linear probe", "knn": "kNN", "centroid": "Centroid"}
MEANING: Mapping[str, Mapping[Task, str]] = {
    "accuracy": {
        "multiclass": "share of tiles whose class is predicted",
        "multilabel": "share of tiles all of whose classes are predicted, and no other",
    },
    "balanced_accuracy": {
        "multiclass": "mean over classes of the share of tiles that are found",
        "multilabel": "mean over classes of sensitivity and specificity",
    },
    "f1_micro": dict.fromkeys(MAIN, "F1 over all pairs of tile and class"),
    "f1_macro": dict.fromkeys(MAIN, "mean of the classes' F1"),
    "ap_micro": dict.fromkeys(MAIN, "average precision over all pairs of tile and class"),
    "ap_macro": dict.fromkeys(MAIN, "mean of the classes' average precision"),
    "ece": dict.fromkeys(MAIN, "expected calibration error: how far scores are from frequencies"),
}
_LEVEL = 0.05  # that p-values are held to
_SMALL_TEST, _FEW_TILES = 500, 30
_UNLIKE_SHARE, _UNLIKE_TIMES = 0.1, 2  # of train and test, by difference and by ratio
_MOST_NAMED = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One sentence that stands above all else."""

    text: str
    mood: Mood


def headline_metric(results: Results) -> str:
    """Name the metric that headlines are about."""
    return results.recipe.chosen_by


def main_metrics(results: Results) -> tuple[str, str]:
    """Name the headlines' metric, and the one shown beside it."""
    first = headline_metric(results)
    return first, next(name for name in MAIN[results.recipe.task] if name != first)


def title(results: Results, dataset: str | None) -> str:
    """Name the report."""
    beside = _enumerate(list(results.results))
    return f"{beside} on {dataset}" if dataset else f"Probe of {beside}"


def _enumerate(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def verdict(results: Results) -> Verdict:
    """Say whether test tiles were pretrained on: none, so many, or nobody knows."""
    audits = {
        name: audit
        for name, audit in results.leakage.items()
        if name in results.results or audit.status == "overlap"
    }
    moods = {audit.status for audit in audits.values()}
    mood: Mood = "bad" if "overlap" in moods else "doubt" if "unknown" in moods else "good"
    sentences = [
        _overlap(name, audit) for name, audit in audits.items() if audit.status != "unknown"
    ]
    unknown = [name for name, audit in audits.items() if audit.status == "unknown"]
    if unknown:
        sentences.append(
            f"unknown for {_enumerate(unknown)}, no list of pretraining tiles is known"
        )
    said = f"Overlap of pretraining and test tiles: {'; '.join(sentences)}."
    if results.shared_groups is None:
        return Verdict(text=said, mood=mood)
    return Verdict(text=f"{said} {results.shared_groups}", mood="doubt" if mood == "good" else mood)


def _overlap(name: str, audit: Leakage) -> str:
    place = audit.same_place
    by_place = "footprints unknown" if place is None else f"{place or 'zero'} by footprint"
    of = f"of {_tiles(audit.test_tiles)}"
    if audit.status == "overlap":
        return f"LEAKAGE into {name}, {audit.same_id:,} {of} by id, {by_place}"
    return f"zero for {name} ({of}, by id; {by_place})"


def _tiles(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}{'tile' if count == 1 else 'tiles'}"


def pairs(results: Results, *, controls: bool, method: str, metric: str) -> list[Claim]:
    """Choose the differences between models, or between models and controls."""
    return [
        entry
        for entry in results.differences
        if (entry.b in results.controls) is controls
        and entry.method == method
        and entry.metric == metric
    ]


def headlines(results: Results) -> list[str]:
    """Say which differences between models may be claimed; of one model, those from controls."""
    metric = headline_metric(results)
    if len(results.results) == 1:
        name, methods = next(iter(results.results.items()))
        score = methods["linear"].of(metric)
        bounds = f"95 % interval {score.low:.3f} to {score.high:.3f}"
        own = f"{name} scores {score.value:.3f} by {metric} of the linear probe, {bounds}."
        return [own, *against_controls(results)]
    sentences = []
    for method in ("linear", "knn"):
        entries = pairs(results, controls=False, method=method, metric=metric)
        if method == "linear" or len(entries) == 1:
            sentences += [_say(entry) for entry in entries]
    return sentences


def against_controls(results: Results) -> list[str]:
    """Say what the controls show of each model."""
    entries = pairs(results, controls=True, method="linear", metric=headline_metric(results))
    return [_say(entry) for entry in entries]


def _say(entry: Claim) -> str:
    """Say what may be claimed; of what may not, what was measured all the same."""
    claim = f"{METHODS[entry.method]}: {entry.claim}"
    if entry.may_be_claimed:
        return claim
    relative = "" if entry.relative is None else f" ({entry.relative:+.1%})"
    return f"{claim} Measured: {entry.absolute:+.4f}{relative}."


def setting(results: Results) -> str:
    """Say what was measured, how, and on what."""
    recipe, tiles = results.recipe, results.tiles
    kinds = {
        "given": "The labels' own split",
        "random": "Random split",
        "blocks": f"Split by blocks of {recipe.split.side}",
    }
    parts = ", ".join(
        f"{getattr(tiles, part):,} {part}" for part in ("train", "validation", "test")
    )
    several = "several classes a tile" if recipe.task == "multilabel" else "one class a tile"
    linear, bootstrap = recipe.linear, recipe.bootstrap
    fitted = f"{linear.method}, fitted on {linear.fitted_on}"
    how = f"{recipe.protocol} protocol{augmentation(recipe)} ({fitted})"
    units = {
        "tile": "tiles",
        "block": f"blocks of ground of {recipe.split.side}",
        "group": "groups of tiles that the labels name",
    }[bootstrap.unit]
    return (
        f"{kinds[recipe.split.kind]}: {parts} tiles; {len(recipe.classes)} classes, "
        f"{several}. Linear probe by the {how}, seed {recipe.seed}. 95 % intervals come from "
        f"{bootstrap.replicates:,} resamples of {tiles.resampled_units:,} test {units}."
    )


def augmentation(recipe: Recipe) -> str:
    """Say, of DINO's protocol, whether it saw tiles anew in each epoch; empty for another."""
    if recipe.protocol != "dino":
        return ""
    bare = recipe.linear.augmentation == NO_AUGMENTATION
    return " without augmentation" if bare else " with random crops and flips"


def left_out(results: Results) -> str:
    """Say which tiles and classes were left out; empty when none were."""
    tiles = results.tiles
    sentences = [
        f"{count:,} {noun if count == 1 else f'{noun}s'} {what}"
        for count, noun, what in (
            (tiles.unlabelled, "tile", "without labels"),
            (tiles.labels_without_tile, "label", "without a tile"),
            (tiles.without_split, "labelled tile", "without a split"),
            (tiles.near_test, "tile", "within a block of a test tile"),
        )
        if count
    ]
    sentences += [f"the class {name}" for name in results.recipe.dropped_classes]
    return f"Left out: {', '.join(sentences)}." if sentences else ""


def cautions(results: Results) -> list[str]:
    """Say what weakens the figures: little data, unlike data, fits that did not end well."""
    tiles, sentences = results.tiles, []
    unit = results.recipe.bootstrap.unit
    if tiles.test < _SMALL_TEST:
        sentences.append(f"Small data: only {_tiles(tiles.test, 'test ')}.")
    if FEW_BLOCKS in results.notes:
        sentences.append(f"Only {tiles.resampled_units:,} {unit}s are resampled. {FEW_BLOCKS}")
    sentences += [NEIGHBOURS] if NEIGHBOURS in results.notes else []
    sentences += without_width(results)
    sentences += _few_resamples(results)
    sentences += [*_few(results), *_unlike(results), *_weak_fits(results)]
    return sentences if len(results.results) == 1 else [*sentences, *_no_better(results)]


def without_width(results: Results) -> list[str]:
    """Name models whose interval has no width, which a few test tiles without a mistake give."""
    metric = headline_metric(results)
    scores = {name: found["linear"].of(metric) for name, found in results.results.items()}
    names = [name for name, score in scores.items() if not score.has_width]
    if not names:
        return []
    same = f"All resamples give {_enumerate(names)} the same {metric}"
    return [f"{same}, so its interval has no width; no certainty, for they know no other tiles."]


def _few_resamples(results: Results) -> list[str]:
    """Say where even the smallest p-value that resamples can give is no claim over all pairs."""
    resamples, models = results.recipe.bootstrap.replicates, len(results.results)
    compared = models * max((models - 1) / 2, len(results.controls) - 1)
    if 2 * compared / (resamples + 1) <= _LEVEL:
        return []
    return [f"{resamples:,} resamples are too few to claim anything over so many pairs of models."]


def _few(results: Results) -> list[str]:
    counts = {name: parts.test for name, parts in results.class_tiles.items()}
    few = [f"{name} ({count:,})" for name, count in counts.items() if count < _FEW_TILES]
    return [f"Few test tiles, so their scores are rough: {_name_some(few)}."] if few else []


def _unlike(results: Results) -> list[str]:
    """Name classes whose share of train is another than of test."""
    train, test = results.tiles.train, results.tiles.test
    unlike = []
    for name, parts in results.class_tiles.items():
        low, high = sorted((parts.train / train, parts.test / test))
        if high - low > _UNLIKE_SHARE and high > _UNLIKE_TIMES * low:
            counts = f"{parts.train:,} of {train:,} train, {parts.test:,} of {test:,} test"
            unlike.append(f"{name} ({counts})")
    return [f"Train and test are unlike: {_name_some(unlike)}."] if unlike else []


def _weak_fits(results: Results) -> list[str]:
    linear = {name: fits.get("linear", FitFacts()) for name, fits in results.fits.items()}
    stopped = [name for name, facts in linear.items() if facts.converged is False]
    at_edge = [name for name, facts in linear.items() if facts.at_edge is True]
    sentences = []
    if stopped:
        sentences.append(f"The linear probe did not converge for {_name_some(stopped)}.")
    if at_edge:
        sentences.append(f"The best C lies at the edge of those tried for {_name_some(at_edge)}.")
    return sentences


def _no_better(results: Results) -> list[str]:
    metric, of = headline_metric(results), dict[str, list[str]]()
    for entry in pairs(results, controls=True, method="linear", metric=metric):
        if not entry.may_be_claimed or entry.absolute < 0:
            of.setdefault(entry.a, []).append(entry.b)
    return [
        f"{name} is not shown to be better than the control{'s' * (len(beaten_by) > 1)} "
        f"{_enumerate(beaten_by)} by {metric}."
        for name, beaten_by in of.items()
    ]


def _name_some(names: Sequence[str]) -> str:
    more = " and others" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def mistake(found: Mistake) -> tuple[str, ...]:
    """Say in three lines what was mistaken in a tile."""
    missed = found.class_name in found.labels
    first = f"{'Missed' if missed else 'Predicted'} {found.class_name} ({found.score:.2f})"
    labels = ", ".join(found.labels) or "none"
    return first, f"{'Label' if len(found.labels) == 1 else 'Labels'}: {labels}", found.id


def model_name(table: TableFacts) -> str:
    """Name a table's model without the folders that it lies in."""
    return PurePath(table.model).name
