"""`tilezoo export` and `tilezoo verify`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tilezoo.space import Contract, Interpolation, Pooling, Resize, Unit

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|CHECKPOINT",
        help="A run of `tilezoo pretrain`, one of its checkpoints, or a .pth of "
        "facebookresearch/dino.",
        exists=True,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The model directory to make.")]
Bands = Annotated[
    str | None, typer.Option(help="In the order the network takes them: B04,B03,B02.")
]
UnitOption = Annotated[Unit | None, typer.Option(help="Of the pixels.")]
ValueRange = Annotated[str | None, typer.Option(help="LOW,HIGH: values that become 0 and 1.")]
Mean = Annotated[str | None, typer.Option(help="Per band, on the 0..1 scale, with commas.")]
Std = Annotated[str | None, typer.Option(help="Per band, on the 0..1 scale, with commas.")]
SizePx = Annotated[
    int | None, typer.Option(min=1, help="Side that the network is fed; of a run's too.")
]
ResizePx = Annotated[
    int | None, typer.Option(min=1, help="Side before the centre crop.  [size-px]")
]
ResizeOption = Annotated[
    Resize | None,
    typer.Option(help="How a tile gets that size.  [shorter_side_then_center_crop]"),
]
InterpolationOption = Annotated[
    Interpolation | None, typer.Option(help="Of the resizing.  [bicubic]")
]
Gsd = Annotated[str | None, typer.Option(help="LOW,HIGH: metres per pixel it was made for.")]
Quantize = Annotated[
    bool | None,
    typer.Option(
        "--quantize-uint8/--no-quantize-uint8", help="Round to 8 bits, as in training.  [yes]"
    ),
]
PoolingOption = Annotated[Pooling, typer.Option(help="How features are pooled.")]
Network = Annotated[
    Literal["teacher", "student"] | None, typer.Option(help="Of the two.  [teacher]")
]
Name = Annotated[str | None, typer.Option(help="What the card calls it.  [folder's name]")]
Half = Annotated[bool, typer.Option("--half", help="Store weights in 16 bits: half the size.")]
Golden = Annotated[
    list[str] | None,
    typer.Option(
        help="Folder or file of tiles of one size: four are kept as golden tiles, and published. "
        "May be given again.  [made up]"
    ),
]
Licence = Annotated[str | None, typer.Option("--licence", "--license", help="SPDX identifier.")]
TrainedOn = Annotated[str | None, typer.Option(help="For the card.")]


def export_checkpoint(
    checkpoint: Checkpoint,
    *,
    out: Out,
    bands: Bands = None,
    unit: UnitOption = None,
    value_range: ValueRange = None,
    mean: Mean = None,
    std: Std = None,
    size_px: SizePx = None,
    resize_px: ResizePx = None,
    resize: ResizeOption = None,
    interpolation: InterpolationOption = None,
    gsd_m: Gsd = None,
    quantize_uint8: Quantize = None,
    pooling: PoolingOption = "cls",
    network: Network = None,
    name: Name = None,
    half: Half = False,
    golden: Golden = None,
    licence: Licence = None,
    trained_on: TrainedOn = None,
) -> None:
    """Turn a run or a checkpoint into a model directory with contract, golden vectors and card.

    A run knows its contract. Nothing of it stands in other checkpoints, so it is stated here.

    Example: tilezoo export run -o model

    Example: tilezoo export run -o model --size-px 128 --half --golden tiles/

    Example: tilezoo export checkpoint.pth -o model --bands B04,B03,B02 --unit dn
    --value-range 0,2000 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size-px 224
    """
    from tilezoo.zoo import export

    stated = {
        "--bands": bands,
        "--unit": unit,
        "--value-range": value_range,
        "--mean": mean,
        "--std": std,
        "--size-px": size_px,
    }
    more = {
        "--resize": resize,
        "--interpolation": interpolation,
        "--gsd-m": gsd_m,
        "--quantize-uint8": quantize_uint8,
    }
    contract = _stated_contract(stated, more, resize_px)
    facts = {"licence": licence, "trained_on": trained_on}
    model = export(
        checkpoint,
        out=out,
        contract=contract,
        size_px=size_px,
        resize_px=resize_px,
        pooling=pooling,
        network=network,
        name=name,
        half=half,
        golden=golden or (),
        facts=facts,
    )
    print(f"{out}: {model.architecture}, space {model.space().fingerprint}")


def _stated_contract(
    stated: dict[str, Any], more: dict[str, Any], resize_px: int | None
) -> Contract | None:
    """Build a contract from options, `more` of which have defaults; None for a run's own."""
    from tilezoo.bands import parse_bands
    from tilezoo.errors import OptionError
    from tilezoo.options import parse_numbers, parse_value_range

    missing = [option for option, value in stated.items() if value is None]
    if not set(stated) - set(missing) - {"--size-px"}:
        if given := [option for option, value in more.items() if value is not None]:
            raise OptionError(f"a run knows its own contract; leave out {', '.join(given)}")
        return None
    if missing:
        raise OptionError(f"a contract has no defaults: state {', '.join(missing)} too")
    names = parse_bands(stated["--bands"]) or ()
    gsd = more["--gsd-m"] and parse_numbers(more["--gsd-m"], "--gsd-m", count=2, example="10,10")
    per_band = {
        key: parse_numbers(
            stated[f"--{key}"], f"--{key}", count=len(names), example="0.485,0.456,0.406"
        )
        for key in ("mean", "std")
    }
    return Contract(
        bands=names,
        unit=stated["--unit"],
        value_range=parse_value_range(stated["--value-range"]) or (0.0, 0.0),
        quantize_uint8=more["--quantize-uint8"] is not False,
        size_px=stated["--size-px"],
        resize=more["--resize"] or "shorter_side_then_center_crop",
        resize_px=resize_px or stated["--size-px"],
        interpolation=more["--interpolation"] or "bicubic",
        gsd_m=(gsd[0], gsd[1]) if gsd else None,
        **per_band,
    )


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
