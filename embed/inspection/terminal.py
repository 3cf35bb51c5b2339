"""An inspection as text of 80 columns: what is there, what the model is fed, the command that works."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from textwrap import wrap

from tilezoo.embed.inspection.findings import (
    BandFound,
    Fed,
    Inspection,
    Kind,
    ModelAsked,
    Unreadable,
)

WIDTH = 80
_LABEL = 11
_KINDS = 6
_BANDS = 16
_COLUMNS = "{:<11}{:<11}{:>3}{:>6}  {:<8}{:>7} {:>7} {:>7} {:>7} {:>7}"
_HEADS = ("band", "common", "no", "m", "dtype", "min", "2 %", "median", "98 %", "max")


def to_terminal(found: Inspection) -> str:
    """Write an inspection as text."""
    shown = found.kinds[:_KINDS]
    parts = [
        _title(found),
        *("\n".join(_describe_kind(kind)) for kind in shown),
        "\n".join(_describe_rest(found)),
        "\n".join(_describe_fed(found)),
        "\n".join(_give_advice(found)),
    ]
    return "\n\n".join(part for part in parts if part)


def _title(found: Inspection) -> str:
    images = _count(found.images, "image")
    looked = f", {found.looked_at} of them looked at" if found.looked_at < found.images else ""
    return _wrap(f"{', '.join(found.sources)}: {images}{looked}")


def _describe_kind(kind: Kind) -> Iterator[str]:
    title = kind.product.title if kind.product else "no known product"
    about = "about " if kind.looked_at < kind.images else ""
    yield f"{title}: {about}{_count(kind.images, 'image')}"
    yield _line("for example", _end_of(kind.example))
    if kind.files > 1:
        yield _line("files", f"{kind.files} an image, one of each band")
    yield _line("size", _say_sizes(kind))
    yield _line("place", _say_place(kind))
    yield _line("time", _say_times(kind.times))
    yield _line("no data", _say_nodata(kind))
    yield _line("values", _say_values(kind))
    yield ""
    yield _COLUMNS.format(*_HEADS).rstrip()
    for band in kind.bands[:_BANDS]:
        yield _COLUMNS.format(*_cells(band)).rstrip()
    if len(kind.bands) > _BANDS:
        yield f"… and {len(kind.bands) - _BANDS} more (--json lists them)"


def _end_of(path: str) -> str:
    """The end of a path that is too long for a line."""
    room, name = WIDTH - _LABEL - 3, path.rpartition("/")[2]
    return next((text for text in (path, f"…/{name}") if len(text) <= room), name)


def _say_sizes(kind: Kind) -> str:
    sizes = dict.fromkeys((kind.smallest_px, kind.largest_px))
    size = " to ".join(f"{width} x {height}" for width, height in sizes)
    if kind.gsd_m is None:
        return f"{size} px"
    return f"{size} px of {_say_range(kind.gsd_m)} m"


def _say_place(kind: Kind) -> str:
    crs = [name if name.startswith("EPSG") else name.split(",")[0] for name in kind.crs[:1]]
    crs += [f"{len(kind.crs) - 1} other CRS"] if len(kind.crs) > 1 else []
    if kind.bbox is None:
        return f"{crs[0]}, no place on the globe" if crs else "not georeferenced"
    crs += ["approximate, by control points or RPCs"] if kind.approximate else []
    west, south, east, north = (f"{value:.4f}" for value in kind.bbox)
    return f"{', '.join(crs)}; {west},{south} to {east},{north} (lon,lat)"


def _say_times(times: tuple[datetime, datetime] | None) -> str:
    if times is None:
        return "nothing says it"
    first, last = (f"{time:%Y-%m-%d %H:%M:%S}" for time in times)
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def _say_nodata(kind: Kind) -> str:
    said = [*kind.nodata, *(["a mask or alpha"] if kind.masked else [])]
    if not said and kind.usual_nodata is not None:
        said = [f"{kind.usual_nodata:g} (the product's)"]
    share = "" if kind.nodata_share is None else f"; {_percent(kind.nodata_share)} of the sample"
    broken = f"; {_percent(kind.broken_share)} is NaN or infinite" if kind.broken_share else ""
    return f"{' and '.join(said) or 'not declared'}{share}{broken}"


def _say_values(kind: Kind) -> str:
    unit = kind.product.unit if kind.product else "nothing says their unit"
    return "; ".join(filter(None, (unit, kind.rescaling)))


def _cells(band: BandFound) -> list[str]:
    gsd = "" if band.gsd_m is None else f"{band.gsd_m:.3g}"
    name = band.name if len(band.name) < 11 else f"{band.name[:9]}…"
    values = [_short(value) for value in band.percentiles] or ["–"] * 5
    common = band.common or "–"
    number = "" if band.number is None else str(band.number)
    return [name or "–", common, number, gsd, band.dtype, *values]


def _short(value: float) -> str:
    """Write a number in seven characters at the most: whole ones of 16 bits as they are."""
    digits = (5, 4, 3, 2, 1) if value.is_integer() else (4, 3, 2, 1)
    return next(text for most in digits if len(text := f"{value:.{most}g}") <= 7)


def _describe_rest(found: Inspection) -> Iterator[str]:
    if len(found.kinds) > _KINDS:
        left = found.kinds[_KINDS:]
        images = sum(kind.images for kind in left)
        yield f"{len(left)} more kinds of {_count(images, 'image')} (--json lists them)"
    if found.passed_over:
        told = ", ".join(f"{one.what} ({one.files:,})" for one in found.passed_over)
        yield _line("passed over", told)
    for one in found.unreadable:
        yield _say_unreadable(one)


def _say_unreadable(one: Unreadable) -> str:
    example = f"for example {_end_of(one.example)}"
    return _line("unreadable", f"{_count(one.images, 'image')}: {one.message}; {example}")


def _describe_fed(found: Inspection) -> Iterator[str]:
    yield _wrap(_say_model(found.asked.model))
    if found.asked.refusal:
        yield _line("refused", found.asked.refusal)
        yield _wrap(f"By the command below {_say_model(found.advised.model)}")
    for fed in found.advised.fed[:_KINDS]:
        yield from _say_fed(fed, found)


def _say_model(model: ModelAsked) -> str:
    low, high = model.value_range
    unit = "" if model.unit == "stated" else f"{model.unit}, "
    made_for = "" if model.gsd_m is None else f", made for {_say_range(model.gsd_m)} m"
    values = f"{unit}{low:g} black to {high:g} white"
    name = model.name.rpartition("/")[2] if model.name.startswith("/") else model.name
    return f"{name} takes {_join(model.bands)}: {values}, {model.size_px} px{made_for}"


def _say_range(limits: tuple[float, float]) -> str:
    low, high = (f"{float(f'{limit:.3g}'):g}" for limit in limits)
    return low if low == high else f"{low} to {high}"


def _say_fed(fed: Fed, found: Inspection) -> Iterator[str]:
    kind = found.kinds[fed.kind]
    title = kind.product.title if kind.product else kind.example.rpartition("/")[2]
    about = f" of {title}" if len(found.kinds) > 1 else ""
    if fed.refusal:
        some = f"{fed.failing:,} of {kind.images:,}: " if fed.bands else ""
        yield _line("fails", f"{f'{title}: ' * bool(about)}{some}{fed.refusal}")
    if not fed.bands:
        return
    ways = ", ".join(
        f"{band.model} ← {band.source}" if band.model != band.source else band.model
        for band in fed.bands[:_BANDS]
    )
    yield _line("fed", f"{ways}{about}")
    known = [band for band in fed.bands if band.below is not None and band.above is not None]
    if known:
        below = max(band.below or 0 for band in known)
        above = max(band.above or 0 for band in known)
        yield _line("saturated", f"up to {_percent(below)} black, {_percent(above)} white")


def _give_advice(found: Inspection) -> Iterator[str]:
    run = found.advised
    for note in run.notes:
        yield _wrap(note)
    if found.png:
        yield f"{found.png}: the picture of tiles as the model sees them"
    if run.refusal:
        yield _wrap("No options were found with which it works.")
        return
    about = "about " if found.looked_at < found.images else ""
    yield f"{about}{_count(run.tiles, 'tile')} by:".capitalize()
    yield ""
    yield f"  {run.command}"


def _percent(share: float) -> str:
    return "0 %" if share == 0 else "under 0.1 %" if share < 0.001 else f"{share * 100:.2g} %"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("s" if number != 1 else "")


def _join(words: Sequence[str]) -> str:
    return ",".join(words) if len(words) <= _BANDS else f"{len(words)} bands"


def _line(label: str, text: str) -> str:
    first, *more = wrap(text, WIDTH - _LABEL - 3, break_on_hyphens=False)
    indent = " " * (_LABEL + 3)
    return "\n".join([f"  {label:<{_LABEL}} {first}", *(f"{indent}{line}" for line in more)])


def _wrap(text: str) -> str:
    return "\n".join(wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
