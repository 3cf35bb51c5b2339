"""MODEL_CARDS/: one card for each model of the catalogue, facts rendered, prose by hand.

`make cards` renders them; what stands below the line is kept as it is.
"""

import sys
from pathlib import Path

from tilezoo.io import write_text
from tilezoo.zoo.cards import front_matter, header
from tilezoo.zoo.catalog import CatalogEntry, entries
from tilezoo.zoo.foreign import card_facts

LINE = "<!-- Above: rendered from zoo/catalog.json by `make cards`. Below: by hand. -->\n"


def rendered(entry: CatalogEntry) -> str:
    """The part of a card that follows from the catalogue, down to the line."""
    matter = front_matter(
        name=entry.name,
        architecture=entry.architecture,
        contract=entry.contract,
        dimension=entry.dimension,
        facts=card_facts(entry),
    )
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(entry).items())
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


def render_all(folder: Path) -> None:
    """Write every card, keeping what people wrote below the line."""
    folder.mkdir(exist_ok=True)
    for entry in entries():
        path = folder / f"{entry.name}.md"
        written = path.read_text(encoding="utf-8") if path.is_file() else ""
        _, _, prose = written.partition(LINE)
        write_text(path, rendered(entry) + prose)


def _facts(entry: CatalogEntry) -> dict[str, str]:
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
    return {
        "weights": where,
        "revision": entry.revision or ("not confirmed" if entry.kind == "hub" else "none"),
        "SHA-256": entry.sha256 or "not confirmed",
        "architecture": f"timm `{entry.architecture}` {dict(entry.model_args) or ''}",
        "vector": f"{entry.dimension} values, pooling {entry.pooling}",
        "bands": ", ".join(contract.bands),
        "values": f"{contract.unit}, {low:g} to {high:g}"
        + (", rounded to 8 bits" if contract.quantize_uint8 else ""),
        "mean": ", ".join(f"{value:.6g}" for value in contract.mean),
        "std": ", ".join(f"{value:.6g}" for value in contract.std),
        "size": f"{contract.size_px} px ({contract.resize} from {contract.resize_px} px, "
        f"{contract.interpolation})",
        "GSD": "none in particular"
        if contract.gsd_m is None
        else f"{contract.gsd_m[0]:g} to {contract.gsd_m[1]:g} m",
        "trained on": entry.trained_on,
        "paper": paper or "none",
        "licence": licence + (" (gated: ask for access first)" if entry.gated else ""),
    }


if __name__ == "__main__":
    render_all(Path(sys.argv[1]))
