"""The 43 classes and the 19 they become are those of the authors."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilezoo.bigearthnet.labels import LABELS_19, LABELS_43, to_19
from tilezoo.errors import LabelsError


def official(name: str) -> object:
    """A constant of bigearthnet-common, read out of its source, which is not run."""
    spec = find_spec("bigearthnet_common")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("pip install --no-deps bigearthnet-common brings the authors' constants")
    source = Path(spec.submodule_search_locations[0]) / "constants.py"
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(name)


def test_both_nomenclatures_and_the_way_between_them_are_the_authors():
    mapping = official("OLD2NEW_LABELS_DICT")
    assert isinstance(mapping, dict)
    assert tuple(mapping) == LABELS_43
    assert official("NEW_LABELS_ORIGINAL_ORDER") == LABELS_19
    for old, new in mapping.items():
        assert to_19([old]) == ([] if new is None else [new])


def test_there_are_19_and_43_and_pastures_is_among_them():
    assert (len(set(LABELS_19)), len(set(LABELS_43))) == (19, 43)
    assert "Pastures" in LABELS_19


@given(st.lists(st.sampled_from(LABELS_43)))
def test_each_of_the_19_comes_once_and_in_their_order(labels: list[str]):
    merged = to_19(labels)
    assert merged == [label for label in LABELS_19 if label in merged]
    assert set(merged) == {new for old in labels for new in to_19([old])}


def test_a_label_that_is_none_of_the_43_is_refused_with_the_one_that_is_meant():
    with pytest.raises(
        LabelsError, match=r"'Pasture' is none of .* 43 labels; is 'Pastures' meant"
    ):
        to_19(["Peatbogs", "Pasture"])
    with pytest.raises(LabelsError, match="'Urban fabric' is none"):
        to_19(["Urban fabric"])
