"""Backbones: the vectors that timm itself would give, in any pooling, size and precision."""

from pathlib import Path

import making
import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from tilezoo.errors import ContractError, ModelError, OptionError
from tilezoo.tiles import Tile
from tilezoo.zoo import load
from tilezoo.zoo.network import prepare

SENTINEL2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09")
SENTINEL2_BANDS += ("B10", "B11", "B12")


def tile(pixels: np.ndarray, number: int = 0) -> Tile:
    return Tile(
        id=str(number),
        pixels=pixels,
        source_uri=f"/nowhere/{number}",
        pixel_bbox=(0, 0, pixels.shape[2], pixels.shape[1]),
        nodata_fraction=0.0,
        crs=None,
        footprint=None,
        datetime=None,
    )


def tiles(count: int = 6, **how: object) -> list[Tile]:
    return [tile(making.texture(i, **how), i) for i in range(count)]


def prepared(of: list[Tile], model: Path) -> torch.Tensor:
    contract = load(model).space.contract
    return torch.cat([prepare(torch.from_numpy(t.pixels)[None], contract) for t in of])


def tokens_by_timm(model: Path, images: torch.Tensor) -> torch.Tensor:
    network = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    with torch.inference_mode():
        return network.forward_features(images)


def test_vectors_of_different_tiles_differ_so_that_likeness_means_something(vit: Path) -> None:
    vectors = load(vit, device="cpu").encode(tiles())
    assert making.cosines(vectors, np.roll(vectors, 1, axis=0)).max() < 0.99


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_poolings_are_of_the_tokens_that_timm_gives(vit: Path, pooling: str) -> None:
    out = tokens_by_timm(vit, prepared(tiles(), vit))
    parts = {"cls": [out[:, 0]], "mean": [out[:, 1:].mean(1)]}
    parts["cls+mean"] = parts["cls"] + parts["mean"]
    backbone = load(vit, device="cpu", pooling=pooling)
    vectors = backbone.encode(tiles())
    assert vectors.shape == (6, backbone.dimension)
    assert np.allclose(vectors, torch.cat(parts[pooling], dim=1).numpy(), atol=1e-4)


def test_last4_is_the_class_tokens_of_the_last_four_blocks_as_dino_takes_them(
    tmp_path: Path,
) -> None:
    model = making.write_vit(tmp_path / "deep", depth=5, pooling="last4")
    network = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    # facebookresearch/dino, vision_transformer.py, get_intermediate_layers
    with torch.inference_mode():
        x = network.patch_embed(prepared(tiles(), model))
        x = network.norm_pre(network._pos_embed(x))
        outputs = []
        for number, block in enumerate(network.blocks):
            x = block(x)
            if len(network.blocks) - number <= 4:
                outputs.append(network.norm(x)[:, 0])
    vectors = load(model, device="cpu").encode(tiles())
    assert vectors.shape == (6, 4 * 192)
    assert np.allclose(vectors, torch.cat(outputs, dim=1).numpy(), atol=1e-4)


def test_last4_of_a_network_with_two_blocks_is_refused(vit: Path) -> None:
    with pytest.raises(ModelError, match="2 blocks, pooling 'last4' needs 4; take --pooling cls"):
        load(vit, device="cpu", pooling="last4")


def test_a_convolutional_network_has_no_class_token(cache: Path) -> None:
    assert cache.is_dir()
    with pytest.raises(ModelError, match="no class token for pooling 'cls'; take --pooling mean"):
        load("efficientnet-lite0-imagenet", device="cpu", pooling="cls")


def test_thirteen_bands_go_in_as_thirteen_channels(tmp_path: Path) -> None:
    how = {"bands": SENTINEL2_BANDS, "unit": "dn", "value_range": (0.0, 10_000.0)}
    model = making.write_vit(tmp_path / "thirteen", quantize_uint8=False, **how)
    of = tiles(bands=13, high=9000, dtype="uint16")
    expected = tokens_by_timm(model, prepared(of, model))[:, 0]
    assert np.allclose(load(model, device="cpu").encode(of), expected.numpy(), atol=1e-4)


