"""Give me that backbone: by name or by directory."""

from pathlib import Path
from typing import TYPE_CHECKING

from tilezoo.space import Pooling
from tilezoo.zoo.modeldir import ModelDir, read_model_dir

if TYPE_CHECKING:
    from tilezoo.zoo.backbone import Backbone


def find_model(name: str | Path) -> ModelDir:
    """Find a model directory by path, or a model by name, which is brought here if it is not.

    Raises:
        UnknownModelError: Neither.
        ModelError: The directory is incomplete or damaged.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return read_model_dir(folder.resolve())
    from tilezoo.zoo.downloader import download

    return download(str(name))


def load(
    name: str | Path,
    *,
    device: str = "auto",
    pooling: Pooling | None = None,
    bands: str | tuple[str, ...] | None = None,
    value_range: str | tuple[float, float] | None = None,
) -> "Backbone":
    """Load a backbone, frozen, in float32.

    Args:
        name: A model directory, or a name from `tilezoo models`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        pooling: Other than the model's own.
        bands: Names or 1-based numbers, in the model's order or naming the file's; a text
            (`B04,B03,B02`) or a tuple.
        value_range: Pixel values that map to 0 and 1, in place of the model's; `LOW,HIGH` or a
            tuple.

    Raises:
        TilezooError: Whatever keeps it from being loaded exactly as stated.
    """
    model = find_model(name)
    from tilezoo.zoo.backbone import build

    return build(model, device=device, pooling=pooling, bands=bands, value_range=value_range)
