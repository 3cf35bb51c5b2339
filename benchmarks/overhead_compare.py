"""Judge a backbone on mines and on climate, beside ImageNet's networks and three controls.

python benchmarks/overhead_compare.py CORPUS MODEL OUT [--deit NPZ] [--update-card]

CORPUS is what overhead_corpus.py wrote. Compared are MODEL, EfficientNet-lite0 (ImageNet), two more
draws of random weights of MODEL's architecture beside `compare`'s own, and with --deit DeiT-Tiny
(ImageNet) from tensors under timm's names. Reports are written to OUT/mines and OUT/climate;
--update-card writes the results into MODEL's card.
"""

import argparse
from pathlib import Path

import numpy as np
import timm
import torch

from tilezoo.cli import compare
from tilezoo.compare.card import update_card
from tilezoo.space import Contract
from tilezoo.zoo import find_model
from tilezoo.zoo.modeldir import ModelDir, write_model_dir

_TASKS = {
    "mines": (
        {},
        "mines in the Amazon, Sentinel-2 at 10 m",
        (
            "Sheets of chips are whole on one side; intervals are over sheets. A mine may recur, "
            "shifted, within a sheet, and mines of one place may lie in sheets of both sides."
        ),
    ),
    "climate": (
        {"block_deg": 10.0},
        "Köppen's classes A to D, Blue Marble at 7.4 km",
        (
            "Every third block of 30° of longitude is for test; windows overlap by half, so intervals "
            "are over blocks of 10°. Climate shows in colours more than in shapes."
        ),
    ),
}


def main() -> None:
    """Compare on both tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--deit", type=Path)
    parser.add_argument("--update-card", action="store_true")
    args = parser.parse_args()
    own = find_model(args.model)
    models = [args.model, "efficientnet-lite0-imagenet"]
    if args.deit:
        models.append(f"deit-tiny-imagenet={deit(args.deit, args.out / 'deit-tiny')}")
    models += [f"random-{seed}={redrawn(own, seed, args.out)}" for seed in (1, 2)]
    for task, (options, dataset, note) in _TASKS.items():
        compared = compare(
            args.corpus / task,
            labels=args.corpus / f"{task}.csv",
            models=models,
            out=args.out / task,
            metric="ap_macro",
            dataset=dataset,
            note=note,
            fractions="1,10,100",
            seeds=3,
            show_progress=True,
            **options,
        )
        if args.update_card:
            update_card(own.path, compared.results, dataset)


def redrawn(like: ModelDir, seed: int, folder: Path) -> Path:
    """Write a model like another's with fresh random weights."""
    path = folder / f"random-{seed}"
    if not path.exists():
        torch.manual_seed(seed)
        network = timm.create_model(like.architecture, num_classes=0, **like.model_args)
        config = {
            "architecture": like.architecture,
            "num_classes": 0,
            "model_args": dict(like.model_args),
        }
        write_model_dir(path, network, contract=like.contract, pooling=like.pooling, config=config)
    return path


def deit(npz: Path, folder: Path) -> Path:
    """Write DeiT-Tiny as a model directory, fed as timm feeds it."""
    if not folder.exists():
        network = timm.create_model("deit_tiny_patch16_224")
        with np.load(npz, allow_pickle=False) as stored:
            state = {name: torch.from_numpy(np.asarray(stored[name])) for name in stored.files}
        network.load_state_dict(state, strict=True)
        contract = Contract(
            bands=("red", "green", "blue"),
            unit="uint8",
            value_range=(0.0, 255.0),
            quantize_uint8=True,
            size_px=224,
            resize="shorter_side_then_center_crop",
            resize_px=248,
            interpolation="bicubic",
            gsd_m=None,
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        )
        config = {"architecture": "deit_tiny_patch16_224", "num_classes": 1000, "model_args": {}}
        write_model_dir(folder, network, contract=contract, pooling="cls", config=config)
    return folder


if __name__ == "__main__":
    main()
