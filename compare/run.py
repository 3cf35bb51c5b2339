"""Compare backbones on one set of labelled tiles: embed with each, probe all, report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tilezoo.compare.dino_protocol import AUGMENTATION, Crops, pooling_of
from tilezoo.compare.entrants import (
    COLOURS,
    RANDOM,
    Entrant,
    choose_architectures,
    colour_statistics,
    find_entrants,
    random_weights,
)
from tilezoo.compare.options import CompareOptions
from tilezoo.embed import embed
from tilezoo.embed.options import Embedding
from tilezoo.labels import read_labels, refuse_strangers
from tilezoo.option_texts import to_command
from tilezoo.options import options_of, verb
from tilezoo.probe import probe, write_report
from tilezoo.probe.data import FOLDER, open_named
from tilezoo.probe.options import Probing
from tilezoo.probe.sgd import Views
from tilezoo.progress import say
from tilezoo.sources import Source, discover
from tilezoo.space import Pooling
from tilezoo.table import open_table
from tilezoo.zoo import load
from tilezoo.zoo.backbone import Backbone
from tilezoo.zoo.modeldir import ModelDir

if TYPE_CHECKING:
    from tilezoo.probe import ProbeResult

TABLES, MODELS = "tables", "models"
LAYERS = "layers"  # in training by DINO's protocol
DINO_TABLES = "tables-dino"  # DINO's protocol pools otherwise, so its tables are others


@verb(CompareOptions)
def compare(options: CompareOptions) -> "ProbeResult":
    """Embed the same tiles with each model, probe all tables, and write the report.

    Tables that are finished are taken as they are, so the same command goes on where it was
    stopped, and other options of the probe cost a probe only.

    Where neither `bands` nor `value_range` is given, models of 8-bit RGB are fed the red, green and
    blue, and the values, that another's contract states. The protocol `dino` repeats the published
    one: the class tokens of the last four blocks unless `pooling` says otherwise, of crops and
    flips drawn anew in each of 50 epochs (`tilezoo.compare.dino_protocol`), so it reads and embeds
    the train set 50 times.

    Raises:
        TooManyFailedError: A model leaves more than `max_errors` tiles without a vector.
        TilezooError: Something cannot be embedded, probed or compared as asked.
    """
    job = _Job(options)
    job.refuse_foreign_labels()
    entrants = find_entrants(options.models, options.bands, options.value_range)
    tables = [job.embed(entrant) for entrant in entrants]
    controls = job.embed_controls(entrants) if options.controls else []
    result = job.probe(tables, controls)
    write_report(
        result.out,
        tables=open_named([made.named for made in (*tables, *controls)]),
        # What changes no result is no part of it.
        command=to_command(
            "compare", replace(options, device="auto", workers=None, overwrite=False)
        ),
        dataset=options.dataset or name_of(options.source_list),
        note=options.note,
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
    model: str | Path | Backbone
    pooling: Pooling | None
    path: Path

    @property
    def named(self) -> str:
        """`NAME=TABLE`."""
        return f"{self.entrant.name}={self.path}"


@dataclass(frozen=True)
class _Job:
    """Embeds the same tiles with one model after the other, and probes all tables."""

    options: CompareOptions

    @cached_property
    def found(self) -> Sequence[Source]:
        """Where the tiles are."""
        return discover(self.options.source_list)

    def refuse_foreign_labels(self) -> None:
        """Refuse labels none of which is of these tiles before hours go into embedding them."""
        labels = self.options.labels
        if str(labels) == FOLDER:
            return
        known = {tile.partition("#")[0] for tile in read_labels(labels)["id"].to_pylist()}
        ids = pa.array([source.id for source in self.found], pa.string())
        refuse_strangers(labels, pa.array(sorted(known)), [ids], "the sources")

    def embed(self, entrant: Entrant) -> _Made:
        """Make a model's table."""
        return self._embed(entrant, entrant.asked, self._pooling(entrant.model))

    def embed_controls(self, entrants: Sequence[Entrant]) -> list[_Made]:
        """Make the tables of random weights, one an architecture, and of colour statistics."""
        models, made = self._out / MODELS, list[_Made]()
        for number, like in enumerate(choose_architectures(entrants)):
            named = replace(like, name=f"{RANDOM}-{like.name}" if number else RANDOM)
            untrained = random_weights(like.model, models)
            made.append(self._embed(named, untrained.path, self._pooling(like.model)))
        first = entrants[0]
        colours = colour_statistics(
            first.model,
            models,
            device=self.options.device,
            bands=first.bands,
            value_range=first.value_range,
            values=self.options.values,
        )
        exact = _Job(replace(self.options, precision="fp32"))
        return [*made, exact._embed(replace(first, name=COLOURS), colours, None)]

    def probe(self, tables: Sequence[_Made], controls: Sequence[_Made]) -> "ProbeResult":
        """Probe all tables alike; the report is written by who knows the tiles."""
        options = self.options
        return probe(
            [made.named for made in tables],
            labels=options.labels,
            out=options.out,
            control=[made.named for made in controls],
            device="cpu" if options.device == "mps" else options.device,  # it sums in 64 bits
            report=False,
            views=self._views([*tables, *controls]) if options.is_dino else None,
            show_progress=options.show_progress,
            **{one.name: getattr(options, one.name) for one in options_of(Probing)},
        )

    @property
    def _out(self) -> Path:
        return Path(self.options.out)

    def _embed(
        self, entrant: Entrant, model: str | Path | Backbone, pooling: Pooling | None
    ) -> _Made:
        table = self._out / (DINO_TABLES if self.options.is_dino else TABLES) / entrant.name
        say(f"{entrant.name} → {table}")
        own = {"bands": entrant.bands, "value_range": entrant.value_range, "pooling": pooling}
        alike = {one.name: getattr(self.options, one.name) for one in options_of(Embedding)}
        embed(
            self.options.source_list,
            out=table,
            model=model,
            show_progress=self.options.show_progress,
            **{**alike, **own},
        )
        return _Made(entrant=entrant, model=model, pooling=pooling, path=table)

    def _pooling(self, model: ModelDir) -> Pooling | None:
        """Pool as DINO's protocol does, where that is asked for and nothing else is."""
        asked = self.options.pooling
        return pooling_of(model) if self.options.is_dino and asked is None else asked

    def _views(self, tables: Sequence[_Made]) -> Views:
        """Show every table's tiles anew in each epoch of DINO's protocol."""
        of = {
            made.entrant.name: Crops(
                backbone=partial(self._load, made),
                precision=open_table(made.path).manifest.settled_precision,
                sources=self.found,
                nodata=self.options.nodata_value,
                cut=self.options.cut,
                workers=self.options.threads,
            )
            for made in tables
        }
        return Views(augmentation=AUGMENTATION, of=of, folder=self._out / LAYERS)

    def _load(self, made: _Made) -> Backbone:
        """Load the backbone that made a table."""
        if isinstance(made.model, Backbone):
            return made.model
        return load(
            made.model,
            device=self.options.device,
            pooling=made.pooling,
            bands=made.entrant.bands,
            value_range=made.entrant.value_range,
            values=self.options.values,
        )


def name_of(sources: Sequence[str | Path]) -> str:
    """Call tiles by the name of the first source."""
    path = Path(sources[0]).resolve()
    return path.stem if path.is_file() else path.name
