"""`tilezoo export` and `tilezoo verify`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from tilezoo.space import Interpolation, Pooling, Resize, Unit

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Checkpoint = Annotated[
    Path, typer.Argument(help="A .pth of facebookresearch/dino or of ours.", exists=True)
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The model directory to make.")]
Bands = Annotated[str, typer.Option(help="In the order the network takes them: B04,B03,B02.")]
UnitOption = Annotated[Unit, typer.Option(help="Of the pixels.")]
ValueRange = Annotated[str, typer.Option(help="LOW,HIGH: values that become 0 and 1.")]
Mean = Annotated[str, typer.Option(help="Per band, on the 0..1 scale, with commas.")]
Std = Annotated[str, typer.Option(help="Per band, on the 0..1 scale, with commas.")]
SizePx = Annotated[int, typer.Option(min=1, help="Side that the network is fed.")]
ResizePx = Annotated[
    int | None, typer.Option(min=1, help="Side before the centre crop.  [size-px]")
]
ResizeOption = Annotated[Resize, typer.Option(help="How a tile gets that size.")]
InterpolationOption = Annotated[Interpolation, typer.Option(help="Of the resizing.")]
Gsd = Annotated[str | None, typer.Option(help="LOW,HIGH: metres per pixel it was made for.")]
Quantize = Annotated[bool, typer.Option(help="Round to 8 bits, as in training.")]
PoolingOption = Annotated[Pooling, typer.Option(help="How features are pooled.")]
Network = Annotated[
    Literal["teacher", "student"] | None, typer.Option(help="Of the two.  [teacher]")
]
Name = Annotated[str | None, typer.Option(help="What the card calls it.  [folder's name]")]
Licence = Annotated[str | None, typer.Option("--licence", "--license", help="SPDX identifier.")]
TrainedOn = Annotated[str | None, typer.Option(help="For the card.")]


def export_checkpoint(
    checkpoint: Checkpoint,
    *,
    out: Out,
    bands: Bands,
    unit: UnitOption,
    value_range: ValueRange,
    mean: Mean,
    std: Std,
    size_px: SizePx,
    resize_px: ResizePx = None,
    resize: ResizeOption = "shorter_side_then_center_crop",
    interpolation: InterpolationOption = "bicubic",
    gsd_m: Gsd = None,
    quantize_uint8: Quantize = True,
    pooling: PoolingOption = "cls",
    network: Network = None,
    name: Name = None,
    licence: Licence = None,
    trained_on: TrainedOn = None,
) -> None:
    """Turn a checkpoint into a model directory with contract, golden vectors and card.

    Nothing of the contract stands in a checkpoint, so it is stated here.

    Example: tilezoo export checkpoint.pth -o model --bands B04,B03,B02 --unit dn
    --value-range 0,2000 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size-px 224
    """
    from tilezoo.bands import parse_bands
    from tilezoo.options import parse_numbers, parse_value_range
    from tilezoo.space import Contract
    from tilezoo.zoo import export

    names = parse_bands(bands) or ()
    low, high = parse_value_range(value_range) or (0.0, 0.0)
    gsd = gsd_m and parse_numbers(gsd_m, "--gsd-m", count=2, example="10,10")
    contract = Contract(
        bands=names,
        unit=unit,
        value_range=(low, high),
        quantize_uint8=quantize_uint8,
        size_px=size_px,
        resize=resize,
        resize_px=resize_px or size_px,
        interpolation=interpolation,
        gsd_m=(gsd[0], gsd[1]) if gsd else None,
        mean=parse_numbers(mean, "--mean", count=len(names), example="0.485,0.456,0.406"),
        std=parse_numbers(std, "--std", count=len(names), example="0.229,0.224,0.225"),
    )
    facts = {"licence": licence, "trained_on": trained_on, "method": "dino"}
    model = export(
        checkpoint,
        out=out,
        contract=contract,
        pooling=pooling,
        network=network,
        name=name,
        facts=facts,
    )
    print(f"{out}: {model.architecture}, space {model.space().fingerprint}")


def verify_model(
    name: Annotated[str, typer.Argument(help="A name from `tilezoo models`, or a directory.")],
    *,
    as_json: Json = False,
) -> None:
    """Check a model's files, contract, weights and golden vectors on this machine."""
    from tilezoo.errors import ModelError
    from tilezoo.zoo import verify

    checks = verify(name)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.verdict:9} {check.name}: {check.detail}")
    if any(check.verdict == "failed" for check in checks):
        raise ModelError(f"{name} does not verify")
