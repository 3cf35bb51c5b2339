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

from tilezoo.device import choose_device
from tilezoo.errors import OptionError
from tilezoo.pretrain.options import Backend

BackendWish = Literal["auto"] | Backend
_PATIENCE = timedelta(hours=2)  # the first process may pack tiles while the others wait
# What SageMaker's launchers set for its data-parallel library (SMDDP).
_SMDDP_FLAGS = ("SMDATAPARALLEL_USE_SINGLENODE", "SMDATAPARALLEL_USE_HOMOGENEOUS")
_SMDDP_PARAMETER = "sagemaker_distributed_dataparallel_enabled"
# Rank, processes, local rank and processes of this host, by torchrun and by Open MPI.
_RANK_NAMES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
)
# Where the first process listens: by torchrun and the toolkit, by the drivers of SageMaker's SDK, by
# the toolkit for SMDDP.
_MASTER_NAMES = ("MASTER_ADDR", "SM_MASTER_ADDR", "SMDATAPARALLEL_SERVER_ADDR")
_PORT_NAMES = ("MASTER_PORT", "SM_MASTER_PORT")
_PORT = "29500"  # torch's own


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """This process among those that train together.

    Attributes:
        rank: Its number.
        size: How many there are.
        local_rank: Its number on its host, which is its GPU's.
        backend: How they talk; None for a process alone.
        smddp_missing: Whether SageMaker set SMDDP up for them, which is not installed here.
    """

    rank: int
    size: int
    local_rank: int
    backend: Backend | None
    smddp_missing: bool = False

    @property
    def first(self) -> bool:
        """Whether this one writes files and speaks."""
        return self.rank == 0


def find_world(wish: BackendWish, environment: Mapping[str, str], *, cuda: bool) -> World:
    """Read from the environment who this process is, under torchrun, mpirun or alone.

    Raises:
        OptionError: The backend asked for by name is not to be had.
    """
    rank, size, local_rank = _read_ranks(environment)
    backend = _choose_backend(wish, environment, cuda=cuda)
    if wish == "smddp" and size == 1:
        raise OptionError("--backend smddp: one process alone; SMDDP is started by mpirun")
    return World(
        rank=rank,
        size=size,
        local_rank=local_rank,
        backend=backend if size > 1 else None,
        smddp_missing=size > 1 and backend != "smddp" and _smddp_is_set_up(environment),
    )


def find_master(environment: Mapping[str, str]) -> tuple[str, str]:
    """Read from the environment at which address and port the first process listens.

    Raises:
        OptionError: There are several hosts, and none is named.
    """
    port = next((environment[name] for name in _PORT_NAMES if name in environment), _PORT)
    for name in _MASTER_NAMES:
        if environment.get(name):
            return environment[name], port
    for _, size, _, here in _RANK_NAMES:
        if here in environment and environment.get(size) != environment[here]:
            raise OptionError(
                "several hosts, and none of them named as the first: start the processes with "
                "mpirun -x MASTER_ADDR=HOST"
            )
    return "127.0.0.1", port


def _read_ranks(environment: Mapping[str, str]) -> tuple[int, int, int]:
    for names in _RANK_NAMES:
        if names[0] in environment and names[1] in environment:
            rank, size, local, _ = (int(environment.get(name, 0)) for name in names)
            return rank, size, local
    return 0, 1, 0


def _choose_backend(wish: BackendWish, environment: Mapping[str, str], *, cuda: bool) -> Backend:
    if wish == "smddp" and find_spec("smdistributed") is None:
        raise OptionError(
            "--backend smddp: smdistributed is not installed here; it comes with SageMaker's "
            "PyTorch containers up to 2.5 only: take --backend nccl"
        )
    if wish == "nccl" and not cuda:
        raise OptionError("--backend nccl needs CUDA GPUs; take --backend gloo")
    if wish != "auto":
        return wish
    if _smddp_is_set_up(environment) and find_spec("smdistributed") is not None:
        return "smddp"
    return "nccl" if cuda else "gloo"


def _smddp_is_set_up(environment: Mapping[str, str]) -> bool:
    """Whether SageMaker started this process for SMDDP, by any of its launchers."""
    try:
        parameters = json.loads(environment.get("SM_FRAMEWORK_PARAMS") or "{}")
    except ValueError:
        parameters = {}
    stated = parameters.get(_SMDDP_PARAMETER) if isinstance(parameters, dict) else None
    flagged = any(environment.get(name) for name in _SMDDP_FLAGS)
    return flagged or str(stated).lower() == "true"


@contextmanager
def join(world: World) -> Iterator[None]:
    """Join the process group for the block; nothing for a process alone."""
    if world.backend is None:
        yield
        return
    if world.backend == "smddp":
        import_module("smdistributed.dataparallel.torch.torch_smddp")  # registers the backend
    host, port = find_master(os.environ)
    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": port}
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


def add_up(values: Tensor, world: World) -> Tensor:
    """Add up a tensor over all processes, in place."""
    if world.backend is not None:
        dist.all_reduce(values)
    return values


def same_for_all(number: int, world: World, device: torch.device) -> bool:
    """Whether all processes have the same number; all of them learn it."""
    total = add_up(torch.tensor(float(number), device=device), world)
    differs = float(total) != number * world.size
    return float(add_up(torch.tensor(float(differs), device=device), world)) == 0


def choose_own_device(wish: str, world: World) -> torch.device:
    """Choose the device of this process: its own GPU where there is one.

    Raises:
        OptionError: No such device.
    """
    device = choose_device(wish, best=(f"cuda:{world.local_rank}",))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device
