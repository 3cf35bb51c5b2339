"""The models that take part in a comparison, and the bands and values that each is fed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn

from tilezoo.bands import Values
from tilezoo.device import choose_device
from tilezoo.errors import OptionError, ProbeError
from tilezoo.io import canonical_json, sha256_text, to_builtins, whole_folder
from tilezoo.training_ids import TRAINING_IDS, ids_sha256, write_training_ids
from tilezoo.zoo.backbone import Backbone
from tilezoo.zoo.modeldir import (
    ModelDir,
    NetworkConfig,
    import_timm,
    read_model_dir,
    write_model_dir,
)


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A model that takes part.

    Attributes:
        name: Of its table.
        asked: The model as the user named it.
        model: What it is.
        bands: `--bands` for it.
        value_range: `--value-range` for it.
    """

    name: str
    asked: str
    model: "ModelDir"
    bands: str | None
    value_range: str | None


def find_entrants(
    models: Sequence[str | Path], bands: str | None, value_range: str | None
) -> list[Entrant]:
    """Find every model before any tile is read, and say what each is fed."""
    from tilezoo.probe.data import PRIOR, parse_named
    from tilezoo.zoo import find_model

    if not models:
        raise OptionError("name a model to compare: -m, by a name of `tilezoo models` or a folder")
    found: dict[str, Entrant] = {}
    for text in models:
        name, asked = parse_named(str(text))
        if name in {*found, PRIOR, COLOURS, RANDOM}:
            raise ProbeError(f"two tables would be called {name!r}; name this one: -m NAME={asked}")
        found[name] = Entrant(
            name=name, asked=asked, model=find_model(asked), bands=bands, value_range=value_range
        )
    stating = _find_stating(found.values())
    if stating is None or bands is not None or value_range is not None:
        return list(found.values())
    return [_feed(entrant, stating) for entrant in found.values()]


def _find_stating(entrants: Iterable[Entrant]) -> Entrant | None:
    """Choose the first model whose contract says what these pixels' values mean."""
    return next((one for one in entrants if one.model.contract.unit != "uint8"), None)


def _feed(entrant: Entrant, stating: Entrant) -> Entrant:
    """Feed a model of 8-bit RGB the bands and values that another model's contract states."""
    from tilezoo.bands import same
    from tilezoo.progress import say

    wanted, there = entrant.model.contract.bands, stating.model.contract.bands
    theirs = [next((band for band in there if same(band, own)), None) for own in wanted]
    if entrant.model.contract.unit != "uint8" or None in theirs:
        return entrant
    bands = ",".join(map(str, theirs))
    low, high = stating.model.contract.value_range
    say(
        f"{entrant.name} takes 8-bit {', '.join(wanted)}; it is fed {bands} in {low:g}..{high:g}, "
        f"as {stating.name} is"
    )
    return replace(entrant, bands=bands, value_range=f"{low:g},{high:g}")


def choose_architectures(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Choose one entrant for each architecture, the first."""
    chosen: list[Entrant] = []
    for entrant in entrants:
        if not any(same_network(entrant.model, other.model) for other in chosen):
            chosen.append(entrant)
    return chosen


RANDOM, COLOURS = "random-weights", "colour-statistics"
_SEED = 0
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_UNTRAINED: Mapping[str, object] = {"method": "none", "tiles": 0, "ids_sha256": ids_sha256([])}


def random_weights(like: ModelDir, folder: Path) -> ModelDir:
    """Write a model directory like another's, whose weights are those that training begins with.

    They are timm's, drawn with one seed. The list of tiles it was trained on is there, and empty.

    Args:
        like: Gives architecture, contract and pooling.
        folder: Where such directories lie; one that is there already is read.

    Returns:
        The model, called random-weights.
    """
    fields = {**_network(like), "contract": to_builtins(like.contract), "pooling": like.pooling}
    own = folder / f"{RANDOM}-{sha256_text(canonical_json(fields))[:8]}"
    if not own.is_dir():
        with whole_folder(own) as making:
            _write_random(like, making)
    return read_model_dir(own, RANDOM)


def same_network(first: ModelDir, second: ModelDir) -> bool:
    """Tell whether two models differ by their weights alone."""
    return _network(first) == _network(second)


def _network(model: ModelDir) -> NetworkConfig:
    return {
        "architecture": model.architecture,
        "model_args": dict(model.model_args),
        "num_classes": model.num_classes,
    }


def _write_random(like: ModelDir, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = import_timm().create_model(
            like.architecture, num_classes=like.num_classes, **like.model_args
        )
    config: NetworkConfig = {**_network(like), "pretraining": _UNTRAINED}
    write_model_dir(folder, network, contract=like.contract, pooling=like.pooling, config=config)
    write_training_ids(folder / TRAINING_IDS, pa.array([], pa.string()), None)


class ColourStatistics(nn.Module):
    """Mean, standard deviation and five quantiles of each band, as if it were a timm network."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.num_features = (2 + len(_QUANTILES)) * bands
        self.levels = nn.Parameter(torch.tensor(_QUANTILES), requires_grad=False)

    def forward_features(self, images: Tensor) -> Tensor:
        """Describe images, shape (B, C, H, W), by a map of one cell, shape (B, 7 * C, 1, 1).

        Quantiles are of every second pixel each way.
        """
        values = images.flatten(2)
        falling = images[..., ::2, ::2].flatten(2).sort(dim=2).values
        places = (self.levels * (falling.shape[2] - 1)).round().long()
        parts = [values.mean(2), values.std(2, correction=0), falling[..., places].flatten(1)]
        return torch.cat(parts, dim=1)[..., None, None]

    def forward_head(self, found: Tensor, *, pre_logits: bool) -> Tensor:
        """Take the one cell's values, shape (B, 7 * C)."""
        del pre_logits  # there is no other output
        return found.flatten(1)


def colour_statistics(
    like: ModelDir,
    folder: Path,
    *,
    device: str = "auto",
    bands: str | tuple[str, ...] | None = None,
    value_range: str | tuple[float, float] | None = None,
    values: Values | None = None,
) -> Backbone:
    """Make a backbone whose vectors are statistics of the colours that another model is fed.

    Args:
        like: Whose contract maps the pixels.
        folder: Where the empty list of training tiles is put.
        device: See `load`.
        bands: See `load`.
        value_range: See `load`.
        values: See `load`.
    """
    contract, request = like.contract.adapted(bands=bands, value_range=value_range, values=values)
    described = f"{COLOURS} 1: mean, std, quantiles {_QUANTILES}"
    own = folder / COLOURS
    own.mkdir(parents=True, exist_ok=True)
    write_training_ids(own / TRAINING_IDS, pa.array([], pa.string()), None)
    model = ModelDir(
        path=own,
        name=COLOURS,
        architecture=COLOURS,
        model_args={},
        num_classes=0,
        contract=like.contract,
        pooling="mean",
        weights_sha256=sha256_text(described),
        pretraining=_UNTRAINED,
    )
    network = ColourStatistics(len(contract.bands))
    on = choose_device(device)
    return Backbone(model, network, space=model.space(contract), request=request, device=on)
