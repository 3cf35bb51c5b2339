"""A probe, from saved tables and labels to results.json."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from msgspec import UNSET

from tilezoo.device import choose_device
from tilezoo.errors import OptionError, ProbeError
from tilezoo.io import write_json
from tilezoo.option_texts import to_command
from tilezoo.options import verb
from tilezoo.probe.bootstrap import Measured, Resampling, all_claims, measure
from tilezoo.probe.data import PRIOR, Joined, join, load_vectors, open_named, standardise
from tilezoo.probe.fitting import (
    Fit,
    Point,
    Sets,
    Stages,
    fit_centroid,
    fit_curve,
    fit_dino,
    fit_knn,
    fit_linear,
    fit_prior,
)
from tilezoo.probe.leakage import audit
from tilezoo.probe.linear import fast_products, one_thread_for_few
from tilezoo.probe.options import ProbeOptions, SplitKind
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
    say_shared_groups,
    score_methods,
    write_predictions,
)
from tilezoo.probe.report.pages import forget_report, write_report
from tilezoo.probe.results import (
    NO_AUGMENTATION,
    RESULTS,
    FitFacts,
    Leakage,
    Results,
    SplitGap,
    Unit,
    write_results,
)
from tilezoo.probe.scores import Scorer
from tilezoo.probe.sgd import Anew
from tilezoo.probe.splits import Usable, choose_kind, leave_out_rare, make_split
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


@verb(ProbeOptions)
def probe(options: ProbeOptions) -> ProbeResult:
    """Learn classes from saved vectors, and score and compare tables by what is learnt.

    Raises:
        TilezooError: Tables and labels cannot be probed as asked; the message says what to do.
    """
    start = time.monotonic()
    tables = _open_tables(options)
    joined = join(tables.all, options.labels, options.task)
    kind = choose_kind(joined, options)
    trial = _make_trial(joined, options, "blocks" if kind == "both" else kind)
    folder = _make_folder(Path(options.out))
    leakage = _audit(tables.all, trial.used)
    probed = {name: trial.probe(name, table) for name, table in tables.all.items()}
    probed[PRIOR] = trial.probe_prior()
    results = _put_together(trial, tables, probed, leakage)
    if kind == "both":
        results = replace(results, split_gap=_measure_gap(trial, joined, tables.models, probed))
    results = _write(folder, trial.used, results, probed, time.monotonic() - start)
    if options.report:
        write_report(
            folder,
            tables=tables.all,
            command=to_command("probe", replace(options, device="auto")),
            dataset=options.dataset,
            note=options.note,
        )
    return ProbeResult(out=folder, found=results, seconds=time.monotonic() - start)


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """Tables by name, as they are compared."""

    models: dict[str, Table]
    controls: dict[str, Table]

    @property
    def all(self) -> dict[str, Table]:
        return {**self.models, **self.controls}


def _open_tables(options: ProbeOptions) -> _Tables:
    models = open_named(options.table_list)
    controls = open_named(options.control, taken=list(models))
    if not models:
        raise OptionError("name a table to probe, made by `tilezoo embed … -o TABLE`")
    return _Tables(models=models, controls=controls)


def _make_folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise ProbeError(f"{out}: no folder for results ({reason}); choose another -o") from error
    return out


@dataclass(frozen=True, kw_only=True)
class _Probed:
    """What was found of one table, or of one control.

    Attributes:
        fits: Way of probing (`linear`, `knn`, `centroid`) → predictions of the test set.
        measured: Way of probing → scores, and those of every resample.
        points: Of the label-efficiency curve.
        seconds: Step → how long it took.
    """

    fits: Mapping[str, Fit]
    measured: Mapping[str, Measured]
    points: list[Point]
    seconds: Mapping[str, float]

    @property
    def facts(self) -> dict[str, FitFacts]:
        """Way of probing → how the fit went, of those that have anything to say."""
        return {method: fit.facts for method, fit in self.fits.items() if fit.facts}


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """One split, and all that is done alike with every table.

    Attributes:
        options: What the user chose.
        used: Labels and split.
        resampling: Of the test set.
        device: Where sums are made.
    """

    options: ProbeOptions
    used: Usable
    resampling: Resampling
    device: torch.device

    @property
    def sets(self) -> Sets:
        """Labels in the order of the split."""
        joined, split = self.used.joined, self.used.split
        return Sets(
            y=joined.y[split.order],
            train=len(split.train),
            validation=len(split.validation),
            task=joined.task,
            metric=self.options.metric_of(joined.task),
        )

    def probe(self, name: str, table: Table, which: str = "") -> _Probed:
        """Fit every probe on one table, and score each on the test set and its resamples.

        Args:
            name: Of the table.
            table: What is probed.
            which: What progress says behind the name.
        """
        stages = Stages(f"{name}{which}", shown=self.options.show_progress)
        sets = replace(self.sets, anew=self._anew(name, table))
        with stages.step("reading", table.row_count, "tiles") as advance:
            ids = self.used.joined.ids.take(self.used.split.order)
            x = load_vectors(name, table, ids, advance).to(self.device)
        with one_thread_for_few(x), fast_products(x):
            fits, points = self._fit_all(x, sets, stages)
        del x
        return self._measure(fits, points, stages)

    def probe_prior(self) -> _Probed:
        """Score what is known from labels alone: a linear probe without features."""
        stages = Stages(PRIOR, shown=self.options.show_progress)
        return self._measure({"linear": fit_prior(self.sets)}, [], stages)

    def _fit_all(
        self, x: torch.Tensor, sets: Sets, stages: Stages
    ) -> tuple[dict[str, Fit], list[Point]]:
        """Probe raw vectors, shape (N, D), in every way; they are standardised in place."""
        options, points = self.options, list[Point]()
        knn = fit_knn(x, sets, options.seed, stages)
        if options.protocol == "dino":
            rows = torch.arange(sets.train, device=x.device)
            linear = alone = fit_dino(x, rows, sets, options.seed, stages)
            points = list(fit_curve(x, sets, options, alone, stages))
        standardise(x, sets.train)
        if options.protocol == "standard":
            linear, alone = fit_linear(x, sets, stages)
            points = list(fit_curve(x, sets, options, alone, stages))
        return {"linear": linear, "knn": knn, "centroid": fit_centroid(x, sets)}, points

    def _measure(self, fits: Mapping[str, Fit], points: list[Point], stages: Stages) -> _Probed:
        sets, resamples = self.sets, len(fits) * self.resampling.replicates
        with stages.step("bootstrap", resamples, "resamples") as advance:
            measured = {
                method: measure(
                    Scorer(sets.y_test, fit.scores, sets.task), self.resampling, advance
                )
                for method, fit in fits.items()
            }
        return _Probed(fits=fits, measured=measured, points=points, seconds=stages.seconds)

    def _anew(self, name: str, table: Table) -> Callable[[torch.Tensor, int], Anew] | None:
        """Show a table's tiles anew in each epoch, where there is what can show them."""
        views, ids = self.options.views, self.used.joined.ids.take(pa.array(self.used.split.train))
        if views is None:
            return None

        def anew(rows: torch.Tensor, seed: int) -> Anew:
            chosen = ids.take(pa.array(rows.numpy()))
            state = [table.fingerprint, views.augmentation, ids_sha256(chosen.to_pylist())]
            return Anew(batches=views.of[name](chosen, seed), folder=views.folder, state=state)

        return anew


