"""A model directory: which files it holds, timm's `config.json` with our key, weights and hashes.

Any timm user loads one; `tilezoo` key and contract are ours. `MODEL_FILES` is what makes one
complete; whatever else lies in the folder or the repository stays where it is.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict

from tilezoo.errors import ContractError, ModelError
from tilezoo.io import (
    make_readable,
    sha256_file,
    to_builtins,
    whole_file,
    write_json,
    write_text,
)
from tilezoo.space import POOLINGS, Contract, Pooling, Space, contract_from
from tilezoo.training_ids import TRAINING_IDS

if TYPE_CHECKING:
    from torch import nn

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
GOLDEN = "golden.safetensors"
MLM = "mlm.json"
CHECKSUMS = "SHA256SUMS"
# What a complete model directory holds, and all that is published, downloaded and hashed of one.
# Who embeds with a model needs the list of its training tiles to look for leakage.
MODEL_FILES = (CONFIG, WEIGHTS, CARD, GOLDEN, MLM, TRAINING_IDS, CHECKSUMS)
# Files that run code when they are read: never stored in a registry, never verified.
PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
CONTRACT_VERSION = 1

# What timm calls the pooling of its own head.
_TIMM_POOLING: Mapping[str, Pooling] = {"token": "cls", "avg": "mean"}
# timm.create_model takes these too; from a file they could load something else.
_FORBIDDEN_ARGS = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
)


class NetworkConfig(TypedDict, total=False):
    """What a model directory is written with besides contract and pooling.

    `pretrained_cfg` holds timm's entries that the contract does not tell; `network` is teacher or
    student; `pretraining` is what is known of the training.
    """

    architecture: Required[str]
    num_classes: Required[int]
    num_features: int
    model_args: Mapping[str, object]
    global_pool: str
    pretrained_cfg: Mapping[str, object]
    network: str | None
    pretraining: Mapping[str, object]


def import_timm() -> Any:
    """Import timm, which has no types, after huggingface_hub's switches are set."""
    set_hub_switches()
    import timm

    return timm


def set_hub_switches() -> None:
    """Set huggingface_hub's public switches, which it reads as it is imported (timm imports it).

    No telemetry; and no Xet, which huggingface.co alone has: files go by Git LFS everywhere. What
    the user has set stays.
    """
    for switch in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET"):
        os.environ.setdefault(switch, "1")


@dataclass(frozen=True, kw_only=True)
class ModelDir:
    """What a model directory says, checked.

    Attributes:
        path: The directory.
        name: What the user calls it.
        architecture: timm's name of the network.
        model_args: What the network is built with besides.
        num_classes: Outputs of the head among the weights; 0 for none.
        contract: What pixels it takes.
        pooling: How its features are pooled unless another pooling is asked for.
        weights_sha256: Hash of model.safetensors, 64 hex digits.
        pretraining: What it states of its training (`tiles`, `ids_sha256`, …); empty for nothing.
    """

    path: Path
    name: str
    architecture: str
    model_args: Mapping[str, object]
    num_classes: int
    contract: Contract
    pooling: Pooling
    weights_sha256: str
    pretraining: Mapping[str, object]

    def missing_files(self) -> list[str]:
        """What a complete directory has and this one has not.

        The list of training tiles is asked for where the config states its hash.
        """
        trained = "ids_sha256" in self.pretraining
        needed = (name for name in MODEL_FILES if name != TRAINING_IDS or trained)
        return [name for name in needed if not (self.path / name).is_file()]

    def space(self, contract: Contract | None = None, pooling: Pooling | None = None) -> Space:
        """The space of its vectors under a contract and pooling (its own by default)."""
        return Space(
            weights_sha256=self.weights_sha256,
            architecture=self.architecture,
            contract=contract or self.contract,
            pooling=pooling or self.pooling,
        )


