"""What a run would feed a model, and the options with which it works."""

import glob
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilezoo.bands import BandProposal, BandRequest, FileBand, propose_bands
from tilezoo.embed.inspection.findings import BandFed, Fed, ModelAsked, Run
from tilezoo.embed.inspection.survey import Group, Look, Survey
from tilezoo.embed.options import EmbedOptions, InspectOptions
from tilezoo.errors import ContractError, TileError
from tilezoo.image import Image
from tilezoo.opening import gdal
from tilezoo.option_texts import to_command
from tilezoo.options import options_of
from tilezoo.reading import find_refusal, make_plan
from tilezoo.space import Contract
from tilezoo.zoo.catalog import OFFLINE_DEFAULT, entries
from tilezoo.zoo.downloader import find_model

if TYPE_CHECKING:
    from tilezoo.zoo.backbone import Backbone

_FAR_LARGER = 4  # times the side it is resized to, from where a file is cut
_MUCH = 0.1  # share of values at one end of the range from where it deserves a word


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run that is asked for: options, and the model's own contract."""

    options: InspectOptions
    name: str
    contract: Contract

    def adapt(self) -> tuple[Contract, BandRequest]:
        """The contract in force, and what files are asked for.

        Raises:
            ContractError: `--bands` cannot serve the model.
        """
        return self.contract.adapted(bands=self.options.bands, value_range=self.options.value_range)

    @property
    def request(self) -> BandRequest:
        """What files are asked for, be it that `--bands` cannot serve the model."""
        try:
            return self.adapt()[1]
        except ContractError:
            return replace(self, options=replace(self.options, bands=None)).adapt()[1]


def ask(options: InspectOptions) -> Asked:
    """Find the contract of the model; one of the catalogue is not brought here for it."""
    model = options.model
    if not isinstance(model, str | Path):
        return Asked(options=_name_model(options, model), name=model.model.name,
                     contract=model.model.contract)  # fmt: skip
    known = {one.name: one.contract for one in entries()}
    if str(model) in known:
        return Asked(options=options, name=str(model), contract=known[str(model)])
    found = find_model(model)
    return Asked(options=options, name=found.name, contract=found.contract)


def _name_model(options: InspectOptions, backbone: "Backbone") -> InspectOptions:
    return replace(options, model=backbone.model.path)


def describe_run(asked: Asked, survey: Survey, notes: Sequence[str] = (), errors: int = 0) -> Run:
    """Say what `tilezoo embed` would do, with the words that it would say it in."""
    refusal: str | None
    try:
        contract, request = asked.adapt()
    except ContractError as error:
        contract, refusal = asked.contract, str(error)
        fed = tuple(_refuse(number, refusal) for number in range(len(survey.groups)))
    else:
        refusal = _find_refusal(survey, contract, request)
        fed = tuple(
            _feed(number, group, contract, request, asked.options)
            for number, group in enumerate(survey.groups)
        )
    return Run(
        command=to_command("embed", _to_embed(asked.options, asked.name, errors)),
        refusal=refusal,
        model=_describe_model(asked.name, contract),
        fed=fed,
        tiles=_count_tiles(survey, asked.options),
        notes=tuple(notes),
    )


def _refuse(number: int, why: str) -> Fed:
    return Fed(kind=number, refusal=why, bands=())


def _find_refusal(survey: Survey, contract: Contract, request: BandRequest) -> str | None:
    sources = survey.looked_at
    plan = make_plan(sources, request=request, cut=None, limit=None, shard=(0, 1), workers=1)
    found = find_refusal(plan, request, lambda image: image.check(contract))
    return found and f"{found[0].uri}: {found[1]}"


def _feed(
    number: int, group: Group, contract: Contract, request: BandRequest, options: InspectOptions
) -> Fed:
    look = group.example
    try:
        with gdal(), Image(look.source, request) as image:
            image.check(contract)
            whole = (0, 0, *image.size)
            image.check_size(
                options.cut.window(0, image.size[0]) if options.cut else whole, contract
            )
    except TileError as error:
        return _refuse(number, str(error))
    places = request.choose(look.bands)
    bands = tuple(
        _feed_band(name, look.bands[place], _values_of(group, place), contract.value_range)
        for name, place in zip(contract.bands, places, strict=True)
    )
    return Fed(kind=number, refusal=None, bands=bands)


def _feed_band(
    name: str, band: FileBand, values: NDArray[np.float64], limits: tuple[float, float]
) -> BandFed:
    low, high = limits
    return BandFed(
        model=name,
        source=band.name or f"band {band.number}",
        below=float((values <= low).mean()) if values.size else None,
        above=float((values >= high).mean()) if values.size else None,
    )


