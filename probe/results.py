"""results.json: what was measured, how, and what may be said; the same bytes for the same probe."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilezoo.io import canonical_json, sha256_text, whole_file
from tilezoo.knn import TEMPERATURE
from tilezoo.probe import fitting, sgd
from tilezoo.probe.bootstrap import Measured, Resampling, centred, interval
from tilezoo.probe.fitting import Point
from tilezoo.probe.options import Choices
from tilezoo.probe.scores import ECE_BINS, PER_CLASS, SCALARS, Scorer, Scores
from tilezoo.probe.splits import PARTS, Usable
from tilezoo.training_ids import ids_sha256

RESULTS = "results.json"
TIMING = "timing.json"
_DIGITS = 6
ENOUGH_BLOCKS = 30  # of which intervals hold the truth in 93 % of simulations; of 20 in 92 %

ScorerOf = Callable[[Scores], Scorer]

FEW_BLOCKS = "Intervals from so few blocks are rough, and rather too narrow."
NEIGHBOURS = (
    "The split is random though tiles have places: neighbours of test tiles are learnt from, which "
    "may raise scores. --split both with --block-km tells by how much."
)
NOTES = (
    "Intervals are of resampled test tiles, with the probes as they were fitted.",
    "They do not tell of other places, other labels, or another pretraining run.",
    "p_holm is corrected over the pairs of models, not over metrics or classes.",
    "Intervals are not corrected for the number of comparisons.",
    "Intervals are too narrow for classes with few test tiles: of 10 to 30, 92 % hold the truth.",
    "ECE is biased upwards by small test sets, and its intervals with it.",
)


def notes(used: Usable, resampling: Resampling) -> list[str]:
    """Say what must be known with the numbers."""
    few = resampling.blocks is not None and resampling.units < ENOUGH_BLOCKS
    beside = used.split.kind == "random" and used.joined.boxes is not None
    return [*[FEW_BLOCKS] * few, *[NEIGHBOURS] * beside, *NOTES]


def recipe(
    used: Usable, choices: Choices, resampling: Resampling, augmentation: str = sgd.NO_AUGMENTATION
) -> dict[str, Any]:
    """Write down all that decides scores but the vectors, with one hash over it.

    `augmentation` tells how DINO's protocol sees tiles anew in each epoch.
    """
    joined, split = used.joined, used.split
    ids = {part: joined.ids.take(pa.array(getattr(split, part))).to_pylist() for part in PARTS}
    side = {"block_deg": choices.block_deg, "block_km": choices.block_km}
    written = {
        "protocol": choices.protocol,
        "task": joined.task,
        "classes": list(joined.classes),
        "dropped_classes": list(used.dropped),
        "labels_sha256": _labels_sha256(used),
        "split": {
            "kind": split.kind,
            **side,
            **{f"{part}_sha256": ids_sha256(ids[part]) for part in PARTS},
        },
        "linear": _linear(choices, augmentation),
        "knn": {
            "k": list(fitting.KS),
            "temperature": TEMPERATURE,
            "features": "unit length",
            "fitted_on": "train",
        },
        "centroid": {
            "temperature": TEMPERATURE,
            "features": "standardised on train",
            "fitted_on": "train",
        },
        "predicted": "highest score" if joined.task == "multiclass" else "scores above 0.5",
        "chosen_by": choices.metric_of(joined.task),
        "ece_bins": ECE_BINS,
        "bootstrap": {
            "replicates": resampling.replicates,
            "unit": resampling.called,
            "level": 0.95,
            "macro_scores": "of resamples with every class, unless most lack one",
        },
        "label_efficiency": {
            "percent": list(choices.fractions),
            "seeds": choices.seeds,
            "fitted_on": "a part of train, C chosen on all of validation",
        },
        "seed": choices.seed,
    }
    return {**written, "sha256": sha256_text(canonical_json(written))}


def _linear(choices: Choices, augmentation: str) -> dict[str, Any]:
    if choices.protocol == "standard":
        return {
            "method": "L-BFGS",
            "c": [float(f"{c:.6g}") for c in fitting.STRENGTHS],
            "features": "standardised on train",
            "fitted_on": "train and validation, C chosen on validation",
        }
    return {
        "method": "SGD",
        "lr": sgd.LR,
        "momentum": sgd.MOMENTUM,
        "weight_decay": 0,
        "schedule": "cosine to 0",
        "batch": sgd.BATCH,
        "epochs": sgd.EPOCHS,
        "augmentation": augmentation,
        "features": "raw",
        "fitted_on": "train",
    }


def tile_counts(used: Usable, resampling: Resampling) -> dict[str, int]:
    """Count what was learnt from, tested on, resampled and left out."""
    joined, split = used.joined, used.split
    return {
        **{part: len(getattr(split, part)) for part in PARTS},
        "resampled_units": resampling.units,
        "unlabelled": joined.unlabelled,
        "labels_without_tile": joined.unmatched,
        "without_split": split.unnamed,
        "near_test": split.near_test,
    }


def class_tiles(used: Usable) -> dict[str, dict[str, int]]:
    """Count each class's tiles in train, validation and test."""
    joined, split = used.joined, used.split
    counts = {part: joined.y[getattr(split, part)].sum(axis=0, dtype=np.int64) for part in PARTS}
    return {
        name: {part: int(counts[part][number]) for part in PARTS}
        for number, name in enumerate(joined.classes)
    }