def _make_trial(joined: Joined, options: ProbeOptions, kind: SplitKind) -> _Trial:
    used = leave_out_rare(joined, make_split(joined, options, kind), options.rare)
    _say_what_is_used(joined, used, kind)
    split = used.split
    ground: Unit = "block" if options.has_blocks else "group"
    resampling = Resampling(
        tiles=len(split.test),
        replicates=options.bootstrap,
        seed=options.seed,
        blocks=split.blocks,
        called="tile" if split.blocks is None else ground,
    )
    device = choose_device(options.device, best=("cuda",), dtype=torch.float64)
    return _Trial(options=options, used=used, resampling=resampling, device=device)


def _say_what_is_used(joined: Joined, used: Usable, kind: SplitKind) -> None:
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


def _audit(tables: Mapping[str, Table], used: Usable) -> dict[str, Leakage]:
    """Audit every table, and say it before anything else is known."""
    joined, rows = used.joined, used.split.test
    ids = joined.ids.take(pa.array(rows))
    boxes = None if joined.boxes is None else joined.boxes[rows]
    audits = {name: audit(name, table, ids, boxes) for name, table in tables.items()}
    for found in audits.values():
        say(found.said)
    if shared := say_shared_groups(used):
        say(shared)
    return audits


def _put_together(
    trial: _Trial, tables: _Tables, probed: Mapping[str, _Probed], leakage: dict[str, Leakage]
) -> Results:
    used, resampling, sets = trial.used, trial.resampling, trial.sets
    classes, views = used.joined.classes, trial.options.views
    augmentation = NO_AUGMENTATION if views is None else views.augmentation
    measured = {name: found.measured for name, found in probed.items()}
    scores = {name: score_methods(methods, classes) for name, methods in measured.items()}
    predictions = {name: probed[name].fits["linear"].scores for name in tables.models}
    points = {name: probed[name].points for name in tables.all}
    curves = draw_curves(points, lambda found: Scorer(sets.y_test, found, sets.task))
    return Results(
        versions=list_versions(),
        leakage=leakage,
        recipe=describe_recipe(used, trial.options, resampling, augmentation),
        tables={name: describe_table(table) for name, table in tables.all.items()},
        tiles=count_tiles(used, resampling),
        class_tiles=count_classes(used),
        results={name: scores[name] for name in tables.models},
        controls={name: scores[name] for name in (PRIOR, *tables.controls)},
        fits={name: probed[name].facts for name in tables.all},
        differences=[
            *all_claims(list(combinations(tables.models, 2)), measured, classes),
            *all_claims(list(product(tables.models, tables.controls)), measured, classes),
        ],
        mistakes=list_mistakes(used, predictions),
        notes=list_notes(used, resampling),
        label_efficiency=curves if trial.options.percents else UNSET,
    )


def _measure_gap(
    trial: _Trial, joined: Joined, models: Mapping[str, Table], probed: Mapping[str, _Probed]
) -> SplitGap:
    """Probe once more with a random split, to see how much nearness gives away."""
    options = replace(trial.options, fractions=None)
    at_random = _make_trial(joined, options, "random")
    if at_random.used.joined.classes != trial.used.joined.classes:
        raise ProbeError(
            "the random split and the one by blocks lack different classes; probe each alone"
        )
    own_draws = replace(at_random.resampling, seed=options.seed + 1)
    at_random = replace(at_random, resampling=own_draws)
    again = {
        name: at_random.probe(name, table, ", random split").measured
        for name, table in models.items()
    }
    by_blocks = {name: probed[name].measured for name in models}
    return SplitGap(
        tiles=count_tiles(at_random.used, own_draws), results=compare_splits(by_blocks, again)
    )


def _write(
    folder: Path, used: Usable, results: Results, probed: Mapping[str, _Probed], seconds: float
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
