"""A linear layer in training, kept after each epoch, so that a stopped probe goes on where it was."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tilezoo.errors import ProbeError
from tilezoo.io import whole_file


@dataclass(kw_only=True)
class State:
    """All that the next epoch begins with.

    Attributes:
        layer: Weights, and biases in the last row, shape (D + 1, C).
        speed: SGD's momentum, of the same shape.
        draws: Of the order of tiles.
        epoch: How many are done.
    """

    layer: Tensor
    speed: Tensor
    draws: torch.Generator
    epoch: int = 0

    def keep(self, path: Path) -> None:
        """Write it, in place of what is there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {
            "layer": self.layer.cpu().contiguous(),
            "speed": self.speed.cpu().contiguous(),
            "draws": self.draws.get_state(),
        }
        with whole_file(path) as temporary:
            save_file(tensors, temporary, {"epoch": str(self.epoch)})

    def go_on(self, path: Path) -> None:
        """Take what was kept, if there is anything.

        Raises:
            ProbeError: The file is damaged.
        """
        if not path.is_file():
            return
        try:
            with safe_open(path, framework="pt") as file:
                self.layer.copy_(file.get_tensor("layer"))
                self.speed.copy_(file.get_tensor("speed"))
                self.draws.set_state(file.get_tensor("draws"))
                self.epoch = int(file.metadata()["epoch"])
        except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
            raise ProbeError(f"{path} is damaged ({error}); remove it to start anew") from error
