"""Publish: a model directory that verifies becomes a revision of a registry."""

import os
import tempfile
from pathlib import Path

from tilezoo.errors import ModelError
from tilezoo.options import verb
from tilezoo.zoo.downloader import endpoint_of, explain_hub_errors, is_hub
from tilezoo.zoo.modeldir import MODEL_FILES, set_hub_switches
from tilezoo.zoo.naming import check_name
from tilezoo.zoo.options import PublishOptions
from tilezoo.zoo.registry import Registry
from tilezoo.zoo.verifier import refuse_unverified


@verb(PublishOptions)
def publish(options: PublishOptions) -> str:
    """Put a model directory into a registry, whole, under an immutable revision.

    Publishing the same files again changes nothing and gives the same revision, which is returned.

    Raises:
        ModelError: The directory does not verify, or the registry refuses it.
    """
    folder, name = Path(options.source), check_name(options.name)
    registry = options.registry or os.environ.get("TILEZOO_REGISTRY")
    if registry is None:
        raise ModelError("no registry; name one with --registry or TILEZOO_REGISTRY")
    if not folder.is_dir():
        raise ModelError(f"{folder} is no model directory; make one with `tilezoo export`")
    set_hub_switches()  # before anything imports huggingface_hub
    refuse_unverified(folder)
    if is_hub(registry):
        return _upload(folder, name, endpoint_of(registry))
    with tempfile.TemporaryDirectory() as staged:
        _link_files(folder, Path(staged))
        return Registry(registry).publish(Path(staged), name)


def _link_files(folder: Path, staged: Path) -> None:
    """Put only what a model directory holds beside each other, by links."""
    for name in MODEL_FILES:
        if (folder / name).is_file():
            (staged / name).symlink_to((folder / name).resolve())


def _upload(folder: Path, name: str, endpoint: str | None) -> str:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    with explain_hub_errors(name, None):
        api.create_repo(name, exist_ok=True)
        done = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(MODEL_FILES),
            commit_message=f"tilezoo publish {name}",
        )
    return str(done.oid)
