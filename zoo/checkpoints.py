"""Checkpoints of any maker: what a file is, read without running code, and the backbone's tensors in it.

Nothing is passed over in silence: a file that holds no weights is told as what it is, a second
network beside the one that is taken is named, and tensors that a network would take for something
else (quantised, damaged, two under one name) are refused.
"""

import argparse
import json
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tilezoo.errors import ModelError
from tilezoo.progress import say
from tilezoo.zoo.options import Which

State = Mapping[str, Tensor]
Checkpoint = Mapping[str, Any]  # whatever its makers saved

_WRAPPERS = ("module.", "backbone.", "_orig_mod.")
_HEADS = ("head.", "fc.", "fc_norm_head.", "projection_head.", "prototypes.", "last_layer.")
_INNER = ("state_dict", "model")  # where makers put the state dict, the first that is there
_PATCHES = "patch_embed.proj.weight"  # what every vision transformer has
_START_BYTES = 1024
# What unpacking and unpickling raise of bytes that are no checkpoint's.
_GARBLED: tuple[type[Exception], ...] = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(EOFError, ArithmeticError, MemoryError, struct.error, zipfile.BadZipFile, zlib.error),
)
_LONGEST = 200  # characters of another library's message

# How files begin that are no checkpoint, what they are called, and what to do about them.
_UNPACK = "unpack it first"
_AGAIN = "download the file again, from where the weights themselves are (logged in, if need be)"
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights", "fetch them by `git lfs pull`"),
    (b"/annex/objects/", "a git-annex pointer, not the weights", "fetch them by `git annex get`"),
    (b"<!doctype html", "an HTML page", _AGAIN),
    (b"<html", "an HTML page", _AGAIN),
    (b"<?xml", "an XML document", _AGAIN),
    (b"<error", "an XML document", _AGAIN),
    (b"\x1f\x8b", "compressed by gzip", _UNPACK),
    (b"bzh", "compressed by bzip2", _UNPACK),
    (b"\xfd7zxz\x00", "compressed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"rar!", "a RAR archive", _UNPACK),
    (b"\x89hdf", "an HDF5 file (Keras)", "ask its makers for safetensors"),
    (b"gguf", "a GGUF file", "ask its makers for safetensors"),
    (b"\x93numpy", "a NumPy array", "ask its makers for safetensors"),
    (b"par1", "a Parquet file", "name the checkpoint"),
)  # fmt: skip


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint with nothing but tensors, numbers, texts and argparse's plain options.

    Safetensors are read whatever they are called.

    Raises:
        ModelError: It is missing, damaged or something else, or would run code.
    """
    if path.is_dir():
        raise _refuse_folder(path)
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
        if _is_safetensors(start, path.stat().st_size):
            return _read_safetensors(path)
    except OSError as error:
        raise ModelError(f"{path}: not readable ({error.strerror})") from error
    _refuse_others(path, start)
    return _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".safetensors":
        say(f"{path}: is a safetensors file, and read as one")
    return read_safetensors(path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors by name.

    Raises:
        ModelError: It is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not readable safetensors ({error}); remove it") from error


def _is_safetensors(start: bytes, size: int) -> bool:
    """Tell the length of a JSON header, 8 bytes, and its first brace."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") + 8 <= size


def _refuse_folder(path: Path) -> ModelError:
    inside = sorted(file.name for file in path.glob("*.safetensors")) or [
        file.name for file in sorted(path.glob("*.pt*"))
    ]
    if (path / "config.json").is_file() and "model.safetensors" in inside:
        fix = "a model directory needs no export; its weights alone are "
    else:
        fix = "name the checkpoint in it, as " if inside else "name a checkpoint's file"
    named = str(path / inside[0]) if inside else ""
    return ModelError(f"{path}: a folder and no run of `tilezoo pretrain`; {fix}{named}")


