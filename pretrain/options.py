"""What `tilezoo pack` and `tilezoo pretrain` can be asked.

Light, for `--help` and for a training without a geospatial library.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from tilezoo.bands import parse_bands
from tilezoo.errors import OptionError
from tilezoo.option_groups import (
    AllowedErrors,
    AllowedNodata,
    Limit,
    ProductValues,
    Sources,
    StatedNodata,
    Windows,
    Workers,
)
from tilezoo.option_texts import parse_value_range, to_request
from tilezoo.options import Progress, argument, option, options
from tilezoo.space import Precision
from tilezoo.zoo.options import OnDevice

PackDtype = Literal["uint8", "uint16"]
Backend = Literal["smddp", "nccl", "gloo"]
RANGE_FIX = "say what maps to 0 and 1 with --value-range LOW,HIGH (0,2000 for Sentinel-2)"
# What decides the bytes of a pack, in the order in which its files name it.
_DECISIVE = (
    "bands", "value_range", "values", "nodata", "dtype", "size_px", "tile_px", "stride_px",
    "max_nodata", "labels", "split", "limit", "shard_mb",
)  # fmt: skip


@options
class PackedTiles(ProductValues, StatedNodata):
    """What a pack takes of its sources."""

    bands: str | None = option(
        default=None,
        unset="RGB of RGB images",
        help="B04,B03,B02: bands in the pack's order, or names for unnamed ones; B04=3,B03=2 names "
        "them by number.",
    )
    value_range: str | None = option(
        default=None,
        unset="8-bit images: all",
        help="LOW,HIGH: pixel values that become 0 and 1.",
    )
    labels: str | Path | None = option(
        default=None,
        read_as=str,
        help="Parquet/CSV of labels and splits by id; folder: the one a tile lies in.",
    )

    def check(self) -> None:
        """Refuse texts that name no bands or no range."""
        parse_bands(self.bands)
        parse_value_range(self.value_range)


@options
class PackOptions(
    Sources, PackedTiles, Windows, AllowedNodata, Limit, Workers, AllowedErrors, Progress
):
    """How sources become shards."""

    out: str | Path = option("--out", "-o", help="The pack's folder.", recorded=False)
    dtype: PackDtype = option(
        default="uint8",
        help="uint8: the range scaled to 8 bits; uint16: integers as they are.",
    )
    size_px: int | None = option(
        default=None, unset="the first tile's", min=4, help="Resize every tile to this side."
    )
    split: str | None = option(
        default=None, help="train,validation: only the tiles of these splits."
    )
    shard_mb: int = option(default=1024, min=1, help="Size of a shard, MiB.")
    overwrite: bool = option(default=False, help="Throw away a pack that is there.", recorded=False)

    def check(self) -> None:
        """Refuse raw values of no stated range."""
        if self.dtype == "uint16" and self.value_range is None:
            raise OptionError(f"--dtype uint16 keeps raw values: {RANGE_FIX}")

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """The splits that are packed; empty for all tiles."""
        from tilezoo.pretrain.packs.choice import parse_splits

        return parse_splits(self.split)

    def request(self, labels: str | None) -> dict[str, object]:
        """What decides the bytes of the pack; a run with another request is another pack's.

        Args:
            labels: Digest of the labels, which may change in a file of the same name.
        """
        stated = to_request(self, labels=labels, stride_px=self.cut and self.cut.stride_px)
        return {name: stated[name] for name in _DECISIVE}


@options
class PretrainOptions(PackedTiles, OnDevice, Progress):
    """What is trained, on what and how."""

    sources: Sequence[str | Path] | str | Path = argument(
        "SHARDS|SOURCE...",
        kw_only=False,
        read_as=list[str],
        help="A folder made by `tilezoo pack`; or files and folders, which are packed first.",
    )
    out: str | Path = option("--out", "-o", help="The run's folder.")
    recipe: str = option(default="dino-vits16-bigearthnet", help="Name of a recipe.")
    settings: Sequence[str] = option(
        "--set", default=(), help="key=value: change one thing of the recipe; may be repeated."
    )
    precision: Literal["auto"] | Precision = option(
        default="auto", help="auto: bf16 where the hardware is fast at it."
    )
    backend: Literal["auto"] | Backend = option(
        default="auto",
        help="How several processes talk; auto: SMDDP where SageMaker set it up, else NCCL with "
        "GPUs, else gloo.",
    )
    compiled: bool = option(
        "--compile/--no-compile", default=False, help="Compile the networks first (GPUs)."
    )
    checkpoint_minutes: float = option(
        default=10.0,
        min=0,
        help="Between checkpoints that a killed run goes on from; 0 for every step.",
    )
