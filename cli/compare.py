"""`tilezoo compare`."""

from typing import Annotated, Literal

import typer

from tilezoo.cli import probe as of_probe
from tilezoo.space import Pooling

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="GeoTIFFs, PNGs, JPEGs, BigEarthNet patches, scene folders with a file per band, "
        "folders of any of these, globs, or a Parquet/CSV list of paths.",
    ),
]
Bands = Annotated[
    str | None,
    typer.Option(
        help="B04,B03,B02: bands to feed in the model's order, or names for unnamed ones."
    ),
]
ValueRange = Annotated[
    str | None, typer.Option(help="LOW,HIGH: pixel values that become black and white.")
]
TilePx = Annotated[
    int | None, typer.Option(min=4, help="Cut into windows of this side; else a file is a tile.")
]
StridePx = Annotated[int | None, typer.Option(min=1, help="Step between windows.  [tile-px]")]
PoolingOption = Annotated[Pooling | None, typer.Option(help="How features are pooled.  [model's]")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Tiles per batch.  [by device]")]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option(help="auto: bf16 where it is faster here and agrees with fp32."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads that read.  [by cores]")]
MaxErrors = Annotated[
    int, typer.Option(min=0, help="Tiles that may fail; more end the finished run with exit 3.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many tiles.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away a table that is there.")]
Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        metavar="[NAME=]MODEL",
        help="A name from `tilezoo models`, or a model directory; once for each.",
    ),
]
Out = Annotated[str, typer.Option("--out", "-o", help="Folder for tables, results and the report.")]
ProtocolOption = Annotated[
    Literal["standard", "dino"],
    typer.Option(
        help="standard: L-BFGS, C swept; dino: its SGD on crops and flips of the tiles, 50 epochs."
    ),
]
Controls = Annotated[
    bool, typer.Option(help="Random weights of each architecture, and colour statistics.")
]


def compare_models(
    sources: Sources,
    *,
    labels: of_probe.LabelsOption,
    models: Models,
    out: Out,
    controls: Controls = True,
    bands: Bands = None,
    value_range: ValueRange = None,
    tile_px: TilePx = None,
    stride_px: StridePx = None,
    pooling: PoolingOption = None,
    precision: PrecisionOption = "auto",
    device: Device = "auto",
    batch_size: BatchSize = None,
    workers: Workers = None,
    max_errors: MaxErrors = 0,
    limit: Limit = None,
    overwrite: Overwrite = False,
    split: of_probe.Split = None,
    block_deg: of_probe.BlockDeg = None,
    block_km: of_probe.BlockKm = None,
    protocol: ProtocolOption = "standard",
    task: of_probe.TaskOption = None,
    metric: of_probe.MetricOption = None,
    rare: of_probe.RareOption = "error",
    fractions: of_probe.Fractions = None,
    seeds: of_probe.Seeds = 1,
    bootstrap: of_probe.Bootstrap = 1000,
    seed: of_probe.Seed = 0,
    dataset: of_probe.Dataset = None,
    note: of_probe.Note = None,
    update_card: of_probe.UpdateCard = None,
    as_json: of_probe.Json = False,
) -> None:
    """Embed SOURCE with each model, probe all tables, and write a report.

    Stopped at any moment, the same command goes on where it was; with other options of the probe,
    tables that are there are used again.

    Example: tilezoo compare tiles/ --labels labels.csv -m MODEL -m OTHER -o report
    """
    from tilezoo.compare.run import compare, name_of

    of_probe.check_card(update_card)
    result = compare(
        sources,
        labels=labels,
        models=models,
        out=out,
        controls=controls,
        bands=bands,
        value_range=value_range,
        tile_px=tile_px,
        stride_px=stride_px,
        pooling=pooling,
        precision=precision,
        device=device,
        batch_size=batch_size,
        workers=workers,
        max_errors=max_errors,
        limit=limit,
        overwrite=overwrite,
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
        dataset=dataset,
        note=note,
        show_progress=True,
    )
    of_probe.tell(result, report=True, as_json=as_json)
    if update_card:
        of_probe.write_card(update_card, result, dataset or name_of(sources))
