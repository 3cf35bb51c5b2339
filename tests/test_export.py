"""Export and verify: checkpoints become model directories that anyone can check."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import making
import numpy as np
import pytest
import torch
from stac_model.schema import MLModelProperties

from tilezoo.errors import ModelError, SourceError
from tilezoo.zoo import load
from tilezoo.zoo.cards import read_front_matter
from tilezoo.zoo.complete import read_golden
from tilezoo.zoo.exporter import export
from tilezoo.zoo.publisher import refuse_unverified, verify

BANDS13 = (
    "B01",
    "B02",
    "B03",
    "B04",
    "B05",
    "B06",
    "B07",
    "B08",
    "B8A",
    "B09",
    "B10",
    "B11",
    "B12",
)


def small_vit(bands: int = 3) -> torch.nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=2, in_chans=bands, num_classes=0
    )


def two_steps(network: torch.nn.Module, bands: int = 3) -> torch.nn.Module:
    """Train for two steps on anything, so that no tensor is as it was made."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for seed in range(2):
        torch.manual_seed(seed)
        optimiser.zero_grad()
        network(torch.randn(4, bands, 64, 64)).square().mean().backward()
        optimiser.step()
    return network.eval()


def dino_checkpoint(path: Path, teacher: torch.nn.Module, student: torch.nn.Module) -> Path:
    """What facebookresearch/dino's main_dino.py saves: both networks with their heads, and args."""
    head = {f"head.mlp.{i}.weight": torch.randn(3, 3) for i in (0, 2, 4)}
    head |= {"head.last_layer.weight_g": torch.ones(3, 1)}
    torch.save(
        {
            "student": {f"module.backbone.{k}": v for k, v in student.state_dict().items()}
            | {f"module.{k}": v for k, v in head.items()},
            "teacher": {f"backbone.{k}": v for k, v in teacher.state_dict().items()} | head,
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
            "epoch": 2,
            "args": argparse.Namespace(arch="vit_tiny", patch_size=16, out_dim=3),
            "dino_loss": {"center": torch.zeros(1, 3)},
        },
        path,
    )
    return path


@pytest.fixture(scope="module", params=[3, 13])
def exported(request, tmp_path_factory):
    """A model directory exported from a DINO checkpoint, and its teacher and student."""
    folder = tmp_path_factory.mktemp("export")
    teacher, student = (two_steps(small_vit(request.param), request.param) for _ in range(2))
    with torch.no_grad():
        student.cls_token.add_(1)
    path = dino_checkpoint(folder / "checkpoint.pth", teacher, student)
    bands = {"bands": BANDS13, "unit": "dn", "value_range": (0.0, 10000.0), "resize": "squash"}
    contract = making.contract(**(bands if request.param == 13 else {}))
    model = export(path, out=folder / "model", contract=contract, method="dino")
    return model, teacher, student, path


def test_features_are_those_of_the_teacher(exported):
    model, teacher, _, _ = exported
    images = torch.randn(2, len(model.contract.bands), 64, 64)
    with torch.no_grad():
        expected = teacher(images)
    np.testing.assert_allclose(load(model.path).features(images).pooled, expected, atol=1e-6)


def test_the_student_comes_only_when_asked_for(exported, tmp_path):
    model, _, student, path = exported
    assert json.loads((model.path / "config.json").read_text())["tilezoo"]["network"] == "teacher"
    other = export(path, out=tmp_path / "s", contract=model.contract, network="student")
    images = torch.randn(2, len(model.contract.bands), 64, 64)
    with torch.no_grad():
        expected = student(images)
    np.testing.assert_allclose(load(other.path).features(images).pooled, expected, atol=1e-6)
    assert json.loads((other.path / "config.json").read_text())["tilezoo"]["network"] == "student"


def test_a_missing_network_is_told(tmp_path):
    path = tmp_path / "c.pth"
    state = {f"module.backbone.{k}": v for k, v in small_vit().state_dict().items()}
    torch.save({"student": state}, path)
    with pytest.raises(ModelError, match=r"holds no teacher; --network student"):
        export(path, out=tmp_path / "m", contract=making.contract())
    assert not (tmp_path / "m").exists()


def test_timm_alone_loads_it_with_equal_features(exported, tmp_path):
    model, teacher, _, _ = exported
    images = torch.randn(2, len(model.contract.bands), 64, 64)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import sys, timm, torch; images = torch.load(sys.argv[2])\n"
        "network = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval()\n"
        "with torch.no_grad(): torch.save(network(images), sys.argv[2])\n"
        "assert 'tilezoo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, model.path, tmp_path / "images.pt"], check=True)
    with torch.no_grad():
        expected = teacher(images)
    np.testing.assert_allclose(torch.load(tmp_path / "images.pt"), expected, atol=1e-6)


def test_every_file_of_a_model_may_be_read_by_whoever_may_read_new_files(exported, tmp_path):
    (tmp_path / "new").touch()
    usual = (tmp_path / "new").stat().st_mode
    assert {path.stat().st_mode for path in exported[0].path.iterdir()} == {usual}


def test_half_weights_take_half_the_room_and_tell_nearly_the_same(exported, tmp_path):
    whole, teacher, _, path = exported
    model = export(path, out=tmp_path / "half", contract=whole.contract, half=True)
    sizes = [(each.path / "model.safetensors").stat().st_size for each in (model, whole)]
    assert sizes[0] < 0.52 * sizes[1]
    assert model.space().fingerprint != whole.space().fingerprint
    backbone, images = load(model.path), torch.randn(2, len(model.contract.bands), 64, 64)
    with torch.no_grad():
        expected = teacher(images)
    found = torch.as_tensor(backbone.features(images).pooled)
    assert found.dtype == torch.float32
    assert torch.cosine_similarity(found, expected).min() > 0.9999
    assert {check.verdict for check in verify(model.path)} == {"ok"}


