"""The models that take part in a comparison, and the bands and values that each is fed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tilezoo.errors import OptionError, ProbeError

if TYPE_CHECKING:
    from tilezoo.zoo.modeldir import ModelDir


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
    from tilezoo.compare.controls import COLOURS, RANDOM
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
    from tilezoo.compare.controls import same_network

    chosen: list[Entrant] = []
    for entrant in entrants:
        if not any(same_network(entrant.model, other.model) for other in chosen):
            chosen.append(entrant)
    return chosen
