"""`tilezoo export`."""

from tilezoo.cli.options import command
from tilezoo.zoo.options import ExportOptions


@command(ExportOptions)
def run(options: ExportOptions) -> None:
    """Turn a run or a checkpoint into a model directory with contract, golden vectors and card.

    A run knows what pixels its network takes. Other checkpoints do not, so it is stated here.

    Example: tilezoo export run -o model

    Example: tilezoo export run -o model --size-px 128 --half --golden tiles/

    Example: tilezoo export checkpoint.pth -o model --bands B04,B03,B02 --unit dn
    --value-range 0,2000 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size-px 224
    """
    from tilezoo.zoo import export

    model = export.with_options(options)
    print(f"{options.out}: {model.architecture}, space {model.space().fingerprint}")
