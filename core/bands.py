"""Band names: what they are called, and which of a file's bands a backbone is fed.

Numbers are no colours: `B4` is red in one product and near infrared in another. What a number means
is known in a recognised product (`tilezoo.products`), and in Sentinel-2's own notation; in any other
file bands have their order, their descriptions and their colours, and where these do not settle what
is asked for, the file is refused with the `--bands` that does.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

from tilezoo.errors import ContractError, TileError

T = TypeVar("T")

# A file name that ends in a band: B04, B8A, band1, _B4, VV … (Sentinel-2, BigEarthNet, Landsat,
# Sentinel-1). The look-behind keeps "scene4b1" from being read as a band.
BAND_SUFFIX = re.compile(
    r"(?:^|(?<=[^A-Za-z0-9]))(?P<band>B(?:AND)?_?\d{1,2}A?|VV|VH|HH|HV)$", re.IGNORECASE
)
_NUMBERED = re.compile(r"^b(?:and)?[ _]?0*(\d{1,2})(a?)$", re.IGNORECASE)
_CANONICAL_NUMBER = re.compile(r"^B\d\d$|^B\dA$")
# Zeros before the number, or the A of 8A: how ESA writes the bands of Sentinel-2.
_AS_ESA_WRITES = re.compile(r"^B(?:0\d|8A)$", re.IGNORECASE)

# STAC's common names of Sentinel-2's bands (https://github.com/stac-extensions/eo#common-band-names,
# https://sentiwiki.copernicus.eu/web/s2-mission). A contract's B04 is always this one.
SENTINEL_2 = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge071",
    "B06": "rededge075", "B07": "rededge078", "B08": "nir", "B8A": "nir08", "B09": "nir09",
    "B10": "cirrus", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
# Sentinel-2, Landsat 8/9 and HLS agree on these three, whichever of them wrote B04.
_AGREED = {band: SENTINEL_2[band] for band in ("B02", "B03", "B04")}
_COMMON = frozenset(SENTINEL_2.values()) | {
    "yellow", "pan", "rededge", "green05", "lwir", "lwir11", "lwir12"
}  # fmt: skip
# What people and agencies write for them.
_WORDS = {
    "near infrared": "nir", "nearinfrared": "nir", "infrared": "nir", "red edge": "rededge",
    "coastal aerosol": "coastal", "coastal blue": "coastal", "panchromatic": "pan",
    "swir1": "swir16", "swir 1": "swir16", "swir2": "swir22", "swir 2": "swir22",
}  # fmt: skip
_COLOUR_NUMBERS = {2, 3, 4}
_FALSE_COLOUR = ("nir", "red", "green")
_MOST_REPEATED = 4  # bands that a model takes, up to which fewer may stand in for them
_SHORT = {"r": "red", "red": "red", "g": "green", "b": "blue", "grey": "gray"}

ALPHA = "alpha"  # what a band is called that is tagged so and holds data all the same

Values = Literal["harmonized", "stored"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FileBand:
    """One band of a file or of a set of band files.

    Attributes:
        name: Its own, written as `canonical` does; empty where it has none.
        common: What it is by STAC's common names; None where nothing says it.
        number: What `--bands` calls it: its position in a file, its number in a product.
        telling: The name alone says which band it is (`VV`, Sentinel-2's `B05`; not `Band 5`).
        aliases: Other names in `--bands`, written as `canonical` does.
    """

    name: str = ""
    common: str | None = None
    number: int | None = None
    telling: bool = False
    aliases: tuple[str, ...] = ()


def canonical(name: str) -> str:
    """Write a band's name in one way: `b4`, `B04`, `Band 4` → `B04`; colours in lower case."""
    text = name.strip()
    if match := _NUMBERED.match(text):
        return f"B{match[1].zfill(1 if match[2] else 2)}{match[2].upper()}"
    return _SHORT.get(text.lower(), text.lower() if text.isalpha() and len(text) > 3 else text)


def same(first: str, second: str) -> bool:
    """Tell whether two names mean one band in contracts, where `B04` is Sentinel-2's: `red`."""
    return to_meaning(first) == to_meaning(second)


def to_meaning(name: str) -> str:
    """What a name means in a contract: STAC's common name, else the name in lower case."""
    written = canonical(name)
    return SENTINEL_2.get(written, written).lower()


def name_bands(
    names: Sequence[str], number: Callable[[int, str], int | None] | None = None
) -> tuple[FileBand, ...]:
    """Say what the names of a file's bands tell where no product is recognised.

    Args:
        names: Descriptions, colours, or what stands at the end of files' names; empty for none.
        number: A band's number, from its place (0-based) and name; its position without it.
    """
    written = [canonical(name) for name in names]
    meanings = SENTINEL_2 if "B8A" in written else _AGREED
    return tuple(
        FileBand(
            name=own,
            common=_find_meaning(name, own, meanings),
            number=place + 1 if number is None else number(place, own),
            telling=_tells(name.strip(), own),
        )
        for place, (name, own) in enumerate(zip(names, written, strict=True))
    )


def _tells(name: str, own: str) -> bool:
    return bool(_AS_ESA_WRITES.match(name)) if _is_number(own) else own not in {"", "gray"}


def _find_meaning(name: str, own: str, meanings: dict[str, str]) -> str | None:
    if _is_number(own):
        told = meanings is SENTINEL_2 or _AS_ESA_WRITES.match(name.strip())
        return meanings.get(own) if told else None
    word = re.sub(r"[\s_-]+", " ", own).lower()
    common = _WORDS.get(word, word)
    return common if common in _COMMON else None


def _is_number(written: str) -> bool:
    return _CANONICAL_NUMBER.match(written) is not None


def parse_bands(text: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Read `--bands B04,B03,B02`: names, numbers, or `red=3,green=2`; what is read stays."""
    if text is None or isinstance(text, tuple):
        return text
    names = tuple(part for part in re.split(r"[,\s]+", text.strip()) if part)
    if not names:
        msg = "--bands is empty; write names or numbers, for example --bands B04,B03,B02"
        raise ContractError(msg)
    return tuple(canonical(name) for name in names)


@dataclass(frozen=True, kw_only=True)
class BandRequest:
    """Which bands to read, in the backbone's order, and what their values are.

    Attributes:
        wanted: The backbone's bands by name.
        given: `--bands`: names, numbers, or `name=number` of each from the user, or None.
        values_stated: The user gave `--value-range`, so any dtype is taken at their word.
        taker: Who wants the bands, for errors.
        values: Whether products' own offsets are applied (`harmonized`), or pixels stay as stored.
        value_range: What the taker maps to black and white; None where it takes any.
        nodata: `--nodata`: the value of pixels without data; None for what files say of it.
    """

    wanted: tuple[str, ...]
    given: tuple[str, ...] | None = None
    values_stated: bool = False
    taker: str = "the model"
    values: Values = "harmonized"
    value_range: tuple[float, float] | None = None
    nodata: float | None = None

    def __post_init__(self) -> None:
        """Refuse a `--bands` that cannot serve the backbone, before anything is read."""
        if self.given is None:
            return
        if any("=" in band for band in self.given) and (None in self._numbers or "" in self._names):
            fix = "number all bands or none, as in --bands red=3,green=2,blue=1"
            raise ContractError(f"--bands {','.join(self.given)}: {fix}")
        if self._covers or len(self.given) == len(self.wanted):
            return
        msg = (
            f"--bands names {len(self.given)} bands ({','.join(self.given)}), {self.taker} takes "
            f"{len(self.wanted)}: name these (--bands {','.join(self.wanted)}), or one band for each"
        )
        raise ContractError(msg)

    @property
    def by_number(self) -> bool:
        """Whether `--bands` counts bands, with or without naming them."""
        return self.given is not None and None not in self._numbers

    @property
    def effective(self) -> tuple[str, ...]:
        """The bands that are fed: the model's own, or the user's in their place."""
        if self.given is None or self._covers or not all(self._names):
            return self.wanted
        return self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The names in `--bands`; empty texts where it is numbers alone."""
        given = (band.partition("=")[0] for band in self.given or ())
        return tuple("" if name.isdigit() else canonical(name) for name in given)

    @cached_property
    def _numbers(self) -> tuple[int | None, ...]:
        """The numbers in `--bands`; None where there is a name alone."""
        given = (band.rpartition("=")[2].strip() for band in self.given or ())
        return tuple(int(text) if text.isdecimal() else None for text in given)

    @cached_property
    def _covers(self) -> bool:
        """Whether `--bands` names every band that the backbone wants."""
        given = [to_meaning(name) for name in self._names]
        return all(to_meaning(name) in given for name in self.wanted)

    @cached_property
    def _asked(self) -> tuple[str, ...]:
        """What is looked for in a file, in the backbone's order: bands as the user wrote them."""
        if self.given is None or not self._covers:
            return self.effective
        written = {to_meaning(name): name for name in self._names}
        return tuple(written[to_meaning(name)] for name in self.wanted)

    def choose(self, bands: Sequence[FileBand]) -> tuple[int, ...]:
        """Pick positions (0-based) among the bands of a file or of a set of band files.

        Raises:
            TileError: A band is not there, or nothing says which one it is.
        """
        found = self._find(bands)
        if found is None:
            tell = self._tell_numbers if self.by_number else self._tell_mismatch
            raise TileError("contract", tell(bands))
        return found

    def _find(self, bands: Sequence[FileBand]) -> tuple[int, ...] | None:
        if self.by_number:
            return self._find_numbers(bands)
        found = self._find_all(bands)
        if found is None and self.given is not None and self._may_name(bands):
            own = tuple(dict.fromkeys(self._names))
            found = self._find_all(name_bands(own))
        return found

    def _find_numbers(self, bands: Sequence[FileBand]) -> tuple[int, ...] | None:
        there = {band.number: place for place, band in enumerate(bands)}
        named = dict(zip(map(to_meaning, self._names), self._numbers, strict=True))
        asked = [named[to_meaning(n)] for n in self.wanted] if self._covers else self._numbers
        return tuple(there[n] for n in asked) if all(n in there for n in asked) else None

    def _tell_numbers(self, bands: Sequence[FileBand]) -> str:
        there = [band.number for band in bands]
        known = ",".join(str(number) for number in there if number is not None)
        wrong = f"--bands {','.join(self.given or ())}"
        if not known:
            names = ",".join(band.name for band in bands)
            wrong = f"{wrong}: these bands have no numbers, but names: {names}"
        elif there == list(range(1, len(bands) + 1)):
            wrong = f"{wrong} counts beyond the file's {len(bands)} bands; numbers start at 1"
        else:
            wrong = f"{wrong} asks for what is not there; there are bands {known}"
        return f"{wrong}; {self._propose(bands)}"

    def _find_all(self, bands: Sequence[FileBand]) -> tuple[int, ...] | None:
        exact = [_first(b.telling and b.name == name for b in bands) for name in self._asked]
        if None not in exact:
            return tuple(place for place in exact if place is not None)
        find = self._find_written if self.given is not None else _find_meant
        places = [find(name, bands) for name in self._asked]
        return None if None in places else tuple(place for place in places if place is not None)

    def _find_written(self, name: str, bands: Sequence[FileBand]) -> int | None:
        """Find a band that the user wrote: by its own name first, then by what it means."""
        own = _first(_is_called(b, canonical(name)) for b in bands)
        if own is None or not _is_number(canonical(name)):
            near = (_is_near_infrared(name, band) for band in bands)
            hits = (_find_meant(name, bands), own, _first(near))
            return next((hit for hit in hits if hit is not None), None)
        common = bands[own].common
        if self._covers and common is not None and common != to_meaning(name):
            fix = f"write --bands {','.join(map(to_meaning, self.wanted))}, or numbers"
            wrong = f"--bands {name}: that is {common} here and {to_meaning(name)} for {self.taker}"
            raise TileError("contract", f"{wrong}; {fix}")
        return own

    def _may_name(self, bands: Sequence[FileBand]) -> bool:
        """Whether the user's names can be those of the bands in their order: one for each.

        A band that is known keeps its meaning.
        """
        own = tuple(dict.fromkeys(self._names))
        return len(own) == len(bands) and all(
            (band.common is None and not band.telling) or band.common == to_meaning(name)
            for name, band in zip(own, bands, strict=True)
        )

    def _tell_mismatch(self, bands: Sequence[FileBand]) -> str:
        need = ",".join(self.effective)
        names = [band.name for band in bands]
        unnamed = "one unnamed band" if len(bands) == 1 else f"{len(bands)} unnamed bands"
        has = f"bands {','.join(_shorten(names))}" if all(names) else unnamed
        return f"has {has}, {self.taker} takes {need}; {self._propose(bands)}"

    def _propose(self, bands: Sequence[FileBand]) -> str:
        """The `--bands` that may do."""
        for proposal in propose_bands(self.effective, bands):
            if self.takes(proposal.text, bands):
                return proposal.say()
        return "take a model of fewer bands (`tilezoo models` shows them)"

    def takes(self, text: str | None, bands: Sequence[FileBand]) -> bool:
        """Tell whether bands could be chosen if `--bands` were this text."""
        try:
            return replace(self, given=parse_bands(text))._find(bands) is not None
        except (ContractError, TileError):
            return False


@dataclass(frozen=True, kw_only=True, slots=True)
class BandProposal:
    """A `--bands` that may do.

    Attributes:
        text: Of the option.
        reason: Why it may: bands are `named` so; the one band there is stands for each (`single`);
            unnamed ones come `in_order`, are too few and so `repeated`, or have the numbers of
            `sentinel_2`; or other bands stand in (`others`).
    """

    text: str
    reason: Literal["named", "single", "in_order", "repeated", "sentinel_2", "others"]

    def say(self) -> str:
        """Say what to do, in a refusal."""
        option = f"--bands {self.text}"
        return {
            "named": f"choose with --bands, by name or number: {option}",
            "single": f"to feed this one band for each: {option}",
            "in_order": f"name them with --bands: {option} if they come in this order",
            "repeated": f"name them with --bands, for example {option}",
            "sentinel_2": f"name them with --bands: {option} if they are numbered as Sentinel-2's",
            "others": f"choose with --bands, by name or number, for example {option}",
        }[self.reason]


def propose_bands(wanted: Sequence[str], bands: Sequence[FileBand]) -> Iterator[BandProposal]:
    """What `--bands` may do for a file, the surest first; none where it has too few by far."""
    meanings = [to_meaning(name) for name in wanted]
    if {band.common for band in bands} >= set(meanings):
        yield BandProposal(text=",".join(meanings), reason="named")
    if len(bands) == 1:
        if bands[0].number is not None:
            yield BandProposal(text=_number_each(wanted, [bands[0].number]), reason="single")
        if bands[0].name:
            yield BandProposal(text=",".join([bands[0].name] * len(wanted)), reason="single")
    elif len(bands) >= len(wanted) or len(wanted) <= _MOST_REPEATED:
        yield from _propose_others(wanted, bands)


def _propose_others(wanted: Sequence[str], bands: Sequence[FileBand]) -> Iterator[BandProposal]:
    names = [band.name for band in bands if band.common or band.telling]
    known = {"nir" if band.common == "nir08" else band.common for band in bands}
    if len(wanted) == len(_FALSE_COLOUR) and known >= set(_FALSE_COLOUR):
        yield BandProposal(text=",".join(_FALSE_COLOUR), reason="others")
    if names:
        yield BandProposal(text=",".join(_fill_up(names, len(wanted))), reason="others")
    numbers = [band.number for band in bands if band.number is not None]
    if not numbers:
        return
    if not names and set(numbers) >= _COLOUR_NUMBERS and numbers[0] != 1:  # files B2, B3, B4
        yield BandProposal(text=_number_each(wanted, [4, 3, 2]), reason="sentinel_2")
    unnamed: Literal["in_order", "repeated"] = (
        "in_order" if len(numbers) >= len(wanted) else "repeated"
    )
    yield BandProposal(text=_number_each(wanted, numbers), reason="others" if names else unnamed)


def _fill_up(some: Sequence[T], count: int) -> list[T]:
    """The first so many, from the start again where they are too few."""
    return [some[place % len(some)] for place in range(count)]


def _number_each(wanted: Sequence[str], numbers: Sequence[int]) -> str:
    return ",".join(f"{n}={i}" for n, i in zip(wanted, _fill_up(numbers, len(wanted)), strict=True))


def _find_meant(name: str, bands: Sequence[FileBand]) -> int | None:
    """Find a contract's band: by what it means, or by a name that tells."""
    meaning, written = to_meaning(name), canonical(name)
    common = _first(b.common == meaning for b in bands)
    if common is not None:
        return common
    return _first(b.telling and b.name.lower() == written.lower() for b in bands)


def _is_called(band: FileBand, written: str) -> bool:
    return written.lower() in {name.lower() for name in (band.name, *band.aliases)}


def _is_near_infrared(name: str, band: FileBand) -> bool:
    """Landsat's and HLS's near infrared is the narrow one, which users call `nir` all the same."""
    return canonical(name) == "nir" and band.common == "nir08"


def _first(hits: Iterable[bool]) -> int | None:
    return next((place for place, hit in enumerate(hits) if hit), None)


def _shorten(names: Sequence[str], most: int = 12) -> list[str]:
    return [*names[:most], "…"] if len(names) > most else list(names)
