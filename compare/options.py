"""What `tilezoo compare` can be asked.

Light, for `--help`: nothing here imports torch.
"""

from collections.abc import Sequence
from pathlib import Path

from tilezoo.embed.options import Embedding
from tilezoo.option_groups import Sources
from tilezoo.options import Progress, option, options
from tilezoo.probe.options import Labelled, Probing, Protocol, Reported


@options
class Entrants:
    """Which models are compared, and where all that is made of them goes."""

    models: Sequence[str | Path] = option(
        "--model",
        "-m",
        read_as=list[str],
        metavar="[NAME=]MODEL",
        help="A name from `tilezoo models`, or a model directory; once for each. The others are "
        "subtracted from the first.",
    )
    out: str | Path = option("--out", "-o", help="Folder for tables, results and the report.")
    controls: bool = option(
        default=True, help="Random weights of each architecture, and colour statistics."
    )


@options
class CompareOptions(Sources, Labelled, Entrants, Embedding, Probing, Reported, Progress):
    """Which tiles and models are compared, and how."""

    protocol: Protocol = option(
        default="standard",
        help="standard: L-BFGS, C swept; dino: its SGD on crops and flips of the tiles, 50 epochs.",
    )

    @property
    def is_dino(self) -> bool:
        """Whether DINO's protocol is repeated, which pools otherwise."""
        return self.protocol == "dino"


@options
class DemoOptions:
    """How large a demo is, and where it goes."""

    out: str | Path = option(
        "--out", "-o", default=Path("tilezoo-demo"), help="Folder for tiles, table and page."
    )
    small: bool = option(
        "--small", default=False, help="A strip of the tropics: half a minute, too few for figures."
    )
