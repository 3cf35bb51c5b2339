"""What the verbs of the zoo can be asked, and the groups that verbs of other rooms share with them.

Light, for `--help`: nothing here imports torch.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tilezoo.bands import parse_bands
from tilezoo.options import option, options, parse_value_range
from tilezoo.space import Pooling
from tilezoo.zoo.catalog import OFFLINE_DEFAULT

if TYPE_CHECKING:
    from tilezoo.zoo.backbone import Backbone

Precision = Literal["fp32", "bf16", "fp16"]


@options
class OnRegistry:
    """Where models are published."""

    registry: str | None = option(
        default=None,
        envvar="TILEZOO_REGISTRY",
        help="hf:// (the endpoint in force), a folder, s3://…, or https://… of a hub.",
        recorded=False,
    )


@options
class OnDevice:
    """Where a network runs."""

    device: str = option(default="auto", help="auto, cpu, cuda, cuda:1, mps.", recorded=False)


@options
class InPrecision(OnDevice):
    """How a network computes, and where."""

    precision: Literal["auto"] | Precision = option(
        default="auto", help="auto: bf16 where it is faster here and agrees with fp32."
    )


@options
class PixelValues:
    """What a source's pixels are, where it or the model does not say it."""

    bands: str | None = option(
        default=None,
        help="B04,B03,B02: bands to feed in the model's order, or names for unnamed ones.",
    )
    value_range: str | None = option(
        default=None, help="LOW,HIGH: pixel values that become black and white."
    )

    def check(self) -> None:
        """Refuse texts that name no bands or no range."""
        parse_bands(self.bands)
        parse_value_range(self.value_range)


@options
class Pooled:
    """How features become one vector."""

    pooling: Pooling | None = option(
        default=None, unset="model's", help="How features are pooled.", recorded=False
    )


@options
class OneModel:
    """Which model."""

    model: "str | Path | Backbone" = option(
        "--model",
        "-m",
        default=OFFLINE_DEFAULT,
        read_as=str,
        help="A name from `tilezoo models`, or a model directory.",
        recorded=False,
    )
