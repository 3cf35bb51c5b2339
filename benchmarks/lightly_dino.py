"""lightly-train's DINO, timed from the outside: run by pretrain.py with a Python that has it.

python benchmarks/lightly_dino.py IMAGES OUT --batch 8 --precision bf16-mixed

Prints JSON: images per second between the starts of steps, the first three left out.
"""

import argparse
import json
import time

import lightly_train
from lightly_train._methods.dino.dino import DINO

_WARM = 3


def main() -> None:
    """Train for some steps with the crops of DINO's paper, and time each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("out")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--out-dim", type=int, required=True)
    parser.add_argument("--precision", required=True)
    args = parser.parse_args()
    starts = timed_starts()
    lightly_train.pretrain(
        out=args.out,
        data=args.images,
        model="timm/vit_small_patch16_224",
        method="dino",
        method_args={"output_dim": args.out_dim, "hidden_dim": 2048, "bottleneck_dim": 256},
        epochs=1,  # pretrain.py lays as many images out as the steps need
        batch_size=args.batch,
        num_workers=2,
        accelerator="cpu",
        precision=args.precision,
        optim="adamw",
        model_args={"dynamic_img_size": True},
        transform_args={
            "image_size": (224, 224),
            "random_resize": {"min_scale": 0.4, "max_scale": 1.0},
            "local_view": {
                "num_views": 8,
                "view_size": (96, 96),
                "random_resize": {"min_scale": 0.05, "max_scale": 0.4},
            },
        },
    )
    seconds = starts[-1] - starts[_WARM]
    print(json.dumps({"images_per_s": args.batch * (len(starts) - 1 - _WARM) / seconds}))


def timed_starts() -> list[float]:
    """Note when each training step begins; from one to the next is a whole step, data included."""
    starts: list[float] = []
    step = DINO.training_step_impl

    def timed(self, batch, batch_idx):
        starts.append(time.monotonic())
        return step(self, batch, batch_idx)

    DINO.training_step_impl = timed
    return starts


if __name__ == "__main__":
    main()
