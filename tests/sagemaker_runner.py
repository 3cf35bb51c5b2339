"""Runs a training job on this machine as SageMaker does, from its request and what lies in S3.

A container is Linux namespaces: its own /opt/ml, host name, names of the other hosts and first
process, which like every first process is told of no signal that it has no handler for. There is no
image: the programs are this environment's. What a container gets, and what is made of what it leaves:
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
from filelock import FileLock

Request = Mapping[str, Any]
ML = Path("/opt/ml")
_SYNC_EVERY_S = 0.3
_LOOK_EVERY_S = 0.05
# Inside the new namespaces, before the container's first process takes this shell's place.
_ENTER = """
while read -r here there; do mount --bind "$here" "$there" || exit 99; done <<< "$RUNNER_MOUNTS"
hostname "$RUNNER_NAME" && unset RUNNER_MOUNTS RUNNER_NAME && cd / && exec "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Host:
    """One machine of a job.

    Attributes:
        name: As the others know it.
        address: On loopback.
        ml: What the container sees as /opt/ml.
    """

    name: str
    address: str
    ml: Path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a job came to.

    Attributes:
        codes: Exit code of each container.
        logs: What each container printed.
        failure: The reason that SageMaker shows.
        seconds: From SIGTERM to the end; None when nobody stopped it.
    """

    codes: tuple[int, ...]
    logs: tuple[str, ...]
    failure: str
    seconds: float | None

    @property
    def log(self) -> str:
        return "\n".join(self.logs)


def run_job(
    request: Request,
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    contained: bool = True,
    mounts: Callable[[Host], Mapping[Path, Path]] = lambda _host: {},
    stop: Callable[[Sequence[Host]], bool] | None = None,
    grace_s: float = 120.0,
    limit_s: float = 300.0,
) -> Ended:
    """Run a job to its end.

    Args:
        request: Of CreateTrainingJob, as DescribeTrainingJob gives it back.
        folder: For the hosts' files.
        environment: Of the containers, besides the request's.
        contained: In namespaces; else as plain processes with SAGEMAKER_BASE_DIR and hosts that are
            called 127.0.0.1 and 127.0.0.2, which the toolkit can but the SDK's drivers cannot do.
        mounts: More of what a container sees of its own: file or folder here → there.
        stop: Looked at while it runs: when true, the job is asked to stop, as for a spot instance.
        grace_s: From SIGTERM to SIGKILL.
        limit_s: Of the whole, after which it is killed.
    """
    hosts = _hosts(request, folder, contained=contained)
    for host in hosts:
        _stage(request, host, hosts)
    with ExitStack() as stack:
        more = [mounts(host) for host in hosts]
        if contained:
            stack.enter_context(
                _mount_points([ML, *(there for one in more for there in one.values())])
            )
        running = [
            _start(request, host, hosts, environment or {}, mounted, contained=contained)
            for host, mounted in zip(hosts, more, strict=True)
        ]
        for host in hosts:
            stack.enter_context(_checkpoints_synced(request, host))
        seconds = _wait(running, hosts, stop, grace_s, limit_s, contained=contained)
    _upload_results(request, hosts)
    return Ended(
        codes=tuple(process.returncode for process in running),
        logs=tuple(_log(host).read_text(errors="replace") for host in hosts),
        failure=_failure(hosts),
        seconds=seconds,
    )


def as_toolkit_job(request: Request, folder: Path, *, processes: int = 1) -> dict[str, Any]:
    """Turn a job of the SDK's drivers into one that the container's own toolkit runs.

    This is what an Estimator of the SDK's second major version asks for: the same source and the
    same hyperparameters, and `train` as the container's command.
    """
    channels = {channel["ChannelName"]: channel for channel in request["InputDataConfig"]}
    _download(_source(channels.pop("code")), folder / "code")
    channels.pop("sm_drivers", None)
    code = request["OutputDataConfig"]["S3OutputPath"] + "/source/sourcedir.tar.gz"
    _upload(code, _tar(folder / "code"))
    stated = {
        "sagemaker_program": "tilezoo_job.py",
        "sagemaker_submit_directory": code,
        "sagemaker_container_log_level": 20,
        "sagemaker_job_name": request["TrainingJobName"],
        "sagemaker_region": os.environ["AWS_DEFAULT_REGION"],
        "sagemaker_instance_type": request["ResourceConfig"]["InstanceType"],
    }
    if processes > 1 or request["ResourceConfig"]["InstanceCount"] > 1:
        stated |= {
            "sagemaker_torch_distributed_enabled": True,
            "sagemaker_mpi_num_of_processes_per_host": processes,
        }
    return {
        **request,
        "InputDataConfig": list(channels.values()),
        "HyperParameters": {
            **request["HyperParameters"],
            **{name: json.dumps(value) for name, value in stated.items()},
        },
        "AlgorithmSpecification": {"ContainerEntrypoint": ["train"], "ContainerArguments": []},
    }


@cache
def no_containers() -> str:
    """Say why namespaces cannot be had here; nothing when they can."""
    if shutil.which("unshare") is None:
        return "no `unshare` here (util-linux)"
    if not ML.is_dir() and not os.access(ML.parent, os.W_OK):
        return f"{ML} is not there and cannot be made: run as root, or make it once"
    with _mount_points([ML]):
        script = f"mount --bind {ML} {ML} && hostname x"
        tried = subprocess.run(
            [*_unshare(), "bash", "-c", script], capture_output=True, text=True, check=False
        )
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


def list_s3(uri: str) -> list[str]:
    """List the keys under a URI, relative to it."""
    bucket, prefix = _split(uri)
    pages = _s3().get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for page in found for item in page.get("Contents", ())]
    return [key.removeprefix(prefix).lstrip("/") for key in keys]


def fetch_s3(uri: str, folder: Path) -> Path:
    """Bring what lies under a URI into a folder."""
    _download(uri, folder)
    return folder


def _hosts(request: Request, folder: Path, *, contained: bool) -> list[Host]:
    numbers = range(1, request["ResourceConfig"]["InstanceCount"] + 1)
    addresses = [f"127.0.0.{number}" for number in numbers]
    names = [f"algo-{number}" for number in numbers] if contained else addresses
    return [
        Host(name=name, address=address, ml=folder / name / "ml")
        for name, address in zip(names, addresses, strict=True)
    ]


def _stage(request: Request, host: Host, hosts: Sequence[Host]) -> None:
    """Lay out /opt/ml as a container finds it."""
    for part in ("input/config", "input/data", "model", "output/data", "checkpoints"):
        (host.ml / part).mkdir(parents=True)
    resources = {
        "current_host": host.name,
        "current_instance_type": request["ResourceConfig"]["InstanceType"],
        "current_group_name": "homogeneousCluster",
        "hosts": [other.name for other in hosts],
        "instance_groups": [
            {
                "instance_group_name": "homogeneousCluster",
                "instance_type": request["ResourceConfig"]["InstanceType"],
                "hosts": [other.name for other in hosts],
            }
        ],
        "network_interface_name": "lo",
    }
    channels = {channel["ChannelName"]: channel for channel in request["InputDataConfig"]}
    for name, value in (
        ("hyperparameters", request["HyperParameters"]),
        ("resourceconfig", resources),
        ("inputdataconfig", {name: _channel_facts(found) for name, found in channels.items()}),
    ):
        (host.ml / "input" / "config" / f"{name}.json").write_text(json.dumps(value))
    for name, channel in channels.items():
        _download(_source(channel), host.ml / "input" / "data" / name)
    if checkpoints := request.get("CheckpointConfig"):
        _download(checkpoints["S3Uri"], host.ml / "checkpoints")


def _channel_facts(channel: Mapping[str, Any]) -> dict[str, str]:
    return {
        "TrainingInputMode": channel.get("InputMode", "File"),
        "S3DistributionType": "FullyReplicated",
        "RecordWrapperType": "None",
    }


def _source(channel: Mapping[str, Any]) -> str:
    source = channel["DataSource"]["S3DataSource"]
    assert source["S3DataType"] == "S3Prefix"
    assert source.get("S3DataDistributionType", "FullyReplicated") == "FullyReplicated"
    return str(source["S3Uri"])


def _start(
    request: Request,
    host: Host,
    hosts: Sequence[Host],
    stated: Mapping[str, str],
    mounts: Mapping[Path, Path],
    *,
    contained: bool,
) -> "subprocess.Popen[bytes]":
    """Start a host's container."""
    how = request["AlgorithmSpecification"]
    words = [*how["ContainerEntrypoint"], *how.get("ContainerArguments", ())]
    environment = _environment(request, host) | dict(stated)
    if contained:
        names = host.ml.parent / "etc-hosts"
        lines = [f"{other.address} {other.name}\n" for other in hosts]
        names.write_text("127.0.0.1 localhost\n" + "".join(lines))
        mounted = {host.ml: ML, names: Path("/etc/hosts"), **mounts}
        environment["RUNNER_MOUNTS"] = "\n".join(
            f"{here} {there}" for here, there in mounted.items()
        )
        environment["RUNNER_NAME"] = host.name
        words = [*_unshare(), "bash", "-c", _ENTER, "container", *words]
    else:
        environment["SAGEMAKER_BASE_DIR"] = str(host.ml)
    with _log(host).open("wb") as log:
        return subprocess.Popen(
            words, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def _unshare() -> list[str]:
    """A container goes with its first process, and that with this one."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    kinds = ["--mount", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"]
    return ["unshare", *user, *kinds]


def _environment(request: Request, host: Host) -> dict[str, str]:
    """What a container's processes find: SageMaker's variables, and this machine's way to S3."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("AWS_", "PIP_")) or name in ("HOME", "LANG")
    }
    temporary = host.ml.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        **kept,
        **request["Environment"],
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "TRAINING_JOB_NAME": request["TrainingJobName"],
        "TRAINING_JOB_ARN": request["TrainingJobArn"],
        "AWS_REGION": os.environ["AWS_DEFAULT_REGION"],
        "CURRENT_HOST": host.name,
        # of the toolkit's containers; the SDK's drivers do not look at it
        "SAGEMAKER_TRAINING_MODULE": "sagemaker_pytorch_container.training:main",
        "OMP_NUM_THREADS": "1",  # two cores are shared by all processes of all hosts
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONUNBUFFERED": "1",  # as SageMaker's containers have it
    }