def read_model_dir(path: Path, name: str | None = None) -> ModelDir:
    """Read and check a model directory; a plain timm one is an RGB uint8 model by its config.

    Raises:
        ModelError: A file is missing or broken, or the weights are not the ones stated.
    """
    config = _read_config(path / CONFIG)
    weights = path / WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{path}: no {WEIGHTS}; only safetensors are read, never a pickle")
    own = config.get("tilezoo")
    try:
        contract = _own_contract(own, config) if own else _timm_contract(config)
        return ModelDir(
            path=path,
            name=name or str(path),
            architecture=str(config["architecture"]),
            model_args=_safe_args(config.get("model_args") or {}),
            num_classes=int(config["num_classes"]),
            contract=contract,
            pooling=_pooling(own["pooling"] if own else config["global_pool"]),
            weights_sha256=_check_hash(weights, own),
            pretraining=dict((own or {}).get("pretraining") or {}),
        )
    except KeyError as error:
        raise ModelError(f"{path / CONFIG}: {error} is missing; nothing is guessed") from error
    except (TypeError, ValueError, ContractError) as error:
        raise ModelError(f"{path / CONFIG}: {error}") from error


def write_model_dir(
    path: Path,
    network: "nn.Module",
    *,
    contract: Contract,
    pooling: Pooling,
    config: NetworkConfig,
) -> ModelDir:
    """Write a network as a model directory that timm loads by `local-dir:`.

    Args:
        path: The directory, made if missing.
        network: A timm network.
        contract: What pixels it takes.
        pooling: How its features are pooled.
        config: What else its `config.json` states.
    """
    from safetensors.torch import save_file

    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with whole_tensors(path / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    # timm passes img_size to networks of a fixed size only
    timm_config = _timm_config(contract, pooling, config, fixed_size="pos_embed" in tensors)
    own = _own_config(path / WEIGHTS, contract, pooling, config)
    write_json(path / CONFIG, {**timm_config, "tilezoo": own})
    return read_model_dir(path)


@contextmanager
def whole_tensors(path: Path) -> Iterator[Path]:
    """Yield a name for a safetensors file that is renamed to `path` only if the block succeeds.

    Raises:
        ModelError: The disk is full, or cannot be written.
    """
    from safetensors import SafetensorError

    try:
        with whole_file(path) as temporary:
            yield temporary
            make_readable(temporary)
    except SafetensorError as error:
        fix = "make room, then run the same command again"
        raise ModelError(f"{path}: not written ({error}); {fix}") from error


def _timm_config(
    contract: Contract, pooling: Pooling, config: NetworkConfig, *, fixed_size: bool
) -> dict[str, object]:
    """What timm reads of `config.json`."""
    heads = {ours: theirs for theirs, ours in _TIMM_POOLING.items()}
    return {
        "architecture": config["architecture"],
        "num_classes": config["num_classes"],
        "num_features": config.get("num_features"),
        "global_pool": config.get("global_pool", heads.get(pooling, "token")),
        "model_args": dict(config.get("model_args") or {}),
        "pretrained_cfg": {
            "input_size": [len(contract.bands), contract.size_px, contract.size_px],
            "fixed_input_size": fixed_size,
            "interpolation": contract.interpolation,
            "crop_pct": contract.size_px / contract.resize_px,
            "crop_mode": "squash" if contract.resize == "squash" else "center",
            "mean": list(contract.mean),
            "std": list(contract.std),
            "num_classes": config["num_classes"],
            **(config.get("pretrained_cfg") or {}),
        },
    }


def _own_config(
    weights: Path, contract: Contract, pooling: Pooling, config: NetworkConfig
) -> dict[str, object]:
    """What stands under our key; mean and std are timm's to state."""
    fields = to_builtins(contract)
    del fields["mean"], fields["std"]
    own = {
        "contract": CONTRACT_VERSION,
        **fields,
        "pooling": pooling,
        "network": config.get("network"),
        "weights_sha256": sha256_file(weights),
        "pretraining": config.get("pretraining"),
    }
    return {key: value for key, value in own.items() if value is not None}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent}: no {CONFIG}; not a model directory") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a timm config (a JSON object is expected)")
    return config


