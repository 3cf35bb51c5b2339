"""Compare backbones on one set of labelled tiles: embed with each, probe all, report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tilezoo.compare.entrants import Entrant, architectures, find_entrants
from tilezoo.options import command_line, defaults
from tilezoo.space import Pooling

if TYPE_CHECKING:
    from tilezoo.probe import ProbeResult
    from tilezoo.probe.sgd import Views
    from tilezoo.space import Precision
    from tilezoo.zoo.backbone import Backbone

TABLES, MODELS = "tables", "models"
LAYERS = "layers"  # in training by DINO's protocol
DINO_TABLES = "tables-dino"  # DINO's protocol pools otherwise, so its tables are others


def compare(
    sources: Sequence[str | Path] | str | Path,
    *,
    labels: str | Path,
    models: Sequence[str | Path],
    out: str | Path,
    controls: bool = True,
    bands: str | None = None,
    value_range: str | None = None,
    tile_px: int | None = None,
    stride_px: int | None = None,
    pooling: Pooling | None = None,
    precision: "Literal['auto'] | Precision" = "auto",
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    max_errors: int = 0,
    limit: int | None = None,
    overwrite: bool = False,
    split: Literal["given", "random", "blocks", "both"] | None = None,
    block_deg: float | None = None,
    block_km: float | None = None,
    protocol: Literal["standard", "dino"] = "standard",
    task: Literal["multilabel", "multiclass"] | None = None,
    metric: Literal["accuracy", "ap_micro", "ap_macro"] | None = None,
    rare: Literal["error", "drop"] = "error",
    fractions: str | None = None,
    seeds: int = 1,
    bootstrap: int = 1000,
    seed: int = 0,
    dataset: str | None = None,
    note: str | None = None,
    show_progress: bool = False,
) -> "ProbeResult":
    """Embed the same tiles with each model, probe all tables, and write the report.

    Tables that are finished are taken as they are, so the same command goes on where it was
    stopped, and other options of the probe cost a probe only.

    Args:
        sources: Files, folders, globs, or Parquet/CSV lists of paths.
        labels: A Parquet or CSV file, or `folder`.
        models: Names or model directories, `MODEL` or `NAME=MODEL`; the others are subtracted from
            the first.
        out: Folder for tables, results.json and the report.
        controls: Compare with random weights of each architecture and with colour statistics.
        bands: As `embed` takes it. Where neither this nor `value_range` is given, models of 8-bit
            RGB are fed the red, green and blue, and the values, that another's contract states.
        value_range: As `embed` takes it.
        tile_px: Cut sources into windows of this side, pixels.
        stride_px: Step between windows, pixels.
        pooling: Other than each model's own.
        precision: As `embed` takes it.
        device: `auto`, `cpu`, `cuda`, …
        batch_size: Tiles per batch.
        workers: Threads that read.
        max_errors: Tiles that may fail, of each model.
        limit: Only the first so many tiles.
        overwrite: Throw away tables that are there.
        split: As `probe` takes it, as are all the others.
        block_deg: Side of a block of ground, degrees.
        block_km: Side of a block of ground, kilometres.
        protocol: `standard`, or `dino` to repeat the published one: the class tokens of the last
            four blocks unless `pooling` says otherwise, of crops and flips drawn anew in each of 50
            epochs (`tilezoo.compare.dino_protocol`), so it reads and embeds the train set 50 times.
        task: `multilabel` or `multiclass`.
        metric: `accuracy`, `ap_micro` or `ap_macro`: what is chosen by, and headlines are about.
        rare: `error` or `drop`.
        fractions: `1,10,100`: percent of the train set, for a label-efficiency curve.
        seeds: How many subsets are drawn at each fraction.
        bootstrap: Resamples of the test set.
        seed: Of all that is drawn in probes.
        dataset: What the report calls tiles and labels; the source's name unless given.
        note: What the report says before any figure.
        show_progress: Tell on stderr how far it is.

    Raises:
        TooManyFailedError: A model leaves more than `max_errors` tiles without a vector.
        TilezooError: Something cannot be embedded, probed or compared as asked.
    """
    from tilezoo.probe import probe, write_report
    from tilezoo.probe.data import open_named
    from tilezoo.probe.options import Choices, parse_fractions

    named = [sources] if isinstance(sources, str | Path) else list(sources)
    probing: dict[str, Any] = {
        "split": split,
        "block_deg": block_deg,
        "block_km": block_km,
        "protocol": protocol,
        "task": task,
        "metric": metric,
        "rare": rare,
        "seeds": seeds,
        "bootstrap": bootstrap,
        "seed": seed,
    }
    embedding: dict[str, Any] = {
        "tile_px": tile_px,
        "stride_px": stride_px,
        "pooling": pooling,
        "precision": precision,
        "batch_size": batch_size,
        "max_errors": max_errors,
        "limit": limit,
    }
    Choices(**probing, fractions=parse_fractions(fractions))
    _refuse_foreign_labels(named, labels)
    entrants = find_entrants(models, bands, value_range)
    how = {"device": device, "workers": workers, "overwrite": overwrite}
    job = _Job(
        sources=named,
        out=Path(out),
        options={**embedding, **how},
        is_dino=protocol == "dino",
        shown=show_progress,
    )
    tables = [job.embed(entrant) for entrant in entrants]
    control = job.embed_controls(entrants) if controls else []
    result = probe(
        [made.named for made in tables],
        labels=labels,
        out=out,
        control=[made.named for made in control],
        fractions=fractions,
        device="cpu" if device == "mps" else device,  # probes sum in 64 bits
        report=False,
        views=job.views([*tables, *control]) if protocol == "dino" else None,
        show_progress=show_progress,
        **probing,
    )
    own = {"labels": labels, "model": tuple(models), "out": out, "controls": controls}
    fed = {"bands": bands, "value_range": value_range}
    said = {"fractions": fractions, "dataset": dataset, "note": note}
    asked = {**own, **fed, **embedding, **probing, **said}
    write_report(
        result.out,
        tables=open_named([made.named for made in (*tables, *control)]),
        command=command_line("compare", named, asked, defaults(compare)),
        dataset=dataset or name_of(named),
        note=note,
    )
    return result


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A table that was made, or was there already.

    Attributes:
        entrant: Whose it is.
        model: What made it, as `embed` takes it.
        pooling: How its features are pooled; None for the model's own.
        path: Its folder.
    """

    entrant: Entrant
    model: "str | Path | Backbone"
    pooling: Pooling | None
    path: Path

    @property
    def named(self) -> str:
        """`NAME=TABLE`."""
        return f"{self.entrant.name}={self.path}"


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Embeds the same tiles with one model after the other."""

    sources: Sequence[str | Path]
    out: Path
    options: Mapping[str, Any]
    is_dino: bool
    shown: bool

    def embed(self, entrant: Entrant) -> _Made:
        """Make a model's table."""
        return self._table(entrant, entrant.asked, **self._pooling(entrant))

    def views(self, tables: Sequence[_Made]) -> "Views":
        """Show every table's tiles anew in each epoch of DINO's protocol."""
        from tilezoo.compare.dino_protocol import AUGMENTATION, Crops
        from tilezoo.probe.sgd import Views
        from tilezoo.reading import reading_threads
        from tilezoo.sources import discover
        from tilezoo.table import open_table
        from tilezoo.tiles import cut_from

        found = discover(self.sources)
        cut = cut_from(self.options["tile_px"], self.options["stride_px"])
        of = {
            made.entrant.name: Crops(
                backbone=partial(self._backbone, made),
                precision=open_table(made.path).manifest.settled_precision,
                sources=found,
                cut=cut,
                workers=reading_threads(self.options["workers"]),
            )
            for made in tables
        }
        return Views(augmentation=AUGMENTATION, of=of, folder=self.out / LAYERS)

    def embed_controls(self, entrants: Sequence[Entrant]) -> list[_Made]:
        """Make the tables of random weights, one an architecture, and of colour statistics."""
        from tilezoo.compare.controls import COLOURS, RANDOM, colour_statistics, random_weights

        made = []
        for number, like in enumerate(architectures(entrants)):
            name = f"{RANDOM}-{like.name}" if number else RANDOM
            untrained = random_weights(like.model, self.out / MODELS)
            pooled = self._pooling(like)
            made.append(self._table(replace(like, name=name), untrained.path, **pooled))
        first = entrants[0]
        colours = colour_statistics(
            first.model,
            self.out / MODELS,
            device=self.options["device"],
            bands=first.bands,
            value_range=first.value_range,
        )
        exact = {"precision": "fp32", "pooling": None}
        return [*made, self._table(replace(first, name=COLOURS), colours, **exact)]

    def _table(self, entrant: Entrant, model: Any, **changed: Any) -> _Made:
        from tilezoo.embed import embed
        from tilezoo.progress import say

        table = self.out / (DINO_TABLES if self.is_dino else TABLES) / entrant.name
        say(f"{entrant.name} → {table}")
        options = {**self.options, **changed}
        embed(
            self.sources,
            out=table,
            model=model,
            bands=entrant.bands,
            value_range=entrant.value_range,
            show_progress=self.shown,
            **options,
        )
        return _Made(entrant=entrant, model=model, pooling=options["pooling"], path=table)

    def _pooling(self, entrant: Entrant) -> dict[str, Any]:
        """Pool as DINO's protocol does, where that is asked for and nothing else is."""
        from tilezoo.compare.dino_protocol import pooling_of

        if not self.is_dino or self.options["pooling"] is not None:
            return {}
        return {"pooling": pooling_of(entrant.model)}

    def _backbone(self, made: _Made) -> "Backbone":
        """Load the backbone that made a table."""
        from tilezoo.zoo import load
        from tilezoo.zoo.backbone import Backbone

        if isinstance(made.model, Backbone):
            return made.model
        return load(
            made.model,
            device=self.options["device"],
            pooling=made.pooling,
            bands=made.entrant.bands,
            value_range=made.entrant.value_range,
        )


def _refuse_foreign_labels(sources: Sequence[str | Path], labels: str | Path) -> None:
    """Refuse labels none of which is of these tiles before hours go into embedding them."""
    import pyarrow as pa

    from tilezoo.labels import read_labels, refuse_strangers
    from tilezoo.probe.data import FOLDER
    from tilezoo.sources import discover

    if str(labels) == FOLDER:
        return
    known = {tile.partition("#")[0] for tile in read_labels(labels)["id"].to_pylist()}
    found = pa.array([source.id for source in discover(sources)], pa.string())
    refuse_strangers(labels, pa.array(sorted(known)), [found], "the sources")


def name_of(sources: Sequence[str | Path]) -> str:
    """Call tiles by the name of the first source."""
    path = Path(sources[0]).resolve()
    return path.stem if path.is_file() else path.name
