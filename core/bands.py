"""Band names: what they are called, and which of a file's bands a backbone is fed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tilezoo.errors import ContractError, TileError

# A file name that ends in a band: B04, B8A, band1, _B4, VV … (Sentinel-2, BigEarthNet, Landsat,
# Sentinel-1). The look-behind keeps "scene4b1" from being read as a band.
BAND_SUFFIX = re.compile(
    r"(?:^|(?<=[^A-Za-z0-9]))(?P<band>B(?:AND)?_?\d{1,2}A?|VV|VH|HH|HV)$", re.IGNORECASE
)
_NUMBERED = re.compile(r"^b(?:and)?[ _]?0*(\d{1,2})(a?)$", re.IGNORECASE)

# Sentinel-2 MSI and Landsat 8/9 OLI agree on these three
# (https://sentiwiki.copernicus.eu/web/s2-mission, https://www.usgs.gov/landsat-missions).
_COLOUR = {"B02": "blue", "B03": "green", "B04": "red"}
_SHORT = {"r": "red", "red": "red", "g": "green", "b": "blue", "grey": "gray"}


def canonical(name: str) -> str:
    """Write a band's name in one way: `b4`, `B04`, `Band 4` → `B04`; colours in lower case."""
    text = name.strip()
    if match := _NUMBERED.match(text):
        return f"B{match[1].zfill(1 if match[2] else 2)}{match[2].upper()}"
    return _SHORT.get(text.lower(), text.lower() if text.isalpha() and len(text) > 3 else text)


def same(first: str, second: str) -> bool:
    """Tell whether two names mean one band (`B04` of Sentinel-2 and Landsat 8/9 is `red`)."""
    return _to_key(first) == _to_key(second)


def _to_key(name: str) -> str:
    written = canonical(name)
    return _COLOUR.get(written, written).lower()


def parse_bands(text: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Read `--bands B04,B03,B02` (names, or 1-based numbers in the file); what is read stays."""
    if text is None or isinstance(text, tuple):
        return text
    names = tuple(part for part in re.split(r"[,\s]+", text.strip()) if part)
    if not names:
        msg = "--bands is empty; write names or numbers, for example --bands B04,B03,B02"
        raise ContractError(msg)
    return tuple(canonical(name) for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class BandRequest:
    """Which bands to read, in the backbone's order.

    Attributes:
        wanted: The backbone's bands by name.
        given: `--bands`: names or 1-based numbers from the user, or None.
        values_stated: The user gave `--value-range`, so any dtype is taken at their word.
        taker: Who wants the bands, for errors.
    """

    wanted: tuple[str, ...]
    given: tuple[str, ...] | None = None
    values_stated: bool = False
    taker: str = "the model"

    def __post_init__(self) -> None:
        """Refuse a `--bands` that cannot serve the backbone, before anything is read."""
        if self.given is None or self._covers() or len(self.given) == len(self.wanted):
            return
        msg = (
            f"--bands names {len(self.given)} bands ({','.join(self.given)}), {self.taker} takes "
            f"{len(self.wanted)} ({','.join(self.wanted)}): name these, or one band for each"
        )
        raise ContractError(msg)

    @property
    def by_number(self) -> bool:
        """Whether `--bands` counts the file's bands instead of naming them."""
        return self.given is not None and all(name.isdigit() for name in self.given)

    @property
    def effective(self) -> tuple[str, ...]:
        """The bands that are fed: the model's own, or the user's in their place."""
        if self.given is None or self.by_number or self._covers():
            return self.wanted
        return self.given

    def _covers(self) -> bool:
        given = [_to_key(name) for name in self.given or ()]
        return all(_to_key(name) in given for name in self.wanted)

    def choose(self, names: Sequence[str], count: int) -> tuple[int, ...]:
        """Pick band positions (0-based) from a file with `count` bands called `names`.

        Args:
            names: The file's band names; empty when it names none.
            count: How many bands the file has (an alpha band not counted).

        Raises:
            TileError: A band is not there, or the file names none and `--bands` does not help.
        """
        if self.by_number:
            return self._choose_by_number(count)
        found = _find_positions(names, self.effective)
        if found is not None:
            return found
        if self.given is not None and len(self.given) == count and not _are_telling(names):
            return _find_positions(self.given, self.effective) or ()
        raise TileError("contract", self._tell_mismatch(names, count))

    def _choose_by_number(self, count: int) -> tuple[int, ...]:
        numbers = [int(name) for name in self.given or ()]
        if all(1 <= number <= count for number in numbers):
            return tuple(number - 1 for number in numbers)
        wrong = f"--bands {','.join(self.given or ())} counts beyond the file's {count} bands"
        raise TileError("contract", f"{wrong}; numbers start at 1")

    def _tell_mismatch(self, names: Sequence[str], count: int) -> str:
        need = ",".join(self.effective)
        if names:
            return f"has bands {','.join(names)}, {self.taker} takes {need}; choose with --bands"
        return f"has {count} unnamed bands, {self.taker} takes {need}; name them with --bands"


def _find_positions(names: Sequence[str], wanted: Sequence[str]) -> tuple[int, ...] | None:
    keys = [_to_key(name) for name in names]
    exact = list(names)
    if all(name in exact for name in wanted):
        return tuple(exact.index(name) for name in wanted)
    if not all(_to_key(name) in keys for name in wanted):
        return None
    return tuple(keys.index(_to_key(name)) for name in wanted)


def _are_telling(names: Sequence[str]) -> bool:
    """Tell whether names come from the file itself, not from a mere colour interpretation."""
    return any(_to_key(name) not in {"gray", "red", "green", "blue"} for name in names)
