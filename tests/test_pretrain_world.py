"""Who a process is, and how processes talk, by what their launchers leave in the environment."""

import json
import sys
from pathlib import Path

import pytest

from tilezoo.errors import OptionError
from tilezoo.pretrain.distributed import World, find_world

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "16",
    "OMPI_COMM_WORLD_LOCAL_RANK": "5",
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
    assert find_world("auto", environment, cuda=True).backend == "nccl"


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
