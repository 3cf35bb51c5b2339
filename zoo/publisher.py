"""Publish: a model directory that verifies becomes a revision of a registry."""

import os
import tempfile
from pathlib import Path

from tilezoo.errors import ModelError
from tilezoo.training_ids import TRAINING_IDS
from tilezoo.zoo.modeldir import CONFIG, WEIGHTS
from tilezoo.zoo.naming import check_name
from tilezoo.zoo.registry import Registry
from tilezoo.zoo.verifier import refuse_unverified

HUB = "hf://"
_FILES = (
    CONFIG,
    WEIGHTS,
    "README.md",
    "golden.safetensors",
    "mlm.json",
    "SHA256SUMS",
    TRAINING_IDS,  # named by SHA256SUMS; who embeds with the model needs it to look for leakage
)


def publish(source: str | Path, *, name: str, registry: str | None = None) -> str:
    """Put a model directory into a registry, whole, under an immutable revision.

    Publishing the same files again changes nothing and gives the same revision.

    Args:
        source: A model directory with golden vectors, as `tilezoo export` makes it.
        name: `org/name` to publish it as.
        registry: A folder, `s3://…`, `https://…` of a hub, or `hf://` (the endpoint in force);
            `TILEZOO_REGISTRY` unless given.

    Returns:
        The revision.

    Raises:
        ModelError: The directory does not verify, or the registry refuses it.
    """
    folder = Path(source)
    check_name(name)
    where = registry or os.environ.get("TILEZOO_REGISTRY")
    if where is None:
        raise ModelError("no registry; name one with --registry or TILEZOO_REGISTRY")
    if not folder.is_dir():
        raise ModelError(f"{folder} is no model directory; make one with `tilezoo export`")
    refuse_unverified(folder)
    if where == HUB or where.startswith(("http://", "https://")):
        return _to_hub(folder, name, None if where == HUB else where)
    with tempfile.TemporaryDirectory() as staged:
        return Registry(where).publish(_staged(folder, Path(staged)), name)


def _staged(folder: Path, staged: Path) -> Path:
    """Put only what a model directory holds beside each other, by links."""
    for name in _FILES:
        if (folder / name).is_file():
            (staged / name).symlink_to((folder / name).resolve())
    return staged


def _to_hub(folder: Path, name: str, endpoint: str | None) -> str:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, constants

    from tilezoo.zoo.downloader import explained

    if endpoint is not None or "HF_ENDPOINT" in os.environ:
        # Only huggingface.co has Xet. The environment's switch is read at import, and timm has
        # imported huggingface_hub by now.
        constants.HF_HUB_DISABLE_XET = True

    api = HfApi(endpoint=endpoint)
    with explained(name, None):
        api.create_repo(name, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(_FILES),
            commit_message=f"tilezoo publish {name}",
        )
    return str(done.oid)
