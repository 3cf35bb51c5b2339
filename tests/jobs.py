"""Small jobs for the tests of launching: an account on loopback, what is trained on, what is asked."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import making
import numpy as np
import pytest
from moto_account import moto_account
from PIL import Image

from tilezoo.launch import launch
from tilezoo.pretrain import pack

BUCKET = "jobs"
# A step in some hundredths of a second; everything is in it that the real recipes have.
TINY = (
    "architecture=vit_tiny_patch16_224", "global_px=32", "local_px=16", "local_crops=2",
    "out_dim=64", "hidden_dim=32", "bottleneck_dim=16", "batch_size=8", "epochs=4",
    "warmup_epochs=1", "checkpoint_every_epochs=9", "split=all", "knn_every_epochs=0",
)  # fmt: skip
TILES, TILE_PX = 24, 40
STEPS = 12


@contextmanager
def account() -> Iterator[None]:
    """Have an AWS account on this machine, with a bucket and a role that SageMaker may take."""
    with moto_account() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # moto knows no quotas, and says so by a 500
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        principal = {"Service": "sagemaker.amazonaws.com"}
        statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        boto3.client("iam").create_role(
            RoleName="training", AssumeRolePolicyDocument=json.dumps(policy)
        )
        yield


def write_globe_pack(folder: Path) -> Path:
    """Pack windows of NASA's Blue Marble."""
    from tilezoo.compare.demo import picture

    globe = np.asarray(Image.open(picture()).convert("RGB")).transpose(2, 0, 1)
    for number in range(TILES):
        top, left = 600 + 8 * TILE_PX * (number // 8), 600 * (number % 8)
        window = globe[:, top : top + TILE_PX, left : left + TILE_PX]
        making.write_tiff(folder / "tiles" / f"{number:03d}.tif", window, photometric="RGB")
    pack(folder / "tiles", out=folder / "pack")
    return folder / "pack"


def upload_folder(folder: Path, uri: str) -> None:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(
                str(path), bucket, f"{prefix.rstrip('/')}/{path.relative_to(folder)}"
            )


def pretraining(out: str, *more: str) -> list[str]:
    """Words of a pretraining that takes seconds."""
    changes = [word for setting in TINY for word in ("--set", setting)]
    recipe = ("--recipe", "dino-vits16-bigearthnet-smoke")
    words = ["pretrain", f"s3://{BUCKET}/shards", "-o", out, *recipe, "--precision", "fp32"]
    return [*words, *changes, *more]


def submit(words: Sequence[str], **options: Any) -> dict[str, Any]:
    """Launch a job; what the service keeps of it, and what this service does not keep."""
    stated = {"instance": "ml.c5.2xlarge", "role": "training", "output": f"s3://{BUCKET}/out"}
    sent = launch(words, wait=False, **(stated | options)).request
    name = sent["TrainingJobName"]
    kept = boto3.client("sagemaker").describe_training_job(TrainingJobName=name)
    algorithm = sent["AlgorithmSpecification"]  # moto puts metrics of its own there
    return {**kept, "Environment": sent.get("Environment", {}), "AlgorithmSpecification": algorithm}
