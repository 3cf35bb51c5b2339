"""`tilezoo pack`."""

import json

from tilezoo.cli.options import Json, command
from tilezoo.pretrain.options import PackOptions


@command(PackOptions, Json)
def run(options: PackOptions, own: Json) -> None:
    """Pack tiles into memory-mapped NumPy arrays for training.

    Stopped at any moment, the same command goes on where it was. A tile that cannot be packed is
    a row in errors.parquet.

    Example: tilezoo pack BigEarthNet-v1.0/ -o shards --bands B04,B03,B02 --value-range 0,2000
    """
    from tilezoo.pretrain import pack

    result = pack.with_options(options)
    if own.as_json:
        facts = {"pack": str(result.path), "tiles": result.tiles, "failed": result.failed}
        print(json.dumps({**facts, "seconds": result.seconds}))
        return
    failed = f", {result.failed} in errors.parquet" if result.failed else ""
    rate = f", {result.tiles / result.seconds:.0f} tiles/s" if result.seconds > 1 else ""
    print(f"{result.path}: {result.tiles} tiles packed{failed}{rate}")
