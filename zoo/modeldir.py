"""A model directory: timm's `config.json` with our key, and `model.safetensors`."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilezoo.errors import ContractError, ModelError
from tilezoo.io import readable_as_others, sha256_file, whole_file, write_json
from tilezoo.space import POOLINGS, Contract, Pooling, Space, contract_from

if TYPE_CHECKING:
    from torch import nn

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CONTRACT_VERSION = 1

# What timm calls the pooling of its own head.
_TIMM_POOLING: Mapping[str, Pooling] = {"token": "cls", "avg": "mean"}
# timm.create_model takes these too; from a file they could load something else.
_FORBIDDEN_ARGS = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
)


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
        pooling: How its features are pooled unless told otherwise.
        weights_sha256: Hash of model.safetensors, 64 hex digits.
        pretraining: What it states of its training (`tiles`, `ids_sha256`, …); empty for nothing.
    """

    path: Path
    name: str
    architecture: str
    model_args: Mapping[str, Any]
    num_classes: int
    contract: Contract
    pooling: Pooling
    weights_sha256: str
    pretraining: Mapping[str, Any]

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
        contract = _stated_contract(own, config) if own else _plain_contract(config)
        return ModelDir(
            path=path,
            name=name or str(path),
            architecture=str(config["architecture"]),
            model_args=_safe_args(config.get("model_args") or {}),
            num_classes=int(config["num_classes"]),
            contract=contract,
            pooling=_pooling(own["pooling"] if own else config["global_pool"]),
            weights_sha256=_checked_hash(weights, own),
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
    config: Mapping[str, Any],
) -> ModelDir:
    """Write a network as a model directory that timm loads by `local-dir:`.

    Args:
        path: The directory, made if missing.
        network: A timm network.
        contract: What pixels it takes.
        pooling: How its features are pooled.
        config: `architecture`, `num_classes`, and where they matter `model_args`,
            `global_pool`, `pretrained_cfg` entries, and facts for the `tilezoo` key
            (`network`, `pretraining`).
    """
    from safetensors.torch import save_file

    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with whole_file(path / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
        readable_as_others(temporary)
    names = frozenset(tensors)
    write_json(path / CONFIG, _config(path / WEIGHTS, names, contract, pooling, config))
    return read_model_dir(path)


def _config(
    weights: Path,
    names: frozenset[str],
    contract: Contract,
    pooling: Pooling,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    fields = asdict(contract)
    mean, std = fields.pop("mean"), fields.pop("std")
    own = {
        "contract": CONTRACT_VERSION,
        **fields,
        "pooling": pooling,
        "network": given.get("network"),
        "weights_sha256": sha256_file(weights),
        "pretraining": given.get("pretraining"),
    }
    back = {ours: theirs for theirs, ours in _TIMM_POOLING.items()}
    return {
        "architecture": given["architecture"],
        "num_classes": given["num_classes"],
        "num_features": given.get("num_features"),
        "global_pool": given.get("global_pool", back.get(pooling, "token")),
        "model_args": dict(given.get("model_args") or {}),
        "pretrained_cfg": {
            "input_size": [len(contract.bands), contract.size_px, contract.size_px],
            # timm passes img_size to networks of a fixed size only
            "fixed_input_size": "pos_embed" in names,
            "interpolation": contract.interpolation,
            "crop_pct": contract.size_px / contract.resize_px,
            "crop_mode": "squash" if contract.resize == "squash" else "center",
            "mean": list(mean),
            "std": list(std),
            "num_classes": given["num_classes"],
            **(given.get("pretrained_cfg") or {}),
        },
        "tilezoo": {key: value for key, value in own.items() if value is not None},
    }


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path.parent}: no {CONFIG}; not a model directory") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a timm config (a JSON object is expected)")
    return config


def _stated_contract(own: Mapping[str, Any], config: Mapping[str, Any]) -> Contract:
    if own["contract"] != CONTRACT_VERSION:
        raise ModelError(
            f"contract version {own['contract']}; this program knows 1: update tilezoo"
        )
    timm_cfg = config["pretrained_cfg"]
    return contract_from({"gsd_m": None, **own, "mean": timm_cfg["mean"], "std": timm_cfg["std"]})


def _plain_contract(config: Mapping[str, Any]) -> Contract:
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


def _safe_args(args: Mapping[str, Any]) -> Mapping[str, Any]:
    wrong = _FORBIDDEN_ARGS & set(args)
    if wrong:
        raise ValueError(f"model_args may not hold {', '.join(sorted(wrong))}")
    return args


def _checked_hash(weights: Path, own: Mapping[str, Any] | None) -> str:
    found = sha256_file(weights)
    stated = own["weights_sha256"] if own else found
    if found != stated:
        raise ModelError(
            f"{weights}: SHA-256 is {found[:16]}…, config.json states {str(stated)[:16]}…; "
            "the weights are damaged or another's: download or export them again"
        )
    return found
