"""`tilezoo embed`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from tilezoo.space import Pooling
from tilezoo.zoo.catalog import OFFLINE_DEFAULT

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="GeoTIFFs, PNGs, JPEGs, BigEarthNet patches, scene folders with a file per band, "
        "folders of any of these, globs, or a Parquet/CSV list of paths.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The table's folder.")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="A name from `tilezoo models`, or a model directory.")
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
DtypeOption = Annotated[Literal["float32", "float16"], typer.Option(help="Of stored vectors.")]
MaxErrors = Annotated[
    int, typer.Option(min=0, help="Tiles that may fail; more end the finished run with exit 3.")
]
Shard = Annotated[str | None, typer.Option(help="I/N: only this of N equal shares, I from 0.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many tiles.")]
PartRows = Annotated[int | None, typer.Option(min=1, help="Tiles per Parquet part.  [~128 MB]")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away a table that is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def embed_sources(
    sources: Sources,
    *,
    out: Out,
    model: Model = OFFLINE_DEFAULT,
    bands: Bands = None,
    value_range: ValueRange = None,
    tile_px: TilePx = None,
    stride_px: StridePx = None,
    pooling: PoolingOption = None,
    batch_size: BatchSize = None,
    precision: PrecisionOption = "auto",
    device: Device = "auto",
    workers: Workers = None,
    dtype: DtypeOption = "float32",
    max_errors: MaxErrors = 0,
    shard: Shard = None,
    limit: Limit = None,
    part_rows: PartRows = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Embed tiles into a table of GeoParquet parts.

    Stopped at any moment, the same command goes on where it was. A tile that cannot be
    embedded is a row in errors.parquet.

    Example: tilezoo embed tiles/ -o table
    """
    from tilezoo.embed import embed

    result = embed(
        sources,
        out=out,
        model=model,
        bands=bands,
        value_range=value_range,
        tile_px=tile_px,
        stride_px=stride_px,
        pooling=pooling,
        batch_size=batch_size,
        precision=precision,
        device=device,
        workers=workers,
        dtype=dtype,
        max_errors=max_errors,
        shard=shard,
        limit=limit,
        part_rows=part_rows,
        overwrite=overwrite,
        show_progress=True,
    )
    if as_json:
        facts = {"table": str(result.table), "rows": result.rows, "failed": result.failed}
        print(json.dumps({**facts, "precision": result.precision, "seconds": result.seconds}))
        return
    failed = f", {result.failed} in errors.parquet" if result.failed else ""
    rate = f", {result.rows / result.seconds:.1f} tiles/s" if result.seconds > 1 else ""
    print(f"{result.table}: {result.rows} tiles embedded in {result.precision}{failed}{rate}")
