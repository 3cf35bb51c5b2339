"""The health watch: a training that learns nothing is stopped with a reason."""

import math
from dataclasses import dataclass

from tilezoo.errors import PretrainError

# A network that has collapsed stays so; what lasts this many looks is no passing state.
_PATIENCE = 20
_NO_SPREAD = 1e-3
_NO_CHOICE = 0.9999  # share of log K, the entropy of targets that are all alike


class NotFiniteError(PretrainError):
    """The training has left the numbers."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(
            f"step {step}: {what}; the last checkpoint is from before: lower lr (--set lr=…, "
            "another RUN) or take --precision fp32 or bf16"
        )


@dataclass
class Watch:
    """Looks at measures as they come.

    Attributes:
        out_dim: K, outputs of the head.
    """

    out_dim: int
    _alike: int = 0
    _even: int = 0

    def look(self, step: int, *, loss: float, entropy: float, spread: float) -> None:
        """Check one window's means.

        Raises:
            PretrainError: The loss is no number, or the teacher says the same of every tile.
        """
        if not math.isfinite(loss):
            raise NotFiniteError(step, f"the loss is {loss}")
        self._alike = self._alike + 1 if spread < _NO_SPREAD else 0
        self._even = self._even + 1 if entropy > _NO_CHOICE * math.log(self.out_dim) else 0
        if max(self._alike, self._even) >= _PATIENCE:
            sign = "gives every tile the same output" if self._alike else "has no preference at all"
            raise PretrainError(
                f"step {step}: collapsed, the teacher {sign} (spread {spread:.2g}, entropy "
                f"{entropy:.3f} of {math.log(self.out_dim):.3f}); start another RUN with a lower "
                "teacher_temp, a longer warmup_teacher_temp_epochs or a lower lr"
            )
