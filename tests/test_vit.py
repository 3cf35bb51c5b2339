"""Which network a checkpoint is: heads are stated, named or measured, and never concluded from a width."""

import argparse
import contextlib
from pathlib import Path

import making
import pretraining
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models import is_model_in_modules

from tilezoo.errors import ModelError, OptionError
from tilezoo.pretrain import pretrain
from tilezoo.pretrain.network import _MODULES, _is_plain
from tilezoo.zoo import find_model, load
from tilezoo.zoo.catalog import OFFLINE_DEFAULT
from tilezoo.zoo.checkpoints import read_safetensors
from tilezoo.zoo.exporter import export
from tilezoo.zoo.vit import Shape, find_build, measure_heads, named_build, shape_of

HERE = Path("c.pth")


def vit(width: int, heads: int, depth: int = 2, **args: object) -> torch.nn.Module:
    import timm

    torch.manual_seed(0)
    built = {"img_size": 32, "embed_dim": width, "depth": depth, "num_heads": heads, **args}
    return timm.create_model("vit_small_patch16_224", num_classes=0, **built).eval()


def shake(network: torch.nn.Module) -> torch.nn.Module:
    """Move every tensor away from how it was made, as training does, but leave no trace of heads."""
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.05)
    return network


def facts(network: torch.nn.Module) -> tuple[object, ...]:
    """What no tensor tells, and the shapes of those there are."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    block = network.blocks[0]
    rest = (block.norm1.eps, network.norm.eps, type(block.mlp.act), network.global_pool)
    return (block.attn.num_heads, *rest, shapes)


def names_taken() -> list[str]:
    """timm's vision transformers that pretraining takes, each build once."""
    import timm

    names = timm.list_models(["vit_*", "deit_*", "test_vit*"], exclude_filters="*_384")
    taken = []
    for name in filter(lambda name: is_model_in_modules(name, _MODULES), names):
        with torch.device("meta"), contextlib.suppress(TypeError, AssertionError):
            if _is_plain(timm.create_model(name, num_classes=0, img_size=224, depth=1)):
                taken.append(name)
    return taken


@pytest.mark.slow
def test_what_pretraining_takes_export_takes_as_the_same_network() -> None:
    import timm

    taken = names_taken()
    assert {"test_vit", "vit_huge_patch14_224", "vit_gigantic_patch14_224"} <= set(taken)
    for name in taken:
        with torch.device("meta"):
            own = timm.create_model(name, num_classes=0, img_size=224, in_chans=4)
            build = named_build(name, own.state_dict(), where=HERE)
            again = timm.create_model(build.architecture, num_classes=0, **build.args)
        assert facts(own) == facts(again), name


@pytest.mark.parametrize("name", ["test_vit", "deit_tiny_patch16_224", "vit_tiny_patch16_384.x"])
def test_a_run_of_any_architecture_becomes_its_teachers_model(tmp_path: Path, name: str) -> None:
    shards = pretraining.write_pack(tmp_path, tiles=6, labels=False)
    asked = [*pretraining.SMALL, f"architecture={name}", "epochs=1", "warmup_epochs=0"]
    pretrain(shards, out=tmp_path / "run", recipe="dino-vits16-bigearthnet", settings=asked)
    model = export(tmp_path / "run", out=tmp_path / "model")
    state = pretraining.weights(tmp_path / "run")["teacher"]
    import timm

    teacher = timm.create_model(name.partition(".")[0], img_size=32, num_classes=0).eval()
    own = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    teacher.load_state_dict(own)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(teacher(images), load(model.path).features(images).pooled, atol=1e-6)
    with pytest.raises(OptionError, match="leave out --arch and --heads"):
        export(tmp_path / "run", out=tmp_path / "other", heads=2)


@given(
    width=st.sampled_from([32, 64, 96, 128, 160, 192, 384]),
    heads=st.sampled_from([1, 2, 3, 4, 5, 6, 8, 12, 16]),
    depth=st.sampled_from([1, 2, 12]),
    patch=st.sampled_from([8, 16]),
)
@settings(max_examples=15, deadline=None)
def test_weights_that_show_nothing_and_have_no_name_are_refused_whatever_their_width(
    width: int, heads: int, depth: int, patch: int
) -> None:
    if width % heads:
        heads = 1
    blocks = min(depth, 12 if width < 128 else 2)
    state = shake(vit(width, heads, blocks, patch_size=patch)).state_dict()
    with pytest.raises(ModelError, match=r"state --heads.*--arch"):
        find_build({"teacher": state}, state, arch=None, heads=None, where=HERE)
    build = find_build({}, state, arch=None, heads=heads, where=HERE)
    assert build.args["num_heads"] == heads


