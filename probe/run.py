"""A probe, from saved tables and labels to results.json."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from msgspec import UNSET, UnsetType

from tilezoo.device import choose_device
from tilezoo.errors import OptionError, ProbeError
from tilezoo.io import write_json
from tilezoo.options import command_line, defaults
from tilezoo.probe.bootstrap import Resampling, all_claims
from tilezoo.probe.data import PRIOR, Joined, join, open_named
from tilezoo.probe.leakage import audit
from tilezoo.probe.options import Choices, Metric, Protocol, Rare, SplitKind, Task, parse_fractions
from tilezoo.probe.outcome import (
    compare_splits,
    count_classes,
    count_tiles,
    describe_recipe,
    describe_table,
    draw_curves,
    list_mistakes,
    list_notes,
    list_versions,
    score_methods,
    write_predictions,
)
from tilezoo.probe.probe_table import Probed, probe_prior, probe_table, sets_of
from tilezoo.probe.report.pages import forget_report, write_report
from tilezoo.probe.results import (
    NO_AUGMENTATION,
    RESULTS,
    LabelEfficiency,
    Leakage,
    Results,
    SplitGap,
    Unit,
    write_results,
)
from tilezoo.probe.scores import Scorer
from tilezoo.probe.sgd import Anew, Views
from tilezoo.probe.splits import Split, Usable, chosen_kind, make_split, usable
from tilezoo.progress import say
from tilezoo.table import Table
from tilezoo.training_ids import ids_sha256

TIMING = "timing.json"


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        out: The folder that holds results.json, timing.json and predictions-NAME.parquet.
        found: What results.json says, typed.
        seconds: Of the whole.
    """

    out: Path
    found: Results
    seconds: float

    @property
    def results(self) -> dict[str, Any]:
        """What results.json says, as JSON."""
        return self.found.to_json()

    def to_terminal(self) -> str:
        """Write leakage first, then scores, then what may be claimed; 80 columns wide."""
        from tilezoo.probe.report.terminal import to_terminal

        return to_terminal(self.found)


