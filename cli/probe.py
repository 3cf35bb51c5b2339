"""`tilezoo probe`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tilezoo.errors import OptionError

if TYPE_CHECKING:
    from tilezoo.probe import ProbeResult

Tables = Annotated[
    list[str],
    typer.Argument(
        metavar="TABLE...",
        help="Folders made by `embed`, TABLE or NAME=TABLE; several of the same tiles are compared.",
    ),
]
LabelsOption = Annotated[
    str,
    typer.Option(
        "--labels",
        help="Parquet or CSV with id, label or labels, and split if there is one; or `folder`: "
        "a tile's class is the folder it lies in.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for results.")]
Control = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=TABLE", help="A table that shows what little is worth."),
]
Split = Annotated[
    Literal["given", "random", "blocks", "both"] | None,
    typer.Option(help="both: blocks, and the gap to random.  [given by the labels, else random]"),
]
BlockDeg = Annotated[float | None, typer.Option(help="Side of a block of ground, degrees.")]
BlockKm = Annotated[float | None, typer.Option(help="Side of a block of ground, kilometres.")]
ProtocolOption = Annotated[
    Literal["standard", "dino"],
    typer.Option(
        help="standard: L-BFGS, C swept; dino: its SGD, without augmentation (see `compare`)."
    ),
]
TaskOption = Annotated[
    Literal["multilabel", "multiclass"] | None, typer.Option(help="[by the labels]")
]
MetricOption = Annotated[
    Literal["accuracy", "ap_micro", "ap_macro"] | None,
    typer.Option(help="What C and k are chosen by, and headlines are about.  [by the task]"),
]
RareOption = Annotated[
    Literal["error", "drop"], typer.Option(help="What to do with classes that train or test lack.")
]
Fractions = Annotated[
    str | None, typer.Option(help="1,10,100: percent of train, for a label-efficiency curve.")
]
Seeds = Annotated[int, typer.Option(min=1, help="Subsets drawn at each fraction.")]
Bootstrap = Annotated[int, typer.Option(min=100, help="Resamples of the test set.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Report = Annotated[bool, typer.Option(help="Write report.html, report.md and pictures too.")]
Dataset = Annotated[str | None, typer.Option(help="What the report calls tiles and labels.")]
Note = Annotated[str | None, typer.Option(help="What the report says before any figure.")]
UpdateCard = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="A model directory whose card shall tell the results too."),
]
Json = Annotated[bool, typer.Option("--json", help="Print results.json.")]


def probe_tables(
    tables: Tables,
    *,
    labels: LabelsOption,
    out: Out,
    control: Control = None,
    split: Split = None,
    block_deg: BlockDeg = None,
    block_km: BlockKm = None,
    protocol: ProtocolOption = "standard",
    task: TaskOption = None,
    metric: MetricOption = None,
    rare: RareOption = "error",
    fractions: Fractions = None,
    seeds: Seeds = 1,
    bootstrap: Bootstrap = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    report: Report = True,
    dataset: Dataset = None,
    note: Note = None,
    update_card: UpdateCard = None,
    as_json: Json = False,
) -> None:
    """Probe saved vectors with labels: linear, kNN and centroid, with intervals.

    Several tables are compared on the same tiles and resamples. The same command gives the same
    results.json.

    Example: tilezoo probe ours=table-a imagenet=table-b --labels labels.csv -o probe
    """
    from tilezoo.probe import probe

    check_card(update_card)
    if update_card and not dataset:
        raise OptionError(
            "--update-card needs --dataset: what the card shall call tiles and labels"
        )
    result = probe(
        tables,
        labels=labels,
        out=out,
        control=control or [],
        split=split,
        block_deg=block_deg,
        block_km=block_km,
        protocol=protocol,
        task=task,
        metric=metric,
        rare=rare,
        fractions=fractions,
        seeds=seeds,
        bootstrap=bootstrap,
        seed=seed,
        device=device,
        report=report,
        dataset=dataset,
        note=note,
        show_progress=True,
    )
    tell(result, report=report, as_json=as_json)
    if update_card and dataset:
        write_card(update_card, result, dataset)


def tell(result: "ProbeResult", *, report: bool, as_json: bool) -> None:
    """Print results, and where the rest is."""
    if as_json:
        print(json.dumps(result.results, indent=2, ensure_ascii=False))
    else:
        print(result.to_terminal())
    typer.echo(f"wrote {result.out}/results.json in {result.seconds:.0f} s", err=True)
    if report:
        typer.echo(f"look at {result.out}/report.html", err=True)


def check_card(folder: str | None) -> None:
    """Refuse a folder that is no model directory before hours go into results for its card."""
    if folder is not None:
        from tilezoo.zoo.modeldir import read_model_dir

        read_model_dir(Path(folder))


def write_card(folder: str, result: "ProbeResult", dataset: str) -> None:
    """Write results into a model's card, and say so."""
    from tilezoo.compare.card import update_card

    typer.echo(f"wrote {update_card(folder, result.results, dataset)}", err=True)
