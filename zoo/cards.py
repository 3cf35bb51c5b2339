"""Model cards: front matter from facts, prose below it; of model directories and of the catalogue.

Front matter has Hugging Face's and geoembeddings.org's fields. `make cards` renders MODEL_CARDS/,
one card for each model of the catalogue; what stands below the line there is kept as it is.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tilezoo.io import write_text
from tilezoo.space import Contract
from tilezoo.zoo.catalog import CatalogEntry, entries
from tilezoo.zoo.modeldir import ModelDir

LINE = "<!-- Above: rendered from zoo/catalog.json by `make cards`. Below: by hand. -->\n"
_FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?\r?\n)??---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model comes from, as far as it is known.

    Attributes:
        licence: SPDX identifier, or the licence's name.
        licence_link: Where it has no SPDX identifier.
        paper: Its address.
        trained_on: The data, in words.
        method: How it was trained.
    """

    licence: str | None = None
    licence_link: str | None = None
    paper: str | None = None
    trained_on: str | None = None
    method: str | None = None


def front_matter(
    *, name: str, architecture: str, contract: Contract, dimension: int, origin: Origin
) -> dict[str, object]:
    """State a model's facts as its card begins with them.

    huggingface_hub's ModelCardData would leave out the fields that are null, which
    geoembeddings.org asks for.

    Args:
        name: What it is called.
        architecture: timm's name of the network.
        contract: What pixels it takes.
        dimension: Length of a vector.
        origin: Where it comes from.

    Source: https://geoembeddings.org/model-card and huggingface_hub's ModelCardData.
    """
    return {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        **_licence(origin),
        "tags": ["timm", "tilezoo", "remote-sensing", "earth-observation"],
        "model_name": name,
        "model_architecture": architecture,
        "embedding_dimension": dimension,
        "embedding_spatial_types": ["patch"],
        "embedding_temporal_type": "single-date",
        "embedding_spatial_context": f"{contract.size_px} px",
        "embedding_temporal_context": None,
        "publication_link": origin.paper,
        "pretraining": {
            "training_strategy": origin.method,
            "product_names": [origin.trained_on] if origin.trained_on else [],
            "patch_size": contract.size_px,
        },
        "inference": {"data_types": list(contract.bands), "patch_size": contract.size_px},
        "gsd_m": None if contract.gsd_m is None else list(contract.gsd_m),
    }


def _licence(origin: Origin) -> dict[str, str]:
    """The Hub's own fields: an identifier in lower case, or `other` with a name and a link."""
    if origin.licence_link:
        name = str(origin.licence)
        return {"license": "other", "license_name": name, "license_link": origin.licence_link}
    return {"license": (origin.licence or "unknown").lower()}


def header(matter: Mapping[str, object]) -> str:
    """Write front matter as a card begins with it."""
    return f"---\n{yaml.safe_dump(dict(matter), sort_keys=False, allow_unicode=True)}---\n"


def cut_card(text: str) -> tuple[str, str]:
    """Cut a card into the YAML of its front matter, empty where it has none, and all below it."""
    whole = _FRONT_MATTER.match(text)
    return (whole[1] or "", text[whole.end() :]) if whole else ("", text)


def split_card(text: str) -> tuple[dict[str, object], str]:
    """Divide a card into its front matter and all that stands below it.

    Raises:
        ValueError: The front matter is no YAML mapping.
    """
    written, body = cut_card(text)
    try:
        matter = yaml.safe_load(written) or {}
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(matter, dict):
        raise ValueError(f"a {type(matter).__name__}")  # noqa: TRY004  (one error for both)
    return matter, body


def read_front_matter(text: str) -> dict[str, object]:
    """Read a card's front matter; empty where it has none.

    Raises:
        ValueError: It is no YAML mapping.
    """
    return split_card(text)[0]


def card_text(matter: Mapping[str, object], model: ModelDir) -> str:
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


def catalog_origin(entry: CatalogEntry) -> Origin:
    """Tell where a model of the catalogue comes from."""
    arxiv = entry.paper and entry.paper.get("arxiv")
    return Origin(
        licence=entry.licence,
        licence_link=entry.licence_link,
        paper=f"https://arxiv.org/abs/{arxiv}" if arxiv else None,
        trained_on=entry.trained_on,
    )


def catalog_card(entry: CatalogEntry) -> str:
    """Render what follows from the catalogue, down to the line."""
    matter = front_matter(
        name=entry.name,
        architecture=entry.architecture,
        contract=entry.contract,
        dimension=entry.dimension,
        origin=catalog_origin(entry),
    )
    rows = "\n".join(f"| {name} | {value} |" for name, value in _catalog_rows(entry).items())
    sources = "\n".join(f"- **{field}**: {text}" for field, text in entry.sources.items())
    doubts = "\n".join(f"- {text}" for text in entry.unconfirmed) or "- nothing"
    notes = f"{entry.notes.strip()}\n\n" if entry.notes else ""
    return f"""{header(matter)}
# {entry.name}

{notes}| | |
|---|---|
{rows}

## Not confirmed

{doubts}

## Sources

{sources}

{LINE}"""


def render_catalog(folder: Path) -> None:
    """Write every card of the catalogue, keeping what people wrote below the line."""
    folder.mkdir(exist_ok=True)
    for entry in entries():
        path = folder / f"{entry.name}.md"
        written = path.read_text(encoding="utf-8") if path.is_file() else ""
        _, _, prose = written.partition(LINE)
        write_text(path, catalog_card(entry) + prose)


def _catalog_rows(entry: CatalogEntry) -> dict[str, str]:
    contract = entry.contract
    low, high = contract.value_range
    where = {
        "hub": f"hf://{entry.repo} · {entry.file}",
        "package": f"Python package {entry.package} · {entry.file}",
        "shipped": f"within tilezoo · {entry.file}",
        "ours": f"not published yet; {entry.make}",
    }[entry.kind]
    paper = entry.paper and f"{entry.paper['title']} (arXiv:{entry.paper['arxiv']})"
    licence = f"[{entry.licence}]({entry.licence_link})" if entry.licence_link else entry.licence
    rounding = ", rounded to 8 bits" if contract.quantize_uint8 else ""
    sizes = f"{contract.size_px} px ({contract.resize} from {contract.resize_px} px"
    gsd = contract.gsd_m and f"{contract.gsd_m[0]:g} to {contract.gsd_m[1]:g} m"
    return {
        "weights": where,
        "revision": entry.revision or ("not confirmed" if entry.kind == "hub" else "none"),
        "SHA-256": entry.sha256 or "not confirmed",
        "architecture": f"timm `{entry.architecture}` {dict(entry.model_args) or ''}",
        "vector": f"{entry.dimension} values, pooling {entry.pooling}",
        "bands": ", ".join(contract.bands),
        "values": f"{contract.unit}, {low:g} to {high:g}{rounding}",
        "mean": ", ".join(f"{value:.6g}" for value in contract.mean),
        "std": ", ".join(f"{value:.6g}" for value in contract.std),
        "size": f"{sizes}, {contract.interpolation})",
        "GSD": gsd or "none in particular",
        "trained on": entry.trained_on,
        "paper": paper or "none",
        "licence": licence + (" (gated: ask for access first)" if entry.gated else ""),
    }


if __name__ == "__main__":
    render_catalog(Path(sys.argv[1]))
