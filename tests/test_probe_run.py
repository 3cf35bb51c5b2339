"""A probe from saved tables to results.json, and everything that may be wrong with its input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tables
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

from tilezoo.cli.app import app
from tilezoo.errors import LabelsError, OptionError, ProbeError, TableError, TilezooError
from tilezoo.probe import probe
from tilezoo.training_ids import TRAINING_IDS, write_training_ids

COUNT, CLASSES = 420, 4
METRICS = {
    "accuracy", "balanced_accuracy", "f1_micro", "f1_macro", "ap_micro", "ap_macro",
    "ap_per_class", "ece",
}  # fmt: skip
IDS = [f"tile_{number:06d}" for number in range(COUNT)]


class World:
    """Tiles with places, classes, and tables that show them more or less clearly."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.folder = folder
        hidden = rng.normal(size=(COUNT, 6))
        logits = 1.5 * hidden @ rng.normal(size=(6, CLASSES)) - 0.5
        self.y = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
        self.single = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        self.lonlat = np.stack([rng.uniform(5, 25, COUNT), rng.uniform(40, 60, COUNT)], 1)
        self.vectors = {
            "clear": hidden @ rng.normal(size=(6, 16)) + 0.5 * rng.normal(size=(COUNT, 16)),
            "dim": hidden @ rng.normal(size=(6, 16)) + 4.0 * rng.normal(size=(COUNT, 16)),
            "noise": rng.normal(size=(COUNT, 16)),
        }
        for name, vectors in self.vectors.items():
            self.table(name, vectors)
        names = np.array([f"class {number}" for number in range(CLASSES)])
        split = np.resize(["train", "train", "test", "val", "train", "test"], COUNT)
        lists = [names[row > 0].tolist() for row in self.y]
        self.many = self.labels("many", labels=pa.array(lists, pa.list_(pa.string())), split=split)
        self.one = self.labels("one", label=names[self.single], split=split)
        self.split = split

    def table(self, name, vectors, lonlat=True):
        """Write a table of the first so many tiles."""
        places = self.lonlat[: len(vectors)] if lonlat else None
        return tables.write_table(self.folder / name, vectors.astype(np.float32), lonlat=places)

    def labels(self, name, ids=IDS, **columns):
        """Write a file of labels."""
        path = self.folder / f"{name}.parquet"
        pq.write_table(pa.table({"id": ids, **columns}), path)
        return path

    def at(self, *names):
        """Paths of tables by name."""
        return [self.folder / name for name in names]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def compared(world, tmp_path_factory):
    """Two tables and a control, compared by the function."""
    return probe(
        world.at("clear", "dim"),
        labels=world.many,
        out=tmp_path_factory.mktemp("out") / "probe",
        control=[f"random={world.folder / 'noise'}"],
        fractions="10,100",
        seeds=2,
        bootstrap=120,
        report=False,
    )


def run(world, out, labels="many", names=("clear",), **changed):
    """Probe quickly."""
    given = {"labels": getattr(world, labels) if isinstance(labels, str) else labels}
    quick = {"bootstrap": 100, "report": False}
    return probe(world.at(*names), out=out / "probe", **{**given, **quick, **changed})


