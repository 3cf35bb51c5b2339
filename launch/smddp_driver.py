"""Start a job's processes by mpirun and smddprun, as SageMaker's data-parallel library asks.

The SDK ships no such driver: its MPI driver neither starts smddprun nor more processes than one host
holds. The words are those of the containers' own toolkit (aws/sagemaker-training-toolkit 5.1.4,
src/sagemaker_training/smdataparallel.py, class SMDataParallelRunner). Runs in the container.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_PORT = 7592  # where SMDDP's servers meet, by the toolkit
_SSH_PORT = 22
_PATIENCE_S = 3600.0  # for the other hosts to come up, by the toolkit
_LOOK_EVERY_S = 5.0
_DONE = Path("/tmp/tilezoo-done")  # on a host of the job's own
# What is so on one host alone.
_OF_HOST = (
    "_",
    "HOME",
    "HOSTNAME",
    "OLDPWD",
    "PWD",
    "SHLVL",
    "SM_CURRENT_HOST",
    "SM_CURRENT_HOST_RANK",
)
_OF_MPI = ("OMPI_", "PMIX_", "BASH_FUNC_")
# Open MPI kills a second after SIGTERM unless told otherwise; a checkpoint takes longer.
_GRACE_S = 100


def run(passed_on: Callable[[list[str]], int]) -> int:
    """Run the job on all hosts from the first one; the others wait for its end.

    Args:
        passed_on: Runs a command, handing SIGTERM on to it; gives its exit code.
    """
    hosts: list[str] = json.loads(os.environ["SM_HOSTS"])
    first, here = hosts[0], os.environ["SM_CURRENT_HOST"]
    _DONE.unlink(missing_ok=True)  # of a job before, on a host that was kept alive
    _start_sshd()
    others = [host for host in hosts if host != first]
    if here != first:
        return _wait_for_end(first)
    for host in others:
        _wait_for(host)
    utils = importlib.import_module("common.utils")  # shipped beside this file by the SDK
    processes = utils.get_process_count(_asked_processes())
    arguments = utils.hyperparameters_to_cli_args(json.loads(os.environ["SM_HPS"]))
    script = [sys.executable, "-m", "mpi4py", os.environ["SM_ENTRY_SCRIPT"], *arguments]
    instance = os.environ["SM_CURRENT_INSTANCE_TYPE"]
    words = mpirun_words(
        hosts,
        processes,
        interface=os.environ.get("SM_NETWORK_INTERFACE_NAME", "eth0"),
        instance=instance,
        simple_protocol=instance in utils.SM_EFA_NCCL_INSTANCES,
        device_rdma=instance in utils.SM_EFA_RDMA_INSTANCES,
        environment=os.environ,
    )
    try:
        return passed_on([*words, "smddprun", *script])
    finally:
        for host in others:
            _on(host, ["touch", str(_DONE)])


def mpirun_words(
    hosts: list[str],
    processes: int,
    *,
    interface: str,
    instance: str,
    simple_protocol: bool,
    device_rdma: bool,
    environment: Mapping[str, str],
) -> list[str]:
    """Write the mpirun command up to the program it runs.

    Args:
        hosts: Of the job, the first one first.
        processes: On each host.
        interface: Of the network between the hosts.
        instance: SageMaker's name of the hosts' type.
        simple_protocol: NCCL's simple protocol, for EFA's order of packets.
        device_rdma: EFA's remote access to memory.
        environment: Handed to every process, but what is a host's own.
    """
    settings = [
        ("btl_tcp_if_include", interface),
        ("oob_tcp_if_include", interface),
        ("plm_rsh_no_tree_spawn", "1"),
        ("pml", "ob1"),
        ("btl", "^openib"),
        ("orte_abort_on_non_zero_status", "1"),
        ("btl_vader_single_copy_mechanism", "none"),
        ("plm_rsh_num_concurrent", str(len(hosts))),
        ("odls_base_sigkill_timeout", str(_GRACE_S)),
    ]
    exports = [f"NCCL_SOCKET_IFNAME={interface}", *_smddp_exports(hosts, instance)]
    exports += ["FI_PROVIDER=efa", "RDMAV_FORK_SAFE=1"]
    exports += ["NCCL_PROTO=simple"] if simple_protocol else []
    exports += ["FI_EFA_USE_DEVICE_RDMA=1"] if device_rdma else []
    set_here = {word.partition("=")[0] for word in exports}
    exports += sorted(name for name in environment if _is_handed_on(name) and name not in set_here)
    return [
        *("mpirun", "--host", ",".join(f"{host}:{processes}" for host in hosts)),
        *("-np", str(len(hosts) * processes)),
        *("--allow-run-as-root", "--tag-output", "--oversubscribe"),
        *(word for name, value in settings for word in ("-mca", name, value)),
        *(word for name in exports for word in ("-x", name)),
    ]


def _smddp_exports(hosts: list[str], instance: str) -> list[str]:
    if len(hosts) == 1:
        return ["SMDATAPARALLEL_USE_SINGLENODE=1"]
    return [
        "SMDATAPARALLEL_USE_HOMOGENEOUS=1",
        f"SMDATAPARALLEL_SERVER_ADDR={hosts[0]}",
        f"SMDATAPARALLEL_SERVER_PORT={_PORT}",
        f"SAGEMAKER_INSTANCE_TYPE={instance}",
    ]


def _is_handed_on(name: str) -> bool:
    """Tell what a process on another host has to know: ssh gives it nothing of this one's."""
    return name.isidentifier() and name not in _OF_HOST and not name.startswith(_OF_MPI)


def _asked_processes() -> int:
    asked = json.loads(os.environ["SM_DISTRIBUTED_CONFIG"]).get("process_count_per_node")
    return int(asked or 0)


def _start_sshd() -> None:
    Path("/var/run/sshd").mkdir(parents=True, exist_ok=True)
    subprocess.Popen(["/usr/sbin/sshd", "-D"])


def _wait_for(host: str) -> None:
    """Wait until a host lets us in."""
    until = time.monotonic() + _PATIENCE_S
    while not _on(host, ["true"]):
        if time.monotonic() > until:
            raise SystemExit(
                f"host {host} cannot be reached by ssh; is the network open between hosts?"
            )
        time.sleep(_LOOK_EVERY_S)


def _wait_for_end(first: str) -> int:
    """Wait until the first host is done, or gone."""
    seen = False
    while not _DONE.exists():
        reachable = _listens(first)
        if seen and not reachable:
            print(f"host {first} is gone: this one ends too", flush=True)
            return 0
        seen = seen or reachable
        time.sleep(_LOOK_EVERY_S)
    return 0


def _listens(host: str) -> bool:
    try:
        socket.create_connection((host, _SSH_PORT), timeout=10).close()
    except OSError:
        return False
    return True


def _on(host: str, words: list[str]) -> bool:
    """Run a few words on another host; whether that went well."""
    ssh = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", host]
    return subprocess.run([*ssh, *words], capture_output=True, check=False).returncode == 0
