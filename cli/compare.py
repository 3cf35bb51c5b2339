"""`tilezoo compare`."""

from typing import Annotated, Literal

import typer

from tilezoo.cli import embed as of_embed
from tilezoo.cli import probe as of_probe

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
    sources: of_embed.Sources,
    *,
    labels: of_probe.LabelsOption,
    models: Models,
    out: Out,
    controls: Controls = True,
    bands: of_embed.Bands = None,
    value_range: of_embed.ValueRange = None,
    tile_px: of_embed.TilePx = None,
    stride_px: of_embed.StridePx = None,
    pooling: of_embed.PoolingOption = None,
    precision: of_embed.PrecisionOption = "auto",
    device: of_embed.Device = "auto",
    batch_size: of_embed.BatchSize = None,
    workers: of_embed.Workers = None,
    max_errors: of_embed.MaxErrors = 0,
    limit: of_embed.Limit = None,
    overwrite: of_embed.Overwrite = False,
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