@pytest.mark.parametrize(
    ("width", "heads", "mlp_ratio"), [(192, 12, 4.0), (128, 4, 2.6), (64, 2, 3.0), (96, 3, 4.0)]
)
def test_stated_heads_make_the_same_network(
    tmp_path: Path, width: int, heads: int, mlp_ratio: float
) -> None:
    network = shake(vit(width, heads, img_size=64, mlp_ratio=mlp_ratio))
    torch.save({"teacher": network.state_dict()}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match="--heads"):
        export(tmp_path / "c.pth", out=tmp_path / "m", contract=making.contract())
    model = export(tmp_path / "c.pth", out=tmp_path / "m", contract=making.contract(), heads=heads)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(images), load(model.path).features(images).pooled, atol=1e-6)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12)])
def test_weights_that_were_never_trained_are_timms_of_that_width_and_that_is_told(
    width: int, heads: int, capsys: pytest.CaptureFixture[str]
) -> None:
    state = vit(width, heads).state_dict()
    build = find_build({"teacher": state}, state, arch=None, heads=None, where=HERE)
    assert build.args["num_heads"] == heads
    assert f"never trained; {heads} heads, as timm's vit_" in capsys.readouterr().err
    state["norm.weight"] = state["norm.weight"] + 1e-6  # one step of training
    with pytest.raises(ModelError, match="--heads"):
        find_build({"teacher": state}, state, arch=None, heads=None, where=HERE)


def test_a_stated_architecture_may_be_of_other_parts(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    name = "vit_wee_patch16_reg1_gap_256"
    network = timm.create_model(name, num_classes=0, img_size=64).eval()
    torch.save(network.state_dict(), tmp_path / "c.pth")
    how = {"contract": making.contract(), "arch": name, "pooling": "mean"}
    model = export(tmp_path / "c.pth", out=tmp_path / "m", **how)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(network(images), load(model.path).features(images).pooled, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("vit_nano", "has no such network"),
        ("vit_small_patch16_224", r"not timm's vit_small_patch16_224; state --heads"),
        ("resnet18", "are not those of timm's resnet18"),
    ],
)
def test_an_architecture_that_does_not_fit_is_refused(tmp_path: Path, arch: str, said: str) -> None:
    torch.save(vit(64, 2).state_dict(), tmp_path / "c.pth")
    with pytest.raises(ModelError, match=said):
        export(tmp_path / "c.pth", out=tmp_path / "m", contract=making.contract(), arch=arch)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    state = vit(64, 2).state_dict()
    with pytest.raises(ModelError, match="64 wide blocks do not divide among 5 heads"):
        find_build({}, state, arch=None, heads=5, where=HERE)