def versions() -> dict[str, str]:
    """Name the libraries that compute scores."""
    return {package: version(package) for package in ("tilezoo", "torch", "numpy")}


def _labels_sha256(used: Usable) -> str:
    """Hash who has which classes, in order of id."""
    digest = hashlib.sha256(canonical_json(used.joined.classes).encode())
    for tile, row in zip(used.joined.ids.to_pylist(), used.joined.y, strict=True):
        digest.update(f"{tile}\n".encode() + row.tobytes())
    return digest.hexdigest()


def scored(measured: Measured, classes: Sequence[str]) -> dict[str, Any]:
    """Write scores with their intervals by metric, `ap_per_class` by class."""
    low, high = np.clip(interval(centred(measured.values, measured.replicates)), 0, 1)
    entries = [
        {"value": float(value), "low": float(least), "high": float(most)}
        for value, least, most in zip(measured.values, low, high, strict=True)
    ]
    by_metric: dict[str, Any] = dict(zip(SCALARS, entries, strict=False))  # classes follow
    ece = by_metric.pop("ece")
    each = dict(zip(classes, entries[len(SCALARS) :], strict=True))
    return {**by_metric, PER_CLASS: each, "ece": ece}


def efficiency(curves: Mapping[str, Sequence[Point]], scorer_of: ScorerOf) -> dict[str, Any]:
    """Write label-efficiency curves: each point's scores, and their mean and spread over seeds."""
    points: list[dict[str, Any]] = [
        {
            "name": name,
            "percent": point.percent,
            "seed": point.seed,
            "tiles": point.tiles,
            **_scalars(scorer_of(point.fit.scores)),
        }
        for name, curve in curves.items()
        for point in curve
    ]
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for point in points:
        groups.setdefault((point["name"], point["percent"]), []).append(point)
    summary = [
        {"name": name, "percent": percent, "seeds": len(group), **_spread(group)}
        for (name, percent), group in groups.items()
    ]
    return {"method": "linear", "fitted_on": "train", "points": points, "summary": summary}


def _scalars(scorer: Scorer) -> dict[str, float]:
    return dict(zip(SCALARS, map(float, scorer.plain()), strict=False))


def _spread(group: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    return {
        metric: {
            "mean": fmean(point[metric] for point in group),
            "deviation": stdev(point[metric] for point in group) if len(group) > 1 else None,
        }
        for metric in SCALARS
    }


def split_gap(
    by_blocks: Mapping[str, Mapping[str, Measured]], at_random: Mapping[str, Mapping[str, Measured]]
) -> dict[str, Any]:
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


def _gaps(blocked: Measured, random: Measured) -> dict[str, Any]:
    gap = random.values - blocked.values
    low, high = interval(centred(gap, random.replicates - blocked.replicates))
    columns = zip(random.values, blocked.values, gap, low, high, strict=True)
    entries = [
        dict(zip(("random", "blocks", "gap", "low", "high"), map(float, column), strict=True))
        for column in columns
    ]
    return dict(zip(SCALARS, entries, strict=False))


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


def rounded(value: Any) -> Any:
    """Round numbers to six digits, so that the last bit of a sum does not change the file."""
    if isinstance(value, float):
        return round(value, _DIGITS) + 0.0  # no -0.0
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
