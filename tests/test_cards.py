"""MODEL_CARDS/ is in step with the catalogue, and every card parses."""

from pathlib import Path

import pytest

from tilezoo.zoo import entries
from tilezoo.zoo.cards import LINE, catalog_card, render_catalog

CARDS = Path(__file__).parent.parent / "MODEL_CARDS"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_a_card_says_what_the_catalogue_says(entry):
    written = (CARDS / f"{entry.name}.md").read_text(encoding="utf-8")
    assert written.startswith(catalog_card(entry)), "run `make cards`"


def test_there_is_no_card_without_a_model():
    assert {path.stem for path in CARDS.glob("*.md")} == {entry.name for entry in entries()}


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_a_card_parses_as_the_hub_reads_it(entry):
    from huggingface_hub import ModelCard

    data = ModelCard.load(CARDS / f"{entry.name}.md").data
    assert data.library_name == "timm"
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.license
    fields = data.to_dict()
    assert fields["embedding_dimension"] == entry.dimension
    assert fields["embedding_spatial_types"] == ["patch"]
    assert fields["inference"]["data_types"] == list(entry.contract.bands)


def test_prose_below_the_line_is_kept(tmp_path):
    render_catalog(tmp_path)
    path = tmp_path / "dinov2-vits14.md"
    path.write_text(path.read_text() + "Good for nothing in particular.\n")
    render_catalog(tmp_path)
    assert path.read_text().endswith(LINE + "Good for nothing in particular.\n")