def _refuse_others(path: Path, start: bytes) -> None:
    """Refuse what is no checkpoint, by how it begins."""
    if not start:
        raise ModelError(f"{path}: an empty file; download it again")
    plain = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for begins, what, fix in _OTHERS:
        if plain.startswith(begins):
            raise ModelError(f"{path}: {what}{_quote_code(start)}, no checkpoint; {fix}")
    if plain.startswith((b"{", b"[")):
        raise _refuse_json(path)
    if start.startswith(b"PK"):
        _refuse_zip(path)
    elif not start.startswith(b"\x80"):  # of every pickle since protocol 2
        text = start[:60].decode("ascii", "replace")
        words = " ".join(text.split()) if text.isprintable() or start.isascii() else ""
        what = f"a text ({words}…)" if words and "\0" not in words else "bytes of another format"
        raise ModelError(f"{path}: {what}, no checkpoint; download it again")


def _quote_code(start: bytes) -> str:
    """What a store's error says of itself."""
    code = re.search(rb"<Code>(\w+)</Code>", start)
    return f" ({code[1].decode('ascii')})" if code else ""


def _refuse_json(path: Path) -> ModelError:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError):
        content = None
    if isinstance(content, dict) and isinstance(content.get("weight_map"), dict):
        shards = len(set(map(str, content["weight_map"].values())))
        what, fix = f"an index of {shards} files of weights", "save them as one safetensors file"
    else:
        what, fix = "a JSON text", "name the weights themselves"
    return ModelError(f"{path}: {what}, no checkpoint; {fix}")


def _refuse_zip(path: Path) -> None:
    """Refuse archives that are not torch's, and those whose bytes are not as they were stored."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            kind = _name_zip(names)
            damaged = [name for name in names if not _is_whole(archive, name)] if not kind else []
    except _GARBLED as error:
        raise ModelError(
            f"{path}: cut off or damaged ({shorten(error)}); download it again"
        ) from error
    if kind:
        raise ModelError(f"{path}: {kind}, no checkpoint; ask its makers for a plain state dict")
    if damaged and len(damaged) < len(names):  # torch can leave all checksums out, but not some
        raise ModelError(f"{path}: damaged: {damaged[0]} is not as it was stored; get it again")


def _name_zip(names: list[str]) -> str | None:
    """What an archive is that torch's `save` has not written; None for one it has."""
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last or any("/code/" in name for name in names):
        return "a TorchScript program"
    if "data.pkl" in last:
        return None
    return (
        "an archive of NumPy arrays (.npz)"
        if names and all(name.endswith(".npy") for name in names)
        else "a ZIP archive"
    )


def _is_whole(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(name) as file:
            while file.read(1 << 20):
                pass
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return False
    return True


def _read_torch(path: Path) -> Checkpoint:
    try:
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(action="ignore"),  # torch's, about what is refused or read
        ):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: holds more than tensors{_name_culprit(error)} and was not opened; "
            "ask its makers for safetensors, or for a plain state dict"
        ) from error
    except _GARBLED as error:
        raise ModelError(f"{path}: not a readable checkpoint ({shorten(error)})") from error
    if not isinstance(checkpoint, Mapping):
        raise ModelError(f"{path}: holds a {type(checkpoint).__name__}, no state dict")
    return checkpoint


def _name_culprit(error: Exception) -> str:
    """The name of what a pickle would call, as torch's message has it."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f" ({found[1]})" if found else ""


def shorten(error: Exception) -> str:
    """Another library's message as one line of some words."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def backbone_state(
    checkpoint: Checkpoint, which: Which | None = None, *, where: Path
) -> dict[str, Tensor]:
    """Take the backbone's tensors out of a checkpoint, without prefixes and head.

    Args:
        checkpoint: With `teacher` and `student` (facebookresearch/dino and ours), `state_dict` or
            `model`, or a bare state dict. Another network beside it (averaged weights, say) is told.
        which: The network of a student-teacher checkpoint; the teacher unless it is `student`.
        where: The file, for messages.

    Raises:
        ModelError: No such network is in it, nothing in it is a tensor, or its tensors are no
            weights: integers, not all numbers, or two of them under one name.
    """
    key, state = _choose_network(checkpoint, which, where)
    _tell_others(checkpoint, key, where)
    tensors = {str(name): each for name, each in state.items() if isinstance(each, Tensor)}
    kept: dict[str, str] = {}
    for name in tensors:
        plain = _strip(name)
        if plain.startswith(_HEADS):
            continue
        if plain in kept:
            raise ModelError(
                f"{where}: {kept[plain]} and {name} are both {plain}; keep one of them"
            )
        kept[plain] = name
    if not kept:
        found = ", ".join(str(name) for name in list(state)[:5]) or "nothing"
        raise ModelError(f"{where}: no tensors of a backbone; found {found}")
    return {plain: _check_weights(tensors[name], name, where) for plain, name in kept.items()}


