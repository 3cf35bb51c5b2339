"""What was measured, put into the form of results.json; the same for the same probe."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tilezoo.io import canonical_json, whole_file
from tilezoo.knn import TEMPERATURE
from tilezoo.probe import fitting, sgd
from tilezoo.probe.bootstrap import Measured, Resampling, centre, interval
from tilezoo.probe.fitting import Point
from tilezoo.probe.options import Probing, Task
from tilezoo.probe.results import (
    FEW_BLOCKS,
    NEIGHBOURS,
    SHARED_GROUPS,
    BootstrapRecipe,
    CurvePoint,
    CurveRecipe,
    CurveSummary,
    Gap,
    Gaps,
    LabelEfficiency,
    LinearRecipe,
    MethodScores,
    Mistake,
    Mistakes,
    PartCounts,
    Recipe,
    Score,
    ScoresByMethod,
    SplitRecipe,
    Spread,
    TableFacts,
    TileCounts,
    VoteRecipe,
)
from tilezoo.probe.scores import ECE_BINS, SCALARS, Labels, Scorer, Scores, predict
from tilezoo.probe.splits import PARTS, Usable
from tilezoo.table import Table
from tilezoo.training_ids import ids_sha256

ENOUGH_BLOCKS = 30  # of which intervals hold the truth in 93 % of simulations; of 20 in 92 %
MOST_CLASSES = 40  # of which a matrix can still be read
MOST_TILES = 8
NOTES = (
    "Intervals are of resampled test tiles, with the probes as they were fitted.",
    "They do not tell of other places, other labels, or another pretraining run.",
    "p_holm is corrected over the pairs of models, not over metrics or classes.",
    "Intervals are not corrected for the number of comparisons.",
    "Intervals are too narrow for classes with few test tiles: of 10 to 30, 92 % hold the truth.",
    "ECE is biased upwards by small test sets, and its intervals with it.",
)

T = TypeVar("T")


def describe_recipe(
    used: Usable, options: Probing, resampling: Resampling, augmentation: str
) -> Recipe:
    """Write down all that decides scores but the vectors, with one hash over it.

    Args:
        used: Labels and split.
        options: Of the user.
        resampling: Of the test set.
        augmentation: How DINO's protocol sees tiles anew in each epoch.
    """
    task = used.joined.task
    unhashed = Recipe(
        protocol=options.protocol,
        task=task,
        classes=used.joined.classes,
        dropped_classes=used.dropped,
        labels_sha256=_hash_labels(used),
        split=_describe_split(used, options),
        linear=_describe_linear(options, augmentation),
        knn=VoteRecipe(
            k=list(fitting.KS),
            temperature=TEMPERATURE,
            features="unit length",
            fitted_on="train",
        ),
        centroid=VoteRecipe(
            temperature=TEMPERATURE, features="standardised on train", fitted_on="train"
        ),
        predicted="highest score" if task == "multiclass" else "scores above 0.5",
        chosen_by=options.metric_of(task),
        ece_bins=ECE_BINS,
        bootstrap=BootstrapRecipe(
            replicates=resampling.replicates,
            unit=resampling.called,
            level=0.95,
            macro_scores="of resamples with every class, unless most lack one",
        ),
        label_efficiency=CurveRecipe(
            percent=list(options.percents),
            seeds=options.seeds,
            fitted_on="a part of train, C chosen on all of validation",
        ),
        seed=options.seed,
    )
    return replace(unhashed, sha256=unhashed.hashed())


def _describe_split(used: Usable, options: Probing) -> SplitRecipe:
    split, ids = used.split, used.joined.ids
    return SplitRecipe(
        kind=split.kind,
        block_deg=options.block_deg,
        block_km=options.block_km,
        train_sha256=ids_sha256(ids.take(pa.array(split.train)).to_pylist()),
        validation_sha256=ids_sha256(ids.take(pa.array(split.validation)).to_pylist()),
        test_sha256=ids_sha256(ids.take(pa.array(split.test)).to_pylist()),
    )


def _describe_linear(options: Probing, augmentation: str) -> LinearRecipe:
    if options.protocol == "standard":
        return LinearRecipe(
            method="L-BFGS",
            c=[float(f"{c:.6g}") for c in fitting.STRENGTHS],
            features="standardised on train",
            fitted_on="train and validation, C chosen on validation",
        )
    return LinearRecipe(
        method="SGD",
        lr=sgd.LR,
        momentum=sgd.MOMENTUM,
        weight_decay=0,
        schedule="cosine to 0",
        batch=sgd.BATCH,
        epochs=sgd.EPOCHS,
        augmentation=augmentation,
        features="raw",
        fitted_on="train",
    )


def _hash_labels(used: Usable) -> str:
    """Hash who has which classes, in order of id."""
    digest = hashlib.sha256(canonical_json(used.joined.classes).encode())
    for tile, row in zip(used.joined.ids.to_pylist(), used.joined.y, strict=True):
        digest.update(f"{tile}\n".encode() + row.tobytes())
    return digest.hexdigest()


def list_notes(used: Usable, resampling: Resampling) -> list[str]:
    """Say what must be known with the numbers."""
    few = resampling.blocks is not None and resampling.units < ENOUGH_BLOCKS
    beside = used.split.kind == "random" and used.joined.boxes is not None
    shared = say_shared_groups(used)
    return [*[shared] * bool(shared), *[FEW_BLOCKS] * few, *[NEIGHBOURS] * beside, *NOTES]


def say_shared_groups(used: Usable) -> str:
    """Say how many test tiles are of a scene or flight that is learnt from; empty for none.

    Splits made here keep groups whole, or go by ground; a given one may do neither.
    """
    groups, split = used.joined.groups, used.split
    if split.kind != "given" or groups is None:
        return ""
    learnt = groups[np.concatenate([split.train, split.validation])]
    both = np.isin(groups[split.test], learnt)
    if not both.any():
        return ""
    shared, tested = (len(np.unique(groups[split.test][rows])) for rows in (both, slice(None)))
    return (
        f"{SHARED_GROUPS}: {shared:,} of {tested:,} groups of test tiles are learnt from too, "
        f"{int(both.sum()):,} of {len(both):,} test tiles; scores may be raised. --split random "
        "keeps groups whole."
    )


def list_versions() -> dict[str, str]:
    """Name the libraries that compute scores."""
    return {package: version(package) for package in ("tilezoo", "torch", "numpy")}


def describe_table(table: Table) -> TableFacts:
    """Say which vectors a table holds."""
    return TableFacts(
        fingerprint=table.fingerprint,
        space=table.space.fingerprint,
        weights_sha256=table.space.weights_sha256,
        model=table.manifest.model.name,
        pooling=table.space.pooling,
        bands=list(table.space.contract.bands),
        value_range=list(table.space.contract.value_range),
        dimension=table.dimension,
    )


def count_tiles(used: Usable, resampling: Resampling) -> TileCounts:
    """Count what was learnt from, tested on, resampled and left out."""
    joined, split = used.joined, used.split
    return TileCounts(
        train=len(split.train),
        validation=len(split.validation),
        test=len(split.test),
        resampled_units=resampling.units,
        unlabelled=joined.unlabelled,
        labels_without_tile=joined.unmatched,
        without_split=split.unnamed,
        near_test=split.near_test,
    )


def count_classes(used: Usable) -> dict[str, PartCounts]:
    """Count each class's tiles in train, validation and test."""
    joined, split = used.joined, used.split
    counts = {part: joined.y[getattr(split, part)].sum(axis=0, dtype=np.int64) for part in PARTS}
    return {
        name: PartCounts(**{part: int(counts[part][number]) for part in PARTS})
        for number, name in enumerate(joined.classes)
    }


