"""BigEarthNet's two nomenclatures: 43 classes of CORINE level 3, and the 19 they are merged into."""

from collections.abc import Iterable
from difflib import get_close_matches

from tilezoo.errors import LabelsError

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
