"""Contracts and spaces: strict, and equal only where vectors may be compared."""

import json
from dataclasses import replace

import making
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.errors import ContractError, SpaceError, TileError
from tilezoo.space import Space, contract_from
from tilezoo.table import refuse_other_space

SPACE = Space(
    weights_sha256="ab" * 32,
    architecture="vit_tiny_patch16_224",
    contract=making.contract(),
    pooling="cls",
)


def changed(**fields: object) -> Space:
    return replace(SPACE, contract=making.contract(**fields))


def test_a_fingerprint_is_16_hex_digits_and_stays() -> None:
    assert SPACE.fingerprint == replace(SPACE).fingerprint
    assert len(SPACE.fingerprint) == 16
    assert int(SPACE.fingerprint, 16) > 0


@pytest.mark.parametrize(
    "other",
    [
        replace(SPACE, weights_sha256="cd" * 32),
        replace(SPACE, architecture="vit_small_patch16_224"),
        replace(SPACE, pooling="mean"),
        changed(bands=("blue", "green", "red")),
        changed(value_range=(0.0, 254.0)),
        changed(quantize_uint8=False),
        changed(resize_px=80),
        changed(mean=(0.5, 0.5, 0.5)),
        changed(std=(0.5, 0.5, 0.5)),
        changed(gsd_m=(10.0, 10.0)),
    ],
    ids=lambda space: space.fingerprint,
)
def test_whatever_changes_a_vector_changes_the_space(other: Space) -> None:
    assert other.fingerprint != SPACE.fingerprint
    with pytest.raises(SpaceError, match=r"cannot be compared with .* differ\); embed both"):
        refuse_other_space(SPACE, other, "query.tif")


def test_a_space_may_be_compared_with_itself() -> None:
    again = replace(SPACE)
    refuse_other_space(SPACE, again, "query.tif")
    assert again.fingerprint == SPACE.fingerprint


@given(
    st.tuples(st.integers(-5, 5), st.integers(6, 9)),
    st.none() | st.tuples(st.integers(1, 5), st.floats(5, 9)),
    st.tuples(*[st.integers(0, 2) | st.floats(0, 1)] * 3),
)
def test_a_space_comes_back_from_json_whether_its_numbers_are_whole_or_not(
    value_range: tuple[int, int], gsd_m: tuple[int, float] | None, mean: tuple[float, float, float]
) -> None:
    space = changed(value_range=value_range, gsd_m=gsd_m, mean=mean)
    again = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert again.fingerprint == space.fingerprint


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("pooling",), "mean", "fingerprint and fields disagree"),
        (("contract", "value_range"), [0, 1, 2], "not a space"),
        (("contract", "size_px"), "large", "not a space"),
        (("mean",), None, "not a space"),
    ],
)
def test_a_changed_space_is_refused(path: tuple[str, ...], value: object, message: str) -> None:
    stored = json.loads(json.dumps(SPACE.to_json()))
    place = stored
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(SpaceError, match=message):
        Space.from_json(stored)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value_range": (5.0, 5.0)}, r"value_range 5.0,5.0 is empty"),
        ({"value_range": (float("nan"), 1.0)}, "is empty"),
        ({"mean": (0.5, 0.5)}, "have 3, 2 and 3 values"),
        ({"std": (0.5, 0.0, 0.5)}, r"must be above 0"),
        ({"unit": "kelvin"}, "unknown unit 'kelvin'"),
        ({"resize": "stretch"}, "resize 'stretch'"),
        ({"interpolation": "sinc"}, "unusable 'sinc'"),
        ({"size_px": 0}, "resizing to 0 of 72 px"),
        ({"size_px": 100}, "resizing to 100 of 72 px"),
    ],
)
def test_a_contract_that_no_pixel_could_meet_is_refused(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        making.contract(**fields)


def test_a_contract_has_no_defaults() -> None:
    fields = SPACE.to_json()["contract"] | {"mean": [0.5] * 3, "std": [0.5] * 3}
    for name in fields:
        rest = {key: value for key, value in fields.items() if key != name}
        with pytest.raises(KeyError, match=name):
            contract_from(rest)


@pytest.mark.parametrize(
    ("unit", "taken", "refused"),
    [
        ("uint8", ["uint8"], ["uint16", "int8", "float32"]),
        ("dn", ["uint16", "int16", "int32", "uint32"], ["uint8", "float32"]),
        ("reflectance", ["float32", "float64"], ["uint16", "uint8"]),
    ],
)
def test_a_dtype_that_cannot_be_in_the_unit_is_refused_with_the_option(
    unit: str, taken: list[str], refused: list[str]
) -> None:
    contract = making.contract(unit=unit)
    for dtype in taken:
        contract.check_dtype(dtype, stated=False)
    for dtype in refused:
        with pytest.raises(TileError, match=rf"pixels are {dtype}, .* --value-range LOW,HIGH"):
            contract.check_dtype(dtype, stated=False)
        contract.check_dtype(dtype, stated=True)


def test_8_bit_pixels_cannot_reach_a_16_bit_range() -> None:
    contract, request = making.contract().adapted(bands=None, value_range=(0, 2000))
    assert request.values_stated
    with pytest.raises(TileError, match=r"cannot reach --value-range 0,2000"):
        contract.check_dtype("uint8", stated=True)


def test_the_models_own_range_stated_again_stays_in_its_space() -> None:
    same, _ = making.contract().adapted(bands=None, value_range=(0, 255))
    other, _ = making.contract().adapted(bands=None, value_range=(0, 2000))
    assert same == making.contract()
    assert (other.unit, other.value_range) == ("stated", (0.0, 2000.0))


def test_other_bands_are_another_space_and_numbers_are_not() -> None:
    sentinel = making.contract(**making.SENTINEL2)
    other, _ = sentinel.adapted(bands=("B08", "B04", "B03"), value_range=None)
    numbered, _ = sentinel.adapted(bands=("4", "3", "2"), value_range=None)
    assert other.bands == ("B08", "B04", "B03")
    assert numbered == sentinel