@pytest.mark.parametrize("whole", [True, False])
def test_groups_on_both_sides_of_a_given_split_are_told_beside_leakage(
    world, tmp_path, capsys, whole
):
    names = np.array([f"class {number}" for number in range(CLASSES)])[world.single]
    sheets = [number // 20 for number in range(COUNT)]
    groups = [
        f"{world.split[n]} {sheet}" if whole else f"{sheet}" for n, sheet in enumerate(sheets)
    ]
    labels = world.labels("sides", label=names, split=world.split, group=groups)
    result = run(world, tmp_path / "sides", labels=labels, report=True)
    said = "Groups stand on both sides of the given split: "
    report = (result.out / "report.md").read_text()
    texts = (capsys.readouterr().err, result.to_terminal(), report, str(result.results["notes"]))
    assert [said in text for text in texts] == [not whole] * 4
    if not whole:
        leakage = next(line for line in report.splitlines() if "Overlap of pretraining" in line)
        assert said in leakage


def test_groups_that_labels_name_are_resampled_whole(world, tmp_path):
    names = np.array([f"class {number}" for number in range(CLASSES)])[world.single]
    groups = [f"sheet {number // 20}" for number in range(COUNT)]
    labels = world.labels("grouped", label=names, split=world.split, group=groups)
    alone = run(world, tmp_path / "alone", labels="one").results
    found = run(world, tmp_path / "grouped", labels=labels).results
    assert found["recipe"]["bootstrap"]["unit"] == "group"
    assert found["tiles"]["resampled_units"] == COUNT // 20
    values = [one["results"]["clear"]["linear"]["accuracy"] for one in (alone, found)]
    assert values[0]["value"] == values[1]["value"]
    assert values[0]["low"] != values[1]["low"]


def test_results_hold_every_score_with_its_interval(compared):
    results = json.loads((compared.out / "results.json").read_text())
    assert results == compared.results
    assert set(results["results"]) == {"clear", "dim"}
    assert set(results["controls"]) == {"prior", "random"}
    for methods in (*results["results"].values(), results["controls"]["random"]):
        assert list(methods) == ["linear", "knn", "centroid"]
        for scores in methods.values():
            assert set(scores) == METRICS
            by_class = scores["ap_per_class"]
            assert list(by_class) == [f"class {number}" for number in range(CLASSES)]
            entries = [*by_class.values(), *(scores[m] for m in METRICS - {"ap_per_class"})]
            for entry in entries:
                assert set(entry) == {"value", "low", "high"}
                assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1


def test_predictions_give_the_scores_that_are_reported(compared, world):
    found = pq.read_table(compared.out / "predictions-clear.parquet")
    rows = np.flatnonzero(world.split == "test")
    assert found["id"].to_pylist() == [IDS[row] for row in rows]
    classes = json.loads(found.schema.metadata[b"tilezoo"])["classes"]
    assert [set(row) for row in found["labels"].to_pylist()] == [
        {classes[c] for c in np.flatnonzero(world.y[row])} for row in rows
    ]
    scores = np.array(found["scores"].to_pylist())
    expected = average_precision_score(world.y[rows], scores, average="micro")
    value = compared.results["results"]["clear"]["linear"]["ap_micro"]["value"]
    assert value == pytest.approx(expected, abs=1e-6)


def test_the_clearer_table_wins_and_controls_stand_beside(compared):
    results = compared.results
    clear, dim = (results["results"][n]["linear"]["ap_micro"]["value"] for n in ("clear", "dim"))
    prior, noise = (results["controls"][n]["linear"]["ap_macro"] for n in ("prior", "random"))
    assert clear > dim + 0.1
    assert prior["value"] == pytest.approx(noise["value"], abs=0.1)
    by_metric = {
        (d["a"], d["b"], d["method"], d["metric"]): d
        for d in results["differences"]
        if "class" not in d
    }
    assert len(by_metric) == 3 * 3 * 7  # pairs (two with the control), ways of probing, scores
    found = by_metric["clear", "dim", "linear", "ap_micro"]
    assert found["absolute"] == pytest.approx(clear - dim, abs=2e-6)
    assert found["claim"].startswith("clear is better than dim by ap_micro")
    assert ("dim", "random", "linear", "ap_micro") in by_metric
    assert any("no difference" in d["claim"] for d in by_metric.values())


def test_the_prior_is_what_labels_alone_tell(compared, world):
    test, learnt = world.y[world.split == "test"], world.y[world.split != "test"]
    shares = np.tile(learnt.mean(0), (len(test), 1))
    found = compared.results["controls"]["prior"]["linear"]
    assert found["ap_micro"]["value"] == pytest.approx(
        average_precision_score(test, shares, average="micro"), abs=1e-6
    )
    assert found["ap_per_class"]["class 1"]["value"] == pytest.approx(test[:, 1].mean(), abs=1e-6)
    assert found["balanced_accuracy"]["value"] == 0.5


def test_the_recipe_pins_protocol_labels_and_split_but_no_table(world, compared, tmp_path):
    recipe = run(world, tmp_path / "a").results["recipe"]
    assert run(world, tmp_path / "b", names=("dim",)).results["recipe"] == recipe
    assert compared.results["recipe"]["sha256"] != recipe["sha256"]  # other options
    assert len(recipe["sha256"]) == 64
    assert recipe["split"]["kind"] == "given"


def test_the_label_efficiency_curve_rises_with_labels(compared):
    curve = compared.results["label_efficiency"]
    points = [
        (p["percent"], p["seed"], p["tiles"]) for p in curve["points"] if p["name"] == "clear"
    ]
    assert points == [(10.0, 0, 21), (10.0, 1, 21), (100.0, 0, 210)]
    found = {(s["name"], s["percent"]): s for s in curve["summary"]}
    few, all_of_it = found["clear", 10.0], found["clear", 100.0]
    assert few["ap_micro"]["mean"] < all_of_it["ap_micro"]["mean"]
    assert few["ap_micro"]["deviation"] > 0
    assert all_of_it["ap_micro"]["deviation"] is None


def test_the_same_probe_gives_the_same_bytes(world, compared, tmp_path):
    again = probe(
        world.at("clear", "dim"),
        labels=world.many,
        out=tmp_path / "probe",
        control=[f"random={world.folder / 'noise'}"],
        fractions="10,100",
        seeds=2,
        bootstrap=120,
    )
    for name in ("results.json", "predictions-clear.parquet"):
        assert (again.out / name).read_bytes() == (compared.out / name).read_bytes()
    assert set(json.loads((again.out / "timing.json").read_text())) == {"seconds", "steps"}


def test_the_order_of_tiles_in_a_table_does_not_matter(world, tmp_path):
    """Labels in another order, and a table without places: the same tiles, the same scores."""
    plain = run(world, tmp_path / "a").results
    found = pq.read_table(world.many)
    pq.write_table(found.take(np.random.default_rng(0).permutation(COUNT)), tmp_path / "l.parquet")
    shuffled = run(world, tmp_path / "b", labels=tmp_path / "l.parquet").results
    assert shuffled == plain


def test_the_terminal_says_leakage_first_and_fits_80_columns(compared):
    lines = compared.to_terminal().splitlines()
    assert lines[0].startswith("clear: leakage unknown")
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "linear             clear               dim                 prior" in text
    value = compared.results["results"]["clear"]["linear"]["ap_micro"]["value"]
    assert f"ap_micro           {value:.3f} " in text
    assert "10 % of train" in text


def test_the_metric_is_what_is_chosen_by_and_what_headlines_are_about(world, tmp_path):
    usual = run(world, tmp_path, labels="one", names=("clear", "noise"))
    found = run(world, tmp_path, labels="one", names=("clear", "noise"), metric="ap_macro")
    assert found.results["recipe"]["chosen_by"] == "ap_macro"
    assert found.results["recipe"]["sha256"] != usual.results["recipe"]["sha256"]
    joint = found.results["fits"]["clear"]["linear"]["validation"]
    assert joint != usual.results["fits"]["clear"]["linear"]["validation"]
    assert " by ap_macro" in found.to_terminal()
    assert " by accuracy" not in found.to_terminal()


def test_several_classes_a_tile_are_not_chosen_by_accuracy(world, tmp_path):
    with pytest.raises(OptionError, match=r"--metric accuracy.*ap_micro or ap_macro"):
        run(world, tmp_path, metric="accuracy")


def test_one_class_a_tile_is_a_softmax(world, tmp_path):
    results = run(world, tmp_path, labels="one", names=("clear", "noise")).results
    assert results["recipe"]["task"] == "multiclass"
    assert results["recipe"]["chosen_by"] == "accuracy"
    clear = results["results"]["clear"]["linear"]
    chance = np.bincount(world.single).max() / COUNT
    assert clear["accuracy"]["value"] > chance + 0.1
    assert clear["f1_micro"] == clear["accuracy"]
    majority = results["controls"]["prior"]["linear"]
    assert majority["accuracy"]["value"] == pytest.approx(chance, abs=0.05)
    assert majority["balanced_accuracy"]["value"] == 0.25
    told = run(world, tmp_path, labels="one", task="multilabel").results["recipe"]["task"]
    assert told == "multilabel"


def test_dinos_protocol_is_named_with_what_it_lacks(world, tmp_path):
    result = run(world, tmp_path, protocol="dino", fractions="50", names=("clear",))
    assert result.results["recipe"]["linear"]["method"] == "SGD"
    assert result.results["recipe"]["linear"]["augmentation"].startswith("none")
    assert "dino protocol without augmentation" in result.to_terminal().replace("\n  ", " ")
    scores = result.results["results"]["clear"]["linear"]["ap_micro"]["value"]
    assert scores > result.results["controls"]["prior"]["linear"]["ap_micro"]["high"]


def test_blocks_and_the_gap_to_a_random_split_are_measured(world, tmp_path):
    result = run(world, tmp_path, split="both", block_km=60)
    results = result.results
    assert results["recipe"]["split"]["kind"] == "blocks"
    assert results["recipe"]["bootstrap"]["unit"] == "block"
    assert results["tiles"]["near_test"] > 0
    assert results["tiles"]["resampled_units"] <= results["tiles"]["test"]
    gap = results["split_gap"]["results"]["clear"]["linear"]["ap_micro"]
    assert gap["gap"] == pytest.approx(gap["random"] - gap["blocks"], abs=2e-6)
    assert gap["blocks"] == results["results"]["clear"]["linear"]["ap_micro"]["value"]
    assert gap["low"] <= gap["gap"] <= gap["high"]
    assert "with a random split" in result.to_terminal()


def test_a_random_split_of_tiles_with_places_tells_of_neighbours(world, tmp_path):
    result = run(world, tmp_path, split="random")
    assert result.results["notes"][0].startswith("The split is random though tiles have places")
    assert "--split both with --block-km tells by how much" in result.to_terminal().replace(
        "\n  ", " "
    )
    table = world.table("placeless", world.vectors["clear"], lonlat=False)
    without = probe(
        table, labels=world.many, out=tmp_path / "b", split="random", bootstrap=100, report=False
    )
    assert without.results["notes"] == result.results["notes"][1:]


def test_given_splits_may_be_resampled_by_blocks(world, tmp_path):
    results = run(world, tmp_path, block_deg=5.0).results
    assert results["recipe"]["bootstrap"]["unit"] == "block"
    assert 2 <= results["tiles"]["resampled_units"] <= 36
    assert results["tiles"]["near_test"] == 0
    few = run(world, tmp_path, block_deg=18.0).results
    assert few["tiles"]["resampled_units"] < 10
    assert few["notes"][0] == "Intervals from so few blocks are rough, and rather too narrow."


def test_leakage_is_said_on_stderr_before_the_scores(world, tmp_path, capsys):
    table = world.table("leaky", world.vectors["clear"])
    seen = [IDS[row] for row in np.flatnonzero(world.split == "test")[:5]]
    write_training_ids(table / TRAINING_IDS, pa.array(seen), None)
    result = run(world, tmp_path, names=("leaky",))
    assert "leaky: LEAKAGE, 5 of 140 test tiles" in capsys.readouterr().err
    assert result.results["leakage"]["leaky"]["same_id"] == 5
    assert result.to_terminal().startswith("leaky: LEAKAGE, 5 of 140")


def test_tiles_without_labels_and_labels_without_tiles_are_counted(world, tmp_path, capsys):
    found = pq.read_table(world.many).slice(0, 400)
    names = [*found["labels"].to_pylist(), ["class 0"], None]
    extra = world.labels(
        "part", ids=[*IDS[:400], "elsewhere", IDS[400]], labels=names,
        split=[*found["split"].to_pylist(), "train", "train"],
    )  # fmt: skip
    tiles = run(world, tmp_path, labels=extra).results["tiles"]
    assert (tiles["unlabelled"], tiles["labels_without_tile"]) == (20, 1)
    assert tiles["train"] + tiles["validation"] + tiles["test"] == 400
    assert "20 tiles without labels are left out" in capsys.readouterr().err


def test_classes_too_rare_to_test_may_be_left_out(world, tmp_path):
    lists = pq.read_table(world.many)["labels"].to_pylist()
    lists[0] = [*lists[0], "unicorn"]
    rare = world.labels("rare", labels=lists, split=world.split)
    with pytest.raises(
        ProbeError, match="'unicorn' is on 1 of 210 tiles of train, 0 of 140 of test"
    ):
        run(world, tmp_path, labels=rare)
    recipe = run(world, tmp_path, labels=rare, rare="drop").results["recipe"]
    assert recipe["dropped_classes"] == ["unicorn"]
    assert "unicorn" not in recipe["classes"]


def test_folders_are_classes(world, tmp_path):
    ids = [f"{'water' if y else 'land'}/{tile}" for y, tile in zip(world.y[:, 0], IDS, strict=True)]
    table = with_ids(world.table("foldered", world.vectors["clear"]), ids)
    results = probe(table, labels="folder", out=tmp_path / "probe", bootstrap=100).results
    assert results["recipe"]["classes"] == ["land", "water"]
    assert results["recipe"]["split"]["kind"] == "random"


def with_ids(table, ids):
    """Write other ids into a finished table of one part."""
    (part,) = table.glob("part-*.parquet")
    found = pq.read_table(part)
    named = found.set_column(0, found.schema.field("id"), pa.array(ids))
    pq.write_table(named, part)
    return table


def test_labels_that_match_no_tile_are_shown_beside_the_tables_ids(world, tmp_path):
    other = world.labels("other", ids=[f"patch{n}" for n in range(COUNT)], label=["a"] * COUNT)
    with pytest.raises(LabelsError, match=r"none of its 420 ids.*'patch0'.*'tile_000000'"):
        run(world, tmp_path, labels=other)
    assert not (tmp_path / "probe").exists()


def test_tables_of_different_tiles_are_refused_with_the_count(world, tmp_path):
    world.table("short", world.vectors["clear"][:400])
    with pytest.raises(
        ProbeError, match=r"20 labelled ones only in clear, 0 only in short .*'tile_000400'"
    ):
        run(world, tmp_path, names=("clear", "short"))


def test_tables_that_differ_in_tiles_without_labels_are_compared(world, tmp_path):
    world.table("shorter", world.vectors["dim"][:410])
    found = pq.read_table(world.many).slice(0, 400)
    part = world.folder / "first.parquet"
    pq.write_table(found, part)
    assert run(world, tmp_path, labels=part, names=("clear", "shorter")).results["differences"]


def test_tables_of_one_name_are_refused(world, tmp_path):
    again = tables.write_table(tmp_path / "clear", world.vectors["dim"].astype(np.float32))
    with pytest.raises(ProbeError, match="two tables are called 'clear'"):
        probe([*world.at("clear"), again], labels=world.many, out=tmp_path / "out")
    with pytest.raises(ProbeError, match="labels alone"):
        probe([f"prior={again}"], labels=world.many, out=tmp_path / "out")
    with pytest.raises(ProbeError, match="cannot name a table"):
        probe([f"a/b={again}"], labels=world.many, out=tmp_path / "out")
    named = probe([again, f"x={again}"], labels=world.many, out=tmp_path / "out", bootstrap=100)
    assert {d["absolute"] for d in named.results["differences"]} == {0.0}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.nan, "2 of 420 vectors are not finite .*'tile_000003'"),
        (0.0, "2 of 420 vectors are zero"),
    ],
)
def test_vectors_that_tell_nothing_are_named(world, tmp_path, value, told):
    vectors = world.vectors["clear"].astype(np.float32).copy()
    vectors[[3, 8]] = value
    table = tables.write_table(tmp_path / "bad", vectors)
    with pytest.raises(ProbeError, match=told):
        probe(table, labels=world.many, out=tmp_path / "out")


