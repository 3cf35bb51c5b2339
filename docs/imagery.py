"""Write docs/imagery.md from the table of products.

python docs/imagery.py
"""

from pathlib import Path

from tilezoo.products.product import Product, ProductBand, products

PAGE = Path(__file__).with_name("imagery.md")
COLOURS = ("red", "green", "blue", "nir", "nir08", "pan")

HEAD = """# Imagery

<!-- Rendered from core/products/products.toml by `make cards`. -->

What tilezoo knows of products of satellites and aerial surveys: which file is which band, what its
numbers mean, what its values are, and what lies beside it that is no image. A product is recognised by
the names of its files and folders as its agency or mirror writes them; a folder of one scene, a folder
of many, and single files all do:

```
tilezoo inspect S2A_MSIL2A_20220414T110751_N0400_R108_T26EMU_20220414T165533.SAFE
tilezoo embed scenes/ -m MODEL -o table --value-range 0,3000
tilezoo embed scenes/ -m MODEL -o table --value-range 0,3000 --bands nir,red,green
```

- **Bands** have the product's own names and [STAC's common names](https://github.com/stac-extensions/eo#common-band-names);
  both work in `--bands` and in models' contracts. `--bands 4,3,2` are band numbers of a product that has a
  file for each band, and positions in a file that holds them all.
- **Numbers are no colours**: in a file of no known product `B4` is a name like any other.
- **Values** are brought to reflectance × 10,000 where the table or the metadata beside the images say
  how, so that scenes of one product are on one scale; what is done is told on stderr and kept in the
  manifest. All other values stay as they are stored, and all do with `--values stored` or where a
  `--value-range` can only be one of stored values.
- **Time** is the acquisition's: from the metadata named here, else from the name.
- Names that settle nothing are not recognised: nothing is guessed.
"""

TIMES = {
    "sentinel-2": "`MTD_MSIL2A.xml`, `MTD_MSIL1C.xml` (start of the datatake), else `MTD_TL.xml`, "
    "else the name",
    "sentinel-1": "`manifest.safe`, else the annotation, else the name (start)",
    "landsat": "`_MTL.txt`, `.json` or `.xml` (scene centre), else the name (day)",
    "hls": "the tag `SENSING_TIME` of the files, else the name",
    "cbers": "the band's `.xml` (centre of the image), else the name (day)",
    "planet": "`_metadata.xml` or `_metadata.json`, else the name",
    "dimap": "`DIM_….XML` (imaging date and time), else the name",
    "maxar": "`.IMD` or `.XML` (first line), else the name",
    "umbra": "`_METADATA.json` or the STAC item, else the name",
    "capella": "`_extended.json` or the STAC item, else the name (start)",
}


def render() -> str:
    """The page: a table of all products, then a section for each."""
    rows = ["| product | files | bands | values |", "|---|---|---|---|"]
    rows += [_render_row(product) for product in products()]
    sections = [_render_section(product) for product in products()]
    return "\n".join([HEAD, *rows, "", *sections])


def _render_row(product: Product) -> str:
    known = [band.common for band in product.bands if band.common in COLOURS]
    named = ", ".join(known or [band.name for band in product.bands])
    more = len(product.bands) - len(known or product.bands)
    bands = f"{named} and {more} more" if more else named
    files = "all bands in one" if product.stacks else "one a band"
    anchor = "".join(c for c in product.title.lower() if c.isalnum() or c in " -")
    link = f"[{product.title}](#{anchor.replace(' ', '-')})"
    return f"| {link} | {files} | {bands} | {product.unit} |"


def _render_section(product: Product) -> str:
    parts = [f"## {product.title}", "", f"Key: `{product.key}`. {product.notes}".rstrip(), ""]
    parts += ["Recognised by names like", ""]
    parts += [f"- `{layout.example}`" for layout in product.layouts]
    parts += ["", *_render_bands(product), ""]
    parts += [f"- Pixels: {product.unit}.", f"- What is done to them: {_tell_values(product)}."]
    if product.nodata is not None:
        parts += [f"- No data, where a file does not say: {product.nodata:g}."]
    parts += [f"- Time: {TIMES.get(product.metadata or '', 'the name')}."]
    if product.side_files:
        names = ", ".join(f"`{name}`" for name in product.side_files)
        parts += [f"- Passed over: {names} and the like."]
    parts += [f"- Sources: {', '.join(f'<{source}>' for source in product.sources)}.", ""]
    return "\n".join(parts)


def _render_bands(product: Product) -> list[str]:
    if product.stacks:
        orders = [f"{len(names)} bands: {', '.join(names)}" for names in product.stacks]
        order = f"Order of bands in a file of {'; of '.join(orders)}."
        return [*_render_table(product, numbered=False), "", order]
    return _render_table(product, numbered=any(b.number is not None for b in product.bands))


def _render_table(product: Product, *, numbered: bool) -> list[str]:
    heads = ["band", "common name", *(["number"] if numbered else []), "m", "also"]
    rows = [heads, ["---"] * len(heads)]
    rows += [_render_band(band, numbered=numbered) for band in product.bands]
    return [f"| {' | '.join(row)} |" for row in rows]


def _render_band(band: ProductBand, *, numbered: bool) -> list[str]:
    number = "" if band.number is None else str(band.number)
    size = "" if band.gsd_m is None else f"{band.gsd_m:g}"
    also = ", ".join(f"`{name}`" for name in band.aliases)
    return [f"`{band.name}`", band.common or "", *([number] if numbered else []), size, also]


def _tell_values(product: Product) -> str:
    apart = [f"`{band.name}`" for band in product.bands if not band.rescaled]
    but = (
        f" ({' and '.join(apart)} {'stay' if len(apart) > 1 else 'stays'} as stored)"
        if apart
        else ""
    )
    if product.scale is not None and product.offset is not None:
        if (product.scale, product.offset) == (1, 0):
            return f"nothing{but}"
        sign = "−" if product.offset < 0 else "+"
        return f"value × {product.scale:g} {sign} {abs(product.offset):,.0f}{but}"
    if product.metadata == "sentinel-2":
        return (
            "BOA_ADD_OFFSET or RADIO_ADD_OFFSET of the product's XML is added; without it −1,000 where the "
            "name has a baseline of 04.00 or later or the files' tags say so"
        )
    if product.metadata == "landsat":
        return (
            "with the MTL file 10,000 × (value × REFLECTANCE_MULT + REFLECTANCE_ADD) / sin(SUN_ELEVATION)"
            f", else nothing{but}"
        )
    return "nothing"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
