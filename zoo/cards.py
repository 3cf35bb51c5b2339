"""Model cards: front matter from facts, prose below; Hugging Face's and geoembeddings.org's fields."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tilezoo.space import Contract
from tilezoo.zoo.modeldir import ModelDir

CARD = "README.md"


def front_matter(
    *, name: str, architecture: str, contract: Contract, dimension: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Facts of a model as its card states them.

    Args:
        name: What it is called.
        architecture: timm's name of the network.
        contract: What pixels it takes.
        dimension: Length of a vector.
        facts: `licence`, `licence_link`, `paper`, `trained_on`, `method` where they are known.

    Source: https://geoembeddings.org/model-card and huggingface_hub's ModelCardData.
    """
    return {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        **_licence(facts),
        "tags": ["timm", "tilezoo", "remote-sensing", "earth-observation"],
        "model_name": name,
        "model_architecture": architecture,
        "embedding_dimension": dimension,
        "embedding_spatial_types": ["patch"],
        "embedding_temporal_type": "single-date",
        "embedding_spatial_context": f"{contract.size_px} px",
        "embedding_temporal_context": None,
        "publication_link": facts.get("paper"),
        "pretraining": {
            "training_strategy": facts.get("method"),
            "product_names": [facts["trained_on"]] if facts.get("trained_on") else [],
            "patch_size": contract.size_px,
        },
        "inference": {"data_types": list(contract.bands), "patch_size": contract.size_px},
        "gsd_m": None if contract.gsd_m is None else list(contract.gsd_m),
    }


def _licence(facts: Mapping[str, Any]) -> dict[str, str]:
    """The Hub's own fields: an identifier in lower case, or `other` with a name and a link."""
    stated, link = facts.get("licence"), facts.get("licence_link")
    if link:
        return {"license": "other", "license_name": str(stated), "license_link": str(link)}
    return {"license": str(stated or "unknown").lower()}


def header(matter: Mapping[str, Any]) -> str:
    """Write front matter as a card begins with it."""
    return f"---\n{yaml.safe_dump(dict(matter), sort_keys=False, allow_unicode=True)}---\n"


def card_text(matter: Mapping[str, Any], model: ModelDir) -> str:
    """Render the card of a model directory."""
    contract = model.contract
    low, high = contract.value_range
    return f"""{header(matter)}
# {matter["model_name"]}

A frozen backbone for overhead imagery. It takes {", ".join(contract.bands)} as {contract.unit},
{low:g} to {high:g}, {contract.size_px} px, and gives vectors of {matter["embedding_dimension"]}
values (pooling: {model.pooling}). Vectors may be compared with others of space
`{matter["space"]}` only.

```
tilezoo embed tiles/ -m {matter["model_name"]} -o table
```

```python
timm.create_model("local-dir:PATH", pretrained=True, num_classes=0)
```

Values map as: clip to the range → 0..1{" → 8 bits" if contract.quantize_uint8 else ""} → resize
({contract.resize}, {contract.interpolation}) → (x − mean) / std, with mean {list(contract.mean)} and
std {list(contract.std)}. `golden.safetensors` holds tiles and their vectors: `tilezoo verify`
compares them with what your machine makes of them.
"""


def read_front_matter(text: str) -> dict[str, Any]:
    """Read a card's front matter; empty when it has none."""
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return {}
    found = yaml.safe_load(text[4 : text.index("\n---", 4)])
    return dict(found) if isinstance(found, dict) else {}


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Divide a card into its front matter and all that stands below it.

    Raises:
        ValueError: The front matter is no YAML mapping.
    """
    whole = re.match(r"---[ \t]*\r?\n(.*?\r?\n)??---[ \t]*(?:\r?\n|\Z)", text, re.DOTALL)
    if whole is None:
        return {}, text
    try:
        found = yaml.safe_load(whole[1] or "") or {}
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}")  # noqa: TRY004  (one error for both)
    return found, text[whole.end() :]