def test_vectors_that_are_all_equal_are_refused(world, tmp_path):
    table = tables.write_table(tmp_path / "flat", np.ones((COUNT, 4), np.float32))
    with pytest.raises(ProbeError, match="all 420 vectors are equal"):
        probe(table, labels=world.many, out=tmp_path / "out")


def test_an_id_that_a_table_holds_twice_is_named(world, tmp_path):
    table = tables.write_table(tmp_path / "t", world.vectors["clear"].astype(np.float32))
    with_ids(table, [IDS[0], *IDS[:-1]])
    with pytest.raises(ProbeError, match=r"holds 1 ids more than once .'tile_000000'"):
        probe(table, labels=world.many, out=tmp_path / "out")


def test_labels_of_one_class_are_refused(world, tmp_path):
    only = world.labels("only", label=["forest"] * COUNT)
    with pytest.raises(LabelsError, match="only the class 'forest'"):
        run(world, tmp_path, labels=only)
    none = world.labels("none", labels=pa.array([[]] * COUNT, pa.list_(pa.string())))
    with pytest.raises(LabelsError, match="no class at all"):
        run(world, tmp_path, labels=none)
    with pytest.raises(LabelsError, match=r"--task multiclass, but \d+ tiles"):
        run(world, tmp_path, task="multiclass")


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"names": ()}, OptionError, "name a table to probe"),
        ({"names": ("nowhere",)}, TableError, "no table here"),
        ({"device": "cuda:99"}, OptionError, "--device cuda:99"),
        ({"device": "abacus"}, OptionError, "--device abacus"),
        ({"split": "blocks"}, OptionError, "needs the side of a block"),
        ({"bootstrap": 3}, OptionError, "--bootstrap 3"),
        ({"fractions": "some"}, OptionError, "percent divided by commas"),
        ({"block_deg": 90.0}, ProbeError, "holds 1 block"),
    ],
)
def test_what_cannot_be_probed_is_refused_before_anything_is_written(
    world, tmp_path, changed, error, told
):
    with pytest.raises(error, match=told):
        run(world, tmp_path, **changed)
    assert not (tmp_path / "probe").exists()


