"""What a run would do with some options: its refusal, what it feeds the model, how many tiles."""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tilezoo.bands import BandRequest, FileBand
from tilezoo.embed.inspection.findings import BandFed, Fed, ModelAsked, Run
from tilezoo.embed.inspection.looks import Look
from tilezoo.embed.inspection.survey import Group, Survey
from tilezoo.embed.options import EmbedOptions, InspectOptions
from tilezoo.errors import ContractError, TileError
from tilezoo.image import Image
from tilezoo.opening import gdal
from tilezoo.option_texts import to_command
from tilezoo.options import options_of
from tilezoo.reading import find_refusal, make_plan
from tilezoo.space import Contract
from tilezoo.tiles import TileRef
from tilezoo.zoo.catalog import entries
from tilezoo.zoo.downloader import find_model

if TYPE_CHECKING:
    from tilezoo.zoo.backbone import Backbone

_SHOWN, _TRIED = 9, 27  # tiles on a picture; looked at, until so many hold data


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
        contract, request = self.contract.adapted(
            bands=self.options.bands,
            value_range=self.options.value_range,
            values=self.options.values,
        )
        return contract, replace(request, nodata=self.options.nodata_value)

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


def describe_run(asked: Asked, survey: Survey) -> Run:
    """Say what `tilezoo embed` would do, with the words that it would say it in."""
    refusal: str | None
    try:
        contract, request = asked.adapt()
    except ContractError as error:
        contract, refusal = asked.contract, str(error)
        fed = tuple(_refuse(number, g, refusal) for number, g in enumerate(survey.groups))
    else:
        refusal = _find_refusal(survey, contract, request) or _tell_unreadable(survey)
        fed = tuple(
            _feed(number, group, contract, request, asked.options)
            for number, group in enumerate(survey.groups)
        )
    return Run(
        command=write_command(asked, errors=0),
        refusal=refusal,
        model=_describe_model(asked.name, contract),
        fed=fed,
        tiles=_count_tiles(survey, asked.options),
        notes=(),
    )


def _refuse(number: int, group: Group, why: str) -> Fed:
    return Fed(kind=number, failing=group.images, refusal=why, bands=())


def _find_refusal(survey: Survey, contract: Contract, request: BandRequest) -> str | None:
    sources = survey.looked_at
    plan = make_plan(sources, request=request, cut=None, limit=None, shard=(0, 1), workers=1)
    found = find_refusal(plan, request, lambda image: image.check(contract))
    return found and f"{found[0].uri}: {found[1]}"


def _tell_unreadable(survey: Survey) -> str | None:
    """Say why no image can be read, where none can."""
    if survey.groups:
        return None
    return next((f"{one.example}: {one.message}" for one in survey.unreadable), None)


def _feed(
    number: int, group: Group, contract: Contract, request: BandRequest, options: InspectOptions
) -> Fed:
    failures = [
        failure
        for look in group.looks
        if (failure := _find_failure(look, contract, request, options)) is not None
    ]
    if len(failures) == len(group.looks):
        return _refuse(number, group, failures[0])
    look = group.looks[0]
    return Fed(
        kind=number,
        failing=-(-group.images * len(failures) // len(group.looks)),
        refusal=failures[0] if failures else None,
        bands=tuple(
            _feed_band(name, look.bands[place], values_of(group, place), contract.value_range)
            for name, place in zip(contract.bands, choose(request, look), strict=True)
        ),
    )


def _find_failure(
    look: Look, contract: Contract, request: BandRequest, options: InspectOptions
) -> str | None:
    """Why an image is refused by its headers; None where it is not."""
    try:
        with gdal(), Image(look.source, request) as image:
            image.check(contract)
            whole = (0, 0, *image.size)
            window = options.cut.window(0, image.size[0]) if options.cut else whole
            image.check_size(window, contract)
    except TileError as error:
        return str(error)
    return None


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


def choose(request: BandRequest, look: Look) -> tuple[int, ...]:
    """Which of an image's bands are fed, by place; none where they are not there."""
    try:
        return request.choose(look.bands)
    except TileError:
        return ()


def values_of(group: Group, place: int) -> NDArray[np.float64]:
    """Sampled values of a band, shape (N,); empty where none was read."""
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


def write_command(asked: Asked, *, errors: int) -> str:
    """The command of `embed` with the options that both verbs have."""
    own = {one.name for one in options_of(InspectOptions)}
    shared = {
        one.name: getattr(asked.options, one.name)
        for one in options_of(EmbedOptions)
        if one.name in own
    }
    out = _propose_out(asked.options.source_list, asked.name)
    return to_command("embed", EmbedOptions(**shared, out=out, max_errors=errors))


def _propose_out(sources: Sequence[str | Path], model: str) -> str:
    """A name for the table that is not taken: of what is embedded, and by what."""
    first = Path(sources[0]).resolve()
    own = first if not glob.has_magic(first.name) else first.parent
    words = re.findall(r"[\w.+-]*\w", f"{own.stem if own.suffix else own.name} {Path(model).name}")
    name = "-".join(words) or "table"
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(name for name in names if not Path(name).exists())


def list_tiles(asked: Asked, survey: Survey) -> Iterator[TileRef]:
    """Tiles spread over all that were looked at, nine first; of few images, several of each."""
    _, request = asked.adapt()
    looks = [look for look in survey.looks if choose(request, look)]
    cut = asked.options.cut
    if cut is None:
        yield from (TileRef(source=looks[place].source) for place in _spread(len(looks)))
        return
    each = -(-_TRIED // max(1, len(looks)))
    counts = [min(each, cut.count(*look.size_px)) for look in looks]
    tiles = [(look, n) for look, count in zip(looks, counts, strict=True) for n in range(count)]
    for place in _spread(len(tiles)):
        look, number = tiles[place]
        total = cut.count(*look.size_px)
        window = cut.window((2 * number + 1) * total // (2 * min(each, total)), look.size_px[0])
        yield TileRef(source=look.source, window=window)


def _spread(count: int) -> list[int]:
    """Numbers below `count`, each once: nine spread evenly, then some others."""
    spread = ((2 * n + 1) * count // (2 * most) for most in (_SHOWN, _TRIED) for n in range(most))
    return list(dict.fromkeys(spread))
