"""What every process of a job runs: its words, its paths, its end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

import making
import pytest
from pretraining import SMALL, STEPS, write_pack

from tilezoo.launch.command import JobCommand
from tilezoo.launch.entry import Job, JobError, is_first, place, read_job
from tilezoo.launch.request import write_source
from tilezoo.training_ids import TRAINING_IDS
from tilezoo.zoo import download, verify
from tilezoo.zoo.catalog import OFFLINE_DEFAULT

WORDS = ["pretrain", "/opt/ml/input/data/tiles", "-o", "/opt/ml/checkpoints"]
AWKWARD = ["embed", "x", "-o", "y", "--where", "name = 'l''été \\ \"2\"' & $HOME; `ls`"]


def as_toolkit(stated: Mapping[str, str]) -> list[str]:
    """The words that the container's toolkit makes of hyperparameters."""
    mapping = pytest.importorskip("sagemaker_training.mapping")
    decoded = {}
    for name, value in stated.items():
        try:
            decoded[name] = json.loads(value)
        except ValueError:
            decoded[name] = value
    return list(mapping.to_cmd_args(decoded))


def as_drivers(stated: Mapping[str, str]) -> list[str]:
    """The words that the SDK's drivers make of hyperparameters, by way of its shell script."""
    utils = pytest.importorskip("sagemaker.train.container_drivers.common.utils")
    read = {name: utils.safe_deserialize(value) for name, value in stated.items()}
    script = f"export SM_HPS='{utils.safe_serialize(read)}'; printf %s \"$SM_HPS\""
    told = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return list(utils.hyperparameters_to_cli_args(json.loads(told.stdout)))


@pytest.mark.parametrize("way", [as_toolkit, as_drivers])
@pytest.mark.parametrize("words", [WORDS, AWKWARD], ids=["plain", "awkward"])
def test_a_command_comes_through_as_it_was(way, words):
    made = JobCommand(verb=words[0], words=tuple(words), channels=(), out=None)
    stated = {"command": made.hyperparameter(), "publish_as": "org/vit", "registry": "s3://b/r"}
    found = read_job(way(stated), {})
    assert found == Job(command=tuple(words), publish_as="org/vit", registry="s3://b/r")


@pytest.mark.parametrize("spelling", ["publish_as", "publish-as"])
def test_hyperparameters_are_spelt_either_way_and_found_in_the_environment_too(spelling):
    words = ["--command", json.dumps(WORDS), f"--{spelling}", "org/vit"]
    assert read_job(words, {}).publish_as == "org/vit"
    environment = {"SM_HPS": json.dumps({"command": WORDS, spelling: "org/vit"})}
    assert read_job([], environment) == read_job(words, {})


def test_a_word_given_goes_before_the_environment():
    environment = {"SM_HPS": json.dumps({"command": ["embed"]})}
    assert read_job(["--command", json.dumps(WORDS)], environment).command == tuple(WORDS)


def test_hyperparameters_of_others_are_told(capsys):
    words = ["--command", json.dumps(WORDS), "--epochs", "3"]
    assert read_job(words, {}).command == tuple(WORDS)
    assert "left out: --epochs 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stated", ["pretrain x", "{}", "[]", '["a", 1]', '"["', "__import__('os')"]
)
def test_what_is_no_list_of_words_is_refused(stated):
    with pytest.raises(JobError, match="not a JSON list of words"):
        read_job(["--command", stated], {})


def test_no_command_is_refused():
    with pytest.raises(JobError, match="no command; give --command"):
        read_job([], {})


@pytest.mark.parametrize(
    ("word", "environment", "there"),
    [
        ("/opt/ml/checkpoints", {}, "/opt/ml/checkpoints"),
        ("/opt/ml/checkpoints/a", {"SAGEMAKER_BASE_DIR": "/job"}, "/job/checkpoints/a"),
        (
            "--labels=/opt/ml/input/data/labels/l.csv",
            {"SM_CHANNEL_LABELS": "/l"},
            "--labels=/l/l.csv",
        ),
        ("/opt/ml/input/data/tiles", {"SM_INPUT_DIR": "/in"}, "/in/data/tiles"),
        ("/opt/ml/input/data/tiles", {"SM_INPUT_DATA_DIR": "/d", "SM_INPUT_DIR": "/i"}, "/d/tiles"),
        (
            "vit=/opt/ml/input/data/model",
            {"SAGEMAKER_BASE_DIR": "/job"},
            "vit=/job/input/data/model",
        ),
        ("/opt/mlx/a", {"SAGEMAKER_BASE_DIR": "/job"}, "/opt/mlx/a"),
        ("see /opt/ml/a", {"SAGEMAKER_BASE_DIR": "/job"}, "see /opt/ml/a"),
        ("s3://b/opt/ml/a", {"SAGEMAKER_BASE_DIR": "/job"}, "s3://b/opt/ml/a"),
    ],
)
def test_paths_of_containers_are_put_where_this_one_has_them(word, environment, there):
    assert place(word, environment) == there


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "SM_CURRENT_HOST_RANK": "1"}, True),
        ({"RANK": "2", "SM_CURRENT_HOST_RANK": "0"}, False),
        ({"OMPI_COMM_WORLD_RANK": "1", "SM_CURRENT_HOST_RANK": "0"}, False),
        ({"SM_CURRENT_HOST_RANK": "1"}, False),
        ({"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-1"}, True),
        ({"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2"}, False),
    ],
)
def test_one_process_of_all_makes_the_model(environment, first):
    assert is_first(environment) is first


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is shipped into a job."""
    folder = tmp_path_factory.mktemp("job") / "code"
    write_source(folder)
    return folder


def test_a_job_is_sent_the_models_that_come_with_tilezoo(source):
    sent = source / "tilezoo" / "zoo" / OFFLINE_DEFAULT
    assert {check.verdict for check in verify(sent)} == {"ok"}


def test_a_job_is_sent_every_file_of_every_room(source):
    root = Path(__file__).parent.parent
    tools = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    tracked = subprocess.run(
        ["git", "ls-files", *tools["package-dir"].values()],
        cwd=root, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for package, folder in tools["package-dir"].items():
        own = {Path(name).name for name in tracked if Path(name).parent == Path(folder)}
        sent = source.joinpath(*package.split("."))
        assert own <= {path.name for path in sent.iterdir()}, package


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def ml(tmp_path: Path, cache: Path) -> Path:
    """What stands for /opt/ml; copies of models go to the tests' cache."""
    assert cache
    for part in ("input/data", "output", "model", "checkpoints"):
        (tmp_path / "ml" / part).mkdir(parents=True)
    return tmp_path / "ml"


