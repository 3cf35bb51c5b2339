"""Verify a model directory on this machine; publish one that verifies as a revision of a registry."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tilezoo.errors import ModelError, TilezooError
from tilezoo.options import verb
from tilezoo.zoo.backbone import Backbone, build
from tilezoo.zoo.cards import read_front_matter
from tilezoo.zoo.complete import AGREEMENT, Golden, read_golden
from tilezoo.zoo.downloader import find_model
from tilezoo.zoo.hub_client import endpoint_of, explain_hub_errors, is_hub
from tilezoo.zoo.modeldir import (
    CARD,
    CHECKSUMS,
    MODEL_FILES,
    PICKLES,
    ModelDir,
    check_checksums,
    set_hub_switches,
)
from tilezoo.zoo.naming import check_name
from tilezoo.zoo.options import PublishOptions, VerifyOptions
from tilezoo.zoo.registry import Registry

Verdict = Literal["ok", "failed", "not there"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """What one check has found.

    Attributes:
        name: What was checked.
        verdict: Whether it holds.
        detail: The figure, or what is wrong and what to do.
    """

    name: str
    verdict: Verdict
    detail: str


@verb(VerifyOptions)
def verify(options: VerifyOptions) -> list[Check]:
    """Check hashes, contract, strict load, golden vectors in fp32 and bf16, card and file kinds.

    Returns:
        Every check, failed ones included; what a failed load makes pointless is left out.

    Raises:
        UnknownModelError: No such model.
    """
    try:
        model = find_model(options.name)
    except ModelError as error:
        return [Check(name="files, contract, hash", verdict="failed", detail=str(error))]
    checks = [_ok("files, contract, hash", f"weights {model.weights_sha256[:16]}…")]
    checks += [_complete_check(model), _check("no pickle", lambda: _no_pickle(model))]
    if (model.path / CHECKSUMS).is_file():
        checks.append(_check("sums", lambda: check_checksums(model.path)))
    try:
        backbone = build(model, device="cpu")
    except TilezooError as error:
        return [*checks, Check(name="strict load", verdict="failed", detail=str(error))]
    checks.append(_ok("strict load", f"{model.architecture}, vectors of {backbone.dimension}"))
    return [*checks, *_golden_checks(model, backbone), _card_check(model)]


def refuse_unverified(folder: Path) -> None:
    """Raise unless a model directory passes every check and has golden vectors.

    Raises:
        ModelError: Naming the first check that does not hold.
    """
    for check in verify(folder):
        if check.verdict == "failed" or (check.name == "golden fp32" and check.verdict != "ok"):
            raise ModelError(f"{folder}: {check.name} {check.verdict}: {check.detail}")


def _golden_checks(model: ModelDir, backbone: Backbone) -> list[Check]:
    try:
        golden = read_golden(model)
    except ModelError as error:
        return [Check(name="golden fp32", verdict="failed", detail=str(error))]
    if golden is None:
        detail = "no golden.safetensors; `tilezoo export` writes one"
        return [Check(name="golden fp32", verdict="not there", detail=detail)]
    return [_check("golden fp32", lambda: _fp32(golden, backbone)), _bf16_check(golden, backbone)]


def _fp32(golden: Golden, backbone: Backbone) -> str:
    if golden.vectors.shape[1] != backbone.dimension:
        raise ModelError(f"vectors of {golden.vectors.shape[1]}, not {backbone.dimension}")
    cosine = golden.agreement(backbone, "fp32")
    if not cosine >= AGREEMENT["fp32"]:
        raise ModelError(f"cosine {cosine:.6f} is under {AGREEMENT['fp32']}; not the same network")
    return f"cosine ≥ {cosine:.6f}"


def _bf16_check(golden: Golden, backbone: Backbone) -> Check:
    least = AGREEMENT["bf16"]
    if golden.bf16 < least:
        detail = f"cosine {golden.bf16:.4f} when it was exported: embed it in fp32"
        return Check(name="golden bf16", verdict="not there", detail=detail)
    cosine = golden.agreement(backbone, "bf16")
    verdict: Verdict = "ok" if cosine >= least else "failed"
    return Check(name="golden bf16", verdict=verdict, detail=f"cosine {cosine:.6f} of {least}")


def _complete_check(model: ModelDir) -> Check:
    if missing := model.missing_files():
        return Check(name="complete", verdict="not there", detail=f"no {', '.join(missing)}")
    return _ok("complete", f"{sum((model.path / name).is_file() for name in MODEL_FILES)} files")


def _no_pickle(model: ModelDir) -> str:
    pickles = [path.name for path in model.path.rglob("*") if path.suffix.lower() in PICKLES]
    if pickles:
        raise ModelError(f"{', '.join(pickles)} could run code when it is opened; remove it")
    return "safetensors only"


def _card_check(model: ModelDir) -> Check:
    path = model.path / CARD
    if not path.is_file():
        return Check(name="card", verdict="not there", detail=f"no {CARD}")
    try:
        matter = read_front_matter(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return Check(name="card", verdict="failed", detail=f"{CARD}: {error} as front matter")
    stated = {key: matter.get(key) for key in ("space", "weights_sha256")}
    actual = {"space": model.space().fingerprint, "weights_sha256": model.weights_sha256}
    differing = [key for key, value in stated.items() if value is not None and value != actual[key]]
    if differing:
        detail = f"{', '.join(differing)} differ from the model's; export it again"
        return Check(name="card", verdict="failed", detail=detail)
    return _ok("card", "agrees with the model")


def _check(name: str, test: Callable[[], str]) -> Check:
    try:
        return _ok(name, test())
    except ModelError as error:
        return Check(name=name, verdict="failed", detail=str(error))


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, verdict="ok", detail=detail)


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
