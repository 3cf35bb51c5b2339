"""A stand-in for SMDDP, which comes with SageMaker's GPU containers only: gloo under its name.

With it the way to SMDDP can be walked: driver, ssh, mpirun, smddprun, registration of the backend.
It shows nothing of the library itself, neither its speed nor that it works.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from sagemaker_runner import Host

_PACKAGES = ("openmpi-bin", "openssh-server")
_BACKEND = """
import torch.distributed as dist

print("STAND-IN backend smddp: gloo under its name, nothing of SMDDP", flush=True)


def _create(store, rank, size, timeout):
    return dist.ProcessGroupGloo(store, rank, size, timeout)


dist.Backend.register_backend("smddp", _create, devices=["cpu", "cuda"])
"""
_RUN = """#!/bin/sh
echo "STAND-IN smddprun on $(hostname)"
exec "$@"
"""


def need_mpirun_and_sshd() -> None:
    """Install Open MPI and sshd where that does no harm; else skip the test, and say why."""
    if os.geteuid() != 0:
        pytest.skip("sshd and /root/.ssh of the containers need root")
    if shutil.which("mpirun") and Path("/usr/sbin/sshd").exists():
        return
    # Where an init system runs, installing openssh-server would open a port on this machine.
    if shutil.which("apt-get") is None or Path("/run/systemd/system").exists():
        pytest.skip(f"no mpirun and sshd here: install {' and '.join(_PACKAGES)}")
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *_PACKAGES]
    quiet = {"capture_output": True, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    if subprocess.run(install, check=False, **quiet).returncode:
        subprocess.run(["apt-get", "update"], check=False, **quiet)
        if subprocess.run(install, check=False, **quiet).returncode:
            pytest.skip(f"{' and '.join(_PACKAGES)} cannot be installed here")


def environment(folder: Path) -> dict[str, str]:
    """Write the stand-in; give what a container needs to find it."""
    package = folder / "standin" / "smdistributed" / "dataparallel" / "torch"
    package.mkdir(parents=True)
    for part in (package, package.parent, package.parent.parent):
        (part / "__init__.py").touch()
    (package / "torch_smddp.py").write_text(_BACKEND)
    program = folder / "standin" / "bin" / "smddprun"
    program.parent.mkdir()
    program.write_text(_RUN)
    program.chmod(0o755)
    python = Path(sys.executable).parent
    path = os.pathsep.join([str(program.parent), str(python), os.environ["PATH"]])
    return {"PATH": path, "PYTHONPATH": str(folder / "standin")}


def write_keys(folder: Path) -> Path:
    """Write what /root/.ssh holds in both containers: ways from one to the other, by a free port."""
    keys = folder / "ssh"
    keys.mkdir(mode=0o700)
    for name in ("id_ed25519", "host_key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)]
        subprocess.run(words, check=True)
    shutil.copyfile(keys / "id_ed25519.pub", keys / "authorized_keys")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (keys / "config").write_text(
        f"Host algo-*\n  Port {port}\n  StrictHostKeyChecking no\n"
        "  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n"
    )
    (keys / "port").write_text(str(port))
    return keys


def mounts(host: Host, keys: Path) -> Mapping[Path, Path]:
    """Say what a container with sshd sees of its own."""
    settings = host.ml.parent / "sshd_config"
    settings.write_text(
        f"ListenAddress {host.address}\nPort {(keys / 'port').read_text()}\n"
        "HostKey /root/.ssh/host_key\nPermitRootLogin yes\nStrictModes no\nUsePAM no\n"
    )
    run = host.ml.parent / "run-sshd"
    run.mkdir()
    return {
        keys: Path("/root/.ssh"),
        settings: Path("/etc/ssh/sshd_config"),
        run: Path("/run/sshd"),
    }