def probe(
    tables: str | Path | Sequence[str | Path],
    *,
    labels: str | Path,
    out: str | Path,
    control: Sequence[str | Path] = (),
    split: SplitKind | None = None,
    block_deg: float | None = None,
    block_km: float | None = None,
    protocol: Protocol = "standard",
    task: Task | None = None,
    metric: Metric | None = None,
    rare: Rare = "error",
    fractions: str | None = None,
    seeds: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
    device: str = "auto",
    report: bool = True,
    dataset: str | None = None,
    note: str | None = None,
    views: Views | None = None,
    show_progress: bool = False,
) -> ProbeResult:
    """Learn classes from saved vectors, and score and compare tables by what is learnt.

    Args:
        tables: Folders made by `embed`, `TABLE` or `NAME=TABLE`, all of the same tiles.
        labels: A Parquet or CSV file (see `tilezoo.labels`), or `folder`: the class of a tile is
            the folder it lies in.
        out: Folder for results.
        control: Tables that show what little is worth, as random weights or colour statistics.
        split: `given` by the labels; `random`, each class alike; `blocks` of ground with a
            block's distance between train and test; `both` of these, and the gap between them.
            None: given where labels hold splits, else random.
        block_deg: Side of a block in degrees; intervals are then of resampled blocks.
        block_km: The same in kilometres.
        protocol: `standard`: L-BFGS, C chosen on validation; `dino`: the SGD that DINO publishes,
            without augmentation unless there are `views`.
        task: None: multi-class if every tile has one class, else multi-label.
        metric: `accuracy`, `ap_micro` or `ap_macro`: what C and k are chosen by on validation, and
            what headlines are about. None: accuracy for multi-class, else micro AP. Where few
            tiles have the class that is looked for, take `ap_macro`: fits that predict the largest
            class alone can have the best accuracy. It sees ranks only: what it chooses may do so
            all the same, so look at accuracy and ECE beside.
        rare: `drop` leaves out classes that train or test lack.
        fractions: `1,10,100`: percent of the train set, for a label-efficiency curve.
        seeds: How many subsets are drawn at each fraction.
        bootstrap: Resamples of the test set.
        seed: Of all that is drawn.
        device: `auto`, `cpu`, `cuda` or `cuda:1`; auto is a GPU where there is one.
        report: Write report.md, report.html and pictures too.
        dataset: What the report calls tiles and labels.
        note: What the report says before any figure.
        views: What shows train tiles anew in each epoch of DINO's protocol, for every table and
            control; `tilezoo.cli.compare`, which has the tiles, gives it.
        show_progress: Tell on stderr how far it is.

    Raises:
        TilezooError: Tables and labels cannot be probed as asked; the message says what to do.
    """
    start = time.monotonic()
    choices = Choices(
        split=split,
        block_deg=block_deg,
        block_km=block_km,
        protocol=protocol,
        task=task,
        metric=metric,
        rare=rare,
        fractions=parse_fractions(fractions),
        seeds=seeds,
        bootstrap=bootstrap,
        seed=seed,
    )
    on = choose_device(device, best=("cuda",), dtype=torch.float64)
    words = [tables] if isinstance(tables, str | Path) else tables
    named = open_named(words)
    controls = open_named(control, taken=list(named))
    if not named:
        raise OptionError("name a table to probe, made by `tilezoo embed … -o TABLE`")
    joined = join({**named, **controls}, labels, task)
    kind = chosen_kind(joined, choices)
    used = _used(joined, choices, "blocks" if kind == "both" else kind)
    resampling = _resampling(used, choices)
    folder = _folder(Path(out))
    leakage = _audit({**named, **controls}, used)
    probed = {
        name: probe_table(
            name,
            table,
            used,
            resampling,
            choices,
            on,
            _anew(name, table, views),
            shown=show_progress,
        )
        for name, table in {**named, **controls}.items()
    }
    probed[PRIOR] = probe_prior(used, choices, resampling, shown=show_progress)
    augmentation = NO_AUGMENTATION if views is None else views.augmentation
    results = _put_together(
        used, choices, resampling, named, controls, probed, leakage, augmentation
    )
    if kind == "both":
        gap = _gap(
            named, joined, choices, probed, used.joined.classes, on, views, shown=show_progress
        )
        results = replace(results, split_gap=gap)
    results = _write(folder, used, results, probed, time.monotonic() - start)
    if report:
        places = {"labels": labels, "control": tuple(control), "out": out}
        asked = {**asdict(choices), "fractions": fractions, "dataset": dataset, "note": note}
        command = command_line("probe", words, {**places, **asked}, defaults(probe))
        write_report(
            folder, tables={**named, **controls}, command=command, dataset=dataset, note=note
        )
    return ProbeResult(out=folder, found=results, seconds=time.monotonic() - start)


def _used(joined: Joined, choices: Choices, kind: SplitKind) -> Usable:
    used = usable(joined, make_split(joined, choices, kind), choices.rare)
    split = used.split
    counts = f"{len(split.train):,} train, {len(split.validation):,} validation, {len(split.test):,} test"
    say(f"{kind} split: {counts} tiles; {len(used.joined.classes)} classes, {used.joined.task}")
    for number, what in (
        (joined.unlabelled, "tiles without labels are left out"),
        (joined.unmatched, "labels are of tiles that the tables do not hold"),
        (split.unnamed, "labelled tiles without a split are left out"),
        (split.near_test, "tiles within one block of a test tile are left out"),
    ):
        if number:
            say(f"{number:,} {what}")
    if used.dropped:
        say(f"left out, for want of tiles: {', '.join(used.dropped)}")
    if split.carved:
        say("no validation is given: a tenth of train is taken for it")
    return used


def _anew(name: str, table: Table, views: Views | None) -> Callable[[pa.Array, int], Anew] | None:
    """Show a table's tiles anew in each epoch, where there is what can show them."""
    if views is None:
        return None

    def anew(ids: pa.Array, seed: int) -> Anew:
        told = [table.fingerprint, views.augmentation, ids_sha256(ids.to_pylist())]
        return Anew(batches=views.of[name](ids, seed), folder=views.folder, told=told)

    return anew


