"""The main path of an inspection: sources → a survey → what a run would do → the command that works."""

from dataclasses import replace
from pathlib import Path

from tilezoo.embed.inspection.advice import advise
from tilezoo.embed.inspection.findings import Inspection, Passed, Run
from tilezoo.embed.inspection.plans import Asked, ask, describe_run
from tilezoo.embed.inspection.survey import Survey, survey_sources
from tilezoo.embed.options import InspectOptions
from tilezoo.options import verb
from tilezoo.products.product import find_product
from tilezoo.sources import PassedOver, discover


@verb(InspectOptions)
def inspect(options: InspectOptions) -> Inspection:
    """Look at what would be read, what a model would be fed, and find the command that works.

    Only headers are read, and windows of some images: a folder of 10,000 tiles takes seconds.

    Raises:
        TilezooError: Nothing is found, or the model is not.
    """
    asked = ask(options)
    sources = discover(options.source_list)
    survey = survey_sources(sources, asked.request, options.threads)
    named, usable = _name_parts(asked, survey)
    advice = advise(named, usable)
    run = advice.run if usable is survey else _tell_parts(advice.run)
    made = Inspection(
        sources=tuple(map(str, options.source_list)),
        images=len(sources),
        looked_at=len(survey.looked_at),
        kinds=tuple(group.describe() for group in advice.survey.groups),
        unreadable=survey.unreadable,
        passed_over=_list_passed(sources.passed_over),
        notes=sources.notes,
        asked=describe_run(asked, advice.survey if usable is survey else survey),
        advised=run,
    )
    if options.png is None:
        return made
    from tilezoo.embed.inspection.sheet import draw_sheet

    return replace(made, png=draw_sheet(Path(options.png), advice.asked, advice.survey))


def _name_parts(asked: Asked, survey: Survey) -> tuple[Asked, Survey]:
    """Name one image of each file, and look at these, where all files hold several."""
    parts = survey.list_parts()
    if not parts:
        return asked, survey
    named = replace(asked, options=replace(asked.options, sources=parts))
    return named, survey_sources(discover(parts), asked.request, asked.options.threads)


def _tell_parts(run: Run) -> Run:
    several = "proposed: a file holds several images (see unreadable): which one is a guess"
    return replace(run, notes=(several, *run.notes))


def _list_passed(found: PassedOver) -> tuple[Passed, ...]:
    beside = {
        f"side files of {find_product(key).title}" if key else "side files": count
        for key, count in found.beside.items()
    }
    others = {kind or "without suffix": count for kind, count in found.kinds.most_common()}
    return tuple(Passed(what=what, files=count) for what, count in {**beside, **others}.items())
