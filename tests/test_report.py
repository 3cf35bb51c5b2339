"""A probe's report: all of results.json, nothing else, legible, and safe to open."""

import json
import re
import shutil
from dataclasses import replace
from decimal import Decimal
from itertools import combinations
from pathlib import Path

import making
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tables
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from tilezoo.compare.options import CompareOptions
from tilezoo.embed import embed
from tilezoo.errors import ProbeError
from tilezoo.option_texts import to_command
from tilezoo.probe import probe, write_report
from tilezoo.probe.outcome import find_most_mistaken
from tilezoo.probe.report import figures, words
from tilezoo.probe.report.figures import break_name, confusion, plain
from tilezoo.probe.report.pages import escape_signs
from tilezoo.probe.results import FitFacts, PartCounts, Score
from tilezoo.table import open_table
from tilezoo.training_ids import write_training_ids

TILES, CLASSES = 400, 19
IDS = [f"tile_{number:06d}" for number in range(TILES)]
LONG = "Land principally occupied by agriculture, with significant areas of natural vegetation"
ODD = ("<script>alert(1)</script>", "a|b", "$x$ & _y_", "*bold* [link](http://example.org)")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two tables and a control of the same tiles, with labels of 19 classes and odd names."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(TILES, 12))
    logits = hidden @ rng.normal(size=(12, CLASSES)) - np.linspace(0.5, 3.5, CLASSES)
    names = np.array([LONG, *ODD, *(f"class {n} of a fair length" for n in range(14))], object)
    lists = pa.array([names[row] for row in logits > 0], pa.list_(pa.string()))
    split = np.repeat(["train", "validation", "test"], [240, 80, 80])
    pq.write_table(pa.table({"id": IDS, "labels": lists, "split": split}), folder / "many.parquet")
    one = pa.array(names[logits[:, :4].argmax(axis=1)])
    pq.write_table(pa.table({"id": IDS, "label": one, "split": split}), folder / "one.parquet")
    lonlat = np.stack([rng.uniform(5, 9, TILES), rng.uniform(45, 49, TILES)], axis=1)
    for name, noise in (("clear", 0.4), ("dim", 1.0), ("noise", 30.0)):
        vectors = (hidden + noise * rng.normal(size=hidden.shape)).astype(np.float32)
        tables.write_table(folder / name, vectors, lonlat=lonlat, weights=name[0] * 64)
    return folder


def run(world, out, *names, labels="many", **changed):
    """Probe quickly, with a report."""
    given = {"bootstrap": 100, "rare": "drop", "control": [f"random={world / 'noise'}"]}
    return probe(
        [world / name for name in names],
        labels=world / f"{labels}.parquet",
        out=out,
        **{**given, **changed},
    )


@pytest.fixture(scope="module")
def many(world, tmp_path_factory):
    """Two models on several classes a tile, with a curve."""
    out = tmp_path_factory.mktemp("many") / "out"
    return run(world, out, "clear", "dim", fractions="20,100", seeds=2, note="Say <this> first.")


@pytest.fixture(scope="module")
def one(world, tmp_path_factory):
    """One model on one class a tile, with both splits."""
    out = tmp_path_factory.mktemp("one") / "out"
    return run(world, out, "clear", labels="one", split="both", block_km=20)


def markdown(result) -> str:
    return (result.out / "report.md").read_text(encoding="utf-8")


def html(result) -> str:
    return (result.out / "report.html").read_text(encoding="utf-8")


