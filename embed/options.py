"""What `tilezoo embed` can be asked."""

from pathlib import Path

from tilezoo.option_groups import AllowedErrors, Share, Sources, Windows, Workers
from tilezoo.options import Progress, option, options
from tilezoo.space import Dtype
from tilezoo.zoo.options import InPrecision, OneModel, PixelValues, Pooled


@options
class EmbedOptions(
    Sources,
    OneModel,
    PixelValues,
    Windows,
    Pooled,
    InPrecision,
    Share,
    Workers,
    AllowedErrors,
    Progress,
):
    """What is embedded, by which model, and into what table."""

    out: str | Path = option("--out", "-o", help="The table's folder.", recorded=False)
    batch_size: int | None = option(default=None, unset="by device", min=1, help="Tiles per batch.")
    dtype: Dtype = option(default="float32", help="Of stored vectors.")
    part_rows: int | None = option(
        default=None, unset="~128 MB", min=1, help="Tiles per Parquet part."
    )
    overwrite: bool = option(
        default=False, help="Throw away a table that is there.", recorded=False
    )
