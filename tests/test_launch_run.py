"""Jobs that are run: the SDK's request, kept and staged as SageMaker does, by what a container runs."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jobs
import making
import pytest
import smddp_standin
from sagemaker_runner import Host, as_toolkit_job, fetch_s3, list_s3, no_containers, run_job

from tilezoo.zoo import download, verify

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("sdk_schema_checked_once")]
contained = pytest.mark.skipif(bool(no_containers()), reason=no_containers())


@pytest.fixture(scope="module", autouse=True)
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An account whose bucket holds shards to train on."""
    shards = jobs.write_globe_pack(tmp_path_factory.mktemp("globe"))
    with jobs.account():
        jobs.upload_folder(shards, f"s3://{jobs.BUCKET}/shards")
        yield


def verified(folder: Path) -> bool:
    return all(check.verdict != "failed" for check in verify(folder))


def steps_logged(run: str, folder: Path) -> list[int]:
    lines = (fetch_s3(run, folder) / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def training(hosts: Sequence[Host]) -> bool:
    return (hosts[0].ml / "checkpoints" / "log.jsonl").is_file()


@contained
def test_a_finished_pretraining_is_a_model_in_s3_and_in_the_registry(tmp_path):
    job = jobs.submit(jobs.pretraining("run"), name="whole", publish_as="org/vit")
    ended = run_job(job, tmp_path / "job")
    assert ended.codes == (0,), ended.log
    assert ended.failure == ""
    assert "/opt/ml/input/data/code/tilezoo) runs: pretrain /opt/ml/input/data/tiles" in ended.log
    out = f"s3://{jobs.BUCKET}/out/whole"
    assert verified(fetch_s3(f"{out}/checkpoints/model/", tmp_path / "model"))
    assert list_s3(f"{out}/output/") == ["model.tar.gz"]
    assert "tfevents" in "".join(list_s3(f"{out}/tensorboard-output/"))
    download("org/vit", registry=f"s3://{jobs.BUCKET}/out/registry", to=tmp_path / "published")
    assert verified(tmp_path / "published")
    for metric in job["AlgorithmSpecification"]["MetricDefinitions"]:
        told = re.search(metric["Regex"], ended.log)
        assert told or metric["Name"] == "knn_accuracy", f"{metric}: {ended.log}"


@contained
def test_a_job_on_two_hosts_that_is_stopped_goes_on_where_it_was(tmp_path):
    """The first of two jobs runs under the SDK's torchrun driver, the other under the toolkit's."""
    run = f"s3://{jobs.BUCKET}/runs/two"
    words, hosts = jobs.pretraining(run), {"count": 2, "backend": "gloo"}
    first = jobs.submit(words, name="first", **hosts)
    stopped = run_job(first, tmp_path / "first", stop=training)
    assert stopped.codes == (0, 0), stopped.log
    assert "step 0 of 12 on cpu, fp32, 4 processes over gloo" in stopped.logs[0]
    assert "stopped by SIGTERM after step 10 of 12" in stopped.logs[0]
    assert "no model is made of it; the same launch goes on" in stopped.logs[0]
    assert "handed on to 2 processes of the job" in stopped.logs[1]
    assert "checkpoints/last.pth" in list_s3(f"{run}/")
    assert not [key for key in list_s3(f"{run}/") if key.startswith("model/")]
    second = as_toolkit_job(jobs.submit(words, name="second", **hosts), tmp_path, processes=2)
    ended = run_job(second, tmp_path / "second", contained=False)
    assert ended.codes == (0, 0), ended.log
    assert "torchrun --nnodes 2 --nproc_per_node 2" in ended.logs[1]
    assert "step 10 of 12 on cpu, fp32, 4 processes over gloo" in ended.logs[0]
    assert steps_logged(f"{run}/", tmp_path / "run") == [10, jobs.STEPS]
    assert verified(tmp_path / "run" / "model")


@contained
def test_a_job_for_smddp_is_started_and_stopped_through_mpirun_around_a_stand_in(
    tmp_path, monkeypatch
):
    """The driver and what it starts are real; smddprun and the backend are not SMDDP's, and say so."""
    smddp_standin.need_mpirun_and_sshd()
    table = tmp_path / "instances.json"
    table.write_text(json.dumps({"ml.p4d.24xlarge": {"gpus": 1}}))
    monkeypatch.setenv("TILEZOO_INSTANCES", str(table))
    words, hosts = jobs.pretraining("run"), {"instance": "ml.p4d.24xlarge", "count": 2}
    job = jobs.submit(words, name="smddp", **hosts)
    keys = smddp_standin.write_keys(tmp_path)
    ended = run_job(
        job,
        tmp_path / "job",
        environment=smddp_standin.environment(tmp_path),
        mounts=lambda host: smddp_standin.mounts(host, keys),
        stop=training,
    )
    assert ended.codes == (0, 0), ended.log
    for host in ("algo-1", "algo-2"):
        assert f"STAND-IN smddprun on {host}" in ended.logs[0]
    assert "STAND-IN backend smddp" in ended.logs[0]
    assert "step 0 of 12 on cpu, fp32, 2 processes over smddp" in ended.logs[0]
    assert "stopped by SIGTERM after step 10 of 12" in ended.logs[0]
    assert "checkpoints/last.pth" in list_s3(f"s3://{jobs.BUCKET}/out/smddp/checkpoints/")


def test_embedding_is_a_job_of_one_process_on_a_cpu(tmp_path, vit):
    """Under the toolkit, as an Estimator of one's own would run it."""
    bucket = f"s3://{jobs.BUCKET}"
    making.write_tiles(tmp_path / "tiles", 5, side=64)
    jobs.upload_folder(tmp_path / "tiles", f"{bucket}/tiles")
    jobs.upload_folder(vit, f"{bucket}/vit")
    words = ["embed", f"{bucket}/tiles", "-m", f"{bucket}/vit", "-o", f"{bucket}/tables/five"]
    job = as_toolkit_job(jobs.submit(words, name="embed"), tmp_path)
    ended = run_job(job, tmp_path / "job", contained=False)
    assert ended.codes == (0,), ended.log
    table = fetch_s3(f"{bucket}/tables/five/", tmp_path / "table")
    assert making.rows_of(table).num_rows == 5


def test_a_job_that_fails_tells_why_in_a_line(tmp_path, vit):
    bucket = f"s3://{jobs.BUCKET}"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    jobs.upload_folder(tmp_path / "empty", f"{bucket}/empty")
    jobs.upload_folder(vit, f"{bucket}/vit")
    words = ["embed", f"{bucket}/empty", "-m", f"{bucket}/vit", "-o", "table"]
    job = as_toolkit_job(jobs.submit(words, name="fails"), tmp_path)
    ended = run_job(job, tmp_path / "job", contained=False)
    assert ended.codes == (1,), ended.log
    assert ended.failure.startswith("No image under")
    assert len(ended.failure.splitlines()) == 1
