"""`tilezoo compare`: the same tiles through each model, then one report."""

import inspect
import json
import re
from pathlib import Path

import bigearthnet as ben
import making
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from tilezoo.bigearthnet.labels import LABELS_19
from tilezoo.bigearthnet.listings import read_lists
from tilezoo.cli.app import app
from tilezoo.compare.card import update_card
from tilezoo.compare.entrants import ColourStatistics, colour_statistics, random_weights
from tilezoo.compare.run import compare
from tilezoo.embed import embed
from tilezoo.errors import LabelsError, ModelError, OptionError, ProbeError, TooManyFailedError
from tilezoo.table import open_table
from tilezoo.zoo import find_model, verify
from tilezoo.zoo.cards import Origin, read_front_matter
from tilezoo.zoo.complete import complete_model_dir
from tilezoo.zoo.modeldir import CHECKSUMS, write_checksums

QUICK = {"bootstrap": 100, "precision": "fp32"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Twelve tiles of two classes, their labels, and two models of one architecture."""
    folder = tmp_path_factory.mktemp("compare")
    paths = making.write_tiles(folder / "tiles", 6, side=48, low=90)
    paths += making.write_tiles(folder / "dark", 6, side=48, high=150)
    for number, path in enumerate(paths[6:]):
        path.rename(folder / "tiles" / f"dark_{number}.tif")
    ids = sorted(path.name for path in (folder / "tiles").iterdir())
    named = ["dark" if name.startswith("dark") else "bright" for name in ids]
    pq.write_table(pa.table({"id": ids, "label": named}), folder / "labels.parquet")
    for seed, name in enumerate(("first", "second"), start=1):
        making.write_vit(folder / name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def compared(world, tmp_path_factory):
    """Both models compared by the command."""
    out = tmp_path_factory.mktemp("compared") / "report"
    words = ["compare", world / "tiles", "--labels", world / "labels.parquet"]
    words += ["-m", world / "first", "-m", f"other={world / 'second'}", "-o", out]
    done = CliRunner().invoke(app, [*map(str, words), "--bootstrap", "100", "--precision", "fp32"])
    assert done.exit_code == 0, done.output
    return out, done


def test_the_command_makes_tables_controls_results_and_report(compared):
    out, done = compared
    results = json.loads((out / "results.json").read_text())
    assert list(results["results"]) == ["first", "other"]
    assert list(results["controls"]) == ["prior", "random-weights", "colour-statistics"]
    assert {path.name for path in (out / "tables").iterdir()} == {*results["tables"]}
    assert {open_table(path).row_count for path in (out / "tables").iterdir()} == {12}
    assert (out / "report.md").read_text().startswith("**Overlap of pretraining and test tiles: ")
    assert f"look at {out}/report.html" in done.stderr
    assert results["leakage"]["random-weights"]["status"] == "none_found"


def test_the_command_in_the_report_does_it_again(compared):
    out, _ = compared
    before = {path: path.read_bytes() for path in out.glob("re*")}
    tables = {path: path.stat().st_mtime_ns for path in out.glob("tables/*/part-*")}
    (command,) = re.findall(r"```\n(tilezoo compare .*)\n```", (out / "report.md").read_text())
    again = CliRunner().invoke(app, command.split()[1:])
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in out.glob("re*")} == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("tables/*/part-*")} == tables


def test_controls_may_be_left_out(world, tmp_path):
    result = compare(
        world / "tiles",
        labels=world / "labels.parquet",
        models=[world / "first"],
        out=tmp_path / "report",
        controls=False,
        **QUICK,
    )
    assert list(result.results["controls"]) == ["prior"]
    assert "--no-controls" in (tmp_path / "report" / "report.md").read_text()


def test_each_architecture_has_random_weights_of_its_own(world, tmp_path):
    deeper = making.write_vit(tmp_path / "deeper", depth=3)
    result = compare(
        world / "tiles",
        labels=world / "labels.parquet",
        models=[world / "first", deeper],
        out=tmp_path / "report",
        **QUICK,
    )
    assert list(result.results["controls"]) == [
        "prior", "random-weights", "random-weights-deeper", "colour-statistics",
    ]  # fmt: skip


def test_eight_bit_models_are_fed_what_the_others_contract_states(tmp_path, vit, sentinel_vit):
    tiles = tmp_path / "tiles"
    for number in range(12):
        low, high = (1, 900) if number % 2 else (600, 2500)
        pixels = making.texture(number, side=48, low=low, high=high, dtype="uint16")
        making.write_tiff(tiles / f"{number:02d}.tif", pixels, names=("B04", "B03", "B02"))
    ids = [f"{number:02d}.tif" for number in range(12)]
    pq.write_table(
        pa.table({"id": ids, "label": ["bright", "dark"] * 6}), tmp_path / "labels.parquet"
    )
    result = compare(
        tiles,
        labels=tmp_path / "labels.parquet",
        models=[f"plain={vit}", f"sentinel={sentinel_vit}"],
        out=tmp_path / "report",
        **QUICK,
    )
    fed = result.results["tables"]
    assert fed["plain"]["value_range"] == fed["sentinel"]["value_range"] == [0, 2000]
    assert fed["colour-statistics"]["value_range"] == [0, 2000]
    assert fed["plain"]["bands"] == ["red", "green", "blue"]
    assert fed["sentinel"]["bands"] == ["B04", "B03", "B02"]


def test_the_headline_command_takes_bigearthnet_and_its_metadata(tmp_path, vit, sentinel_vit):
    root, names = tmp_path / "BigEarthNet-v1.0", []
    for number in range(16):
        name = f"S2A_MSIL2A_20170613T101031_{number}_48"
        high = 900 if number % 2 else 2500
        for band in ("B02", "B03", "B04", "B08"):
            pixels = making.texture(number, bands=1, side=24, high=high, dtype="uint16")
            making.write_tiff(root / name / f"{name}_{band}.tif", pixels)
        names.append(name)
    new = [["Pastures"], ["Inland waters", "Pastures"], ["Inland waters"], ["Mixed forest"]] * 4
    columns = {"name": names, "labels": [["Sea and ocean"]] * 16, "new_labels": new}
    split = ["train"] * 6 + ["val"] * 4 + ["test"] * 6
    pq.write_table(pa.table({**columns, "original_split": split}), tmp_path / "metadata.parquet")
    words = [
        "compare",
        root,
        "--labels",
        tmp_path / "metadata.parquet",
        "-m",
        f"ours={sentinel_vit}",
    ]
    words += ["-m", f"imagenet={vit}", "-o", tmp_path / "report", "--bootstrap", "100"]
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    assert "imagenet takes 8-bit red, green, blue; it is fed B04,B03,B02 in 0..2000" in done.stderr
    text = (tmp_path / "report" / "report.md").read_text()
    assert "# ours and imagenet on BigEarthNet-v1.0" in text
    assert "The labels' own split: 6 train, 4 validation, 6 test tiles; 3 classes" in text


def test_real_patches_labels_and_official_splits_go_from_prepare_to_report(
    tmp_path, vit, sentinel_vit
):
    """Five of the real patches, under names of the same scenes that the official lists split."""
    (tmp_path / "real").mkdir()
    found = ben.unpack_real(tmp_path / "real").rglob("*_labels_metadata.json")
    real = sorted(path.parent for path in found if path.parent.name != ben.SNOWY)
    listed, root = read_lists(), tmp_path / "BigEarthNet-v1.0"
    for number, source in enumerate(real):  # two are of one scene
        scene = listed.filter(pc.starts_with(listed["name"], source.name.rsplit("_", 2)[0]))
        for split, count in (("train", 3), ("validation", 2), ("test", 2)):
            of_split = pc.equal(scene["original_split"].cast(pa.string()), split)
            for name in scene.filter(of_split)["name"].slice(number * count, count).to_pylist():
                ben.copy_under(source, root / name)
    metadata, out = tmp_path / "metadata.parquet", tmp_path / "report"
    for words in (
        ["prepare", "bigearthnet", root, "-o", metadata],
        ["compare", root, "--labels", metadata, "-m", f"ours={sentinel_vit}", "-m", f"web={vit}",
         "-o", out, "--bootstrap", "100", "--rare", "drop", "--precision", "fp32"],
    ):  # fmt: skip
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code == 0, done.output
    results = json.loads((out / "results.json").read_text())
    counts = {part: results["tiles"][part] for part in ("train", "validation", "test")}
    assert counts == {"train": 15, "validation": 10, "test": 10}
    assert set(results["recipe"]["classes"]) <= set(LABELS_19)
    assert results["recipe"]["task"] == "multilabel"
    # Each test patch is a copy of one that was learnt from.
    assert results["results"]["ours"]["linear"]["ap_micro"]["value"] > 0.9


def test_what_cannot_be_compared_is_refused_before_tiles_are_read(world, tmp_path):
    given = {"labels": world / "labels.parquet", "out": tmp_path / "report"}
    twice = [world / "first", world / "first"]
    with pytest.raises(ProbeError, match=r"two tables would be called 'first'.*-m NAME="):
        compare(world / "tiles", models=twice, **given)
    with pytest.raises(ProbeError, match="'random-weights'"):
        compare(world / "tiles", models=[f"random-weights={world / 'first'}"], **given)
    with pytest.raises(OptionError, match="name a model"):
        compare(world / "tiles", models=[], **given)
    with pytest.raises(OptionError, match="--bootstrap 5"):
        compare(world / "tiles", models=twice, bootstrap=5, **given)
    assert not (tmp_path / "report").exists()


def test_labels_of_other_tiles_are_refused_before_tiles_are_read(world, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("id,label\nelsewhere.tif,a\n")
    with pytest.raises(LabelsError, match=r"look like 'elsewhere.tif', the tiles' like 'dark_0"):
        compare(world / "tiles", labels=path, models=[world / "first"], out=tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_tile_that_every_model_fails_on_is_left_out_where_that_is_allowed(world, tmp_path):
    tiles = tmp_path / "tiles"
    tiles.mkdir()
    for path in (world / "tiles").iterdir():
        (tiles / path.name).write_bytes(path.read_bytes())
    (tiles / "dark_0.tif").write_bytes(b"no image")
    given = {"labels": world / "labels.parquet", "models": [world / "first"], **QUICK}
    with pytest.raises(TooManyFailedError, match=r"1 of 12 tiles failed.*errors\.parquet"):
        compare(tiles, out=tmp_path / "strict", **given)
    result = compare(tiles, out=tmp_path / "lenient", max_errors=1, **given)
    assert result.results["tiles"]["labels_without_tile"] == 1
    assert "Left out: 1 label without a tile." in (tmp_path / "lenient/report.md").read_text()


def test_tables_that_lack_different_tiles_are_refused_with_an_example(world, tmp_path):
    out = tmp_path / "report"
    few = sorted((world / "tiles").iterdir())[1:]
    embed(few, out=out / "tables" / "first", model=world / "first", precision="fp32")
    embed(world / "tiles", out=out / "tables" / "second", model=world / "second", precision="fp32")
    from tilezoo.probe import probe

    with pytest.raises(ProbeError, match=r"hold different tiles: 0 .* 1 only in second"):
        probe(
            [out / "tables" / "first", out / "tables" / "second"],
            labels=world / "labels.parquet",
            out=out,
        )


def test_random_weights_are_the_same_each_time_and_no_model_s(world, tmp_path):
    like = find_model(world / "first")
    made = [random_weights(like, tmp_path / name) for name in "ab"]
    assert made[0].weights_sha256 == made[1].weights_sha256 != like.weights_sha256
    assert made[0].contract == like.contract
    state = torch.random.get_rng_state()
    random_weights(like, tmp_path / "c")
    assert torch.equal(state, torch.random.get_rng_state())


def test_colour_statistics_are_those_of_numpy():
    images = torch.rand(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    found = ColourStatistics(3).forward_features(images)[..., 0, 0].numpy()
    pixels = images.flatten(2).numpy()
    assert np.allclose(found[:, :3], pixels.mean(2), atol=1e-6)
    assert np.allclose(found[:, 3:6], pixels.std(2), atol=1e-6)
    sampled = images[..., ::2, ::2].flatten(2).numpy()
    levels = np.quantile(sampled, (0.05, 0.25, 0.5, 0.75, 0.95), axis=2, method="nearest")
    assert np.allclose(found[:, 6:].reshape(4, 3, 5), levels.transpose(1, 2, 0), atol=1e-6)


def test_colour_statistics_do_not_see_where_a_pixel_lies(world, tmp_path):
    like = find_model(world / "first")
    backbone = colour_statistics(like, tmp_path, device="cpu")
    images = torch.rand(1, 3, 64, 64)
    turned = images.flip(2, 3)
    same = backbone.features(images).pooled, backbone.features(turned).pooled
    assert torch.allclose(*same, atol=0.1)
    assert backbone.dimension == 21


def test_options_of_compare_mean_what_they_mean_to_embed_and_probe():
    from tilezoo.probe import probe

    own = inspect.signature(compare).parameters
    for other in (embed, probe):
        theirs = inspect.signature(other).parameters
        shared = (set(own) & set(theirs)) - {"out", "labels", "sources"}
        assert {k: own[k].default for k in shared} == {k: theirs[k].default for k in shared}


@pytest.fixture
def carded(tmp_path):
    """The first model with golden vectors, a card with prose, and hashes."""
    folder = tmp_path / "first"
    making.write_vit(folder, seed=1)
    complete_model_dir(find_model(folder), name="first", origin=Origin(licence="MIT"))
    card = folder / "README.md"
    card.write_text(card.read_text() + "\n## By hand\n\nTrained on a *rainy* day.\n")
    write_checksums(folder)
    return folder


def test_a_card_gains_results_and_keeps_its_prose_and_verifies(compared, carded):
    out, _ = compared
    results = json.loads((out / "results.json").read_text())
    before = (carded / "README.md").read_text()
    update_card(carded, results, "Twelve <tiles>")
    text = (carded / "README.md").read_text()
    assert text.partition("\n---\n")[2].startswith(before.partition("\n---\n")[2].rstrip())
    matter = read_front_matter(text)
    assert {k: v for k, v in matter.items() if k != "model-index"} == read_front_matter(before)
    assert "## Probe on Twelve &lt;tiles&gt;" in text
    assert {check.verdict for check in verify(carded)} == {"ok"}


def test_a_card_s_model_index_is_hugging_face_s(compared, carded):
    from huggingface_hub import ModelCard

    out, _ = compared
    results = json.loads((out / "results.json").read_text())
    update_card(carded, results, "Twelve tiles")
    card = ModelCard.load(carded / "README.md")
    found = {one.metric_name: one for one in card.data.eval_results if "linear" in one.task_name}
    value = results["results"]["first"]["linear"]["accuracy"]
    assert found["accuracy"].metric_value == round(value["value"], 4)
    assert found["accuracy"].metric_args["low"] == round(value["low"], 4)
    assert found["accuracy"].dataset_name == "Twelve tiles"
    assert found["accuracy"].dataset_args["leakage"] == "unknown"


def test_results_on_the_same_data_are_replaced_and_others_kept(compared, carded):
    out, _ = compared
    results = json.loads((out / "results.json").read_text())
    update_card(carded, results, "Twelve tiles")
    once = (carded / "README.md").read_text()
    update_card(carded, results, "Twelve tiles")
    assert (carded / "README.md").read_text() == once
    update_card(carded, results, "Other tiles")
    (index,) = read_front_matter((carded / "README.md").read_text())["model-index"]
    assert [entry["dataset"]["name"] for entry in index["results"]] == [
        "Twelve tiles", "Twelve tiles", "Other tiles", "Other tiles",
    ]  # fmt: skip


def test_a_card_tells_results_of_both_protocols(compared, carded):
    out, _ = compared
    results = json.loads((out / "results.json").read_text())
    update_card(carded, results, "Twelve tiles")
    linear = {**results["recipe"]["linear"], "augmentation": "crops"}
    dino = {**results["recipe"], "protocol": "dino", "linear": linear}
    update_card(carded, {**results, "recipe": dino}, "Twelve tiles")
    text = (carded / "README.md").read_text()
    assert "## Probe on Twelve tiles\n" in text
    assert "## Probe on Twelve tiles, DINO's protocol\n" in text
    (index,) = read_front_matter(text)["model-index"]
    protocols = [entry["dataset"]["args"]["protocol"] for entry in index["results"]]
    assert protocols == ["standard", "standard", "dino", "dino"]


def test_a_card_of_another_model_is_refused(compared, tmp_path):
    out, _ = compared
    results = json.loads((out / "results.json").read_text())
    other = making.write_vit(tmp_path / "third", seed=9)
    with pytest.raises(ModelError, match="no table that was probed is of its weights"):
        update_card(other, results, "Twelve tiles")
    assert not (other / "README.md").exists()


def test_a_directory_without_card_gains_one(compared, tmp_path):
    out, _ = compared
    folder = making.write_vit(tmp_path / "bare", seed=1)
    update_card(folder, json.loads((out / "results.json").read_text()), "Twelve tiles")
    text = (folder / "README.md").read_text()
    assert read_front_matter(text)["model-index"][0]["name"] == "bare"
    assert "# bare" in text
    assert not (folder / CHECKSUMS).exists()


def test_broken_front_matter_is_told_and_left_alone(compared, tmp_path):
    out, _ = compared
    folder = making.write_vit(tmp_path / "broken", seed=1)
    (folder / "README.md").write_text("---\na: [\n---\ntext\n")
    with pytest.raises(ModelError, match=r"front matter is no YAML"):
        update_card(folder, json.loads((out / "results.json").read_text()), "Twelve tiles")
    assert (folder / "README.md").read_text() == "---\na: [\n---\ntext\n"


def test_probe_updates_a_card_from_the_command_line(compared, world, carded, tmp_path):
    out, _ = compared
    words = ["probe", out / "tables" / "first", "--labels", world / "labels.parquet"]
    words += ["-o", tmp_path / "p", "--bootstrap", 100, "--no-report", "--update-card", carded]
    lacking = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(lacking.exception, OptionError)
    done = CliRunner().invoke(app, [*map(str, words), "--dataset", "Twelve tiles"])
    assert done.exit_code == 0, done.output
    assert f"wrote {carded}/README.md" in done.stderr
    assert not (tmp_path / "p" / "report.md").exists()
    assert Path(carded / "README.md").read_text().count("model-index") == 1