def score_methods(measured: Mapping[str, Measured], classes: Sequence[str]) -> ScoresByMethod:
    """Write scores of each way of probing with their intervals."""
    return {method: _score(one, classes) for method, one in measured.items()}


def _score(measured: Measured, classes: Sequence[str]) -> MethodScores:
    low, high = np.clip(interval(centre(measured.values, measured.replicates)), 0, 1)
    entries = [
        Score(value=float(value), low=float(least), high=float(most))
        for value, least, most in zip(measured.values, low, high, strict=True)
    ]
    by_class = dict(zip(classes, entries[len(SCALARS) :], strict=True))
    return MethodScores(**_by_metric(entries), ap_per_class=by_class)


def _by_metric(values: Sequence[T]) -> dict[str, T]:
    """Name the scalars; what follows is of classes."""
    return dict(zip(SCALARS, values, strict=False))


def draw_curves(
    curves: Mapping[str, Sequence[Point]], scorer_of: Callable[[Scores], Scorer]
) -> LabelEfficiency:
    """Write label-efficiency curves: each point's scores, and their mean and spread over seeds."""
    points = [
        CurvePoint(
            name=name,
            percent=point.percent,
            seed=point.seed,
            tiles=point.tiles,
            **_by_metric([float(value) for value in scorer_of(point.fit.scores).plain()]),
        )
        for name, curve in curves.items()
        for point in curve
    ]
    groups: dict[tuple[str, float], list[CurvePoint]] = {}
    for point in points:
        groups.setdefault((point.name, point.percent), []).append(point)
    summary = [
        CurveSummary(
            name=name,
            percent=percent,
            seeds=len(group),
            **{metric: _spread([point.of(metric) for point in group]) for metric in SCALARS},
        )
        for (name, percent), group in groups.items()
    ]
    return LabelEfficiency(method="linear", fitted_on="train", points=points, summary=summary)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=fmean(values), deviation=stdev(values) if len(values) > 1 else None)


