"""The options with which a run works, and what is to be said of them."""

import math
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilezoo.bands import BandProposal, BandRequest, propose_bands
from tilezoo.embed.inspection.findings import Run
from tilezoo.embed.inspection.plans import (
    Asked,
    ask,
    choose,
    describe_run,
    list_tiles,
    values_of,
    write_command,
)
from tilezoo.embed.inspection.survey import Group, Survey, sample_values
from tilezoo.errors import ContractError, TileError
from tilezoo.hints import read_hints
from tilezoo.space import Contract
from tilezoo.zoo.catalog import OFFLINE_DEFAULT

_FAR_LARGER = 4  # times the side it is resized to, from where a file is cut
_HINTED = 8  # tiles that are read for hints

_Settled = tuple[Asked, list[str]]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What is to be done.

    Attributes:
        asked: The run that works.
        survey: With values as that run feeds them.
        run: What it does.
    """

    asked: Asked
    survey: Survey
    run: Run


def advise(asked: Asked, survey: Survey) -> Advice:
    """Find the options with which a run works, changing what is asked as little as needed."""
    asked, notes = _settle_bands(asked, survey)
    refused = _find_refused(asked, survey)
    # A stated range is one of values that a product's scale and offset are applied to.
    stated = replace(asked.request, value_range=None, values_stated=True)
    request = asked.request if refused is None else stated
    survey = sample_values(survey, request, asked.options.threads)
    if refused is not None:
        asked, told = _propose_range(asked, survey.groups[refused])
        notes += told
    for settle in (_settle_cut, _settle_nodata):
        asked, told = settle(asked, survey)
        notes += told
    run = describe_run(asked, survey)
    errors, told = _settle_errors(run, survey)
    hints = _give_hints(asked, run, survey)
    command = write_command(asked, errors=errors)
    run = replace(run, command=command, notes=(*notes, *told, *hints))
    return Advice(asked=asked, survey=survey, run=run)


def _settle_bands(asked: Asked, survey: Survey) -> _Settled:
    """Choose `--bands`, if need be another model, where what is asked for serves no image."""
    if _count_served(asked, survey) or not survey.groups:
        return asked, []
    found = _try_bands(asked, survey)
    if found is None and asked.name != OFFLINE_DEFAULT:
        default = replace(asked.options, model=OFFLINE_DEFAULT, bands=None, value_range=None)
        told = (
            f"{Path(asked.name).name} takes {len(asked.contract.bands)} bands, which are not there"
        )
        found = _try_bands(ask(default), survey)
        if found is not None:
            return found[0], [f"{told}: with {OFFLINE_DEFAULT} in its place", *found[1]]
    return found or (asked, [])


def _try_bands(asked: Asked, survey: Survey) -> _Settled | None:
    """Take the `--bands` that serves most images; of several, the surest."""
    best, most = None, 0
    for text, why in _propose_bands(asked.contract.bands, survey):
        tried = replace(asked, options=replace(asked.options, bands=text))
        served = _count_served(tried, survey)
        if served > most:
            best, most = (tried, [why] if why else []), served
    return best


def _count_served(asked: Asked, survey: Survey) -> int:
    """How many images have the bands that are asked for."""
    try:
        _, request = asked.adapt()
    except ContractError:
        return 0
    return sum(group.images for group in survey.groups if choose(request, group.looks[0]))


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


def _find_refused(asked: Asked, survey: Survey) -> int | None:
    """The first kind of image that is in no unit that the model takes, where most images are."""
    try:
        contract, request = asked.adapt()
    except ContractError:
        return None
    served = {n: p for n, g in enumerate(survey.groups) if (p := choose(request, g.looks[0]))}
    groups = {n: survey.groups[n] for n in served}
    refused = [n for n, p in served.items() if _is_refused(groups[n], p, contract, request)]
    images = sum(group.images for group in groups.values())
    most = 2 * sum(groups[n].images for n in refused) > images
    return refused[0] if most else None


def _propose_range(asked: Asked, group: Group) -> _Settled:
    """Choose `--value-range` by the values of a kind of image."""
    places = choose(asked.request, group.looks[0])
    if _find_dtype(group, places) == "uint8":
        return _state_range(asked, 0, 255), []
    values = np.concatenate([values_of(group, place) for place in places])
    if not values.size:
        return asked, []
    low, high = propose_range(values)
    why = f"--value-range {low:g},{high:g} is from the sample's percentiles (2 and 98 %)"
    note = f"proposed: {why}; take the same for all runs that are to be compared"
    return _state_range(asked, low, high), [note]


def _state_range(asked: Asked, low: float, high: float) -> Asked:
    return replace(asked, options=replace(asked.options, value_range=f"{low:g},{high:g}"))


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


def _settle_nodata(asked: Asked, survey: Survey) -> _Settled:
    """Take NaN for no data where nothing declares it: a tile with a NaN fails."""
    broken = [group for group in survey.groups if group.sample and group.sample.broken_share]
    declared = any(group.declares_nodata for group in broken)
    if not broken or declared or asked.options.nodata is not None:
        return asked, []
    why = "NaN is taken for no data (--nodata nan): no file declares it"
    return replace(asked, options=replace(asked.options, nodata="nan")), [why]


def _settle_errors(run: Run, survey: Survey) -> tuple[int, list[str]]:
    """Let the run end well where it is known that some images fail."""
    failing = [fed for fed in run.fed if fed.failing]
    refused = sum(fed.failing for fed in failing)
    broken = sum(one.images for one in survey.unreadable)
    if run.refusal or not refused + broken:
        return 0, []
    share = max(1, run.tiles // max(1, survey.images))
    told = f"{refused + broken:,} of the images fail: they become rows of errors.parquet"
    others = next((fed for fed in failing if not fed.bands), None)
    if others is not None:
        path = shlex.quote(survey.groups[others.kind].looks[0].source.uri)
        told = f"{told}; look at these by themselves: tilezoo inspect {path}"
    return refused * share + broken, [told]


def _give_hints(asked: Asked, run: Run, survey: Survey) -> Iterator[str]:
    """What embeds, and is unlikely to be meant."""
    if run.refusal:
        return
    contract, request = asked.adapt()
    refs = list(islice(list_tiles(asked, survey), _HINTED))
    for hint in read_hints(refs, contract, request, workers=asked.options.threads):
        yield f"hint: {hint}"
    gsds = [look.footprint.gsd_m for look in survey.looks if look.footprint]
    if contract.gsd_m and gsds:
        smallest, largest = contract.gsd_m[0] / 2, contract.gsd_m[1] * 2
        if not smallest <= min(gsds) <= max(gsds) <= largest:
            made_for = " to ".join(f"{gsd:.4g}" for gsd in dict.fromkeys(contract.gsd_m))
            yield f"hint: pixels are {min(gsds):.3g} m, the model was made for {made_for} m"