def _choose_network(
    checkpoint: Checkpoint, which: Which | None, where: Path
) -> tuple[str | None, Mapping[Any, object]]:
    """The key of the network that is meant, and what lies under it; None for a bare state dict."""
    if "teacher" in checkpoint or "student" in checkpoint:
        name: str = which or "teacher"
        if name not in checkpoint:
            other = "student" if name == "teacher" else "teacher"
            raise ModelError(f"{where}: holds no {name}; --network {other} takes the {other}")
        return name, _check_mapping(checkpoint[name], name, where)
    if which == "student":
        raise ModelError(f"{where}: is no student-teacher checkpoint; leave --network out")
    key = next((key for key in _INNER if key in checkpoint), None)
    return key, _check_mapping(checkpoint[key], key, where) if key else checkpoint


def _check_mapping(value: object, key: str, where: Path) -> Mapping[Any, object]:
    if isinstance(value, Mapping):
        return value
    kind = "nothing" if value is None else f"a {type(value).__name__}"
    raise ModelError(f"{where}: under {key!r} stands {kind}, no state dict")


def _tell_others(checkpoint: Checkpoint, taken: str | None, where: Path) -> None:
    """Name every other network in the file that nobody has asked for."""
    known = {taken} | ({"teacher", "student"} if taken in ("teacher", "student") else set())
    others = [str(key) for key, value in checkpoint.items() if key not in known]
    others = [key for key in others if taken and _holds_backbone(checkpoint.get(key))]
    if others:
        say(
            f"{where}: {taken} is taken, {', '.join(others)} beside it left out; "
            "save the other network alone to export that one"
        )


def _holds_backbone(value: object, depth: int = 2) -> bool:
    if not isinstance(value, Mapping):
        return False
    if any(_strip(str(name)) == _PATCHES for name in value):
        return True
    return depth > 0 and any(_holds_backbone(inner, depth - 1) for inner in value.values())


def _strip(name: str) -> str:
    while (wrapper := next((w for w in _WRAPPERS if name.startswith(w)), None)) is not None:
        name = name.removeprefix(wrapper)
    return name


def _check_weights(tensor: Tensor, name: str, where: Path) -> Tensor:
    """Refuse what a network would take for other weights than it is."""
    if not tensor.is_floating_point() or tensor.is_quantized:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(f"{where}: {name} is of {kind}: quantised weights; export those in floats")
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise ModelError(f"{where}: {name} holds no values of its own; save it as a plain tensor")
    return tensor


def refuse_nan(state: State, where: Path, fix: str) -> None:
    """Refuse weights that are not all finite numbers.

    Raises:
        ModelError: Naming the first tensor, and what to do.
    """
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{where}: {name} holds NaN or infinity; {fix}")


def name_texts(checkpoint: Checkpoint) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Yield what a file says its network is called: where, the name, and what stands beside it.

    `args` is of argparse (facebookresearch/dino, timm), `hyper_parameters` of Lightning, `arch` of
    timm's trainer.
    """
    for key in ("args", "hyper_parameters", "config"):
        inner = checkpoint.get(key)
        beside = vars(inner) if isinstance(inner, argparse.Namespace) else inner
        if isinstance(beside, Mapping):
            for name in ("arch", "architecture", "model", "model_name"):
                if isinstance(text := beside.get(name), str):
                    yield f"{key}.{name}", text, beside
    for key in ("architecture", "arch"):
        if isinstance(text := checkpoint.get(key), str):
            yield key, text, {}
