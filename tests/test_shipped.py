"""The backbone in the box: what it says of itself, and the record of its making."""

import json
import tomllib
from pathlib import Path

import making
import pytest

from tilezoo.embed import embed
from tilezoo.pretrain.recipe import find_recipe
from tilezoo.table import open_table
from tilezoo.training_ids import TRAINING_IDS, ids_sha256, read_training_ids
from tilezoo.zoo import find_model, load, verify
from tilezoo.zoo.catalog import OFFLINE_DEFAULT, entry, shipped_folder

ROOT = Path(__file__).parent.parent
KNOWN = entry(OFFLINE_DEFAULT)
RECORD = ROOT / "MODEL_CARDS" / OFFLINE_DEFAULT  # of its making and of its comparisons


@pytest.fixture(scope="module")
def request_of_run():
    return json.loads((RECORD / "run.json").read_text(encoding="utf-8"))


def test_it_verifies():
    checks = {check.name: check.verdict for check in verify(OFFLINE_DEFAULT)}
    assert set(checks.values()) == {"ok"}
    assert {"sums", "golden fp32", "golden bf16", "card", "strict load"} <= set(checks)


def test_its_facts_are_the_catalogs():
    model = find_model(OFFLINE_DEFAULT)
    assert model.weights_sha256 == KNOWN.sha256
    assert (model.architecture, dict(model.model_args)) == (KNOWN.architecture, KNOWN.model_args)
    assert (model.contract, model.pooling) == (KNOWN.contract, KNOWN.pooling)
    assert load(OFFLINE_DEFAULT, device="cpu").dimension == KNOWN.dimension


def test_it_ships_within_the_package_and_stays_small():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert f"{KNOWN.name}/*" in project["tool"]["setuptools"]["package-data"]["tilezoo.zoo"]
    files = list(shipped_folder(KNOWN).iterdir())
    assert all(path.is_file() for path in files)
    assert sum(path.stat().st_size for path in files) < 15e6


def test_it_is_used_where_it_lies_and_needs_no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TILEZOO_CACHE", str(tmp_path / "cache"))
    making.write_tiles(tmp_path / "tiles", 4)
    made = embed(tmp_path / "tiles", out=tmp_path / "t", device="cpu")
    table = open_table(made.table)
    assert table.manifest.model.name == OFFLINE_DEFAULT
    assert table.manifest.dimension == KNOWN.dimension
    assert (made.table / TRAINING_IDS).is_file()  # so that `probe` can tell leakage
    assert not (tmp_path / "cache").exists()


def test_its_run_is_on_record_to_the_last_step(request_of_run):
    log = [json.loads(line) for line in (RECORD / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in log if "loss" in line}
    stated = find_model(OFFLINE_DEFAULT).pretraining
    assert max(losses) == request_of_run["steps"] == stated["step"] == stated["steps"]
    assert len(losses) >= request_of_run["steps"] // 10
    for field in ("commit", "tiles", "ids_sha256"):
        assert stated[field] == request_of_run[field]
    assert stated["recipe"] == request_of_run["recipe_name"]
    assert find_recipe(stated["recipe"]).to_json() == request_of_run["recipe"]
    assert (RECORD / "curves.png").stat().st_size > 10_000


def test_its_list_of_training_tiles_is_the_runs(request_of_run):
    ids = read_training_ids(shipped_folder(KNOWN) / TRAINING_IDS).column("id").to_pylist()
    assert ids_sha256(ids) == request_of_run["ids_sha256"]
    assert len(ids) == request_of_run["tiles"]


@pytest.mark.parametrize("task", ["mines", "climate"])
def test_its_comparison_is_of_these_weights_and_of_tiles_it_never_saw(task):
    results = json.loads((RECORD / f"{task}.json").read_text(encoding="utf-8"))
    assert results["tables"][OFFLINE_DEFAULT]["weights_sha256"] == KNOWN.sha256
    leakage = results["leakage"][OFFLINE_DEFAULT]
    assert (leakage["status"], leakage["same_id"]) == ("none_found", 0)
    assert leakage["ids_sha256"] == find_model(OFFLINE_DEFAULT).pretraining["ids_sha256"]
    assert leakage["test_tiles"] == results["tiles"]["test"]


@pytest.mark.parametrize("task", ["mines", "climate"])
def test_the_cards_figures_are_the_comparisons(task):
    results = json.loads((RECORD / f"{task}.json").read_text(encoding="utf-8"))
    card = (ROOT / "MODEL_CARDS" / f"{OFFLINE_DEFAULT}.md").read_text(encoding="utf-8")
    for names in (results["results"], results["controls"]):
        for name, methods in names.items():
            score = methods["linear"]["ap_macro"]
            told = f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"
            assert name == "prior" or told in card, (name, told)