def test_an_exported_model_verifies(exported):
    checks = {check.name: check for check in verify(exported[0].path)}
    assert {check.verdict for check in checks.values()} == {"ok"}, checks
    assert {"strict load", "golden fp32", "golden bf16", "card", "no pickle"} <= set(checks)


def test_golden_tiles_may_be_ones_own(exported, tmp_path):
    whole, _, _, path = exported
    contract = whole.contract
    how = {"bands": len(contract.bands), "dtype": "uint8" if contract.unit == "uint8" else "uint16"}
    sides = {"tiles": [40] * 7, "other": [48]}
    for folder, number, side in [(f, n, s) for f in sides for n, s in enumerate(sides[f])]:
        pixels = making.texture(number, side=side, **how)
        making.write_tiff(tmp_path / folder / f"{number}.tif", pixels, names=contract.bands)
    golden = [tmp_path / "tiles"]
    model = export(path, out=tmp_path / "m", contract=contract, golden=golden)
    kept = read_golden(model).pixels
    assert kept.shape == (4, how["bands"], 40, 40)
    assert np.array_equal(kept[[0, 3]], [making.texture(n, side=40, **how) for n in (0, 6)])
    assert {check.verdict for check in verify(model.path)} == {"ok"}
    with pytest.raises(SourceError, match="give tiles of one size"):
        export(path, out=tmp_path / "n", contract=contract, golden=[*golden, tmp_path / "other"])
    assert not (tmp_path / "n").exists()


def test_golden_tiles_are_tiles_and_can_be_read(exported, tmp_path):
    whole, _, _, path = exported
    pixels = making.texture(0, side=520, bands=len(whole.contract.bands), dtype="uint8")
    making.write_tiff(tmp_path / "scene" / "0.tif", pixels, names=whole.contract.bands)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "1.tif").write_bytes(b"II*\0no more")
    for folder, said in (
        ("scene", "520x520 px; golden tiles have at most 512"),
        ("torn", "1.tif: no"),
    ):
        with pytest.raises(SourceError, match=said):
            export(path, out=tmp_path / "n", contract=whole.contract, golden=[tmp_path / folder])
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "golden.safetensors", "config.json"])
def test_one_changed_byte_is_found(exported, tmp_path, name):
    import shutil

    folder = Path(shutil.copytree(exported[0].path, tmp_path / "copy"))
    content = bytearray((folder / name).read_bytes())
    place = content.index(b'"unit": "') + 9 if name == "config.json" else len(content) - 7
    content[place] ^= 0x55
    (folder / name).write_bytes(content)
    assert "failed" in {check.verdict for check in verify(folder)}
    with pytest.raises(ModelError, match="failed"):
        refuse_unverified(folder)


def test_a_directory_without_golden_vectors_is_not_publishable(exported, tmp_path):
    import shutil

    folder = Path(shutil.copytree(exported[0].path, tmp_path / "copy"))
    for name in ("golden.safetensors", "SHA256SUMS"):
        (folder / name).unlink()
    with pytest.raises(ModelError, match="golden fp32 not there"):
        refuse_unverified(folder)


def test_a_pickle_beside_the_weights_is_found(exported, tmp_path):
    import shutil

    folder = Path(shutil.copytree(exported[0].path, tmp_path / "copy"))
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin could run code"):
        refuse_unverified(folder)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "owned"))


def test_a_malicious_pickle_is_refused_and_does_nothing(tmp_path):
    target = tmp_path / "owned"
    torch.save({"teacher": {"x": torch.ones(1)}, "args": Malicious(target)}, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match="more than tensors"):
        export(tmp_path / "bad.pth", out=tmp_path / "m", contract=making.contract())
    assert not target.exists()
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 broken zip"])
def test_a_damaged_checkpoint_is_told(tmp_path, content):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"c\.pth"):
        export(tmp_path / "c.pth", out=tmp_path / "m", contract=making.contract())


def test_a_contract_of_other_bands_is_refused(exported, tmp_path):
    wrong = making.contract(bands=("a1", "a2"))
    with pytest.raises(ModelError, match="the contract states 2"):
        export(exported[3], out=tmp_path / "m", contract=wrong)


def test_the_card_and_the_stac_item_are_valid(exported):
    from huggingface_hub import ModelCard

    folder = exported[0].path
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-feature-extraction"
    matter = read_front_matter((folder / "README.md").read_text())
    assert matter["embedding_dimension"] == 192
    assert {"embedding_spatial_types", "embedding_temporal_type", "pretraining"} <= set(matter)
    item = json.loads((folder / "mlm.json").read_text())
    properties = MLModelProperties(**item["properties"])
    assert properties.input[0].input.shape[1] == len(exported[0].contract.bands)


def test_the_commands_go_from_checkpoint_to_verified_model(exported, tmp_path):
    from typer.testing import CliRunner

    from tilezoo.cli.app import app

    own = exported[0].contract
    stated = ["--bands", ",".join(own.bands), "--unit", own.unit, "--size-px", "64"]
    stated += ["--value-range", ",".join(map(str, own.value_range))]
    stated += ["--mean", ",".join(map(str, own.mean)), "--std", ",".join(map(str, own.std))]
    made = CliRunner().invoke(app, ["export", str(exported[3]), "-o", str(tmp_path / "m"), *stated])
    assert made.exit_code == 0, made.output
    checked = CliRunner().invoke(app, ["verify", str(tmp_path / "m"), "--json"])
    assert {check["verdict"] for check in json.loads(checked.stdout)} == {"ok"}