@contextmanager
def _mount_points(places: Sequence[Path]) -> Iterator[None]:
    """Have folders to mount on; what is made for that is removed.

    One job at a time on this machine: another's folder would be taken away under its mount.
    """
    with FileLock(Path(tempfile.gettempdir()) / "tilezoo-mount-points.lock"):
        made = [place for place in dict.fromkeys(places) if not place.exists()]
        for place in made:
            place.mkdir()
        try:
            yield
        finally:
            for place in made:
                place.rmdir()


def _wait(
    running: Sequence["subprocess.Popen[bytes]"],
    hosts: Sequence[Host],
    stop: Callable[[Sequence[Host]], bool] | None,
    grace_s: float,
    limit_s: float,
    *,
    contained: bool,
) -> float | None:
    """Wait for all containers, stop them when it is time; returns how long that took."""
    end, asked = time.monotonic() + limit_s, None
    while any(process.poll() is None for process in running):
        now = time.monotonic()
        if asked is None and stop is not None and stop(hosts):
            asked, end = now, now + grace_s
            for process in running:
                _ask_to_stop(process, contained=contained)
        if now > end:
            for process in running:
                _kill(process)
        time.sleep(_LOOK_EVERY_S)
    return None if asked is None else time.monotonic() - asked


def _ask_to_stop(process: "subprocess.Popen[bytes]", *, contained: bool) -> None:
    """Send SIGTERM to a container's first process, which without a handler never hears of it."""
    first = process.pid
    if contained:
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        first = int(children[0])
    status = Path(f"/proc/{first}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt"))
    if caught >> 14 & 1:
        os.kill(first, 15)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, 9)  # its namespaces' other processes go with it
        process.wait()


