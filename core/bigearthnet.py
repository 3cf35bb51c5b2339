"""BigEarthNet's patch names (v1, and v2 = reBEN), and what they tell."""

import re
from datetime import datetime
from typing import Literal

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
