"""Compare backbones on one set of labelled tiles: embed with each, probe all, report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tilezoo.errors import LabelsError, OptionError, ProbeError
from tilezoo.options import command_line, defaults
from tilezoo.space import Pooling

if TYPE_CHECKING:
    from tilezoo.probe import ProbeResult
    from tilezoo.zoo.backbone import Precision
    from tilezoo.zoo.modeldir import ModelDir

TABLES, MODELS = "tables", "models"


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
        protocol: `standard` or `dino`.
        task: `multilabel` or `multiclass`.
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
    from tilezoo.probe.named import open_named
    from tilezoo.probe.recipe import Choices, parse_fractions

    named = [sources] if isinstance(sources, str | Path) else list(sources)
    probing: dict[str, Any] = {
        "split": split,
        "block_deg": block_deg,
        "block_km": block_km,
        "protocol": protocol,
        "task": task,
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
    entrants = _entrants(models, bands, value_range)
    how = {"device": device, "workers": workers, "overwrite": overwrite}
    job = _Job(sources=named, out=Path(out), options={**embedding, **how}, shown=show_progress)
    tables = [job.embed(entrant) for entrant in entrants]
    control = job.embed_controls(entrants) if controls else []
    result = probe(
        tables,
        labels=labels,
        out=out,
        control=control,
        fractions=fractions,
        device="cpu" if device == "mps" else device,  # probes sum in 64 bits
        report=False,
        show_progress=show_progress,
        **probing,
    )
    own = {"labels": labels, "model": tuple(models), "out": out, "controls": controls}
    fed = {"bands": bands, "value_range": value_range}
    said = {"fractions": fractions, "dataset": dataset, "note": note}
    asked = {**own, **fed, **embedding, **probing, **said}
    write_report(
        result.out,
        tables={**open_named(tables), **open_named(control)},
        command=command_line("compare", named, asked, defaults(compare)),
        dataset=dataset or name_of(named),
        note=note,
    )
    return result


@dataclass(frozen=True, kw_only=True)
class _Entrant:
    """A model that takes part.

    Attributes:
        name: Of its table.
        asked: The model as the user named it.
        model: What it is.
        bands: `--bands` for it.
        value_range: `--value-range` for it.
    """

    name: str
    asked: str
    model: "ModelDir"
    bands: str | None
    value_range: str | None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Embeds the same tiles with one model after the other."""

    sources: Sequence[str | Path]
    out: Path
    options: Mapping[str, Any]
    shown: bool

    def embed(self, entrant: _Entrant) -> str:
        """Make a model's table; `NAME=TABLE`."""
        return self._table(entrant, entrant.asked)

    def embed_controls(self, entrants: Sequence[_Entrant]) -> list[str]:
        """Make the tables of random weights, one an architecture, and of colour statistics."""
        from tilezoo.bands import parse_bands
        from tilezoo.options import parse_value_range
        from tilezoo.zoo.controls import COLOURS, RANDOM, colour_statistics, random_weights

        made = []
        for number, like in enumerate(_architectures(entrants)):
            name = f"{RANDOM}-{like.name}" if number else RANDOM
            untrained = random_weights(like.model, self.out / MODELS)
            made.append(self._table(replace(like, name=name), untrained.path))
        first = entrants[0]
        colours = colour_statistics(
            first.model,
            self.out / MODELS,
            device=self.options["device"],
            bands=parse_bands(first.bands),
            value_range=parse_value_range(first.value_range),
        )
        exact = {"precision": "fp32", "pooling": None}
        return [*made, self._table(replace(first, name=COLOURS), colours, **exact)]

    def _table(self, entrant: _Entrant, model: Any, **changed: Any) -> str:
        from tilezoo.embed import embed
        from tilezoo.progress import say

        table = self.out / TABLES / entrant.name
        say(f"{entrant.name} → {table}")
        embed(
            self.sources,
            out=table,
            model=model,
            bands=entrant.bands,
            value_range=entrant.value_range,
            show_progress=self.shown,
            **{**self.options, **changed},
        )
        return f"{entrant.name}={table}"


def _entrants(
    models: Sequence[str | Path], bands: str | None, value_range: str | None
) -> list[_Entrant]:
    """Find every model before any tile is read, and say what each is fed."""
    from tilezoo.probe.named import PRIOR, parse_named
    from tilezoo.zoo import find_model
    from tilezoo.zoo.controls import COLOURS, RANDOM

    if not models:
        raise OptionError("name a model to compare: -m, by a name of `tilezoo models` or a folder")
    found: dict[str, _Entrant] = {}
    for text in models:
        name, asked = parse_named(str(text))
        if name in {*found, PRIOR, COLOURS, RANDOM}:
            raise ProbeError(f"two tables would be called {name!r}; name this one: -m NAME={asked}")
        found[name] = _Entrant(
            name=name, asked=asked, model=find_model(asked), bands=bands, value_range=value_range
        )
    stating = _states_values(found.values())
    if stating is None or bands is not None or value_range is not None:
        return list(found.values())
    return [_fed(entrant, stating) for entrant in found.values()]


def _states_values(entrants: Iterable[_Entrant]) -> _Entrant | None:
    """Choose the first model whose contract says what these pixels' values mean."""
    return next((one for one in entrants if one.model.contract.unit != "uint8"), None)


def _fed(entrant: _Entrant, stating: _Entrant) -> _Entrant:
    """Feed a model of 8-bit RGB the bands and values that another model's contract states."""
    from tilezoo.bands import same
    from tilezoo.progress import say

    wanted, there = entrant.model.contract.bands, stating.model.contract.bands
    theirs = [next((band for band in there if same(band, own)), None) for own in wanted]
    if entrant.model.contract.unit != "uint8" or None in theirs:
        return entrant
    bands = ",".join(map(str, theirs))
    low, high = stating.model.contract.value_range
    say(
        f"{entrant.name} takes 8-bit {', '.join(wanted)}; it is fed {bands} in {low:g}..{high:g}, "
        f"as {stating.name} is"
    )
    return replace(entrant, bands=bands, value_range=f"{low:g},{high:g}")


def _architectures(entrants: Sequence[_Entrant]) -> list[_Entrant]:
    """Choose one entrant for each architecture, the first."""
    from tilezoo.zoo.controls import same_network

    chosen: list[_Entrant] = []
    for entrant in entrants:
        if not any(same_network(entrant.model, other.model) for other in chosen):
            chosen.append(entrant)
    return chosen


def _refuse_foreign_labels(sources: Sequence[str | Path], labels: str | Path) -> None:
    """Refuse labels none of which is of these tiles before hours go into embedding them."""
    from tilezoo.labels import read_labels
    from tilezoo.probe.join import FOLDER
    from tilezoo.sources import discover

    if str(labels) == FOLDER:
        return
    known = {tile.partition("#")[0] for tile in read_labels(labels)["id"].to_pylist()}
    found = discover(sources)
    if not any(source.id in known for source in found):
        raise LabelsError(
            f"{labels}: none of its ids is a tile of these sources; ids there look like "
            f"{min(known)!r}, the sources' like {found[0].id!r}; write these into the labels"
        )


def name_of(sources: Sequence[str | Path]) -> str:
    """Call tiles by the name of the first source."""
    path = Path(sources[0]).resolve()
    return path.stem if path.is_file() else path.name
