"""BigEarthNet's patch names (v1, and v2 = reBEN)."""

import re

# v1: S2B_MSIL2A_20170924T93020_69_24 (real names drop the hour's leading zero);
# v2: S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43 (arXiv:2407.03653).
_PATCH_NAME = re.compile(
    r"^S2[ABC]_MSIL2A_(?:19|20)\d{6}T\d{5,6}(?:_N\d{4}_R\d{3}_T\d{2}[A-Z]{3})?_\d{1,3}_\d{1,3}$"
)


def is_patch_name(name: str) -> bool:
    """Tell whether a folder's name is a Sentinel-2 patch's of BigEarthNet v1 or v2."""
    return _PATCH_NAME.match(name) is not None
