"""The loop a user writes: rasterio, PIL, torchvision, DataLoader, timm, fp32.

python benchmarks/loop.py FOLDER SIZE_PX DEVICE COUNT prints tiles per second, model loading and
imports not counted.
"""

import sys
import time
from pathlib import Path

import numpy as np
import rasterio
import timm
import torch
from making import HIGH, MEAN, STD
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

_BATCH = 64
_WORKERS = 2  # what a user would set on two cores


class Tiles(Dataset[torch.Tensor]):
    """Files as a network takes them, by timm's eval transform."""

    def __init__(self, paths: list[Path], size_px: int) -> None:
        self._paths = paths
        self._prepare = transforms.Compose(
            [
                transforms.Resize(round(size_px * 8 / 7), transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(size_px),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Read one file; shape (3, size, size)."""
        with rasterio.open(self._paths[index]) as file:
            values = file.read()
        colours = (values.clip(0, HIGH) / HIGH * 255).round().astype(np.uint8)
        image: torch.Tensor = self._prepare(Image.fromarray(colours.transpose(1, 2, 0)))
        return image


def main() -> None:
    """Embed and print the rate."""
    folder, size_px, device, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    paths = sorted(Path(folder).iterdir())[:count]
    network = timm.create_model("vit_small_patch16_224", num_classes=0, img_size=size_px)
    network = network.eval().to(device)
    loader = DataLoader(Tiles(paths, size_px), batch_size=_BATCH, num_workers=_WORKERS)
    with torch.inference_mode():
        network(torch.zeros(_BATCH, 3, size_px, size_px, device=device))
        start = time.perf_counter()
        vectors = [network(images.to(device)).cpu().numpy() for images in loader]
        np.concatenate(vectors)
    print(count / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
