"""Start the processes of a job in its container, and hand SIGTERM on to them.

The SDK's start script is a shell, which as the container's first process would keep SIGTERM (a spot
instance is reclaimed, a job is stopped) to itself. It puts this program in its place by `exec`.
Standard library only: it runs before anything is installed, and without the package.

torchrun and mpirun are passed over: on SIGTERM the one gives its processes 30 seconds and fails, the
other one second, while a process of ours that is asked itself leaves a checkpoint and ends well.

For SMDDP, SageMaker's data-parallel library, the SDK ships no driver: its MPI driver neither starts
smddprun nor more processes than one host holds. Where a copy of this file lies among the SDK's
drivers (`smddp_config` in sdk.py puts it there), the words are those of the containers' own toolkit
(aws/sagemaker-training-toolkit 5.1.4, src/sagemaker_training/smdataparallel.py, class
SMDataParallelRunner).
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

SMDDP_DRIVER = "smddp_driver.py"  # a copy of this file by that name asks for SMDDP
_FAILURE = Path("/opt/ml/output/failure")
# Where each process of the job puts a file called by its number, while it can be asked to stop.
_PROCESSES = Path(tempfile.gettempdir()) / "tilezoo-job"
_PORT = 7592  # where SMDDP's servers meet, by the toolkit
_SSH_PORT = 22
_PATIENCE_S = 3600.0  # for the other hosts to come up, by the toolkit
_LOOK_EVERY_S = 5.0
_DONE = Path("/tmp/tilezoo-done")  # on a host of the job's own
# What is so on one host alone.
_OF_HOST = (
    "_", "HOME", "HOSTNAME", "OLDPWD", "PWD", "SHLVL", "SM_CURRENT_HOST", "SM_CURRENT_HOST_RANK",
)  # fmt: skip
_OF_MPI = ("OMPI_", "PMIX_", "BASH_FUNC_")
# Open MPI kills a second after SIGTERM unless told otherwise; a checkpoint takes longer.
_GRACE_S = 100


def main() -> int:
    """Run the job's command as its distribution asks; returns its exit code."""
    distributed = bool(json.loads(os.environ.get("SM_DISTRIBUTED_CONFIG") or "{}"))
    shipped = Path(os.environ["SM_INPUT_DATA_DIR"]) / "sm_drivers" / "distributed_drivers"
    folder = Path(os.environ["SM_DISTRIBUTED_DRIVER_DIR"]) if distributed else shipped
    sys.path[:0] = [str(folder), str(folder.parent)]
    if (folder / SMDDP_DRIVER).is_file():
        code = run_smddp()
    else:
        driver = importlib.import_module(
            "torchrun_driver" if distributed else "basic_script_driver"
        )
        if distributed:
            driver.setup_env()
        code = run_command(driver.create_commands())
    if code:
        _leave_reason(code)
    return code


def run_command(command: list[str]) -> int:
    """Run a command, hand SIGTERM on to it, and wait for its end; returns its exit code."""
    print("tilezoo starts:", " ".join(command), flush=True)
    child = subprocess.Popen(command)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        # The job's processes on this host that have written down their numbers.
        asked = [int(path.name) for path in _PROCESSES.glob("*")] or [child.pid]
        print(f"asked to stop: handed on to {len(asked)} processes of the job", flush=True)
        for process in asked:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        code = child.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    return code if code >= 0 else 128 - code  # as a shell tells of a signal


def _leave_reason(code: int) -> None:
    """Leave a reason where SageMaker looks for one, unless the job's processes left a better one."""
    if _FAILURE.parent.is_dir() and not _FAILURE.exists():
        _FAILURE.write_text(f"the job's command ended with exit code {code}; see its log\n")


def run_smddp() -> int:
    """Run the job on all hosts from the first one; the others wait for its end."""
    hosts: list[str] = json.loads(os.environ["SM_HOSTS"])
    first, here = hosts[0], os.environ["SM_CURRENT_HOST"]
    _DONE.unlink(missing_ok=True)  # of a job before, on a host that was kept alive
    _start_sshd()
    others = [host for host in hosts if host != first]
    if here != first:
        return _wait_for_end(first)
    for host in others:
        _wait_for(host)
    utils = importlib.import_module("common.utils")  # the SDK's, beside its drivers
    config = json.loads(os.environ["SM_DISTRIBUTED_CONFIG"])
    arguments = utils.hyperparameters_to_cli_args(json.loads(os.environ["SM_HPS"]))
    script = [sys.executable, "-m", "mpi4py", os.environ["SM_ENTRY_SCRIPT"], *arguments]
    instance = os.environ["SM_CURRENT_INSTANCE_TYPE"]
    words = mpirun_words(
        hosts,
        utils.get_process_count(int(config.get("process_count_per_node") or 0)),
        interface=os.environ.get("SM_NETWORK_INTERFACE_NAME", "eth0"),
        instance=instance,
        simple_protocol=instance in utils.SM_EFA_NCCL_INSTANCES,
        device_rdma=instance in utils.SM_EFA_RDMA_INSTANCES,
        environment=os.environ,
    )
    try:
        return run_command([*words, "smddprun", *script])
    finally:
        for host in others:
            _run_on(host, ["touch", str(_DONE)])


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
        *(w for name, value in _mpi_settings(interface, len(hosts)) for w in ("-mca", name, value)),
        *(word for name in exports for word in ("-x", name)),
    ]


def _mpi_settings(interface: str, hosts: int) -> list[tuple[str, str]]:
    return [
        ("btl_tcp_if_include", interface),
        ("oob_tcp_if_include", interface),
        ("plm_rsh_no_tree_spawn", "1"),
        ("pml", "ob1"),
        ("btl", "^openib"),
        ("orte_abort_on_non_zero_status", "1"),
        ("btl_vader_single_copy_mechanism", "none"),
        ("plm_rsh_num_concurrent", str(hosts)),
        ("odls_base_sigkill_timeout", str(_GRACE_S)),
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
    """Whether a process on another host has to know it: ssh gives it nothing of this one's."""
    return name.isidentifier() and name not in _OF_HOST and not name.startswith(_OF_MPI)


def _start_sshd() -> None:
    Path("/var/run/sshd").mkdir(parents=True, exist_ok=True)
    subprocess.Popen(["/usr/sbin/sshd", "-D"])


def _wait_for(host: str) -> None:
    """Wait until a host lets us in."""
    until = time.monotonic() + _PATIENCE_S
    while not _run_on(host, ["true"]):
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


def _run_on(host: str, words: list[str]) -> bool:
    """Run a few words on another host; whether that went well."""
    ssh = ["ssh", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", host]
    return subprocess.run([*ssh, *words], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
