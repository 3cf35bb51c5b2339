"""Models of the catalogue: facts that hold together, weights converted once and strictly."""

from dataclasses import replace
from pathlib import Path

import making
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tilezoo.errors import ModelError
from tilezoo.zoo import entries, find_model, load
from tilezoo.zoo.catalog import OFFLINE_DEFAULT, entry
from tilezoo.zoo.downloader import fetch_from_catalog
from tilezoo.zoo.foreign import by_position, reben_names, satdino_names

PACKAGED = "efficientnet-lite0-imagenet"
LITE0 = entry(PACKAGED)


def test_the_offline_default_is_in_the_catalog() -> None:
    assert OFFLINE_DEFAULT in {e.name for e in entries()}


def test_a_packaged_model_is_converted_once_into_a_directory_that_timm_loads(cache: Path) -> None:
    model = find_model(PACKAGED)
    before = (model.path / "model.safetensors").stat().st_mtime_ns
    assert model.path.is_relative_to(cache)
    assert find_model(PACKAGED) == model
    assert (model.path / "model.safetensors").stat().st_mtime_ns == before
    network, _ = making.timm_transform(model.path)
    assert network.num_classes == 1000


def test_its_facts_are_the_catalogs(cache: Path) -> None:
    assert cache.is_dir()
    backbone = load(PACKAGED, device="cpu")
    assert backbone.dimension == LITE0.dimension
    assert backbone.space.contract == LITE0.contract
    assert backbone.space.pooling == LITE0.pooling


def test_its_weights_are_the_packages_in_the_networks_order(cache: Path) -> None:
    assert cache.is_dir()
    from importlib.resources import files

    theirs = torch.load(str(files(LITE0.package).joinpath(LITE0.file)), weights_only=True)
    ours = load_file(find_model(PACKAGED).path / "model.safetensors")

    def by_shape(state: dict[str, torch.Tensor]) -> list[tuple[tuple[int, ...], float]]:
        return sorted((tuple(t.shape), float(t.double().sum())) for t in state.values())

    assert by_shape(theirs) == by_shape(ours)


def test_it_tells_imagenet_classes_apart(cache: Path) -> None:
    """A network with permuted weights would give every image much the same class."""
    assert cache.is_dir()
    network, transform = making.timm_transform(find_model(PACKAGED).path)
    grey = making.as_pillow(np.full((3, 224, 224), 128))
    striped = making.as_pillow(np.tile(np.repeat([0, 255], 14), (3, 224, 8)))
    with torch.inference_mode():
        logits = network(torch.stack([transform(grey), transform(striped)]))
    assert logits[0].argmax() != logits[1].argmax()
    assert logits[1].softmax(0).max() > 0.1


def test_a_package_that_is_not_installed_is_told_with_the_command(cache: Path) -> None:
    assert cache.is_dir()
    gone = replace(LITE0, package="no_such_package", sha256="00" * 32)
    with pytest.raises(ModelError, match=r"is not installed; pip install 'tilezoo\[demo\]'"):
        fetch_from_catalog(gone)


def test_a_package_with_another_file_is_refused(cache: Path) -> None:
    assert cache.is_dir()
    with pytest.raises(ModelError, match=r"SHA-256 .* is not the known 0000000000000000"):
        fetch_from_catalog(replace(LITE0, sha256="00" * 32))


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TILEZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set TILEZOO_CACHE to a folder you may write"):
        find_model(PACKAGED)


def test_a_damaged_copy_in_the_cache_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEZOO_CACHE", str(tmp_path))
    weights = find_model(PACKAGED).path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 255
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="the weights are damaged"):
        find_model(PACKAGED)


def test_tensors_in_another_order_or_number_are_not_the_same_network() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    state = network.state_dict()
    renamed = {f"other.{name}": tensor for name, tensor in state.items()}
    assert all(torch.equal(by_position(renamed, network)[name], state[name]) for name in state)
    with pytest.raises(ModelError, match="3 tensors, the network has 4"):
        by_position(dict(list(renamed.items())[:3]), network)
    with pytest.raises(ModelError, match=r"has shape \(4,\).*not the same network"):
        by_position(dict(reversed(renamed.items())), network)


@pytest.mark.parametrize("known", entries(), ids=lambda known: known.name)
def test_a_catalogued_network_is_what_its_entry_says(known) -> None:
    import timm

    with torch.device("meta"):
        network = timm.create_model(
            known.architecture, num_classes=known.num_classes, **known.model_args
        )
    channels = known.model_args.get("in_chans", 3)
    assert channels == len(known.contract.bands)
    widths = {"cls+mean": 2, "last4": 4}  # of the network's own
    assert network.num_features * widths.get(known.pooling, 1) == known.dimension
    places = {
        "hub": known.repo,
        "package": known.package,
        "shipped": known.name,
        "ours": known.make,
    }
    assert places[known.kind]
    assert known.file or known.kind == "ours"
    assert known.licence
    stated = {field.split(" ")[0].split(".")[0] for field in known.sources}
    told = stated | {text.split(" ")[0].split(".")[0] for text in known.unconfirmed}
    assert {"contract", "architecture", "licence", "trained_on"} <= told
    for field in ("revision", "sha256"):
        value = getattr(known, field)
        assert value is None or set(value) <= set("0123456789abcdef")
        assert value is not None or known.kind != "hub" or field in " ".join(known.unconfirmed)


