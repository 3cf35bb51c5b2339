"""Processes that train together: who each is, how they talk, and what they add up."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from tilezoo.errors import OptionError

Backend = Literal["smddp", "nccl", "gloo"]
BackendWish = Literal["auto", "smddp", "nccl", "gloo"]
_PATIENCE = timedelta(hours=2)  # the first process may pack tiles while the others wait
# What SageMaker's launchers set for its data-parallel library (SMDDP).
_SMDDP_FLAGS = ("SMDATAPARALLEL_USE_SINGLENODE", "SMDATAPARALLEL_USE_HOMOGENEOUS")
_SMDDP_PARAMETER = "sagemaker_distributed_dataparallel_enabled"
# Rank, processes and local rank, by torchrun and by Open MPI.
_RANK_NAMES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: Its number.
        size: How many there are.
        local_rank: Its number on its host, which is its GPU's.
        backend: How they talk; None for a process alone.
    """

    rank: int
    size: int
    local_rank: int
    backend: Backend | None

    @property
    def first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0


def find_world(wish: BackendWish, environment: Mapping[str, str], *, cuda: bool) -> World:
    """Read from the environment who this process is, under torchrun, mpirun or alone.

    Raises:
        OptionError: The backend asked for by name is not to be had.
    """
    rank, size, local_rank = _ranks(environment)
    backend = _backend(wish, environment, cuda=cuda)
    if wish == "smddp" and size == 1:
        raise OptionError("--backend smddp: one process alone; SMDDP is started by mpirun")
    return World(rank=rank, size=size, local_rank=local_rank, backend=backend if size > 1 else None)


def _ranks(environment: Mapping[str, str]) -> tuple[int, int, int]:
    for names in _RANK_NAMES:
        if names[0] in environment and names[1] in environment:
            rank, size, local = (int(environment.get(name, 0)) for name in names)
            return rank, size, local
    return 0, 1, 0


def _backend(wish: BackendWish, environment: Mapping[str, str], *, cuda: bool) -> Backend:
    if wish == "smddp" and find_spec("smdistributed") is None:
        raise OptionError(
            "--backend smddp: smdistributed is not installed here; it comes with SageMaker's "
            "PyTorch containers up to 2.5 only: take --backend nccl"
        )
    if wish == "nccl" and not cuda:
        raise OptionError("--backend nccl needs CUDA GPUs; take --backend gloo")
    if wish != "auto":
        return wish
    if _smddp_is_meant(environment):
        return "smddp"
    return "nccl" if cuda else "gloo"


def _smddp_is_meant(environment: Mapping[str, str]) -> bool:
    """Tell whether SageMaker started this process for SMDDP, by any of its launchers."""
    if find_spec("smdistributed") is None:
        return False
    try:
        parameters = json.loads(environment.get("SM_FRAMEWORK_PARAMS") or "{}")
    except ValueError:
        parameters = {}
    stated = parameters.get(_SMDDP_PARAMETER) if isinstance(parameters, dict) else None
    flagged = any(environment.get(name) for name in _SMDDP_FLAGS)
    return flagged or str(stated).lower() == "true"


@contextmanager
def together(world: World) -> Iterator[None]:
    """Join the process group for the block; nothing for a process alone."""
    if world.backend is None:
        yield
        return
    if world.backend == "smddp":
        import_module("smdistributed.dataparallel.torch.torch_smddp")  # registers the backend
    host = os.environ.get("SM_MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_ADDR", host)
    os.environ.setdefault("MASTER_PORT", os.environ.get("SM_MASTER_PORT", "29500"))
    os.environ |= {"RANK": str(world.rank), "WORLD_SIZE": str(world.size)}
    dist.init_process_group(world.backend, timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait_for_all(world: World) -> None:
    """Go on only when every process has come here."""
    if world.backend is not None:
        dist.barrier()


def summed(values: Tensor, world: World) -> Tensor:
    """Add up a tensor over all processes, in place."""
    if world.backend is not None:
        dist.all_reduce(values)
    return values


def training_device(wish: str, world: World) -> torch.device:
    """Choose the device of this process: its own GPU where there is one.

    Raises:
        OptionError: No such device.
    """
    if wish == "auto":
        wish = f"cuda:{world.local_rank}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wish)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"--device {wish} is not to be had here; try --device auto") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
