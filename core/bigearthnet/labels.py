"""BigEarthNet's two nomenclatures: 43 classes of CORINE level 3, and the 19 they are merged into."""

import re
from collections.abc import Iterable
from datetime import datetime
from difflib import get_close_matches
from typing import Literal

from tilezoo.errors import LabelsError

# v1: S2B_MSIL2A_20170924T93020_69_24 (real names drop the hour's leading zero);
# v2: S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43 (arXiv:2407.03653).
_PATCH_NAME = re.compile(
    r"^S2[ABC]_MSIL2A_(?:19|20)\d{6}T\d{5,6}(?P<v2>_N\d{4}_R\d{3}_T\d{2}[A-Z]{3})?_\d{1,3}_\d{1,3}$"
)
_SEASONS = ("Winter", "Spring", "Summer", "Fall")


def is_patch_name(name: str) -> bool:
    """Tell whether a folder's name is a Sentinel-2 patch's of BigEarthNet v1 or v2."""
    return _PATCH_NAME.match(name) is not None


def patch_version(name: str) -> Literal[1, 2] | None:
    """Tell of which BigEarthNet a patch's name is; None where it is no patch's."""
    match = _PATCH_NAME.match(name)
    return None if match is None else 2 if match["v2"] else 1


def scene_name(name: str) -> str:
    """The scene that a patch of v2 was cut from: its name without row and column."""
    return name.rsplit("_", 2)[0]


def season(moment: datetime) -> str:
    """Name the meteorological season of the northern hemisphere, as BigEarthNet's lists do."""
    return _SEASONS[moment.month % 12 // 3]


# The 43 classes of v1 in CORINE's order, each with the class of the 19 it goes to; None: dropped.
# Source: Sumbul et al. 2021, "BigEarthNet-MM: A large-scale, multimodal, multilabel benchmark
# archive for remote sensing image classification and retrieval", IEEE GRSM 9(3), arXiv:2105.07921;
# as data in the authors' label_indices.json (git.tu-berlin.de/rsim/BigEarthNet-S2_19-classes_models)
# and in bigearthnet-common 2.8.0.
_TO_19: dict[str, str | None] = {
    "Continuous urban fabric": "Urban fabric",
    "Discontinuous urban fabric": "Urban fabric",
    "Industrial or commercial units": "Industrial or commercial units",
    "Road and rail networks and associated land": None,
    "Port areas": None,
    "Airports": None,
    "Mineral extraction sites": None,
    "Dump sites": None,
    "Construction sites": None,
    "Green urban areas": None,
    "Sport and leisure facilities": None,
    "Non-irrigated arable land": "Arable land",
    "Permanently irrigated land": "Arable land",
    "Rice fields": "Arable land",
    "Vineyards": "Permanent crops",
    "Fruit trees and berry plantations": "Permanent crops",
    "Olive groves": "Permanent crops",
    "Pastures": "Pastures",
    "Annual crops associated with permanent crops": "Permanent crops",
    "Complex cultivation patterns": "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation"
    ),
    "Agro-forestry areas": "Agro-forestry areas",
    "Broad-leaved forest": "Broad-leaved forest",
    "Coniferous forest": "Coniferous forest",
    "Mixed forest": "Mixed forest",
    "Natural grassland": "Natural grassland and sparsely vegetated areas",
    "Moors and heathland": "Moors, heathland and sclerophyllous vegetation",
    "Sclerophyllous vegetation": "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland/shrub": "Transitional woodland, shrub",
    "Beaches, dunes, sands": "Beaches, dunes, sands",
    "Bare rock": None,
    "Sparsely vegetated areas": "Natural grassland and sparsely vegetated areas",
    "Burnt areas": None,
    "Inland marshes": "Inland wetlands",
    "Peatbogs": "Inland wetlands",
    "Salt marshes": "Coastal wetlands",
    "Salines": "Coastal wetlands",
    "Intertidal flats": None,
    "Water courses": "Inland waters",
    "Water bodies": "Inland waters",
    "Coastal lagoons": "Marine waters",
    "Estuaries": "Marine waters",
    "Sea and ocean": "Marine waters",
}

LABELS_43: tuple[str, ...] = tuple(_TO_19)

# In the paper's order. Listings that circulate without "Pastures" have 18: these are all.
LABELS_19: tuple[str, ...] = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)


def to_19(labels: Iterable[str]) -> list[str]:
    """Translate labels of the 43 into the 19: each once, in the order of `LABELS_19`.

    Empty where all of them are classes that the 19 leave out (57 patches of v1).

    Raises:
        LabelsError: One is none of the 43.
    """
    given = list(labels)
    refuse_unknown(given, LABELS_43)
    merged = {_TO_19[label] for label in given}
    return [label for label in LABELS_19 if label in merged]


def refuse_unknown(labels: Iterable[str], known: tuple[str, ...]) -> None:
    """Refuse labels that a nomenclature does not have.

    Raises:
        LabelsError: Naming the first such label and what may be meant.
    """
    unknown = next((label for label in labels if label not in known), None)
    if unknown is not None:
        near = get_close_matches(str(unknown), known, n=1, cutoff=0.5)
        hint = f"; is {near[0]!r} meant?" if near else ""
        raise LabelsError(f"{unknown!r} is none of BigEarthNet's {len(known)} labels{hint}")
