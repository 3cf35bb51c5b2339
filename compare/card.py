"""A probe's results in a model's card: Hugging Face's `model-index`, and a section of the text."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tilezoo.errors import ModelError
from tilezoo.io import write_text
from tilezoo.probe.report import words
from tilezoo.probe.report.pages import to_markdown
from tilezoo.probe.report.tables import Bullets, Cell, Grid, Heading, Part, Text, score_cell
from tilezoo.probe.results import Results, Score, parse_results
from tilezoo.probe.scores import SCALARS
from tilezoo.zoo.cards import header, split_card
from tilezoo.zoo.modeldir import CARD, ModelDir, read_model_dir, renew_checksum

_INDEX = "model-index"
_METHODS = {"linear": "linear probe", "knn": "kNN"}


def update_card(folder: str | Path, results: Results | Mapping[str, Any], dataset: str) -> Path:
    """Write what a probe found of a model into its card, and keep all else that stands there.

    An earlier probe's results on the same data are replaced. The card's line in SHA256SUMS is
    renewed, so that the directory verifies.

    Args:
        folder: The model directory.
        results: Of the probe; tables made with the model's weights count.
        dataset: What the tiles and labels are called.

    Returns:
        The card.

    Raises:
        ModelError: It is no model directory, no table was made with its weights, or the card's
            front matter cannot be read.
    """
    found = results if isinstance(results, Results) else parse_results(results)
    model = read_model_dir(Path(folder))
    names = _own_tables(model, found)
    card = model.path / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {model.path.name}\n"
    try:
        matter, body = split_card(text)
    except ValueError as error:
        raise ModelError(f"{card}: its front matter is no YAML ({error}); put it right") from error
    called = str(matter.get("model_name") or model.path.name)
    entries = [entry for name in names for entry in _entries(name, found, dataset)]
    matter[_INDEX] = _merge(matter.get(_INDEX), called, entries)
    write_text(card, header(matter) + _put_section(body, names, found, dataset))
    renew_checksum(model.path, CARD)
    return card


def _own_tables(model: ModelDir, results: Results) -> list[str]:
    own = [
        name
        for name, table in results.tables.items()
        if table.weights_sha256 == model.weights_sha256 and name in results.results
    ]
    if not own:
        raise ModelError(
            f"{model.path}: no table that was probed is of its weights "
            f"({model.weights_sha256[:16]}…); embed with -m {model.path}"
        )
    return own


def _entries(name: str, results: Results, dataset: str) -> Iterator[dict[str, Any]]:
    """Write results as `model-index` holds them, one entry for each way of probing.

    Source: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
    """
    recipe, tiles, table = results.recipe, results.tiles, results.tables[name]
    for method, called in _METHODS.items():
        yield {
            "task": {"type": "image-classification", "name": f"{called}, {recipe.task}"},
            "dataset": {
                "name": dataset,
                "type": _slug(dataset),
                "split": "test",
                "args": {
                    "split": recipe.split.kind,
                    **{part: getattr(tiles, part) for part in ("train", "validation", "test")},
                    "protocol": recipe.protocol,
                    "seed": recipe.seed,
                    "recipe_sha256": recipe.sha256,
                    "space": table.space,
                    "pooling": table.pooling,
                    "leakage": results.leakage[name].status,
                },
            },
            "metrics": [
                _metric(metric, results.results[name][method].of(metric)) for metric in SCALARS
            ],
        }


def _metric(metric: str, score: Score) -> dict[str, Any]:
    bounds = {"low": round(score.low, 4), "high": round(score.high, 4)}
    args = {**bounds, "level": 0.95}
    return {"type": metric, "name": metric, "value": round(score.value, 4), "args": args}


def _merge(found: Any, called: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put entries among those that are there, in place of those on the same data and space."""
    models = [dict(one) for one in found] if isinstance(found, list) else []
    own = next((one for one in models if one.get("name") == called), None)
    if own is None:
        own = {"name": called, "results": []}
        models.append(own)
    new = [_key(entry) for entry in entries]
    kept = [entry for entry in own.get("results") or [] if _key(entry) not in new]
    own["results"] = [*kept, *entries]
    return models


def _key(entry: Any) -> tuple[Any, ...]:
    task, dataset = (entry.get(key) or {} for key in ("task", "dataset"))
    args = dataset.get("args") or {}
    return task.get("name"), dataset.get("name"), args.get("space"), args.get("protocol")


def _put_section(body: str, names: list[str], results: Results, dataset: str) -> str:
    """Put the section of this data into a card's text, in its place if it is there already."""
    called = _slug(dataset) + ", dino" * (results.recipe.protocol == "dino")
    begin, end = (f"<!-- tilezoo probe, {called}: {which} -->" for which in ("begin", "end"))
    section = f"{begin}\n{to_markdown(_section(names, results, dataset))}{end}"
    before, found, rest = body.partition(begin)
    _, closed, after = rest.partition(end)
    if found and closed:
        return f"{before}{section}{after}"
    return f"{body.rstrip()}\n\n{section}\n"


def _section(names: list[str], results: Results, dataset: str) -> Iterator[Part]:
    by = ", DINO's protocol" * (results.recipe.protocol == "dino")
    yield Heading(text=f"Probe on {dataset}{by}")
    yield Text(text=words.verdict(results).text)
    columns = {
        f"{name}, {called}" if len(names) > 1 else called: results.results[name][method]
        for name in names
        for method, called in _METHODS.items()
    }
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (metric, *(score_cell(found.of(metric)) for found in columns.values()))
        for metric in SCALARS
    )
    yield Grid(header=("95 % interval in brackets", *columns), rows=rows)
    yield Text(text=words.setting(results))
    claims = [*words.headlines(results), *words.against_controls(results)]
    yield Bullets(items=tuple(claim for claim in claims if any(name in claim for name in names)))


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9.]+", "-", plain.lower()).strip("-") or "data"
