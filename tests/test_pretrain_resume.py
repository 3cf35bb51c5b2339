"""Runs that are stopped, killed, out of space, or spread over processes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pretraining import SMALL, STEPS, equal, weights, write_pack

from tilezoo.errors import PretrainError
from tilezoo.pretrain import pretrain
from tilezoo.pretrain.log import read_log

EXACT = [*SMALL, "drop_path=0"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
RUN = """
from tilezoo.cli.app import main
main()
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    finish(shards, out)
    return out


def command(shards: Path, out: Path, *more: str, settings: list[str] | tuple[str, ...] = SMALL):
    words = [sys.executable, "-c", RUN, "pretrain", str(shards), "-o", str(out)]
    for setting in settings:
        words += ["--set", setting]
    return [*words, "--checkpoint-minutes", "0", *more]


def finish(shards: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    """Run to the end, in a process of its own; bits may differ with the number of threads."""
    words = command(shards, out)
    return subprocess.run(words, env=ONE_THREAD, capture_output=True, text=True, check=True)


# One process imports everything, then forks a run each time it reads a line: to be killed, a run
# must not first spend seconds on imports.
FORKS = """
import os, sys
import tilezoo.pretrain.run, torch, timm, timm.models.vision_transformer
import matplotlib.figure, torch.utils.tensorboard
from tilezoo.cli.app import main
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main()
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_the_weights_of_an_undisturbed_run(
    shards, whole, tmp_path
):
    run, chance = tmp_path / "run", random.Random(0)
    words = [sys.executable, "-c", FORKS, *command(shards, run)[3:]]
    with subprocess.Popen(
        words, env=ONE_THREAD, stdin=-1, stdout=-1, text=True, bufsize=1
    ) as forks:
        assert forks.stdin
        assert forks.stdout
        killed = 0
        for _ in range(60):
            forks.stdin.write("run\n")
            child = int(forks.stdout.readline())
            if killed < 10:
                killed += _kill_after_writes(run, child, chance)
            assert forks.stdout.readline() == "ended\n"
            if killed == 10:
                break
        forks.stdin.write("run\n")
        int(forks.stdout.readline())
        assert forks.stdout.readline() == "ended\n"
        forks.stdin.close()
    assert killed == 10
    assert equal(weights(run), weights(whole))
    assert not list(run.rglob("*.tmp"))


def _kill_after_writes(run: Path, child: int, chance: random.Random) -> bool:
    """Kill a run at a random moment after it has written anything; tell whether it was alive."""
    end = time.monotonic() + 60
    before = _newest_write(run)
    while _newest_write(run) == before and time.monotonic() < end and _alive(child):
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.4))
    alive = _alive(child)
    if alive:
        os.kill(child, signal.SIGKILL)
    return alive


def _newest_write(run: Path) -> int:
    files = [*run.glob("checkpoints/*"), *run.glob("*.json*")]
    return max((path.stat().st_mtime_ns for path in files if path.exists()), default=0)


def _alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_log_of_a_resumed_run_has_each_step_once(shards, whole, tmp_path):
    run = tmp_path / "run"
    stopped = subprocess.Popen(command(shards, run), env=ONE_THREAD, stderr=-1, text=True)
    _wait_for(run / "checkpoints" / "last.pth", stopped)
    stopped.send_signal(signal.SIGTERM)
    _, told = stopped.communicate(timeout=60)
    assert stopped.returncode == 0, told
    assert "stopped by SIGTERM" in told
    assert "run the same command to go on" in told
    assert weights(run)["step"] < STEPS
    finish(shards, run)
    steps = [entry["step"] for entry in read_log(run)]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert equal(weights(run), weights(whole))


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(shards, tmp_path):
    run = tmp_path / "run"
    stopped = subprocess.Popen(command(shards, run), env=ONE_THREAD, stderr=-1, text=True)
    _wait_for(run / "checkpoints" / "last.pth", stopped)
    stopped.send_signal(signal.SIGINT)
    _, told = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, told
    assert "run the same command to go on" in told
    assert (run / "checkpoints" / "last.pth").exists()


def _wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    assert path.exists(), process.stderr and process.stderr.read()


def test_a_damaged_last_checkpoint_is_told_and_an_older_one_taken(shards, whole, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(whole, run)
    last = run / "checkpoints" / "last.pth"
    last.write_bytes(last.read_bytes()[:1000])
    (run / "checkpoints" / "epoch-0003.pth").unlink()
    assert "last.pth: not readable" in finish(shards, run).stderr
    assert equal(weights(run), weights(whole))


def test_a_full_disk_keeps_the_last_good_checkpoint(shards, tmp_path):
    """With files limited to less than a checkpoint, writing one fails as on a full disk."""
    run = tmp_path / "run"
    one = [s for s in SMALL if not s.startswith(("epochs", "warmup"))]
    settings = [*one, "epochs=2", "warmup_epochs=0"]
    limited = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from tilezoo.pretrain import loop\n"
        "keep = loop.save_last\n"
        "def save(run, state):\n"
        "    if state['step'] == 3:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "    return keep(run, state)\n"
        "loop.save_last = save\n"
    )
    words = command(shards, run, settings=settings)
    words[2] = limited + RUN
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "checkpoint not written" in done.stderr
    assert "the one before it stays" in done.stderr
    assert weights(run)["step"] == 2
    result = pretrain(shards, out=run, settings=settings)
    assert result.complete


def test_nothing_of_a_foreign_pickle_is_run(shards, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'pwned'}",))

    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(PretrainError, match="no checkpoint can be read"):
        pretrain(shards, out=run, settings=SMALL)
    assert not (tmp_path / "pwned").exists()


def test_two_processes_with_half_the_batch_follow_one_with_the_whole(shards, tmp_path):
    """Ten steps and two more, in float32, over gloo; started as torchrun starts them."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    pretrain(shards, out=alone, settings=EXACT, precision="fp32")
    words = command(shards, both, "--precision", "fp32", settings=EXACT)
    for code, told in start_two(words, words):
        assert code == 0, told
    one, two = (weights(run) for run in (alone, both))
    assert one["step"] == two["step"] == STEPS
    for network in ("student", "teacher"):
        for name, tensor in one[network].items():
            torch.testing.assert_close(two[network][name], tensor, atol=1e-4, rtol=0, msg=name)
    torch.testing.assert_close(two["center"], one["center"], atol=1e-4, rtol=0)
    losses = [[e["loss"] for e in read_log(run) if "loss" in e] for run in (alone, both)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def start_two(*commands: list[str]) -> list[tuple[int, str]]:
    """Run two commands as torchrun starts two processes; their exit codes and what they say."""
    port = str(random.Random(os.getpid()).randint(20_000, 40_000))
    processes = []
    for rank, words in enumerate(commands):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **ranks, **place}
        processes.append(subprocess.Popen(words, env=environment, stderr=-1, text=True))
    told = [process.communicate(timeout=300)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


def test_a_host_without_the_checkpoint_is_told_instead_of_training_beside_the_others(
    shards, whole, tmp_path
):
    first, other = command(shards, whole), command(shards, tmp_path / "another-host")
    for code, told in start_two(first, other):
        assert code == 1, told
        assert "let every host have the folder" in told