def start(source: Path, ml: Path, words: list[str], *more: str, **environment: str):
    command = [sys.executable, str(source / "tilezoo_job.py"), "--command", json.dumps(words)]
    place = {"SAGEMAKER_BASE_DIR": str(ml), "OMP_NUM_THREADS": "1", "TMPDIR": str(ml.parent)}
    return subprocess.Popen(
        [*command, *more],
        env={**os.environ, **place, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def pretraining(*more: str) -> list[str]:
    return [*WORDS, *more, *(w for s in SMALL for w in ("--set", s))]


def log_of(process: "subprocess.Popen[str]") -> str:
    text, _ = process.communicate(timeout=120)
    return text


@pytest.mark.slow
def test_a_stopped_pretraining_makes_no_model_and_the_same_job_finishes_it(source, shards, ml):
    (ml / "input" / "data" / "tiles").symlink_to(shards)
    stopped = start(source, ml, pretraining())
    wait_for(ml / "checkpoints" / "log.jsonl", stopped)
    number = ml.parent / "tilezoo-job" / str(stopped.pid)
    assert number.exists()
    stopped.send_signal(signal.SIGTERM)
    told = log_of(stopped)
    assert stopped.returncode == 0, told
    assert "stopped by SIGTERM" in told
    assert "no model is made of it; the same launch goes on" in told
    assert not number.exists()
    assert not (ml / "checkpoints" / "model").exists()
    (ml / "checkpoints" / "model").mkdir()  # left by a job that was cut off while it exported
    (ml / "checkpoints" / "model" / "half").touch()
    registry = ml.parent / "registry"
    more = ("--publish_as", "org/vit", "--registry", str(registry))
    curves = {"TILEZOO_TENSORBOARD": "/opt/ml/output/tensorboard"}
    finishing = start(source, ml, pretraining(), *more, **curves)
    told = log_of(finishing)
    assert finishing.returncode == 0, told
    assert list((ml / "output" / "tensorboard").iterdir())
    assert f"{STEPS} of {STEPS} steps" in told
    assert str(source / "tilezoo") in told, "the shipped package runs, not the installed one"
    for folder in (ml / "checkpoints" / "model", ml / "model"):
        assert all(check.verdict != "failed" for check in verify(folder))
    assert not (ml / "checkpoints" / "model" / "half").exists()
    published = download("org/vit", registry=str(registry), to=ml.parent / "published").path
    assert all(check.verdict != "failed" for check in verify(published))
    assert (published / TRAINING_IDS).is_file()
    assert not (ml / "output" / "failure").exists()


def test_a_known_error_is_a_line_for_sagemaker_and_its_exit_code_stays(source, ml):
    failing = start(source, ml, ["embed", "/opt/ml/input/data/none", "-m", "x", "-o", "y"])
    told = log_of(failing)
    assert failing.returncode == 1, told
    reason = (ml / "output" / "failure").read_text()
    assert reason.startswith("No model 'x'")
    assert len(reason.splitlines()) == 1
    assert f"error: {reason.strip()}" in told


def test_usage_and_no_command_are_told_too(source, ml):
    failing = start(source, ml, ["embed", "--no-such-option"])
    assert log_of(failing)
    assert failing.returncode == 2
    assert "No such option: --no-such-option" in (ml / "output" / "failure").read_text()
    (ml / "output" / "failure").unlink()
    failing = start(source, ml, [])
    assert "not a JSON list of words" in log_of(failing)
    assert failing.returncode == 2


def test_of_several_processes_the_first_reason_stays(source, ml):
    (ml / "output" / "failure").write_text("the first\n")
    failing = start(source, ml, ["embed", "--no-such-option"])
    log_of(failing)
    assert (ml / "output" / "failure").read_text() == "the first\n"


@pytest.mark.slow
def test_sigterm_ends_an_embedding_so_that_it_can_go_on(source, ml, vit):
    making.write_tiles(ml / "input" / "data" / "tiles", 64, side=64)
    shutil.copytree(vit, ml / "input" / "data" / "model")
    words = ["embed", "/opt/ml/input/data/tiles", "-m", "/opt/ml/input/data/model"]
    words += ["-o", "/opt/ml/checkpoints", "--part-rows", "4", "--batch-size", "4"]
    stopped = start(source, ml, words)
    wait_for(ml / "checkpoints" / "part-00000.parquet", stopped)
    stopped.send_signal(signal.SIGTERM)
    told = log_of(stopped)
    assert stopped.returncode == 130, told
    assert 0 < len(list((ml / "checkpoints").glob("part-*.parquet"))) < 16
    finishing = start(source, ml, words)
    assert log_of(finishing)
    assert finishing.returncode == 0
    assert making.rows_of(ml / "checkpoints").num_rows == 64


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    assert path.exists(), process.poll() is not None and process.stdout and process.stdout.read()