def test_the_zoo_has_the_backbones_people_ask_for() -> None:
    names = {known.name for known in entries()}
    assert len(names) >= 14
    wanted = {"dino-vits16-imagenet", "dino-vits8-imagenet", "dino-vitb16-imagenet"}
    wanted |= {"dinov2-vits14", "dinov2-vitb14", "dinov3-vits16", "dinov3-vitl16-sat"}
    wanted |= {"ssl4eo-dino-vits16", "satdino-vits16", "deit-small-imagenet"}
    assert wanted | {OFFLINE_DEFAULT, "dino-vits16-bigearthnet"} <= names


def test_weights_that_nobody_has_published_are_told_with_the_command(cache: Path) -> None:
    assert cache.is_dir()
    with pytest.raises(
        ModelError, match=r"nobody has published its weights yet; .*tilezoo pretrain"
    ):
        find_model("dino-vits16-bigearthnet")


def small(name: str, **args: object):
    """An entry with a small network of the same kind, and that network with random weights."""
    import timm

    known = entry(name)
    tiny = args or {"depth": 2, "img_size": 64, "embed_dim": 96, "num_heads": 3}
    model_args = {**known.model_args, **tiny}
    torch.manual_seed(0)
    network = timm.create_model(known.architecture, num_classes=0, **model_args).eval()
    contract = replace(known.contract, size_px=64, resize_px=64)
    own = {"sha256": None, "num_classes": 0, "model_args": model_args, "contract": contract}
    return replace(known, **own), network


def features_of(network: torch.nn.Module, bands: int) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        return network(torch.randn(2, bands, 64, 64))


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TILEZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def converted(known, file: Path, monkeypatch):
    """The directory that `fetch_from_catalog` makes when the Hub hands out this file."""
    from tilezoo.zoo import downloader

    monkeypatch.setattr(downloader, "fetch_file", lambda *_words: file)
    model = fetch_from_catalog(known)
    network, _ = making.timm_transform(model.path)
    return model, network


@pytest.mark.usefixtures("own_cache")
def test_a_plain_checkpoint_of_thirteen_bands_keeps_its_features(tmp_path, monkeypatch) -> None:
    known, network = small("ssl4eo-dino-vits16")
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    model, again = converted(known, tmp_path / "plain.pth", monkeypatch)
    assert torch.equal(features_of(again, 13), features_of(network, 13))
    assert model.contract == known.contract


@pytest.mark.usefixtures("own_cache")
def test_satdinos_register_finds_its_place(tmp_path, monkeypatch) -> None:
    known, network = small("satdino-vits16")
    state = dict(network.state_dict())
    place = state["pos_embed"]
    state["pos_embed"] = torch.cat([place[:, :1], place[:, 2:], place[:, 1:2]], dim=1)
    state["gsd_register"] = state.pop("reg_token")
    torch.save({"teacher": state, "linear_head": {"x": torch.ones(1)}}, tmp_path / "s.pth")
    _, again = converted(known, tmp_path / "s.pth", monkeypatch)
    assert torch.equal(features_of(again, 3), features_of(network, 3))
    with pytest.raises(ModelError, match="no pos_embed"):
        satdino_names({"x": torch.ones(1)})


@pytest.mark.usefixtures("own_cache")
def test_rebens_prefix_and_classifier_go(tmp_path, monkeypatch) -> None:
    from safetensors.torch import save_file

    known, network = small("reben-resnet50-s2", layers=[1, 1, 1, 1])
    state = {f"model.vision_encoder.{name}": t for name, t in network.state_dict().items()}
    state["model.vision_encoder.fc.weight"] = torch.ones(19, 2048)
    save_file(state, tmp_path / "model.safetensors")
    _, again = converted(known, tmp_path / "model.safetensors", monkeypatch)
    assert torch.equal(features_of(again, 10), features_of(network, 10))
    assert set(reben_names(state)) == set(network.state_dict())


@pytest.mark.usefixtures("own_cache")
def test_a_missing_tensor_is_refused_and_leaves_no_model(tmp_path, monkeypatch, own_cache) -> None:
    known, network = small("ssl4eo-dino-vits16")
    state = network.state_dict()
    del state["norm.weight"]
    torch.save(state, tmp_path / "plain.pth")
    with pytest.raises(ModelError, match=r"not the tensors of .*norm\.weight"):
        converted(known, tmp_path / "plain.pth", monkeypatch)
    assert not list(own_cache.rglob("*.safetensors"))


def test_dinov3_is_pooled_by_its_class_token() -> None:
    import timm

    from tilezoo.zoo.network import check_pooling, features

    torch.manual_seed(0)
    small_args = {"img_size": 64, "depth": 4, "embed_dim": 96, "num_heads": 3}
    network = timm.create_model("vit_small_patch16_dinov3", num_classes=0, **small_args).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        tokens = network.forward_features(images)
        for pooling, expected in (("cls", tokens[:, 0]), ("mean", tokens[:, 5:].mean(1))):
            check_pooling(network, pooling)
            assert torch.equal(features(network, images, pooling).pooled, expected)
        assert features(network, images, "last4").pooled.shape == (2, 4 * 96)
        assert features(network, images, "cls").patch.shape == (2, 4, 4, 96)
