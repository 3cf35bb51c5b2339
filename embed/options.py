"""What `tilezoo embed` can be asked, and the group that `compare` shares with it."""

from pathlib import Path

from tilezoo.option_groups import (
    AllowedErrors,
    AllowedNodata,
    Limit,
    Share,
    Sources,
    Windows,
    Workers,
)
from tilezoo.options import Progress, option, options
from tilezoo.space import Dtype
from tilezoo.zoo.options import InPrecision, OneModel, PixelValues, Pooled


@options
class Batches:
    """How many tiles go through a network at once."""

    batch_size: int | None = option(default=None, unset="by device", min=1, help="Tiles per batch.")


@options
class Overwriting:
    """What happens to a table that is there."""

    overwrite: bool = option(
        default=False, help="Throw away a table that is there.", recorded=False
    )


@options
class Embedding(
    PixelValues,
    Windows,
    Pooled,
    InPrecision,
    Batches,
    AllowedNodata,
    AllowedErrors,
    Limit,
    Workers,
    Overwriting,
):
    """How tiles are embedded, whichever the model and the table."""


@options
class EmbedOptions(Sources, OneModel, Embedding, Share, Progress):
    """What is embedded, by which model, and into what table."""

    out: str | Path = option("--out", "-o", help="The table's folder.", recorded=False)
    dtype: Dtype = option(default="float32", help="Of stored vectors.")
    part_rows: int | None = option(
        default=None, unset="~128 MB", min=1, help="Tiles per Parquet part."
    )


@options
class InspectOptions(Sources, OneModel, PixelValues, Windows, Workers):
    """What is looked at, and for which model."""

    png: str | Path | None = option(
        default=None, help="Draw up to nine tiles as the model sees them into this file."
    )
