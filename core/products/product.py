"""The table of products: products.toml, one entry a product, each fact with its source.

To add a product, add an entry there and a scene of it to `tests/scenes.py`. docs/imagery.md is
rendered from the same table.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files

from tilezoo.io import from_builtins

_TABLE = "products.toml"


@dataclass(frozen=True, kw_only=True)
class ProductBand:
    """One band of a product.

    Attributes:
        name: The product's own (`B04`, `SR_B4`, `VV`).
        common: STAC's common name (`red`, `nir08`); None where STAC has none.
        number: What `--bands 4` means in a folder of band files; None for no number. In a file
            that holds all bands, numbers are positions.
        gsd_m: Ground sampling distance of the finest file of it, metres.
        aliases: Other names people and agencies write (`SR_B4` for `B4`).
        rescaled: The product's scale and offset are those of this band (a thermal band's are not).
    """

    name: str
    common: str | None = None
    number: int | None = None
    gsd_m: float | None = None
    aliases: tuple[str, ...] = ()
    rescaled: bool = True


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which a product's files are named and lie.

    Attributes:
        example: A path that fits, for people; `…` are folders between.
        file: Pattern of an image file's name, case ignored, matched whole. Named groups: `band` for
            files of one band each (a name, alias or common name); `scene` is what files of one
            scene have in common, and `more` the rest of it where the band's name lies between;
            `gsd` is a resolution in metres where a band comes in several.
        folder: Pattern, matched whole, of a folder above the file; None where the file's name
            says enough.
        container: All files below that folder, however deep, are one product (`.SAFE`).
    """

    example: str
    file: str
    folder: str | None = None
    container: bool = False

    @cached_property
    def file_pattern(self) -> re.Pattern[str]:
        """`file`, compiled."""
        return re.compile(self.file, re.IGNORECASE)

    @cached_property
    def folder_pattern(self) -> re.Pattern[str] | None:
        """`folder`, compiled."""
        return None if self.folder is None else re.compile(self.folder, re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Product:
    """One product of one sensor.

    Attributes:
        key: Its name here (`sentinel-2-l2a`).
        title: For people.
        layouts: How its files are named and lie; the first that fits is taken.
        bands: All of them; in the agency's order.
        stacks: For products that hold all bands in one file: the names of the file's bands, by how
            many there are. Empty for products of a file per band.
        beside: Pattern, matched whole, of names of files that lie in a scene and are no imagery
            (masks, QA, angles, previews).
        side_files: Some such names, for people.
        unit: What pixels are, for people (`reflectance × 10,000`).
        scale: Stored value × scale + offset is the reflectance × 10,000; None where it is not
            known, or where metadata state it.
        offset: See `scale`.
        nodata: Value of pixels without data where files do not declare one; None for none.
        metadata: How metadata beside the images are read (see `tilezoo.products.facts`).
        sources: Addresses of the documents these facts are from.
        notes: What else a user must know, a sentence or two.
    """

    key: str
    title: str
    layouts: tuple[Layout, ...]
    bands: tuple[ProductBand, ...]
    unit: str
    sources: tuple[str, ...]
    stacks: tuple[tuple[str, ...], ...] = ()
    beside: str = r"(?!)"
    side_files: tuple[str, ...] = ()
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    metadata: str | None = None
    notes: str = ""

    @cached_property
    def beside_pattern(self) -> re.Pattern[str]:
        """`beside`, compiled."""
        return re.compile(self.beside, re.IGNORECASE)

    def find_band(self, name: str) -> ProductBand | None:
        """Find a band by its own name (zeros before its number apart), an alias or common name."""
        return self._bands_by_name.get(_to_key(name))

    def stack(self, count: int) -> tuple[ProductBand, ...] | None:
        """The bands of a file that holds `count` of them, in its order; None where unknown."""
        names = next((names for names in self.stacks if len(names) == count), None)
        if names is None:
            return None
        return tuple(band for name in names if (band := self.find_band(name)))

    @cached_property
    def _bands_by_name(self) -> dict[str, ProductBand]:
        found: dict[str, ProductBand] = {}
        for band in self.bands:
            for name in (band.name, *band.aliases, *filter(None, [band.common])):
                found.setdefault(_to_key(name), band)
        return found


@lru_cache(maxsize=1)
def products() -> tuple[Product, ...]:
    """All products, the most telling first: a file belongs to the first whose layout it fits."""
    text = files("tilezoo.products").joinpath(_TABLE).read_text("utf-8")
    return tuple(from_builtins(entry, Product) for entry in tomllib.loads(text)["product"])


def find_product(key: str) -> Product:
    """Find a product by its key.

    Raises:
        KeyError: There is none of that key.
    """
    return {product.key: product for product in products()}[key]


@lru_cache(maxsize=4096)
def _to_key(name: str) -> str:
    """Lower case, without zeros before a number: `B04`, `b4` → `b4`."""
    return re.sub(r"(?<![0-9])0+(?=\d)", "", name.strip().lower())
