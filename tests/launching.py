"""Launches for the tests: those whose requests are kept, and how they are asked for."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tilezoo.cli.app import app

GOLDEN = Path(__file__).parent / "golden"
ROLE = "arn:aws:iam::123456789012:role/training"
_COMMON = ("--dry-run", "--region", "us-east-1", "--role", ROLE, "--output", "s3://bigearth/out")
_PRETRAIN = ("pretrain", "s3://bigearth/shards", "-o")
# By the name of the file that keeps the request: options of the launch, and the command.
CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "pretrain-2-p4d-smddp": (
        ("--instance", "ml.p4d.24xlarge", "--count", "2", "--publish-as", "org/dino-vits16"),
        (*_PRETRAIN, "run", "--recipe", "dino-vits16-bigearthnet"),
    ),
    "pretrain-p5-nccl": (
        ("--instance", "ml.p5.48xlarge", "--backend", "nccl", "--volume-gb", "500"),
        (*_PRETRAIN, "run", "--set", "batch_size=1024"),
    ),
    "pretrain-g5": (("--instance", "ml.g5.2xlarge"), (*_PRETRAIN, "run")),
    "pretrain-spot": (
        ("--instance", "ml.g5.12xlarge", "--spot", "--max-hours", "30", "--tag", "project=overhead"),
        (*_PRETRAIN, "s3://bigearth/runs/first"),
    ),
    "embed-cpu": (
        (
            *("--instance", "ml.c5.4xlarge", "--env", "OMP_NUM_THREADS=8"),
            *("--subnet", "subnet-0a1b2c3d", "--security-group", "sg-0a1b2c3d"),
            *("--kms-key", "arn:aws:kms:us-east-1:123456789012:key/0a1b2c3d"),
        ),
        ("embed", "s3://bigearth/tiles", "-m", "s3://bigearth/out/model", "-o", "table",
         "--bands", "B04,B03,B02", "--value-range", "0,2000"),
    ),
    "compare-cpu": (
        ("--instance", "ml.m5.4xlarge", "--count", "1"),
        ("compare", "s3://bigearth/tiles/", "--labels", "s3://bigearth/metadata.parquet",
         "-m", "ours=s3://bigearth/out/model/", "-m", "dino-vits16-imagenet",
         "-o", "s3://bigearth/report"),
    ),
}  # fmt: skip


def launched(*words: str) -> Any:
    """Run `tilezoo launch` in this process."""
    return CliRunner().invoke(app, ["launch", *words])


def dry_request(name: str) -> dict[str, Any]:
    """The request that a case's dry run prints."""
    options, command = CASES[name]
    done = launched(*_COMMON, "--name", name, *options, "--", *command)
    assert done.exit_code == 0, done.output
    request: dict[str, Any] = json.loads(done.stdout)
    return request


def kept_request(name: str) -> dict[str, Any]:
    request: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return request


def keep_requests() -> None:
    """Write the kept requests anew; read the difference before it is committed."""
    for name in CASES:
        text = json.dumps(dry_request(name), indent=1, sort_keys=True) + "\n"
        (GOLDEN / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    keep_requests()