def _own_contract(own: Mapping[str, Any], config: Mapping[str, Any]) -> Contract:
    if own["contract"] != CONTRACT_VERSION:
        raise ModelError(
            f"contract version {own['contract']}; this program knows 1: update tilezoo"
        )
    timm_cfg = config["pretrained_cfg"]
    return contract_from({"gsd_m": None, **own, "mean": timm_cfg["mean"], "std": timm_cfg["std"]})


def _timm_contract(config: Mapping[str, Any]) -> Contract:
    """Read timm's own eval preprocessing: an RGB image of 8 bits."""
    timm_cfg = config["pretrained_cfg"]
    channels, height, width = timm_cfg["input_size"]
    if (channels, height) != (3, width):
        size = f"{channels} channels, {height}x{width} px"
        raise ModelError(
            f"takes {size} and has no tilezoo contract; only square RGB is known as is"
        )
    modes = {"center": "shorter_side_then_center_crop", "squash": "squash"}
    return contract_from(
        {
            "bands": ("red", "green", "blue"),
            "unit": "uint8",
            "value_range": (0, 255),
            "quantize_uint8": True,
            "size_px": height,
            "resize": modes[timm_cfg.get("crop_mode", "center")],
            # floor, as timm.data.transforms_factory.transforms_imagenet_eval does
            "resize_px": math.floor(height / timm_cfg["crop_pct"]),
            "interpolation": timm_cfg["interpolation"],
            "gsd_m": None,
            "mean": timm_cfg["mean"],
            "std": timm_cfg["std"],
        }
    )


def _pooling(name: str) -> Pooling:
    pooling = _TIMM_POOLING.get(name, name)
    if pooling not in POOLINGS:
        raise ValueError(f"pooling {name!r} is not one of {', '.join(POOLINGS)}")
    return pooling


def _safe_args(args: Mapping[str, object]) -> Mapping[str, object]:
    wrong = _FORBIDDEN_ARGS & set(args)
    if wrong:
        raise ValueError(f"model_args may not hold {', '.join(sorted(wrong))}")
    return args


def _check_hash(weights: Path, own: Mapping[str, Any] | None) -> str:
    actual = sha256_file(weights)
    stated = own["weights_sha256"] if own else actual
    if actual != stated:
        raise ModelError(
            f"{weights}: SHA-256 is {actual[:16]}…, config.json states {str(stated)[:16]}…; "
            "the weights are damaged or another's: download or export them again"
        )
    return actual


def write_checksums(folder: Path) -> None:
    """Write the hashes of a model directory's files as `sha256sum --check` reads them."""
    _write_lines(folder, {name: sha256_file(folder / name) for name in _hashed_files(folder)})


def renew_checksum(folder: Path, name: str) -> None:
    """Write the hash of one file anew, and leave the others as they were stated.

    A directory without such hashes stays without.
    """
    if (folder / CHECKSUMS).is_file():
        _write_lines(folder, {**_read_lines(folder), name: sha256_file(folder / name)})


def check_checksums(folder: Path) -> str:
    """Compare every file that is listed with its hash.

    Raises:
        ModelError: Naming the first that is missing or differs.
    """
    for name, stated in _read_lines(folder).items():
        path = folder / Path(name).name
        if not path.is_file() or sha256_file(path) != stated:
            fix = "download or export the model again"
            raise ModelError(f"{name} is missing or not as it was written; {fix}")
    return f"every file as {CHECKSUMS} states"


def _hashed_files(folder: Path) -> list[str]:
    return [name for name in MODEL_FILES if name != CHECKSUMS and (folder / name).is_file()]


def _read_lines(folder: Path) -> dict[str, str]:
    """File name → SHA-256."""
    lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("  ") for line in lines]
    return {name: stated for stated, _, name in pairs}


def _write_lines(folder: Path, sums: Mapping[str, str]) -> None:
    lines = [f"{sums[name]}  {name}\n" for name in sorted(sums)]
    write_text(folder / CHECKSUMS, "".join(lines))
