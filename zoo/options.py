"""What the verbs of the zoo can be asked, and the groups that verbs of other rooms share with them.

Light, for `--help`: nothing here imports torch.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tilezoo.bands import parse_bands
from tilezoo.errors import OptionError
from tilezoo.option_groups import ProductValues, StatedNodata
from tilezoo.option_texts import parse_numbers, parse_value_range
from tilezoo.options import argument, option, options, python_only
from tilezoo.space import Contract, Interpolation, Pooling, Precision, Resize, Unit
from tilezoo.zoo.catalog import OFFLINE_DEFAULT

if TYPE_CHECKING:
    from tilezoo.zoo.backbone import Backbone

Which = Literal["teacher", "student"]  # network of a student-teacher checkpoint


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
class PixelValues(ProductValues, StatedNodata):
    """What a source's pixels are, where it or the model does not say it."""

    bands: str | None = option(
        default=None,
        help="red,green,blue or B04,B03,B02: bands to feed in the model's order, by common or own "
        "name; 4,3,2: a product's band numbers, or positions in a file; red=3,green=2,blue=1: what "
        "an unknown file's bands are.",
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


@options
class ShowOptions:
    """Which model is shown."""

    name: str | Path = argument(
        "NAME",
        kw_only=False,
        read_as=str,
        help="A name from `tilezoo models`, or a model directory.",
    )


@options
class VerifyOptions:
    """Which model is checked."""

    name: str | Path = argument(
        "NAME", kw_only=False, read_as=str, help="A name from `tilezoo models`, or a directory."
    )


@options
class DownloadOptions(OnRegistry):
    """Which model is brought here, and where to."""

    name: str = argument(
        "NAME",
        kw_only=False,
        help="A name from `tilezoo models`, or org/name; @REV chooses a revision.",
    )
    to: str | Path | None = option(
        default=None, help="Copy it to this folder, which timm loads by `local-dir:`."
    )


@options
class PublishOptions(OnRegistry):
    """What is published, and as what."""

    source: str | Path = argument(
        "SOURCE", kw_only=False, help="A model directory made by `tilezoo export`."
    )
    name: str = option("--as", help="org/name to publish it as.")


@options
class HubOptions:
    """What a hub serves, where, and to whom."""

    root: str | Path = argument(
        "ROOT", kw_only=False, read_as=str, help="A folder, or a URL such as s3://bucket/prefix."
    )
    port: int = option(default=8765, min=0, max=65535, help="0 for any that is free.")
    host: str = option(default="127.0.0.1", help="The address to listen at; 0.0.0.0 for all.")
    token_file: str | Path | None = option(
        default=None,
        help="Lines `TOKEN read` or `TOKEN write`, with a user's name behind if you like; `* read` "
        "lets those read who have no token. Without it anybody who reaches the hub reads, and only "
        "programs on this machine write.",
    )
    max_file_mb: int = option(default=16_384, min=1, help="The largest file taken, in MB.")


@options
class StatedContract:
    """What pixels a network takes, where no run says it: all of it, or nothing.

    `contract` states the same from Python.
    """

    bands: str | None = option(
        default=None, help="In the order the network takes them: B04,B03,B02."
    )
    unit: Unit | None = option(default=None, help="Unit of the pixels.")
    value_range: str | None = option(default=None, help="LOW,HIGH: values that become 0 and 1.")
    mean: str | None = option(default=None, help="Mean per band on the 0..1 scale, with commas.")
    std: str | None = option(
        default=None, help="Standard deviation per band on the 0..1 scale, with commas."
    )
    size_px: int | None = option(
        default=None, min=1, help="Side that the network is fed; of a run's network too."
    )
    resize_px: int | None = option(
        default=None, unset="size-px", min=1, help="Side before the centre crop."
    )
    resize: Resize | None = option(
        default=None, unset="shorter_side_then_center_crop", help="How a tile gets that size."
    )
    interpolation: Interpolation | None = option(
        default=None, unset="bicubic", help="Interpolation of the resizing."
    )
    gsd_m: str | None = option(default=None, help="LOW,HIGH: metres per pixel it was made for.")
    quantize_uint8: bool | None = option(
        "--quantize-uint8/--no-quantize-uint8",
        default=None,
        unset="yes",
        help="Round to 8 bits, as in training.",
    )
    contract: Contract | None = python_only(default=None, help="The whole contract.")

    @cached_property
    def stated_contract(self) -> Contract | None:
        """The contract that is stated; None for a run's own, which may have another size."""
        if self.contract is not None:
            return self.contract
        stated = {
            "--bands": self.bands,
            "--unit": self.unit,
            "--value-range": self.value_range,
            "--mean": self.mean,
            "--std": self.std,
        }
        if not any(value is not None for value in stated.values()):
            self._refuse_halves()
            return None
        needed = {**stated, "--size-px": self.size_px}
        if missing := [name for name, value in needed.items() if value is None]:
            raise OptionError(f"a contract has no defaults: state {', '.join(missing)} too")
        return self._parse_contract()

    def _refuse_halves(self) -> None:
        more = {
            "--resize": self.resize,
            "--interpolation": self.interpolation,
            "--gsd-m": self.gsd_m,
            "--quantize-uint8": self.quantize_uint8,
        }
        if given := [name for name, value in more.items() if value is not None]:
            raise OptionError(f"a run knows its own contract; leave out {', '.join(given)}")

    def _parse_contract(self) -> Contract:
        """Parse what `stated_contract` has seen to be there."""
        names = parse_bands(self.bands) or ()
        gsd = self.gsd_m and parse_numbers(self.gsd_m, "--gsd-m", count=2, example="10,10")
        size_px = self.size_px or 0
        return Contract(
            bands=names,
            unit=self.unit or "stated",
            value_range=parse_value_range(self.value_range) or (0.0, 0.0),
            quantize_uint8=self.quantize_uint8 is not False,
            size_px=size_px,
            resize=self.resize or "shorter_side_then_center_crop",
            resize_px=self.resize_px or size_px,
            interpolation=self.interpolation or "bicubic",
            gsd_m=(gsd[0], gsd[1]) if gsd else None,
            mean=_parse_per_band(self.mean, "--mean", len(names)),
            std=_parse_per_band(self.std, "--std", len(names)),
        )


def _parse_per_band(text: str | None, name: str, bands: int) -> tuple[float, ...]:
    return parse_numbers(text or "", name, count=bands, example="0.485,0.456,0.406")


@options
class ExportOptions(StatedContract):
    """What becomes a model directory, and how it is described."""

    checkpoint: str | Path = argument(
        "RUN|CHECKPOINT",
        kw_only=False,
        help="A run of `tilezoo pretrain` (its newest checkpoint is taken), one of its checkpoints, "
        "or a foreign one: .pth (of facebookresearch/dino, say) or .safetensors.",
    )
    out: str | Path = option("--out", "-o", help="The model directory to make.")
    pooling: Pooling = option(default="cls", help="How features are pooled into a vector.")
    network: Which | None = option(
        default=None, unset="teacher", help="Which network of a student-teacher checkpoint."
    )
    arch: str | None = option(
        default=None,
        help="timm's name of a foreign checkpoint's network, where it is no plain ViT.",
    )
    heads: int | None = option(
        default=None,
        unset="as the file says",
        min=1,
        help="Attention heads of a foreign checkpoint's blocks: no tensor's shape tells them.",
    )
    name: str | None = option(
        default=None, unset="folder's name", help="What the card calls the model."
    )
    half: bool = option(default=False, help="Store weights in 16 bits: half the size.")
    golden: Sequence[str | Path] = option(
        default=(),
        unset="made up",
        help="Folder or file of tiles of one size: four are kept as golden tiles, and published. "
        "May be given again.",
    )
    licence: str | None = option(
        "--licence", "--license", default=None, help="The licence's SPDX identifier, for the card."
    )
    trained_on: str | None = option(default=None, help="The training data in words, for the card.")
    paper: str | None = python_only(default=None, help="The paper's address, for the card.")
    method: str = python_only(default="dino", help="How it was trained, for the card.")

    def check(self) -> None:
        """Refuse a checkpoint that is not there."""
        if not Path(self.checkpoint).exists():
            raise OptionError(f"{self.checkpoint}: no such run and no such file")