def test_positional_embeddings_are_resized_for_another_input_size(tmp_path: Path) -> None:
    model = making.write_vit(tmp_path / "larger", img_size=64, size_px=96, resize_px=96)
    plain = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=96, depth=2, in_chans=3
    ).eval()
    state = timm.models.load_state_dict(str(model / "model.safetensors"))
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [6, 6], num_prefix_tokens=1)
    plain.load_state_dict(state)
    with torch.inference_mode():
        expected = plain.forward_features(prepared(tiles(), model))[:, 0]
    vectors = load(model, device="cpu").encode(tiles())
    assert np.allclose(vectors, expected.numpy(), atol=1e-4)


def test_tiles_of_many_shapes_and_dtypes_come_back_in_their_order(vit: Path) -> None:
    shapes = [(80, 80), (64, 100), (80, 80), (100, 64), (64, 100)]
    mixed = [tile(making.texture(i, height=h, side=w), i) for i, (h, w) in enumerate(shapes)]
    mixed.append(tile(making.texture(9).astype("float32"), 9))
    backbone = load(vit, device="cpu", value_range=(0, 255))
    alone = np.concatenate([backbone.encode([t]) for t in mixed])
    assert np.allclose(backbone.encode(mixed), alone, atol=1e-5)


def test_a_large_tile_may_be_shrunk_early_without_another_vector(vit: Path) -> None:
    backbone = load(vit, device="cpu")
    large = tile(making.texture(0, side=1000))
    small = backbone.shrink(large)
    assert small.pixels.nbytes < large.pixels.nbytes / 100
    assert np.array_equal(backbone.encode([small]), backbone.encode([large]))
    assert backbone.shrink(small) is small


def test_a_tile_of_ordinary_size_is_not_shrunk(vit: Path) -> None:
    ordinary = tile(making.texture(0, side=120))
    assert load(vit, device="cpu").shrink(ordinary) is ordinary


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precisions_agree_with_float32_and_can_be_left_again(
    vit: Path, precision: str
) -> None:
    backbone = load(vit, device="cpu")
    exact = backbone.encode(tiles())
    backbone.use(precision)
    half = backbone.encode(tiles())
    assert half.dtype == np.float32
    assert not np.array_equal(half, exact)
    assert making.cosines(half, exact).min() >= 0.999
    backbone.use("fp32")
    assert np.array_equal(backbone.encode(tiles()), exact)


def test_features_hold_a_vector_for_each_patch(vit: Path) -> None:
    found = load(vit, device="cpu").features(prepared(tiles(2), vit))
    out = tokens_by_timm(vit, prepared(tiles(2), vit))
    assert found.patch.shape == (2, 4, 4, 192)
    assert torch.allclose(found.patch.flatten(1, 2), out[:, 1:], atol=1e-4)


def test_loading_freezes_the_network(vit: Path) -> None:
    found = load(vit, device="cpu").features(prepared(tiles(1), vit))
    assert not found.pooled.requires_grad


def test_no_tiles_give_no_vectors(vit: Path) -> None:
    assert load(vit, device="cpu").encode([]).shape == (0, 192)


def test_a_device_that_is_not_here_is_refused(vit: Path) -> None:
    with pytest.raises(OptionError, match=r"--device warp9 is not to be had here"):
        load(vit, device="warp9")


def test_bands_that_cannot_serve_the_model_are_refused(vit: Path) -> None:
    with pytest.raises(ContractError, match="--bands names 1 bands"):
        load(vit, bands=("B08",))


def test_what_the_user_states_is_in_the_space(sentinel_vit: Path) -> None:
    plain = load(sentinel_vit, device="cpu").space
    assert plain.fingerprint == load(sentinel_vit, device="cpu", pooling="cls").space.fingerprint
    changed = [
        load(sentinel_vit, device="cpu", pooling="mean").space,
        load(sentinel_vit, device="cpu", bands=("B08", "B04", "B03")).space,
        load(sentinel_vit, device="cpu", value_range=(0, 3000)).space,
    ]
    assert len({plain.fingerprint, *(space.fingerprint for space in changed)}) == 4
