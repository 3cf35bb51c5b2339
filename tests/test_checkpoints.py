"""Files that are handed to export: told as what they are, and nothing in them is passed over."""

import io
import json
import pickle
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import making
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tilezoo.errors import ModelError, TilezooError
from tilezoo.zoo.checkpoints import backbone_state, read_checkpoint
from tilezoo.zoo.exporter import export

HERE = Path("c.pth")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    import timm

    torch.manual_seed(0)
    args = {"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 0}
    return dict(timm.create_model("vit_tiny_patch16_224", **args).state_dict())


def saved(content: object, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def zipped(content: object) -> bytes:
    """torch's archive with one byte of a tensor changed."""
    data = bytearray(saved(content))
    data[len(data) // 2] ^= 255
    return bytes(data)


def arrays() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as inside:
        inside.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


class Box:
    """Of no class that torch knows."""


OTHERS: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "a Git LFS pointer"),
    "annex": (b"/annex/objects/MD5-s1--2", "a git-annex pointer"),
    "html": (b"<!DOCTYPE html><html><head>", "an HTML page"),
    "html, spaces first": (b"\xef\xbb\xbf \n<HTML lang='en'>", "an HTML page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', r"XML.*\(AccessDenied\)"),
    "xml, bare": (b"<Error><Code>NoSuchKey</Code></Error>", r"XML.*\(NoSuchKey\)"),
    "gzip": (archive, "compressed by gzip.*unpack"),
    "json": (b'{"error": "Not found"}', "a JSON text"),
    "index": (
        b'{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}',
        "an index of 2 files of weights",
    ),
    "text": (b"Not Found\n", r"a text \(Not Found…\)"),
    "npz": (arrays, "NumPy arrays"),
    "npy": (b"\x93NUMPY\x01\x00", "a NumPy array"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(64), "bytes of another format"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0", "bytes of another format"),
    "noise": (bytes(range(128, 256)), "more than tensors|not a readable checkpoint"),
    "cut": (lambda: saved({"a": torch.zeros(99)})[:-300], "cut off or damaged"),
    "legacy, cut": (
        lambda: saved({"a": torch.zeros(999)}, _use_new_zipfile_serialization=False)[:-900],
        "not a readable checkpoint",
    ),
    "flipped": (lambda: zipped({"a": torch.zeros(999)}), "damaged: .* is not as it was stored"),
    "numbers": (lambda: saved({"a": np.float64(1)}), r"more than tensors \(numpy.*scalar\)"),
    "paths": (lambda: saved({"a": Path("x")}), r"more than tensors \(pathlib"),
    "pickle": (lambda: pickle.dumps({"a": np.zeros(3)}), "more than tensors"),
    "module": (lambda: saved(torch.nn.Linear(2, 2)), "more than tensors"),
    "list": (lambda: saved([torch.zeros(2)]), "holds a list, no state dict"),
    "tensor": (lambda: saved(torch.zeros(2)), "holds a Tensor, no state dict"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_checkpoint_is_told_as_what_it_is(tmp_path: Path, kind: str) -> None:
    content, said = OTHERS[kind]
    path = tmp_path / "weights.pth"
    path.write_bytes(content if isinstance(content, bytes) else content())
    with pytest.raises(ModelError, match=said) as refused:
        read_checkpoint(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 420


@given(data=st.binary(max_size=300))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_at_all_are_a_traceback(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights.pth"
    for begins in (b"", b"PK\x03\x04", b"\x80\x02", b"\x08" + bytes(7) + b"{"):
        path.write_bytes(begins + data)
        with pytest.raises(ModelError):
            backbone_state(read_checkpoint(path), where=path)


@given(place=st.floats(0, 1), legacy=st.booleans(), value=st.integers(0, 255))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_is_no_traceback(
    tmp_path: Path, place: float, legacy: bool, value: int
) -> None:
    content = {"teacher": {"norm.weight": torch.ones(9)}, "epoch": 3}
    data = bytearray(saved(content, _use_new_zipfile_serialization=not legacy))
    data[int(place * (len(data) - 1))] = value
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    try:
        backbone_state(read_checkpoint(path), where=path)
    except ModelError as error:
        assert "\n" not in str(error)  # noqa: PT017  (whether it raises is the data's)


def test_safetensors_are_read_whatever_they_are_called(
    tmp_path: Path, state: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("weights.pth", "weights.safetensors"):
        save_file(state, tmp_path / name)
        assert read_checkpoint(tmp_path / name).keys() == state.keys()
        told = "is a safetensors file" in capsys.readouterr().err
        assert told == (name == "weights.pth")


def test_older_torch_files_are_read(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    (tmp_path / "c.pth").write_bytes(saved(state, _use_new_zipfile_serialization=False))
    assert read_checkpoint(tmp_path / "c.pth").keys() == state.keys()


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ([], "name a checkpoint's file"),
        (["b.pth"], "name the checkpoint in it, as .*b.pth"),
        (["model.safetensors"], "name the checkpoint in it, as .*model.safetensors"),
        (["model.safetensors", "config.json"], "a model directory needs no export"),
    ],
)
def test_a_folder_is_told_what_is_in_it(tmp_path: Path, inside: list[str], said: str) -> None:
    for name in inside:
        (tmp_path / name).write_text("x")
    with pytest.raises(ModelError, match=f"a folder and no run.*{said}"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        ({"teacher": None}, "under 'teacher' stands nothing"),
        ({"teacher": None, "student": {}}, "under 'teacher' stands nothing"),
        ({"teacher": 3}, "under 'teacher' stands a int"),
        ({"teacher": {}}, "no tensors of a backbone; found nothing"),
        ({"teacher": {"head.mlp.0.weight": torch.zeros(1)}}, "found head.mlp.0.weight"),
        ({"student": {}}, "holds no teacher; --network student"),
        ({"state_dict": None}, "under 'state_dict' stands nothing"),
        ({"model": torch.zeros(2)}, "under 'model' stands a Tensor"),
        ({"model": ["a"]}, "under 'model' stands a list"),
        ({"epoch": 3, "optimizer": {}}, "found epoch, optimizer"),
        ({}, "found nothing"),
        ({3: torch.zeros(1), None: 1}, "'patch_embed.proj.weight' is missing"),
    ],
)
def test_odd_checkpoints_are_refused_in_a_line(
    tmp_path: Path, checkpoint: dict[object, object], said: str
) -> None:
    torch.save(checkpoint, tmp_path / "c.pth")
    with pytest.raises(ModelError, match=said) as refused:
        export(tmp_path / "c.pth", out=tmp_path / "m", contract=making.contract(), heads=1)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "m").exists()


KEYS = st.sampled_from(["teacher", "student", "state_dict", "model", "epoch", "args", "a.b", 7])
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.just(torch.zeros(2, 2)),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)


@given(
    checkpoint=st.dictionaries(KEYS, VALUES, max_size=4), which=st.sampled_from([None, "student"])
)
def test_no_checkpoint_at_all_is_a_traceback(checkpoint: Any, which: Any) -> None:
    try:
        backbone_state(checkpoint, which, where=HERE)
    except TilezooError as error:
        assert "\n" not in str(error)  # noqa: PT017  (whether it raises is the data's)


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema", "averaged"])
@pytest.mark.parametrize("nested", [False, True])
def test_another_network_in_the_file_is_told(
    state: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str], key: str, nested: bool
) -> None:
    other = {f"module.{name}": tensor + 1 for name, tensor in state.items()}
    beside = {"decay": 0.99, "module": OrderedDict(other)} if nested else other
    found = backbone_state({"model": state, key: beside, "optimizer": {"state": {}}}, where=HERE)
    assert torch.equal(found["norm.weight"], state["norm.weight"])
    assert f"model is taken, {key} beside it left out" in capsys.readouterr().err


def test_teacher_and_student_need_no_telling(
    state: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    backbone_state({"teacher": state, "student": state, "optimizer": {}}, where=HERE)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("one", "other"), [("module.", "backbone."), ("", "module.backbone.")])
def test_names_that_become_one_are_refused(
    state: dict[str, torch.Tensor], one: str, other: str
) -> None:
    both = {f"{one}{name}": t for name, t in state.items()}
    both |= {f"{other}{name}": t + 1 for name, t in state.items()}
    with pytest.raises(ModelError, match=rf"{other}cls_token are both cls_token; keep one"):
        backbone_state({"state_dict": both}, where=HERE)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64]
)
def test_weights_that_are_no_floats_are_refused(
    state: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    changed = {**state, "norm.weight": torch.ones(32).to(dtype)}
    with pytest.raises(ModelError, match=r"norm.weight is of \w+: quantised weights"):
        backbone_state(changed, where=HERE)


def test_tensors_without_values_of_their_own_are_refused(state: dict[str, torch.Tensor]) -> None:
    for tensor in (torch.ones(32).to_sparse(), torch.ones(32, device="meta")):
        with pytest.raises(ModelError, match=r"norm\.weight holds no values of its own"):
            backbone_state({**state, "norm.weight": tensor}, where=HERE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(
    tmp_path: Path, state: dict[str, torch.Tensor], value: float
) -> None:
    for name in ("blocks.0.mlp.fc1.weight", "pos_embed", "norm.bias"):
        changed = {**state, name: state[name].clone()}
        changed[name].view(-1)[-1] = value
        torch.save({"teacher": changed}, tmp_path / "c.pth")
        with pytest.raises(ModelError, match=f"{name} holds NaN or infinity; the training"):
            export(tmp_path / "c.pth", out=tmp_path / "m", contract=making.contract(), heads=2)


def test_weights_that_exceed_16_bits_are_not_halved(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    torch.save({**state, "norm.weight": state["norm.weight"] * 1e5}, tmp_path / "c.pth")
    how = {"contract": making.contract(size_px=32, resize_px=32), "heads": 2}
    with pytest.raises(ModelError, match=r"norm\.weight .*leave out --half"):
        export(tmp_path / "c.pth", out=tmp_path / "m", half=True, **how)
    export(tmp_path / "c.pth", out=tmp_path / "m", **how)
    with pytest.raises(ModelError, match="is not empty; choose another -o"):
        export(tmp_path / "c.pth", out=tmp_path / "m", **how)
    for out in (tmp_path / "c.pth", tmp_path / "c.pth" / "inside" / "m"):
        with pytest.raises(ModelError, match="is a file, no folder; choose another -o"):
            export(tmp_path / "c.pth", out=out, **how)
    assert json.loads((tmp_path / "m" / "config.json").read_text())["num_features"] == 32
