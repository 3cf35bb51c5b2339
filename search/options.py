"""What `tilezoo index` can be asked."""

from pathlib import Path
from typing import Literal

from tilezoo.errors import OptionError
from tilezoo.options import Progress, argument, option, options

Kind = Literal["auto", "flat", "ivf", "hnsw"]


@options
class IndexOptions(Progress):
    """How an index is built over a table."""

    table: str | Path = argument("TABLE", kw_only=False, help="A folder made by `embed`.")
    kind: Kind = option(default="auto", help="auto: flat (exact) up to 100,000 rows, ivf above.")
    recall: float = option(default=0.99, help="Share of true neighbours ivf and hnsw must find.")

    def check(self) -> None:
        """Refuse a recall that is no share."""
        if not 0 < self.recall <= 1:
            raise OptionError(
                f"--recall {self.recall} should be above 0 and at most 1, for example 0.99"
            )