@pytest.mark.parametrize(
    ("stated", "heads"),
    [
        ({"args": argparse.Namespace(arch="vit_tiny", patch_size=16)}, 3),
        ({"args": argparse.Namespace(arch="deit_tiny", patch_size=16)}, 3),
        ({"args": {"model": "deit_tiny_patch16_224"}}, 3),
        ({"hyper_parameters": {"model_name": "vit_tiny_patch16_224.augreg_in21k"}}, 3),
        ({"arch": "vit_tiny_patch16_384"}, 3),
        ({"args": argparse.Namespace(arch="vit_tiny", patch_size=8)}, None),  # of other patches
        ({"args": argparse.Namespace(arch="vit_small", patch_size=16)}, None),  # of another width
        ({"arch": "vit_tiny"}, None),  # a short name means what its makers say; DINO's is in args
        ({"args": {"model": "resnet18"}}, None),
        ({"arch": 3, "args": None, "config": ["vit_tiny_patch16_224"]}, None),
    ],
)
def test_a_name_in_the_file_says_its_heads_if_it_fits(
    stated: dict[str, object], heads: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    state = shake(vit(192, 3)).state_dict()
    checkpoint = {"teacher": state, **stated}
    if heads is None:
        with pytest.raises(ModelError, match="--heads"):
            find_build(checkpoint, state, arch=None, heads=None, where=HERE)
        return
    build = find_build(checkpoint, state, arch=None, heads=None, where=HERE)
    assert build.args["num_heads"] == heads
    assert f"{heads} heads of 192, as " in capsys.readouterr().err


def balanced(width: int, heads: int, depth: int, noise: float) -> dict[str, torch.Tensor]:
    """Attention as training leaves it: rows of one head mixed alike in queries and keys."""
    generator = torch.Generator().manual_seed(width * heads)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    state = dict(vit(width, heads, depth).state_dict())
    side = width // heads
    for number in range(depth):
        parts: list[list[torch.Tensor]] = [[], [], [], []]
        for _ in range(heads):
            mixes = [draw(side, side) * draw(side).exp(), draw(side, side) * draw(side).exp()]
            for place, part in enumerate(parts):
                basis = torch.linalg.qr(draw(width, side))[0].T
                part.append(mixes[place // 2] @ basis + noise * draw(side, width))
        q, k, v, out = (torch.cat(part) for part in parts)
        state[f"blocks.{number}.attn.qkv.weight"] = torch.cat([q, k, v])
        state[f"blocks.{number}.attn.proj.weight"] = out.T.contiguous()
    return state


@pytest.mark.parametrize(
    ("width", "heads"), [(192, 3), (192, 12), (96, 4), (128, 2), (160, 5), (384, 12), (64, 8)]
)
def test_trained_weights_show_their_heads(
    width: int, heads: int, capsys: pytest.CaptureFixture[str]
) -> None:
    state = balanced(width, heads, depth=2, noise=0.01)
    assert measure_heads(state, shape_of(state, HERE)) == heads
    build = find_build({}, state, arch=None, heads=None, where=HERE)
    assert build.args["num_heads"] == heads
    assert f"{heads} heads of {width}, as its weights show" in capsys.readouterr().err


def test_the_model_in_the_box_shows_its_three_heads() -> None:
    state = read_safetensors(find_model(OFFLINE_DEFAULT).path / "model.safetensors")
    assert measure_heads(state, shape_of(state, HERE)) == 3


def test_weights_that_contradict_a_name_are_refused_and_those_stated_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = balanced(192, 12, depth=2, noise=0.01)
    named = {"teacher": state, "args": argparse.Namespace(arch="vit_tiny", patch_size=16)}
    with pytest.raises(ModelError, match="has 3 heads, but the weights look like 12"):
        find_build(named, state, arch=None, heads=None, where=HERE)
    assert find_build({}, state, arch=None, heads=3, where=HERE).args["num_heads"] == 3
    assert "--heads 3 as stated, but the weights look like 12" in capsys.readouterr().err


def test_mixed_up_heads_show_nothing() -> None:
    """Rows in any other order are of no division: nothing is concluded from chance."""
    state = balanced(192, 3, depth=2, noise=0.01)
    order = torch.randperm(192, generator=torch.Generator().manual_seed(0))
    for number in range(2):
        name = f"blocks.{number}.attn.qkv.weight"
        state[name] = torch.cat([part[order] for part in state[name].chunk(3)])
    assert measure_heads(state, shape_of(state, HERE)) is None


@given(width=st.sampled_from([64, 192, 1408, 1664]), hidden=st.integers(32, 8192), bands=st.just(3))
def test_the_width_of_an_mlp_is_timms_again(width: int, hidden: int, bands: int) -> None:
    shape = Shape(width=width, depth=1, patch_px=16, bands=bands, grid=2, hidden=hidden)
    ratio = shape.timm_args(1).get("mlp_ratio", 4.0)
    assert int(width * ratio) == hidden


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pos_embed": torch.zeros(1, 7, 64)}, "6 positions of patches of 16x16 px: no square"),
        ({"pos_embed": torch.zeros(1, 1, 64)}, "no square grid"),
        ({"pos_embed": torch.zeros(5, 64)}, r"pos_embed has the shape \(5, 64\)"),
        ({"cls_token": torch.zeros(64)}, "cls_token has the shape"),
        ({"patch_embed.proj.weight": torch.zeros(64, 3, 1, 16, 16)}, "has the shape"),
        ({"patch_embed.proj.weight": torch.zeros(64, 3, 16, 8)}, "no square grid of square"),
        ({"patch_embed.proj.weight": None}, "'patch_embed.proj.weight' is missing"),
        ({"blocks.0.mlp.fc1.weight": None}, "is missing"),
        ({"blocks.1.attn.qkv.weight": None}, "are not those of timm's"),
        ({"blocks.0.attn.qkv.weight": torch.zeros(5, 64)}, "are not those of timm's"),
        ({"reg_token": torch.zeros(1, 1, 64)}, "are not those of timm's"),
    ],
)
def test_what_is_no_such_transformer_is_refused_in_a_line(
    tmp_path: Path, change: dict[str, torch.Tensor | None], said: str
) -> None:
    state = {**vit(64, 2).state_dict(), **change}
    torch.save({name: t for name, t in state.items() if t is not None}, tmp_path / "c.pth")
    with pytest.raises(ModelError, match=said) as refused:
        export(tmp_path / "c.pth", out=tmp_path / "m", contract=making.contract(), heads=2)
    assert "\n" not in str(refused.value)