def compare_splits(
    by_blocks: Mapping[str, Mapping[str, Measured]], at_random: Mapping[str, Mapping[str, Measured]]
) -> dict[str, dict[str, Gaps]]:
    """Write how much more is scored with a random split than with one by blocks.

    Both test sets are resampled apart, so the interval is that of two independent samples.

    Args:
        by_blocks: Name → way of probing → scores.
        at_random: The same for the random split.
    """
    return {
        name: {
            method: _gaps(blocked, at_random[name][method]) for method, blocked in methods.items()
        }
        for name, methods in by_blocks.items()
    }


def _gaps(blocked: Measured, random: Measured) -> Gaps:
    gap = random.values - blocked.values
    low, high = interval(centre(gap, random.replicates - blocked.replicates))
    columns: list[NDArray[np.float64]] = [random.values, blocked.values, gap, low, high]
    names = ("random", "blocks", "gap", "low", "high")
    entries = [
        Gap(**dict(zip(names, map(float, row), strict=True))) for row in zip(*columns, strict=True)
    ]
    return Gaps(**_by_metric(entries))


def list_mistakes(used: Usable, scores_of: Mapping[str, Scores]) -> Mistakes:
    """Write each model's mistakes on the test set, by its linear probe.

    Matrices of more than `MOST_CLASSES` are left out.

    Args:
        used: Labels and split.
        scores_of: Name → scores of the test set, shape (test, C).
    """
    joined, rows = used.joined, used.split.test
    truth, ids = joined.y[rows], joined.ids.take(pa.array(rows))
    few = len(joined.classes) <= MOST_CLASSES
    return Mistakes(
        method="linear",
        confusion={
            name: count_confusions(truth, scores, joined.task)
            for name, scores in scores_of.items()
            if few
        },
        tiles={
            name: find_most_mistaken(ids, truth, scores, joined.classes, joined.task)
            for name, scores in scores_of.items()
        },
    )


def count_confusions(truth: Labels, scores: Scores, task: Task) -> list[list[int]]:
    """Count tiles by true class (row) and predicted class (column).

    Where a tile may have several classes, it counts in each pair of a true and a predicted one.
    """
    counts = truth.astype(np.float64).T @ predict(scores, task).astype(np.float64)
    return [[round(count) for count in row] for row in counts]


def find_most_mistaken(
    ids: pa.Array, truth: Labels, scores: Scores, classes: Sequence[str], task: Task
) -> list[Mistake]:
    """Find the tiles with the widest gap between a class's score and the truth, widest first."""
    wrong = predict(scores, task) != (truth > 0)
    if task == "multiclass":
        wrong &= truth == 0  # of the two classes concerned, the one that was predicted
    gaps = np.where(wrong, np.abs(truth - scores), -1.0)
    worst = gaps.max(axis=1)
    order = np.argsort(-worst, kind="stable")[:MOST_TILES]
    return [
        Mistake(
            id=ids[int(tile)].as_py(),
            labels=[classes[int(c)] for c in np.flatnonzero(truth[tile])],
            class_name=classes[int(gaps[tile].argmax())],
            score=float(scores[tile, gaps[tile].argmax()]),
        )
        for tile in order
        if worst[tile] >= 0
    ]


def write_predictions(path: Path, used: Usable, scores: Scores) -> None:
    """Write the linear probe's scores of each test tile beside its labels.

    Columns `id`, `labels` (names), `scores` (of each class in the order that the file's key
    `tilezoo` gives).
    """
    joined, rows = used.joined, used.split.test
    names = np.array(joined.classes, object)
    columns = {
        "id": joined.ids.take(pa.array(rows)),
        "labels": pa.array([names[row > 0] for row in joined.y[rows]], pa.list_(pa.string())),
        "scores": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), scores.shape[1]),
    }
    key = json.dumps({"method": "linear", "classes": list(joined.classes)})
    table = pa.table(columns).replace_schema_metadata({"tilezoo": key})
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