def test_blocks_of_tiles_without_places_are_refused(world, tmp_path):
    table = tables.write_table(tmp_path / "t", world.vectors["clear"].astype(np.float32))
    with pytest.raises(ProbeError, match="no footprint"):
        probe(table, labels=world.many, out=tmp_path / "out", block_km=10)


def test_results_need_a_folder(world, tmp_path):
    (tmp_path / "probe").write_text("a file")
    with pytest.raises(ProbeError, match="no folder for results"):
        run(world, tmp_path)


def test_a_later_probe_leaves_nothing_of_an_earlier_one(world, tmp_path):
    run(world, tmp_path, names=("clear", "dim"))
    run(world, tmp_path, names=("clear",))
    found = sorted(path.name for path in (tmp_path / "probe").iterdir())
    assert found == ["predictions-clear.parquet", "results.json", "timing.json"]


def test_the_command_prints_the_table_or_json(world, tmp_path):
    words = ["probe", f"a={world.folder / 'clear'}", "--labels", world.many, "--bootstrap", 100]
    shown = CliRunner().invoke(app, [*map(str, words), "-o", str(tmp_path / "x")])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("a: leakage unknown")
    assert f"wrote {tmp_path}/x/results.json" in shown.stderr
    printed = CliRunner().invoke(app, [*map(str, words), "-o", str(tmp_path / "y"), "--json"])
    assert json.loads(printed.stdout) == json.loads((tmp_path / "x/results.json").read_text())


def test_a_known_error_is_one_line(world, tmp_path):
    done = CliRunner().invoke(
        app, ["probe", str(world.folder / "clear"), "--labels", "none.csv", "-o", str(tmp_path)]
    )
    assert isinstance(done.exception, TilezooError)
    assert len(str(done.exception).splitlines()) == 1


def test_importing_the_room_or_its_help_loads_nothing_heavy():
    code = (
        "import sys, tilezoo.probe; from typer.testing import CliRunner\n"
        "from tilezoo.cli.app import app\n"
        "assert CliRunner().invoke(app, ['probe', '--help']).exit_code == 0\n"
        "print([m for m in ('torch', 'numpy', 'pyarrow', 'shapely') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
