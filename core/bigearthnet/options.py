"""What `tilezoo prepare bigearthnet` can be asked."""

from collections.abc import Sequence
from pathlib import Path

from tilezoo.errors import OptionError
from tilezoo.option_groups import AllowedErrors, Workers
from tilezoo.options import Progress, argument, option, options


@options
class PrepareOptions(AllowedErrors, Workers, Progress):
    """Which BigEarthNet is described, and from what."""

    root: str | Path = argument(
        "ROOT",
        kw_only=False,
        help="The folder of patches, v1's or v2's, or one above it; or a Parquet, CSV or text list "
        "of patches' names, for which nothing is looked up on disk.",
    )
    out: str | Path = option(
        "--out",
        "-o",
        help="The GeoParquet file to write. Patches that give no row are in OUT's "
        "`.errors.parquet`.",
    )
    metadata: Sequence[str | Path] = option(
        default=(),
        unset="v2's metadata.parquet in or near ROOT",
        help="Parquet of labels by patch, the old tools' or v2's; may be given more than once.",
    )
    lists: str | Path | None = option(
        default=None,
        unset="those of bigearthnet-common",
        help="Folder with v1's official lists.",
    )
    no_lists: bool = option(
        default=False, help="Leave v1's splits, countries, snow and cloud unknown."
    )
    max_errors: int = option(
        default=0, min=0, help="Patches that may fail; more end the finished run with exit 3."
    )

    def check(self) -> None:
        """Refuse lists that are named and left out at once."""
        if self.lists is not None and self.no_lists:
            raise OptionError("--lists and --no-lists exclude each other; leave one of them")