def _values_of(group: Group, place: int) -> NDArray[np.float64]:
    return group.sample.values[place] if group.sample else np.empty(0)


def _describe_model(name: str, contract: Contract) -> ModelAsked:
    return ModelAsked(
        name=name,
        bands=contract.bands,
        unit=contract.unit,
        value_range=contract.value_range,
        size_px=contract.size_px,
        resize=contract.resize,
        resize_px=contract.resize_px,
        gsd_m=contract.gsd_m,
    )


def _count_tiles(survey: Survey, options: InspectOptions) -> int:
    """How many tiles a run makes, from the sizes of what was looked at."""
    cut = options.cut
    if cut is None:
        return survey.images
    counts = (
        group.images * sum(cut.count(*look.size_px) for look in group.looks) / len(group.looks)
        for group in survey.groups
    )
    return round(sum(counts)) + sum(one.images for one in survey.unreadable)


def _to_embed(options: InspectOptions, model: str, errors: int) -> EmbedOptions:
    """The options of `embed` that are asked alike."""
    own = {one.name for one in options_of(InspectOptions)}
    shared = {
        one.name: getattr(options, one.name) for one in options_of(EmbedOptions) if one.name in own
    }
    out = _propose_out(options.source_list, model)
    return EmbedOptions(**shared, out=out, max_errors=errors)


def _propose_out(sources: Sequence[str | Path], model: str) -> str:
    """A name for the table that is not taken: of what is embedded, and by what."""
    first = Path(sources[0]).resolve()
    own = first if not glob.has_magic(first.name) else first.parent
    words = re.findall(r"[\w.+-]*\w", f"{own.stem if own.suffix else own.name} {Path(model).name}")
    name = "-".join(words) or "table"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(name for name in names if not Path(name).exists())


# The options that work


def advise(asked: Asked, survey: Survey) -> tuple[Asked, Run]:
    """Find the options with which a run works, changing what is asked as little as needed."""
    notes: list[str] = []
    for settle in (_settle_bands, _settle_range, _settle_cut):
        asked, told = settle(asked, survey)
        notes += told
    run = describe_run(asked, survey)
    errors, told = _settle_errors(run, survey)
    hints = _give_hints(run, survey)
    return asked, describe_run(asked, survey, [*notes, *told, *hints], errors)


_Settled = tuple[Asked, list[str]]


def _settle_bands(asked: Asked, survey: Survey) -> _Settled:
    """Choose `--bands` where what is asked for serves no image."""
    if _count_served(asked, survey):
        return asked, []
    for model in dict.fromkeys((str(asked.name), OFFLINE_DEFAULT)):
        tried, told = asked, []
        if model != asked.name:
            default = replace(asked.options, model=model, bands=None, value_range=None)
            tried = ask(default)
            own = f"{asked.name} takes {len(asked.contract.bands)} bands, which are not there"
            told = [f"{own}: with {model} in its place"]
        for text, why in _propose_bands(tried.contract.bands, survey):
            with_bands = replace(tried, options=replace(tried.options, bands=text))
            if _count_served(with_bands, survey):
                return with_bands, [*told, *([why] if why else [])]
    return asked, []


def _count_served(asked: Asked, survey: Survey) -> int:
    """How many images have the bands that are asked for."""
    try:
        _, request = asked.adapt()
    except ContractError:
        return 0
    return sum(group.images for group in survey.groups if _choose(request, group.looks[0]))


def _choose(request: BandRequest, look: Look) -> tuple[int, ...]:
    try:
        return request.choose(look.bands)
    except TileError:
        return ()


def _propose_bands(wanted: tuple[str, ...], survey: Survey) -> Iterator[tuple[str | None, str]]:
    """Texts of `--bands` that may do, the surest first, each with what must be said of it."""
    yield None, ""
    for group in survey.groups:
        for proposal in propose_bands(wanted, group.looks[0].bands):
            yield proposal.text, _explain(proposal, wanted)


def _explain(proposal: BandProposal, wanted: tuple[str, ...]) -> str:
    fed = [band.rpartition("=")[2] for band in proposal.text.split(",")]
    each = f"{_and(fed)} are fed as {_and(wanted)}"
    return {
        "named": "",
        "single": f"there is one band: it is fed as each of {_and(wanted)}",
        "in_order": f"proposed: nothing names the bands. That {each} is a guess: look at --png",
        "repeated": f"proposed: nothing names the bands. {each}: look at --png",
        "sentinel_2": f"proposed: {each}, if the files are numbered as Sentinel-2's: look at --png",
        "others": f"proposed: {each}, which are not there",
    }[proposal.reason]


