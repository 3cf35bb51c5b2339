"""Contracts of a pack's tiles: as they lie in it, and as the trained model will ask for them."""

from dataclasses import replace

from tilezoo.errors import OptionError
from tilezoo.pretrain.recipe import Recipe
from tilezoo.pretrain.shards import Pack
from tilezoo.space import Contract

# Mean and std of ImageNet's RGB: facebookresearch/dino, main_dino.py, DataAugmentationDINO.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_RESIZE_RATIO = 256 / 224  # facebookresearch/dino, eval_linear.py: resize to 256, crop 224


def model_contract(pack: Pack, recipe: Recipe) -> Contract:
    """What a model trained on the pack takes: pixels as the pack's sources had them.

    Raises:
        OptionError: ImageNet's mean and std are asked for, but the pack has not three bands.
    """
    mean, std = _mean_std(pack, recipe)
    return Contract(
        bands=pack.bands,
        unit=pack.manifest["unit"],
        value_range=pack.value_range,
        quantize_uint8=pack.dtype == "uint8",
        size_px=recipe.global_px,
        resize="shorter_side_then_center_crop",
        resize_px=round(recipe.global_px * _RESIZE_RATIO),
        interpolation="bicubic",
        gsd_m=pack.manifest["gsd_m"] and tuple(pack.manifest["gsd_m"]),
        mean=mean,
        std=std,
    )


def stored_contract(pack: Pack, recipe: Recipe) -> Contract:
    """What stands in the pack: 8-bit tiles are scaled already."""
    contract = model_contract(pack, recipe)
    if pack.dtype != "uint8":
        return contract
    return replace(contract, unit="uint8", value_range=(0.0, 255.0))


def _mean_std(pack: Pack, recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if recipe.mean_std == "measured":
        return pack.mean, pack.std
    if len(pack.bands) != len(_IMAGENET[0]):
        raise OptionError(
            f"{pack.path} has {len(pack.bands)} bands, ImageNet's mean and std are of 3; "
            "take --set mean_std=measured"
        )
    return _IMAGENET
