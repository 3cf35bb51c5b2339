"""Who a process is, and how processes talk, by what their launchers leave in the environment."""

import json
import sys
from pathlib import Path

import pytest

from tilezoo.errors import OptionError
from tilezoo.pretrain.distributed import World, find_master, find_world

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "16",
    "OMPI_COMM_WORLD_LOCAL_RANK": "5",
}
# What each of SageMaker's launchers leaves a process of two hosts with two processes each.
_SDK = {"SM_MASTER_ADDR": "algo-1", "SM_MASTER_PORT": "7777", "SM_CURRENT_HOST": "algo-2"}
_RANKS = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
_OMPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
_SERVER = {"SMDATAPARALLEL_SERVER_ADDR": "algo-1", "SMDATAPARALLEL_USE_HOMOGENEOUS": "1"}
_ADDRESS = {"MASTER_ADDR": "algo-1", "MASTER_PORT": "7777"}
LAUNCHERS = {
    "the toolkit's torch_distributed": {**_RANKS, **_ADDRESS, "SM_FRAMEWORK_PARAMS": "{}"},
    "the SDK's torchrun driver": {**_RANKS, **_ADDRESS, **_SDK, "SM_DISTRIBUTED_CONFIG": "{}"},
    "the SDK's MPI driver": {**_OMPI, **_SDK, "SM_DISTRIBUTED_CONFIG": "{}"},
    "the driver for SMDDP": {**_OMPI, **_SDK, **_SERVER},
    "the toolkit's SMDDP": {**_OMPI, **_SERVER, "MASTER_PORT": "7777"},
    "mpirun alone": {**_OMPI, **_ADDRESS},
    "torchrun alone": {**_RANKS, **_ADDRESS},
}


@pytest.fixture
def smddp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of SMDDP's name: only looked for, never imported, by what is tested here."""
    (tmp_path / "smdistributed").mkdir()
    (tmp_path / "smdistributed" / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "smdistributed", raising=False)


def test_a_process_alone_talks_to_nobody():
    found = find_world("auto", {}, cuda=False)
    assert found == World(rank=0, size=1, local_rank=0, backend=None)
    assert found.first


@pytest.mark.parametrize(("cuda", "backend"), [(True, "nccl"), (False, "gloo")])
def test_under_torchrun_gpus_take_nccl_and_cpus_gloo(cuda, backend):
    found = find_world("auto", TORCHRUN, cuda=cuda)
    assert found == World(rank=3, size=8, local_rank=1, backend=backend)
    assert not found.first


def test_under_mpirun_ranks_are_open_mpis():
    found = find_world("auto", MPIRUN, cuda=True)
    assert found == World(rank=5, size=16, local_rank=5, backend="nccl")


@pytest.mark.parametrize(
    "flags",
    [
        {"SMDATAPARALLEL_USE_SINGLENODE": "1"},
        {"SMDATAPARALLEL_USE_HOMOGENEOUS": "1"},
        {
            "SM_FRAMEWORK_PARAMS": json.dumps(
                {"sagemaker_distributed_dataparallel_enabled": True, "other": 1}
            )
        },
    ],
)
@pytest.mark.usefixtures("smddp")
def test_smddp_is_taken_where_sagemaker_set_it_up(flags):
    assert find_world("auto", MPIRUN | flags, cuda=True).backend == "smddp"


@pytest.mark.parametrize("parameters", ["", "no json", "[1]", "{}"])
@pytest.mark.usefixtures("smddp")
def test_smddp_that_is_only_installed_is_not_taken(parameters):
    environment = MPIRUN | {"SM_FRAMEWORK_PARAMS": parameters}
    assert find_world("auto", environment, cuda=True).backend == "nccl"


def test_smddp_that_is_meant_but_absent_gives_way_to_nccl():
    environment = MPIRUN | {"SMDATAPARALLEL_USE_SINGLENODE": "1"}
    found = find_world("auto", environment, cuda=True)
    assert found.backend == "nccl"
    assert found.smddp_missing


def test_smddp_asked_for_by_name_does_not_give_way():
    with pytest.raises(OptionError, match=r"smdistributed is not installed.*--backend nccl"):
        find_world("smddp", MPIRUN, cuda=True)


@pytest.mark.usefixtures("smddp")
def test_smddp_by_name_needs_a_launcher():
    with pytest.raises(OptionError, match="started by mpirun"):
        find_world("smddp", {}, cuda=True)
    assert find_world("smddp", MPIRUN, cuda=True).backend == "smddp"


def test_nccl_asked_for_by_name_needs_gpus():
    with pytest.raises(OptionError, match=r"needs CUDA GPUs.*gloo"):
        find_world("nccl", TORCHRUN, cuda=False)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_under_every_launcher_a_process_knows_who_it_is_and_whom_to_ask(launcher):
    environment = LAUNCHERS[launcher]
    found = find_world("auto", environment, cuda=False)
    meant = "SMDATAPARALLEL_USE_HOMOGENEOUS" in environment
    assert found == World(rank=3, size=4, local_rank=1, backend="gloo", smddp_missing=meant)
    assert find_master(environment) == ("algo-1", "7777")


@pytest.mark.parametrize("launcher", ["the driver for SMDDP", "the toolkit's SMDDP"])
@pytest.mark.usefixtures("smddp")
def test_under_smddps_launchers_its_backend_is_taken(launcher):
    found = find_world("auto", LAUNCHERS[launcher], cuda=True)
    assert found == World(rank=3, size=4, local_rank=1, backend="smddp")


def test_on_one_host_the_first_process_is_on_loopback():
    alone = {**_OMPI, "OMPI_COMM_WORLD_SIZE": "2"}
    assert find_master(alone) == ("127.0.0.1", "29500")
    assert find_master({}) == ("127.0.0.1", "29500")


def test_several_hosts_without_a_first_one_are_told_before_they_wait_for_it():
    with pytest.raises(OptionError, match="mpirun -x MASTER_ADDR=HOST"):
        find_master(_OMPI)