def _and(words: Sequence[str] | Iterator[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _settle_range(asked: Asked, survey: Survey) -> _Settled:
    """Choose `--value-range` where pixels are in no unit that the model takes."""
    try:
        contract, request = asked.adapt()
    except ContractError:
        return asked, []
    served = [(g, p) for g in survey.groups if (p := _choose(request, g.looks[0]))]
    refused = [(g, p) for g, p in served if _is_refused(g, p, contract, request)]
    if not refused or len(refused) < len(served):
        return asked, []
    group, places = refused[0]
    if _find_dtype(group, places) == "uint8":
        low, high, why = 0.0, 255.0, ""
    else:
        values = np.concatenate([_values_of(group, place) for place in places])
        if not values.size:
            return asked, []
        low, high = propose_range(values)
        why = f"proposed: --value-range {low:g},{high:g} is from the sample's percentiles (2 and 98 %)"
        why += "; take the same for all runs that are to be compared"
    options = replace(asked.options, value_range=f"{low:g},{high:g}")
    return replace(asked, options=options), [why] if why else []


def _find_dtype(group: Group, places: Sequence[int]) -> str:
    headers = group.looks[0].headers
    dtypes = {header.dtype for place in places if (header := headers[place])}
    return np.result_type(*dtypes).name


def _is_refused(
    group: Group, places: Sequence[int], contract: Contract, request: BandRequest
) -> bool:
    try:
        contract.check_dtype(_find_dtype(group, places), stated=request.values_stated)
    except TileError:
        return True
    return False


def propose_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """A range that holds the middle 96 % of values, in round numbers; from 0 where that is near."""
    low, high = np.percentile(values, (2, 98)).tolist()
    low = 0.0 if 0 <= low <= high / 4 else _round(low, math.floor)
    high = _round(high, math.ceil)
    return (low, high) if low < high else (low, low + 1)


def _round(value: float, to: Callable[[float], int]) -> float:
    """Round to two digits that count."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{to(value / step) * step:.6g}")


def _settle_cut(asked: Asked, survey: Survey) -> _Settled:
    """Cut files that are too large for one tile, or far larger than what the model sees."""
    if asked.options.tile_px is not None or not survey.groups:
        return asked, []
    contract = asked.contract
    sizes = {look.size_px for look in survey.looks}
    largest = max(map(max, sizes))
    unfit = contract.resize == "none" and sizes != {(contract.size_px,) * 2}
    if largest <= _FAR_LARGER * contract.resize_px and not unfit:
        return asked, []
    why = f"images of {largest:,} px are cut into tiles of {contract.size_px} px"
    return replace(asked, options=replace(asked.options, tile_px=contract.size_px)), [why]


def _settle_errors(run: Run, survey: Survey) -> tuple[int, list[str]]:
    """Let the run end well where it is known that some images fail."""
    refused = sum(
        group.images for group, fed in zip(survey.groups, run.fed, strict=True) if fed.refusal
    )
    broken = sum(one.images for one in survey.unreadable)
    if run.refusal or not refused + broken:
        return 0, []
    share = max(1, run.tiles // max(1, survey.images))
    why = f"{refused + broken} images fail and become rows of errors.parquet"
    return refused * share + broken, [f"{why}; --max-errors lets the run end well"]


def _give_hints(run: Run, survey: Survey) -> Iterator[str]:
    """What embeds, and is unlikely to be meant."""
    model = run.model
    low, high = model.value_range
    for group, fed in zip(survey.groups, run.fed, strict=True):
        for what, end, shares in (
            ("black", low, [band.below for band in fed.bands]),
            ("white", high, [band.above for band in fed.bands]),
        ):
            known = [share for share in shares if share is not None]
            if known and max(known) > _MUCH:
                values = np.concatenate(
                    [_values_of(group, p) for p in range(len(group.looks[0].bands))]
                )
                near = ",".join(f"{v:g}" for v in propose_range(values))
                yield (
                    f"hint: up to {max(known):.0%} of values are {what} (beyond {end:g}); "
                    f"the middle 96 % lie in {near} (--value-range, another space)"
                )
    gsds = [
        look.footprint.gsd_m for group in survey.groups for look in group.looks if look.footprint
    ]
    if model.gsd_m and gsds:
        smallest, largest = model.gsd_m[0] / 2, model.gsd_m[1] * 2
        if not smallest <= min(gsds) <= max(gsds) <= largest:
            made_for = " to ".join(f"{gsd:.4g}" for gsd in dict.fromkeys(model.gsd_m))
            yield f"hint: pixels are {min(gsds):.3g} m, the model was made for {made_for} m"
