"""DINO's linear protocol sees tiles cropped and mirrored anew in each epoch."""

import json
import re
import shutil
import tracemalloc
import weakref

import making
import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from tilezoo.cli.app import app
from tilezoo.compare.dino_protocol import Crops, crop_tile, pooling_of
from tilezoo.compare.run import compare
from tilezoo.errors import InterruptedRunError, ModelError, ProbeError
from tilezoo.probe.fitting import name_kept_file
from tilezoo.probe.sgd import BATCH, EPOCHS, Anew, fit_sgd, saved
from tilezoo.sources import discover
from tilezoo.space import Contract
from tilezoo.tiles import Cut, Tile
from tilezoo.zoo import find_model, load

COUNT = 30
QUICK = {"bootstrap": 100, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiles of two classes that colour tells apart, labels, and a transformer of four blocks."""
    folder = tmp_path_factory.mktemp("dino")
    rows = ["id,label,split"]
    for number in range(COUNT):
        bright = number % 2
        pixels = making.texture(number, side=40, low=120 * bright, high=130 + 120 * bright)
        path = making.write_tiff(folder / "tiles" / f"{number:02d}.tif", pixels, photometric="RGB")
        split = ("train", "train", "train", "validation", "test")[number // 2 % 5]
        rows.append(f"{path.name},{'bright' if bright else 'dark'},{split}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    making.write_vit(folder / "vit", depth=4, img_size=32, size_px=32, resize_px=36)
    return folder


def run(world, out, **changed):
    given = {"labels": world / "labels.csv", "models": [world / "vit"], "controls": False}
    return compare(world / "tiles", out=out, **{"protocol": "dino", **given, **QUICK, **changed})


@pytest.fixture(scope="module")
def compared(world, tmp_path_factory):
    """The published protocol, with controls, by the function."""
    return run(world, tmp_path_factory.mktemp("compared") / "report", controls=True)


def crops(world, **changed):
    given = {
        "backbone": lambda: load(world / "vit", device="cpu", pooling="last4"),
        "precision": "fp32",
        "sources": discover([world / "tiles"]),
        "nodata": None,
        "cut": None,
        "workers": 2,
    }
    return Crops(**{**given, **changed})


def ids(*numbers):
    return pa.array([f"{number:02d}.tif" for number in numbers])


def tile(pixels, name="a"):
    return Tile(
        id=name,
        pixels=pixels,
        source_uri="a.tif",
        pixel_bbox=(0, 0, *pixels.shape[:0:-1]),
        nodata_fraction=0.0,
        crs=None,
        footprint=None,
        datetime=None,
    )


def contract(**changed) -> Contract:
    return making.contract(size_px=32, resize_px=36, **changed)


def test_it_learns_and_says_what_it_did(compared):
    results = compared.results
    recipe, scores = results["recipe"]["linear"], results["results"]["vit"]["linear"]
    assert scores["accuracy"]["value"] == 1
    assert recipe["method"] == "SGD"
    assert recipe["epochs"] == EPOCHS == 50
    assert recipe["augmentation"].startswith("random resized crop (area 0.08 to 1,")
    assert results["fits"]["vit"]["linear"] == {"epochs": 50}
    told = "dino protocol with random crops and flips"
    assert told in compared.to_terminal().replace("\n  ", " ")
    assert told in (compared.out / "report.md").read_text()


def test_transformers_give_four_class_tokens_and_controls_their_own_features(compared):
    tables = compared.results["tables"]
    assert {name: table["pooling"] for name, table in tables.items()} == {
        "vit": "last4", "random-weights": "last4", "colour-statistics": "mean",
    }  # fmt: skip
    assert tables["vit"]["dimension"] == 4 * 192
    assert set(compared.results["controls"]) == {"prior", "random-weights", "colour-statistics"}


def test_the_same_command_gives_the_same_numbers_and_another_seed_others(compared, world, tmp_path):
    (command,) = re.findall(
        r"```\n(tilezoo compare .*)\n```", (compared.out / "report.md").read_text()
    )
    assert "--protocol dino" in command
    elsewhere = run(world, tmp_path / "again").results
    for key in ("recipe", "results", "fits", "mistakes"):
        assert {**compared.results[key], **elsewhere[key]} == compared.results[key]
    before = {path: path.read_bytes() for path in compared.out.glob("re*")}
    again = CliRunner().invoke(app, command.split()[1:])
    assert again.exit_code == 0, again.output
    assert {path: path.read_bytes() for path in compared.out.glob("re*")} == before
    other = run(world, tmp_path / "report", seed=1).results["results"]["vit"]["linear"]
    assert other["ece"] != compared.results["results"]["vit"]["linear"]["ece"]


def test_a_stopped_probe_goes_on_where_it_was(tmp_path):
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    y = (x[:, :2] > 0).to(torch.uint8)
    how = {"task": "multilabel", "dimension": 8, "seed": 4, "epochs": 5}
    seen = []

    def stopping(epoch, order):
        seen.append(epoch)
        for number, batch in enumerate(saved(x, torch.arange(300))(epoch, order)):
            if seen == [0, 1, 2] and number == 1:
                raise KeyboardInterrupt
            yield batch

    kept = tmp_path / "layers" / "one.safetensors"
    with pytest.raises(InterruptedRunError, match=r"2 of 5 epochs are kept in .* to go on"):
        fit_sgd(stopping, y, **how, kept=kept)
    resumed = fit_sgd(stopping, y, **how, kept=kept)
    assert seen == [0, 1, 2, 2, 3, 4]
    whole = fit_sgd(saved(x, torch.arange(300)), y, **how)
    assert torch.equal(resumed.coefficients, whole.coefficients)
    fit_sgd(stopping, y, **how, kept=kept)
    assert len(seen) == 6  # what is finished is not done again
    kept.write_bytes(b"nothing")
    with pytest.raises(ProbeError, match=r"one\.safetensors is damaged .*remove it"):
        fit_sgd(stopping, y, **how, kept=kept)


def test_a_layer_s_name_tells_all_that_it_depends_on(tmp_path):
    y = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)

    def name(state="a", labels=y, task="multilabel", seed=0):
        anew = Anew(batches=saved(torch.ones(2, 1), torch.arange(2)), folder=tmp_path, state=state)
        return name_kept_file(anew, labels, task, seed)

    changes = ({}, {"state": "b"}, {"labels": y.flip(0)}, {"task": "multiclass"}, {"seed": 1})
    assert len({name(**changed) for changed in changes}) == len(changes)
    assert name() == name()


def test_every_epoch_has_crops_of_its_own(world):
    batches = crops(world)(ids(0, 1, 2), 0)
    order = torch.arange(3)
    first, second = (next(iter(batches(epoch, order))) for epoch in (0, 1))
    (again,) = batches(0, order)
    assert torch.equal(first, again)
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    (other_seed,) = crops(world)(ids(0, 1, 2), 1)(0, order)
    assert not torch.equal(first, other_seed)


def test_features_come_in_the_order_that_is_asked_for_a_batch_at_a_time(world):
    many = [number % COUNT for number in range(BATCH + 2)]
    found = list(crops(world)(ids(*many), 0)(3, torch.arange(len(many)).flip(0)))
    assert [len(part) for part in found] == [BATCH, 2]
    (alone,) = crops(world)(ids(many[-1]), 0)(3, torch.arange(1))
    torch.testing.assert_close(found[0][:1], alone, atol=1e-5, rtol=0)


def test_a_crop_is_a_part_of_the_tile_resized_as_the_contract_says():
    """A tile whose red counts columns and whose green counts rows shows where its crop lies."""
    from torchvision.transforms import RandomResizedCrop

    ramp = np.broadcast_to(np.arange(0, 256, 2, dtype=np.uint8), (128, 128))
    both = tile(np.stack([ramp, ramp.T, ramp]))
    areas, mirrored = [], 0
    for epoch in range(300):
        done = crop_tile(both, contract=contract(), seed=0, epoch=epoch)
        assert done.fitted
        assert done.pixels.shape == (3, 32, 32)
        red, green = done.pixels[0].astype(int), done.pixels[1].astype(int)
        spans = [np.ptp(values) / 254 * 32 / 31 for values in (red, green)]
        areas.append(spans[0] * spans[1])
        mirrored += bool(red[0, 0] > red[0, -1])
        assert green[0, 0] < green[-1, 0]  # never upside down
    torch.manual_seed(0)
    boxes = [
        RandomResizedCrop.get_params(torch.zeros(3, 128, 128), (0.08, 1), (3 / 4, 4 / 3))
        for _ in range(1000)
    ]
    theirs = [height * width / 128**2 for _, _, height, width in boxes]
    assert np.quantile(areas, (0.05, 0.5, 0.95)) == pytest.approx(
        np.quantile(theirs, (0.05, 0.5, 0.95)), abs=0.06
    )
    assert 0.4 < mirrored / 300 < 0.6


def test_crops_are_torchvisions_of_the_same_box(monkeypatch):
    from torchvision.transforms.v2 import functional as F  # noqa: N812

    from tilezoo.compare import dino_protocol

    pixels = making.texture(0, side=50)
    drawn = []
    draw = dino_protocol.draw_boxes
    monkeypatch.setattr(
        dino_protocol, "draw_boxes", lambda *how: drawn.append(draw(*how)) or drawn[-1]
    )
    for epoch in range(20):
        found = crop_tile(tile(pixels), contract=contract(), seed=3, epoch=epoch).pixels
        box, mirrored = drawn[-1][0][0].tolist(), drawn[-1][1][0] < 0.5
        how = {"interpolation": F.InterpolationMode.BICUBIC, "antialias": True}
        expected = F.resized_crop(torch.from_numpy(pixels), *box, [32, 32], **how)
        assert np.array_equal(found, (expected.flip(2) if mirrored else expected).numpy())


def test_crops_of_a_long_tile_are_of_its_middle_square():
    pixels = np.zeros((3, 40, 100), np.uint8)
    pixels[:, :, 30:70] = 200
    for epoch in range(20):
        assert (
            crop_tile(tile(pixels), contract=contract(), seed=0, epoch=epoch).pixels == 200
        ).all()


def test_values_are_mapped_as_the_contract_says():
    own = contract(**making.SENTINEL2)
    pixels = np.full((3, 40, 40), 1000, np.uint16)
    found = crop_tile(tile(pixels), contract=own, seed=0, epoch=0).pixels
    assert (found == 128).all()  # 1000 of 0..2000, in 8 bits
    exact = crop_tile(
        tile(pixels), contract=contract(**making.SENTINEL2, quantize_uint8=False), seed=0, epoch=0
    )
    assert exact.pixels == pytest.approx(0.5)


def test_windows_of_a_scene_are_cropped_too(world, tmp_path):
    scene = making.write_tiff(
        tmp_path / "scene.tif", making.texture(1, side=128), photometric="RGB"
    )
    own = crops(world, sources=discover([scene]), cut=Cut(tile_px=64, stride_px=64))
    names = pa.array([f"scene.tif#{x},{y},64,64" for x in (0, 64) for y in (0, 64)])
    (found,) = own(names, 0)(0, torch.tensor([3, 0, 1, 2]))
    assert found.shape == (4, 4 * 192)


def test_memory_does_not_grow_with_epochs_or_tiles(world):
    """What is held after many epochs of many tiles is what is held after one of few."""

    def held(tiles: int, epochs: int) -> int:
        batches = crops(world)(ids(*(number % COUNT for number in range(tiles))), 0)
        y = (torch.arange(tiles)[:, None] % 2 == torch.arange(2)).to(torch.uint8)
        tracemalloc.start()
        fit_sgd(batches, y, "multilabel", dimension=768, seed=0, epochs=epochs)
        _, peak = tracemalloc.get_traced_memory()  # of NumPy too: pixels, crops and vectors
        tracemalloc.stop()
        return peak

    held(BATCH, 1)
    assert held(3 * BATCH, 3) < held(BATCH, 1) + 2 * BATCH * 768 * 4


def test_no_batch_is_kept_once_it_was_learnt_from(world):
    batches = crops(world)(ids(*(number % COUNT for number in range(4 * BATCH))), 0)
    made, alive = [], []

    def watched(epoch, order):
        for x in batches(epoch, order):
            alive.append(sum(one() is not None for one in made))
            made.append(weakref.ref(x))
            yield x

    y = torch.ones(4 * BATCH, 1, dtype=torch.uint8)
    fit_sgd(watched, y, "multilabel", dimension=768, seed=0, epochs=2)
    assert len(made) == 8
    assert max(alive) <= 2


def test_a_tile_that_is_gone_since_is_named(world, tmp_path):
    shutil.copytree(world / "tiles", tmp_path / "tiles")
    own = crops(world, sources=discover([tmp_path / "tiles"]))
    batches = own(ids(0, 1), 0)
    (tmp_path / "tiles" / "01.tif").write_bytes(b"no image")
    with pytest.raises(ProbeError, match=r"01\.tif: it is in the table, but cannot be read"):
        list(batches(0, torch.arange(2)))
    with pytest.raises(ProbeError, match=r"1 of 2 train tiles are not among .*'99.tif'"):
        own(ids(0, 99), 0)


def test_a_network_of_too_few_blocks_is_refused_with_the_way_out(world, tmp_path):
    shallow = making.write_vit(tmp_path / "shallow", depth=2)
    with pytest.raises(ModelError, match=r"2 blocks, pooling 'last4' needs 4; take --pooling cls"):
        run(world, tmp_path / "report", models=[shallow])
    done = run(world, tmp_path / "report", models=[shallow], pooling="cls", overwrite=True)
    assert done.results["tables"]["shallow"]["pooling"] == "cls"


def test_models_pooled_by_their_mean_stay_so(world, tmp_path):
    assert pooling_of(find_model(world / "vit")) == "last4"
    assert pooling_of(find_model(making.write_vit(tmp_path / "mean", pooling="mean"))) == "mean"


def test_tables_of_both_protocols_lie_side_by_side(world, tmp_path):
    run(world, tmp_path / "report")
    standard = run(world, tmp_path / "report", protocol="standard")
    assert standard.results["tables"]["vit"]["pooling"] == "cls"
    run(world, tmp_path / "report")
    parts = {path.parent.parent.name for path in (tmp_path / "report").rglob("part-*.parquet")}
    assert parts == {"tables", "tables-dino"}


def test_several_labels_and_a_curve_of_few_labels_work_on_crops(world, tmp_path):
    rows = (world / "labels.csv").read_text().splitlines()
    lists = [
        f"{line.replace(',dark,', ',dark;any,').replace(',bright,', ',bright,')}"
        for line in rows[1:]
    ]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["id,labels,split", *lists]) + "\n")
    results = run(world, tmp_path / "report", labels=labels, fractions="50").results
    assert results["recipe"]["task"] == "multilabel"
    (point,) = [p for p in results["label_efficiency"]["points"] if p["name"] == "vit"]
    assert point["tiles"] == 9
    assert json.loads((tmp_path / "report" / "results.json").read_text()) == results
