"""Recipes: any value of any field trains, or is refused in one line before anything is put down."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin

import making
import pretraining
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tilezoo.errors import (
    ModelError,
    OptionError,
    TilezooError,
    UnknownModelError,
)
from tilezoo.pretrain import pretrain
from tilezoo.pretrain.recipe import Recipe, find_recipe, make_schedules
from tilezoo.zoo import find_model

NAME = "dino-vits16-bigearthnet"
KINDS: dict[str, Any] = {each.name: each.type for each in fields(Recipe)}
# Where the largest value allowed trains, but not in a test's time.
LARGE = {"global_px": 96, "local_px": 96, "local_crops": 8, "out_dim": 999, "hidden_dim": 999}
LARGE |= {"bottleneck_dim": 999, "epochs": 3}
EDGES = (0, -1, 1, 2, 3, 5, 2**24 - 1, 2**24, 2**31, 2**63, 2**64, 10**30, -(10**30), -7)
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, 1e300, 0.5])


def texts_of(kind: Any) -> st.SearchStrategy[str]:
    """What people write after `key=`, sensible or not."""
    junk = st.sampled_from(
        ["", " ", "x", "None", "1,2", "0.1,0.5,0.9", "1e3", "0x10", "١", "true "]
    )
    if get_origin(kind) is tuple:
        return junk | st.tuples(FLOATS, FLOATS).map(lambda pair: f"{pair[0]},{pair[1]}")
    if kind is bool:
        return junk | st.sampled_from(["true", "False", "TRUE", "0", "1"])
    if kind is int:
        return junk | st.sampled_from(EDGES).map(str) | st.integers().map(str) | FLOATS.map(str)
    if kind is float:
        return junk | FLOATS.map(str)
    names = ["vit_tiny_patch16_224", "vit_tiny_patch16_224.none", "resnet18", "vit_small", "all"]
    return junk | st.sampled_from([*get_args(kind), *names]) | st.text(max_size=8)


SETTINGS = st.sampled_from(sorted(KINDS)).flatmap(
    lambda name: texts_of(KINDS[name]).map(lambda text: (name, text))
)


@given(setting=SETTINGS)
@settings(max_examples=300, deadline=None)
@example(setting=("clip_grad", "-1"))
@example(setting=("seed", str(2**24)))
@example(setting=("seed", "-1"))
@example(setting=("checkpoint_every_epochs", "0"))
@example(setting=("epochs", str(10**12)))
@example(setting=("hue", "nan"))
def test_any_value_of_any_field_is_taken_or_refused_in_one_line(setting: tuple[str, str]) -> None:
    name, text = setting
    try:
        recipe = find_recipe(NAME, [f"{name}={text}"])
        make_schedules(recipe, 3)
    except OptionError as error:
        assert "\n" not in str(error).replace(text, "")  # noqa: PT017  (the value decides)
        assert name in str(error)  # noqa: PT017
        return
    value = getattr(recipe, name)
    numbers = value if isinstance(value, tuple) else (value,)
    assert all(math.isfinite(n) and n >= 0 for n in numbers if isinstance(n, int | float))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretraining.write_pack(tmp_path_factory.mktemp("recipe"), tiles=6)


@given(setting=SETTINGS)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(setting=("seed", str(2**24 - 1)))
@example(setting=("architecture", "vit_tiny_patch16_224.none"))
@example(setting=("student_temp", "5e-324"))
@example(setting=("global_scale", "1e-300,1e-300"))
@example(setting=("brightness", "1e300"))
@example(setting=("drop_path", "1.0"))
@example(setting=("out_dim", "1"))
@example(setting=("local_crops", "0"))
@example(setting=("keep_checkpoints", str(2**64)))
@example(setting=("split", "nowhere"))
@example(setting=("knn_every_epochs", str(10**30)))
def test_what_is_taken_trains_a_step_or_says_in_one_line_why_not(
    tmp_path_factory: pytest.TempPathFactory, shards: Path, setting: tuple[str, str]
) -> None:
    name, text = setting
    asked = [*pretraining.SMALL, "epochs=1", "warmup_epochs=0", f"{name}={text}"]
    out = tmp_path_factory.mktemp("run") / "run"
    try:
        if name in LARGE and getattr(find_recipe(NAME, asked), name) > LARGE[name]:
            return
        done = pretrain(shards, out=out, recipe=NAME, settings=asked, device="cpu")
    except TilezooError as error:
        assert "\n" not in str(error).replace(text, "")  # noqa: PT017  (the value decides)
        return
    assert done.complete


def test_a_recipe_that_cannot_be_followed_leaves_no_run_behind(
    tmp_path: Path, shards: Path
) -> None:
    for wrong in ("architecture=resnet18", "warmup_teacher_temp_epochs=9", "local_px=3"):
        with pytest.raises(TilezooError, match=wrong.partition("=")[0]):
            pretrain(shards, out=tmp_path, recipe=NAME, settings=[*pretraining.SMALL, wrong])
        assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_field_without_a_value_is_not_suggested_instead_of_itself(name: str) -> None:
    with pytest.raises(OptionError, match=f"--set {name}: write {name}=VALUE"):
        find_recipe(NAME, [name])


def test_no_architecture_is_suggested_that_is_refused_again(tmp_path: Path, shards: Path) -> None:
    for wrong in ("vit_base_r26_s32_224", "vit_tiny_patch16_dinov3", "samvit_base_patch16"):
        asked = [*pretraining.SMALL, f"architecture={wrong}"]
        with pytest.raises(OptionError, match=f"architecture={wrong}: ") as refused:
            pretrain(shards, out=tmp_path, recipe=NAME, settings=asked)
        assert f"did you mean {wrong}?" not in str(refused.value)


def test_options_of_packing_that_pretraining_has_not_are_told_as_packings(tmp_path: Path) -> None:
    for number, side in enumerate((40, 48)):
        pixels = making.texture(number, side=side)
        making.write_tiff(tmp_path / "tiles" / f"{number}.tif", pixels, photometric="RGB")
    with pytest.raises(TilezooError, match=r"of `tilezoo pack SOURCE -o SHARDS`; then pretrain"):
        pretrain(tmp_path / "tiles", out=tmp_path / "run", recipe=NAME, settings=pretraining.SMALL)


def test_no_name_is_suggested_instead_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Did you mean" not in str(UnknownModelError("org/vit", ["org/vit"]))
    assert "'org/vit2'" in str(UnknownModelError("org/vit", ["org/vit", "org/vit2"]))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dino-vits16-imagenet").mkdir()
    with pytest.raises(ModelError, match="stands before the model of that name: rename it"):
        find_model("dino-vits16-imagenet")
