"""`tilezoo pack`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from tilezoo.cli.embed import Json, Limit, MaxErrors, Sources, StridePx, TilePx, Workers

Out = Annotated[Path, typer.Option("--out", "-o", help="The pack's folder.")]
Bands = Annotated[
    str | None,
    typer.Option(
        help="B04,B03,B02: bands in the pack's order, or names for unnamed ones; B04=3,B03=2 names "
        "them by number.  [RGB of RGB images]"
    ),
]
ValueRange = Annotated[
    str | None,
    typer.Option(help="LOW,HIGH: pixel values that become 0 and 1.  [8-bit images: all]"),
]
DtypeOption = Annotated[
    Literal["uint8", "uint16"],
    typer.Option(help="uint8: the range scaled to 8 bits; uint16: integers as they are."),
]
SizePx = Annotated[
    int | None, typer.Option(min=4, help="Resize every tile to this side.  [the first tile's]")
]
MaxNodata = Annotated[
    float, typer.Option(min=0, max=1, help="Leave out tiles with a larger share without data.")
]
LabelsOption = Annotated[
    str | None,
    typer.Option(help="Parquet/CSV of labels and splits by id; folder: the one a tile lies in."),
]
Split = Annotated[
    str | None, typer.Option(help="train,validation: only the tiles of these splits.")
]
ShardMb = Annotated[int, typer.Option(min=1, help="Size of a shard, MiB.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away a pack that is there.")]


def pack_sources(
    sources: Sources,
    *,
    out: Out,
    bands: Bands = None,
    value_range: ValueRange = None,
    dtype: DtypeOption = "uint8",
    size_px: SizePx = None,
    tile_px: TilePx = None,
    stride_px: StridePx = None,
    max_nodata: MaxNodata = 1.0,
    labels: LabelsOption = None,
    split: Split = None,
    limit: Limit = None,
    shard_mb: ShardMb = 1024,
    workers: Workers = None,
    max_errors: MaxErrors = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Pack tiles into memory-mapped NumPy arrays for training.

    Stopped at any moment, the same command goes on where it was. A tile that cannot be packed is
    a row in errors.parquet.

    Example: tilezoo pack BigEarthNet-v1.0/ -o shards --bands B04,B03,B02 --value-range 0,2000
    """
    from tilezoo.pretrain import pack

    result = pack(
        sources,
        out=out,
        bands=bands,
        value_range=value_range,
        dtype=dtype,
        size_px=size_px,
        tile_px=tile_px,
        stride_px=stride_px,
        max_nodata=max_nodata,
        labels=labels,
        split=split,
        limit=limit,
        shard_mb=shard_mb,
        workers=workers,
        max_errors=max_errors,
        overwrite=overwrite,
        show_progress=True,
    )
    if as_json:
        facts = {"pack": str(result.path), "tiles": result.tiles, "failed": result.failed}
        print(json.dumps({**facts, "seconds": result.seconds}))
        return
    failed = f", {result.failed} in errors.parquet" if result.failed else ""
    rate = f", {result.tiles / result.seconds:.0f} tiles/s" if result.seconds > 1 else ""
    print(f"{result.path}: {result.tiles} tiles packed{failed}{rate}")