def test_the_same_results_give_the_same_bytes(many, world, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(many.out, again)
    before = {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    (command,) = re.findall(r"```\n(.*)\n```", markdown(many))
    named = {name: open_table(world / name) for name in ("clear", "dim")}
    write_report(again, tables=named, command=command, note="Say <this> first.")
    after = {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert after == before


def numbers(text: str) -> set[Decimal]:
    """All numbers in a text, without signs; thousands may be set off by commas."""
    joined = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return {Decimal(found) for found in re.findall(r"\d+(?:\.\d+)?", joined)}


def known(value) -> set[Decimal]:
    """All numbers of results.json: as values, and in texts and names."""
    if isinstance(value, dict):
        return set().union(*(known(key) | known(item) for key, item in value.items()))
    if isinstance(value, list):
        return set().union(*map(known, value))
    if isinstance(value, bool) or value is None:
        return set()
    return numbers(value) if isinstance(value, str) else {abs(Decimal(repr(value)))}


@pytest.mark.parametrize("name", ["many", "one"])
def test_every_figure_of_the_report_is_in_its_results(name, request):
    result = request.getfixturevalue(name)
    stored = json.loads((result.out / "results.json").read_text())
    there = known(stored) | {value * 100 for value in known(stored)}
    text = re.sub(r"```.*?```|\]\(pictures/.*?\)|&#?\w+;", "", markdown(result), flags=re.DOTALL)
    text = re.sub(r"\d+ of \d+ are not pictured", "", text)
    printed = {f"{float(one):.{places}f}" for one in there for places in range(5)}
    strange = {n for n in numbers(text) if n not in there and str(n) not in printed}
    assert not strange


@pytest.mark.parametrize("name", ["many", "one"])
def test_the_first_line_is_the_leakage_verdict(name, request):
    result = request.getfixturevalue(name)
    first = markdown(result).splitlines()[0]
    assert first.startswith("**Overlap of pretraining and test tiles: unknown for clear")
    body = html(result).partition("<body>")[2]
    assert body.startswith('<p class="verdict doubt">Overlap of pretraining and test tiles')


@pytest.mark.parametrize(
    ("seen", "mood", "told"),
    [
        (IDS[:100], "good", "zero for listed (of 80 tiles, by id; footprints unknown)"),
        (IDS[-3:], "bad", "LEAKAGE into listed, 3 of 80 tiles by id, footprints unknown"),
        ([], "good", "zero for listed (of 80 tiles, by id; zero by footprint)"),
    ],
)
def test_the_verdict_tells_overlap_from_none(world, tmp_path, seen, mood, told):
    shutil.copytree(world / "clear", tmp_path / "listed")
    write_training_ids(
        tmp_path / "listed/pretraining_ids.parquet", pa.array(seen, pa.string()), None
    )
    result = run(world, tmp_path / "out", tmp_path / "listed", "dim", report=False, control=[])
    verdict = words.verdict(result.found)
    assert told in verdict.text
    assert "unknown for dim" in verdict.text
    assert verdict.mood == ("bad" if mood == "bad" else "doubt")
    alone = replace(
        result.found,
        results={"listed": result.found.results["listed"]},
        leakage={"listed": result.found.leakage["listed"]},
    )
    assert words.verdict(alone).mood == mood


def test_the_headline_claims_what_may_be_claimed_and_nothing_else(many):
    text = markdown(many)
    claims = {
        entry["claim"]: entry
        for entry in many.results["differences"]
        if (entry["b"], entry["method"], entry["metric"]) == ("dim", "linear", "ap_micro")
    }
    ((claim, entry),) = claims.items()
    assert f"- **Linear probe: {escape_signs(claim)}**" in text
    assert entry["may_be_claimed"]
    assert f"{entry['absolute']:+.4f} ({entry['relative']:+.1%}), 95 % interval" in text
    assert "80 test tiles; 19 classes" in text
    assert "seed 0. 95 % intervals come from 100 resamples of 80 test tiles." in text
    assert "> - Small data: only 80 test tiles." in text


def test_too_few_resamples_for_so_many_pairs_are_told(many):
    controls = {f"control{number}": {} for number in range(5)}
    told = words.cautions(replace(many.found, controls=controls))
    assert "100 resamples are too few to claim anything over so many pairs of models." in told
    assert not any("resamples" in caution for caution in words.cautions(many.found))


def test_cautions_name_what_is_unlike_weak_or_no_better_than_a_control(many):
    first, *_ = many.results["class_tiles"]
    tiles = {**many.found.class_tiles, first: PartCounts(train=2, validation=0, test=40)}
    fits = {**many.found.fits, "dim": {"linear": FitFacts(converged=False, at_edge=True)}}
    worse = [msgspec.structs.replace(e, may_be_claimed=False) for e in many.found.differences]
    found = replace(many.found, class_tiles=tiles, fits=fits, differences=worse)
    told = "\n".join(words.cautions(found))
    assert "Train and test are unlike: " in told
    assert f"{first} (2 of 240 train, 40 of 80 test)" in told
    assert "The linear probe did not converge for dim." in told
    assert "The best C lies at the edge of those tried for dim." in told
    assert "clear is not shown to be better than the control random by ap_micro." in told


def test_an_interval_without_width_is_no_certainty(one):
    assert words.without_width(one.found) == []
    name, found = next(iter(one.found.results.items()))
    metric = words.headline_metric(one.found)
    sure = Score(value=1.0, low=1.0, high=1.0)
    linear = replace(found["linear"], **{metric: sure})
    perfect = replace(one.found, results={name: {**found, "linear": linear}})
    (told,) = words.without_width(perfect)
    assert told.startswith(f"All resamples give {name} the same {metric}")
    assert told in words.cautions(perfect)


def test_one_model_is_held_against_its_controls(one):
    first = re.findall(r"^- \*\*(.*)\*\*$", markdown(one), flags=re.MULTILINE)
    assert first[0].startswith("clear scores 0.")
    assert first[1].startswith("Linear probe: clear ")
    assert "random" in first[1]


def test_both_splits_show_their_gap(one):
    assert "## A random split against one by blocks" in markdown(one)
    gap = one.results["split_gap"]["results"]["clear"]["linear"]["accuracy"]
    assert f"{gap['gap']:+.3f} | {gap['low']:+.3f} to {gap['high']:+.3f} |" in markdown(one)


def test_controls_stand_beside_models(many):
    header = next(line for line in markdown(many).splitlines() if line.startswith("|  | clear"))
    assert header == "|  | clear | dim | prior (control) | random (control) |"


def test_the_page_loads_nothing_and_runs_nothing(many, one):
    for result in (many, one):
        page = html(result)
        assert set(re.findall(r'src="([a-z]+):', page)) == {"data"}
        assert not re.findall(r"<(?:script|link|iframe|object|embed|base|form)\b", page)
        assert not re.findall(r'\b(?:href|url|@import|srcset|on\w+)\s*[=(]\s*["\']', page)
        assert "default-src 'none'" in page


def test_odd_names_are_text_in_both_forms(many):
    page, text = html(many), markdown(many)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert r"| a\|b |" in text
    assert r"\*bold\* \[link\](http://example.org)" in text
    assert "Say &lt;this&gt; first." in page


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("ap_micro", "ap_micro"),
        ("_a_ b", r"\_a\_ b"),
        ("1. one", r"1\. one"),
        ("- one", r"\- one"),
        ("# one", r"\# one"),
        ("a\nb  c", "a b c"),
        ("`x` & <y>", r"\`x\` &amp; &lt;y&gt;"),
    ],
)
def test_markdown_takes_no_sign_for_its_own(text, safe):
    assert escape_signs(text) == safe


def test_names_in_figures_are_no_mathematics():
    assert plain("$x$") == r"\$x\$"
    assert plain("_hidden").startswith(" ")
    assert len(plain("n" * 100)) <= 44
    assert break_name(LONG, 32, most_lines=3).count("\n") == 2
    assert "…" not in break_name(LONG, 32, most_lines=3)


def texts_of(figure: Figure) -> list[tuple[str, object]]:
    """Every text that is drawn in a figure, with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    axes = [axis for one in figure.axes for axis in (one.xaxis, one.yaxis)]
    beyond = {
        tick.label1
        for axis in axes
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    found = [text for text in figure.findobj(Text) if text not in beyond]
    shown = [text for text in found if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in shown]


@pytest.mark.parametrize("name", ["many", "one"])
def test_no_text_of_a_figure_is_cut_or_overlaps_another(name, request):
    results = request.getfixturevalue(name).found
    drawn = [figures.by_class(results), figures.differences(results), confusion(results, "clear")]
    if results.label_efficiency:
        drawn.append(figures.fewer_labels(results, results.label_efficiency))
    for figure in drawn:
        texts = texts_of(figure)
        width, height = figure.bbox.width, figure.bbox.height
        for told, box in texts:
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, told
        for (told, box), (other, theirs) in combinations(texts, 2):
            apart = (
                box.x1 <= theirs.x0 + 1 or theirs.x1 <= box.x0 + 1
                or box.y1 <= theirs.y0 + 1 or theirs.y1 <= box.y0 + 1
            )  # fmt: skip
            assert apart, (told, other)


def test_many_classes_are_drawn_in_part_and_told_in_full(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(450, 4)).astype(np.float32)
    tables.write_table(tmp_path / "t", vectors)
    ids = [f"tile_{number:06d}" for number in range(450)]
    named = [f"class {number % 45:02d}" for number in range(450)]
    pq.write_table(pa.table({"id": ids, "label": named}), tmp_path / "labels.parquet")
    result = probe(
        tmp_path / "t", labels=tmp_path / "labels.parquet", out=tmp_path / "out", bootstrap=100
    )
    assert "The classes with the most test tiles are drawn" in markdown(result)
    assert markdown(result).count("| class ") >= 45
    assert result.results["mistakes"]["confusion"] == {}


def test_the_tiles_mistaken_most_are_shown_and_those_that_are_gone_counted(tmp_path, vit):
    making.write_tiles(tmp_path / "tiles", 30, side=32)
    embed(tmp_path / "tiles", out=tmp_path / "t", model=vit, precision="fp32")
    ids = [f"tile_{number:04d}.tif" for number in range(30)]
    named = [("a", "b")[number % 2] for number in range(30)]
    pq.write_table(pa.table({"id": ids, "label": named}), tmp_path / "labels.parquet")
    given = {"labels": tmp_path / "labels.parquet", "out": tmp_path / "out", "bootstrap": 100}
    result = probe(tmp_path / "t", **given)
    mistaken = result.results["mistakes"]["tiles"]["t"]
    assert mistaken, "chance labels are mistaken"
    shown = sorted((tmp_path / "out/pictures").glob("mistaken-t-*.png"))
    assert len(shown) == len(mistaken)
    assert html(result).count("<figure>") == len(mistaken)
    (tmp_path / "tiles" / mistaken[0]["id"]).unlink()
    fewer = probe(tmp_path / "t", **given)
    assert len(list((tmp_path / "out/pictures").glob("mistaken-t-*.png"))) == len(mistaken) - 1
    assert f"1 of {len(mistaken)} are not pictured: their files are gone." in markdown(fewer)


def test_the_widest_gaps_are_the_most_mistaken():
    truth = np.array([[1, 0], [1, 0], [0, 1], [1, 1]], np.uint8)
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.4, 0.95], [0.9, 0.1]], np.float32)
    found = find_most_mistaken(pa.array(list("wxyz")), truth, scores, ["p", "q"], "multilabel")
    assert [(one.id, one.class_name, one.labels) for one in found] == [
        ("z", "q", ["p", "q"]), ("x", "p", ["p"]),
    ]  # fmt: skip
    single = np.array([[1, 0], [0, 1], [0, 1]], np.uint8)
    guesses = np.array([[0.4, 0.6], [0.2, 0.8], [0.9, 0.1]], np.float32)
    found = find_most_mistaken(pa.array(list("xyz")), single, guesses, ["p", "q"], "multiclass")
    assert [(one.id, one.class_name, one.labels) for one in found] == [
        ("z", "p", ["q"]), ("x", "q", ["p"]),
    ]  # fmt: skip


def test_an_earlier_report_goes_with_its_results(many, world, tmp_path):
    shutil.copytree(many.out, tmp_path / "out")
    run(world, tmp_path / "out", "clear", report=False)
    assert not list((tmp_path / "out").glob("report.*"))
    assert not list((tmp_path / "out" / "pictures").iterdir())


def test_a_report_needs_results(tmp_path):
    with pytest.raises(ProbeError, match=r"no results to report; make them with `tilezoo probe"):
        write_report(tmp_path, tables={}, command="")


def test_a_command_names_what_differs_from_its_defaults():
    asked = CompareOptions(
        Path("tiles"), labels="a b.csv", models=("x", "y"), out="o", controls=False
    )
    line = to_command("compare", asked)
    assert line == (
        "tilezoo compare tiles --labels 'a b.csv' --model x --model y --out o --no-controls"
    )