@contextmanager
def _checkpoints_synced(request: Request, host: Host) -> Iterator[None]:
    """Copy what changes under /opt/ml/checkpoints to S3 while the block runs, and at its end."""
    config = request.get("CheckpointConfig")
    if not config:
        yield
        return
    folder, over = host.ml / "checkpoints", threading.Event()
    seen = dict(_states(folder))

    def sync() -> None:
        for path, state in _states(folder):
            if seen.get(path) != state:
                seen[path] = state
                uri = f"{config['S3Uri'].rstrip('/')}/{path.relative_to(folder)}"
                try:
                    _upload(uri, path.read_bytes())
                except FileNotFoundError:  # gone meanwhile
                    continue

    def keep_on() -> None:
        while not over.wait(_SYNC_EVERY_S):
            sync()

    thread = threading.Thread(target=keep_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sync()


def _states(folder: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file():
                found = path.stat()
                yield path, (found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            continue


def _upload_results(request: Request, hosts: Sequence[Host]) -> None:
    """Pack the first host's model and output, and copy its curves, where there are any."""
    root = f"{request['OutputDataConfig']['S3OutputPath'].rstrip('/')}/{request['TrainingJobName']}"
    for name, folder in (("model", "model"), ("output", "output/data")):
        if any((hosts[0].ml / folder).iterdir()):
            _upload(f"{root}/output/{name}.tar.gz", _tar(hosts[0].ml / folder))
    if curves := request.get("TensorBoardOutputConfig"):
        place = hosts[0].ml / Path(curves["LocalPath"]).relative_to(ML)
        to = f"{curves['S3OutputPath'].rstrip('/')}/{request['TrainingJobName']}/tensorboard-output"
        for path, _state in _states(place):
            _upload(f"{to}/{path.relative_to(place)}", path.read_bytes())


def _failure(hosts: Sequence[Host]) -> str:
    files = [host.ml / "output" / "failure" for host in hosts]
    return next((path.read_text()[:1024] for path in files if path.is_file()), "")


def _log(host: Host) -> Path:
    return host.ml.parent / "log"


def _tar(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return packed.getvalue()


def _s3() -> Any:
    return _s3_at(os.environ["AWS_ENDPOINT_URL"])


@cache
def _s3_at(endpoint: str) -> Any:
    return boto3.client("s3", endpoint_url=endpoint)


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _upload(uri: str, body: bytes) -> None:
    bucket, key = _split(uri)
    _s3().put_object(Bucket=bucket, Key=key, Body=body)


def _download(uri: str, folder: Path) -> None:
    """Bring all objects whose keys begin with the URI's, named by what follows, or by their name."""
    bucket, prefix = _split(uri)
    folder.mkdir(parents=True, exist_ok=True)
    for key in list_s3(uri):
        target = folder / (key or Path(prefix).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = f"{prefix.rstrip('/')}/{key}" if key else prefix
        target.write_bytes(_s3().get_object(Bucket=bucket, Key=whole)["Body"].read())
