"""SMDDP is started by the words of the containers' own toolkit, and by no process of the SDK's."""

import json

from tilezoo.launch.start import mpirun_words


def words(hosts, **environment):
    return mpirun_words(
        hosts, 8, interface="eth0", instance="ml.p4d.24xlarge", simple_protocol=True,
        device_rdma=True, environment={"PATH": "/bin", "PWD": "/", "SM_CURRENT_HOST": "algo-1"}
        | environment,
    )  # fmt: skip


def exports(found):
    return {found[place + 1] for place, word in enumerate(found) if word == "-x"}


def test_every_host_gets_as_many_processes_as_it_has_gpus():
    found = words(["algo-1", "algo-2"])
    assert found[:5] == ["mpirun", "--host", "algo-1:8,algo-2:8", "-np", "16"]


def test_several_hosts_are_told_where_to_meet_and_one_is_not():
    several = exports(words(["algo-1", "algo-2"]))
    assert {
        "SMDATAPARALLEL_USE_HOMOGENEOUS=1", "SMDATAPARALLEL_SERVER_ADDR=algo-1",
        "SMDATAPARALLEL_SERVER_PORT=7592", "SAGEMAKER_INSTANCE_TYPE=ml.p4d.24xlarge",
        "FI_PROVIDER=efa", "FI_EFA_USE_DEVICE_RDMA=1", "NCCL_PROTO=simple", "PATH",
    } <= several  # fmt: skip
    assert "SMDATAPARALLEL_USE_SINGLENODE=1" in exports(words(["algo-1"]))


def test_the_environment_goes_to_every_host_but_for_what_is_a_hosts_own():
    found = exports(words(["algo-1", "algo-2"], OMP_NUM_THREADS="4", OMPI_X="1", FI_PROVIDER="tcp"))
    assert "OMP_NUM_THREADS" in found
    assert not {"PWD", "SM_CURRENT_HOST", "OMPI_X", "FI_PROVIDER"} & found


def test_the_sdk_copies_our_driver_alone(tmp_path):
    from tilezoo.launch.sdk import smddp_config

    made = smddp_config(tmp_path / "driver", processes=8)
    assert [path.name for path in (tmp_path / "driver").iterdir()] == [made.driver_script]
    assert made.driver_dir == str(tmp_path / "driver")
    assert json.loads(made.model_dump_json()) == {"process_count_per_node": 8}