def _resampling(used: Usable, choices: Choices) -> Resampling:
    split = used.split
    return Resampling(
        tiles=len(split.test),
        replicates=choices.bootstrap,
        seed=choices.seed,
        blocks=split.blocks,
        called=_unit(choices, split),
    )


def _unit(choices: Choices, split: Split) -> Unit:
    if split.blocks is None:
        return "tile"
    return "block" if choices.has_blocks else "group"


def _audit(tables: Mapping[str, Table], used: Usable) -> dict[str, Leakage]:
    """Audit every table, and say it before anything else is known."""
    joined, rows = used.joined, used.split.test
    ids = joined.ids.take(pa.array(rows))
    boxes = None if joined.boxes is None else joined.boxes[rows]
    audits = {name: audit(name, table, ids, boxes) for name, table in tables.items()}
    for found in audits.values():
        say(found.said)
    return audits


def _folder(out: Path) -> Path:
    """Make the folder of results."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ProbeError(f"{out}: no folder for results ({reason}); choose another -o") from error
    return out


def _put_together(
    used: Usable,
    choices: Choices,
    resampling: Resampling,
    named: Mapping[str, Table],
    controls: Mapping[str, Table],
    probed: Mapping[str, Probed],
    leakage: dict[str, Leakage],
    augmentation: str,
) -> Results:
    classes, tables = used.joined.classes, {**named, **controls}
    measured = {name: found.measured for name, found in probed.items()}
    scores = {name: score_methods(methods, classes) for name, methods in measured.items()}
    curves: LabelEfficiency | UnsetType = UNSET
    if choices.fractions:
        sets = sets_of(used, choices)
        points = {name: probed[name].points for name in tables}
        curves = draw_curves(points, lambda found: Scorer(sets.y_test, found, sets.task))
    return Results(
        versions=list_versions(),
        leakage=leakage,
        recipe=describe_recipe(used, choices, resampling, augmentation),
        tables={name: describe_table(table) for name, table in tables.items()},
        tiles=count_tiles(used, resampling),
        class_tiles=count_classes(used),
        results={name: scores[name] for name in named},
        controls={name: scores[name] for name in (PRIOR, *controls)},
        fits={name: probed[name].facts for name in tables},
        differences=[
            *all_claims(list(combinations(named, 2)), measured, classes),
            *all_claims(list(product(named, controls)), measured, classes),
        ],
        mistakes=list_mistakes(used, {name: probed[name].fits["linear"].scores for name in named}),
        notes=list_notes(used, resampling),
        label_efficiency=curves,
    )


def _gap(
    named: Mapping[str, Table],
    joined: Joined,
    choices: Choices,
    probed: Mapping[str, Probed],
    classes: Sequence[str],
    device: torch.device,
    views: Views | None,
    *,
    shown: bool,
) -> SplitGap:
    """Probe once more with a random split, to see how much nearness gives away."""
    used = _used(joined, choices, "random")
    if used.joined.classes != tuple(classes):
        raise ProbeError(
            "the random split and the one by blocks lack different classes; probe each alone"
        )
    own_draws = replace(_resampling(used, choices), seed=choices.seed + 1)
    at_random = {
        name: probe_table(
            f"{name}, random split", table, used, own_draws, choices.without_curve(), device,
            _anew(name, table, views), shown=shown,
        ).measured
        for name, table in named.items()
    }  # fmt: skip
    by_blocks = {name: probed[name].measured for name in named}
    return SplitGap(
        tiles=count_tiles(used, own_draws), results=compare_splits(by_blocks, at_random)
    )


def _write(
    folder: Path, used: Usable, results: Results, probed: Mapping[str, Probed], seconds: float
) -> Results:
    """Write every file, results.json last, so that it stands for all; an earlier probe's go."""
    forget_report(folder)
    for stale in (folder / RESULTS, *folder.glob("predictions-*.parquet")):
        stale.unlink(missing_ok=True)
    for name in results.tables:
        scores = probed[name].fits["linear"].scores
        write_predictions(folder / f"predictions-{name}.parquet", used, scores)
    steps = {name: found.seconds for name, found in probed.items()}
    write_json(folder / TIMING, {"seconds": round(seconds, 3), "steps": steps})
    return write_results(folder, results)
