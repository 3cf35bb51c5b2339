"""Runs that are stopped, killed, out of space, or spread over processes."""

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from killing import Program
from pretraining import SMALL, STEPS, equal, weights, write_pack

from tilezoo.errors import PretrainError
from tilezoo.pretrain import pretrain
from tilezoo.pretrain.log import curve, read_log

EXACT = [*SMALL, "drop_path=0"]
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


def words(shards: Path, out: Path, *more: str, settings: Sequence[str] = SMALL) -> list[str]:
    changes = [word for setting in settings for word in ("--set", setting)]
    return ["pretrain", str(shards), "-o", str(out), *changes, "--checkpoint-minutes", "0", *more]


def start(shards: Path, out: Path) -> Program:
    """Start a run in a process of its own; bits may differ with the number of threads."""
    return Program(RUN, *words(shards, out))


def finish(shards: Path, out: Path) -> str:
    """Run to the end; give what was said."""
    run = start(shards, out)
    said = run.finish()
    assert run.returncode == 0, said
    return said


@pytest.mark.slow
def test_ten_kills_at_random_moments_leave_the_weights_of_an_undisturbed_run(
    shards, whole, tmp_path
):
    run, rng = tmp_path / "run", random.Random(0)
    killed = 0
    for _ in range(60):
        killed += _kill_after_writes(run, start(shards, run), rng)
        if killed == 10:
            break
    finish(shards, run)
    assert killed == 10
    assert equal(weights(run), weights(whole))
    assert not list(run.rglob("*.tmp"))


def _kill_after_writes(run: Path, program: Program, rng: random.Random) -> bool:
    """Kill a run at a random moment after it has written anything; tell whether it was alive."""
    before = _newest_write(run)
    program.wait_for(lambda: _newest_write(run) != before)
    time.sleep(rng.uniform(0, 0.4))
    alive = program.returncode is None
    program.kill()
    return alive


def _newest_write(run: Path) -> int:
    files = [*run.glob("checkpoints/*"), *run.glob("*.json*")]
    return max((path.stat().st_mtime_ns for path in files if path.exists()), default=0)


def test_the_log_of_a_resumed_run_has_each_step_once(shards, whole, tmp_path):
    run = tmp_path / "run"
    stopped = start(shards, run)
    assert stopped.wait_for((run / "checkpoints" / "last.pth").exists), stopped.finish()
    stopped.send_signal(signal.SIGTERM)
    told = stopped.finish()
    assert stopped.returncode == 0, told
    assert "stopped by SIGTERM" in told
    assert "run the same command to go on" in told
    assert weights(run)["step"] < STEPS
    finish(shards, run)
    steps = [entry.step for entry in read_log(run)]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    assert equal(weights(run), weights(whole))


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(shards, tmp_path):
    run = tmp_path / "run"
    stopped = start(shards, run)
    assert stopped.wait_for((run / "checkpoints" / "last.pth").exists), stopped.finish()
    stopped.send_signal(signal.SIGINT)
    told = stopped.finish()
    assert stopped.returncode == 130, told
    assert "run the same command to go on" in told
    assert (run / "checkpoints" / "last.pth").exists()


def test_a_damaged_last_checkpoint_is_told_and_an_older_one_taken(shards, whole, tmp_path):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(whole, run)
    last = run / "checkpoints" / "last.pth"
    last.write_bytes(last.read_bytes()[:1000])
    (run / "checkpoints" / "epoch-0003.pth").unlink()
    assert "last.pth: not readable" in finish(shards, run)
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
        "    if state.step == 3:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "    return keep(run, state)\n"
        "loop.save_last = save\n"
    )
    done = Program(limited + RUN, *words(shards, run, settings=settings))
    said = done.finish()
    assert done.returncode == 1, said
    assert "checkpoint not written" in said
    assert "the one before it stays" in said
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
    one_process = Program(RUN, *words(shards, alone, "--precision", "fp32", settings=EXACT))
    assert one_process.finish(300)
    assert one_process.returncode == 0
    asked = words(shards, both, "--precision", "fp32", settings=EXACT)
    for code, told in run_two(asked, asked):
        assert code == 0, told
    one, two = (weights(run) for run in (alone, both))
    assert one["step"] == two["step"] == STEPS
    for network in ("student", "teacher"):
        for name, tensor in one[network].items():
            torch.testing.assert_close(two[network][name], tensor, atol=1e-4, rtol=0, msg=name)
    torch.testing.assert_close(two["center"], one["center"], atol=1e-4, rtol=0)
    losses = [[loss for _, loss in curve(read_log(run), "loss")] for run in (alone, both)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def run_two(*commands: list[str]) -> list[tuple[int | None, str]]:
    """Run two commands as torchrun starts two processes; their exit codes and what they say."""
    port = str(random.Random(os.getpid()).randint(20_000, 40_000))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    programs = [
        Program(RUN, *asked, environment={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, asked in enumerate(commands)
    ]
    said = [program.finish(300) for program in programs]
    return [(program.returncode, text) for program, text in zip(programs, said, strict=True)]


def test_a_host_without_the_checkpoint_is_told_instead_of_training_beside_the_others(
    shards, whole, tmp_path
):
    first, other = words(shards, whole), words(shards, tmp_path / "another-host")
    for code, told in run_two(first, other):
        assert code == 1, told
        assert "let every host have the folder" in told
