"""What is wrong in the account is told before anything is uploaded; what is right becomes a job."""

import json
from pathlib import Path

import boto3
import launching
import pytest

from tilezoo.errors import InterruptedRunError, LaunchError, OptionError
from tilezoo.launch import (
    attach,
    fetch_result,
    follow_log,
    job_status,
    launch,
    list_jobs,
    stop_job,
)

pytestmark = pytest.mark.usefixtures("sdk_schema_checked_once")
_REGION = "us-east-1"
_TRUST = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}}
_WORDS = ("pretrain", "s3://tiles/shards", "-o", "run")
_GROUP = "/aws/sagemaker/TrainingJobs"


@pytest.fixture(scope="module")
def _server():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def aws(_server, monkeypatch, tmp_path):
    """An account of its own for every test: a role, a bucket with tiles, a bucket for outputs."""
    import urllib.request

    for name in ("AWS_PROFILE", "AWS_REGION", "TILEZOO_INSTANCES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", _server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", _REGION)
    reset = urllib.request.Request(f"{_server}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    _role("training", _TRUST)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="tiles")
    s3.create_bucket(Bucket="results")
    s3.put_object(Bucket="tiles", Key="shards/pack.json", Body=b"{}" * 500)
    return s3


def _role(name, statement):
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    boto3.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=policy)


def launched(words=_WORDS, **options):
    wanted = {"role": "training", "output": "s3://results/jobs", "wait": False}
    return launch(words, **(wanted | options))


def made(name, *, hosts=1):
    """A job as if it had been launched, without its source."""
    request = launching.kept_request("pretrain-g5")
    checkpoints = {**request["CheckpointConfig"], "S3Uri": f"s3://results/jobs/{name}/checkpoints/"}
    resources = {**request["ResourceConfig"], "InstanceCount": hosts}
    changed = {"CheckpointConfig": checkpoints, "ResourceConfig": resources}
    boto3.client("sagemaker").create_training_job(**{**request, **changed, "TrainingJobName": name})
    return name


def keys(s3, bucket="results"):
    return [one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", ())]


def test_a_job_is_what_its_dry_run_said(aws):
    name = "first-try"
    role = "arn:aws:iam::123456789012:role/training"
    said = launched(name=name, dry_run=True, role=role)
    assert (said.arn, keys(aws)) == (None, [])
    done = launched(name=name)
    assert done.request == said.request
    assert done.arn.endswith(f":training-job/{name}")
    kept = boto3.client("sagemaker").describe_training_job(TrainingJobName=name)
    for part in ("HyperParameters", "InputDataConfig", "RoleArn", "CheckpointConfig"):
        assert kept[part] == done.request[part]


def test_the_source_lies_where_the_job_looks_for_it(aws):
    done = launched()
    channels = {one["ChannelName"]: one["DataSource"]["S3DataSource"]["S3Uri"]
                for one in done.request["InputDataConfig"]}  # fmt: skip
    found = keys(aws)
    code = channels["code"].removeprefix("s3://results/")
    assert {f"{code}/tilezoo_job.py", f"{code}/tilezoo_start.py", f"{code}/requirements.txt",
            f"{code}/tilezoo/pretrain/run.py", f"{code}/tilezoo/pretrain/recipes.json",
            f"{code}/tilezoo/errors.py"} <= set(found)  # fmt: skip
    assert channels["sm_drivers"].removeprefix("s3://results/") + "/sm_train.sh" in found
    assert not [key for key in found if key.endswith(".pyc") or "/instances/" in key]
    assert all(key.startswith(f"jobs/{done.name}/source/") for key in found)


_WRONG = {
    "no such role": ({"role": "nobody"}, "no role 'nobody' in this account: give --role"),
    "no such role by ARN": (
        {"role": "arn:aws:iam::123456789012:role/nobody"}, "no role 'nobody' in account 1234567"),
    "another's role": ({"role": "arn:aws:iam::999999999999:role/r"}, "is of another account than"),
    "no role at all": ({"role": None}, "no role: give --role"),
    "no bucket": ({"output": "s3://nowhere-to-be"}, "no bucket 'nowhere-to-be': aws s3 mb s3://now"),
    "no room": ({"instance": "ml.m5.xlarge", "words": "large"}, "in 100 GB: take --volume-gb 1131"),
    "nothing there": ({"words": "empty"}, "nothing lies under s3://tiles/empty/ (channel tiles)"),
    "no tiles' bucket": ({"words": "elsewhere"}, "no bucket 'nobodys-tiles'"),
    "no container": ({"region": "us-mars-1"}, "region 'us-mars-1' has no PyTorch"),
}  # fmt: skip
_OTHER_WORDS = {
    "large": ("embed", "s3://tiles/shards", "-o", "t"),
    "empty": ("pretrain", "s3://tiles/empty", "-o", "run"),
    "elsewhere": ("pretrain", "s3://nobodys-tiles/x", "-o", "run"),
}


@pytest.mark.parametrize("what", _WRONG)
def test_what_would_fail_is_one_line_before_any_upload(what, aws, monkeypatch):
    options, told = _WRONG[what]
    words = _OTHER_WORDS.get(options.get("words"), _WORDS)
    if options.get("words") == "large":
        monkeypatch.setattr("tilezoo.launch.preflight._GB", 1.0)  # bytes, for once
    with pytest.raises(LaunchError) as raised:
        launched(words, **{name: value for name, value in options.items() if name != "words"})
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
    assert keys(aws) == []
    assert boto3.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []


def test_several_faults_are_told_at_once(aws):
    _role("foreign", _TRUST | {"Principal": {"Service": "ec2.amazonaws.com"}})
    with pytest.raises(LaunchError) as raised:
        launched(_OTHER_WORDS["empty"], role="foreign", output="s3://nowhere-to-be")
    role, bucket, channel = str(raised.value).splitlines()
    assert "cannot be taken by SageMaker: its trust policy should let sagemaker.amazonaws" in role
    assert "no bucket" in bucket
    assert "nothing lies under" in channel
    assert keys(aws) == []


def test_a_bucket_of_another_region_is_told_with_its_region():
    boto3.client("s3", region_name="eu-west-1").create_bucket(
        Bucket="far", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    with pytest.raises(LaunchError, match="'far' is in eu-west-1 and the job in us-east-1: choose"):
        launched(output="s3://far/jobs")


def test_missing_credentials_are_told(monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(LaunchError, match="no AWS credentials: run `aws configure`"):
        launched()


def test_a_profile_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(LaunchError, match=r"config profile \(nobody\) could not be found"):
        launched()


def test_an_impossible_wish_costs_nothing(aws):
    with pytest.raises(OptionError, match=r"--backend smddp does not run on ml.p5.48xlarge"):
        launched(instance="ml.p5.48xlarge", count=2, backend="smddp")
    with pytest.raises(OptionError, match="needs two instances or more"):
        launched(instance="ml.p4d.24xlarge", backend="smddp")
    assert keys(aws) == []


def test_a_name_that_is_taken_is_told():
    made("taken")
    with pytest.raises(LaunchError, match="--name taken: there is a job of that name; choose"):
        launched(name="taken")


def test_sizes_and_what_could_not_be_asked_are_told():
    notes = "\n".join(launched().notes)
    assert "data: 1e-06 GB for 450 GB on each instance" in notes
    assert "quota: 'ml.g5.2xlarge for training job usage'" in notes


def test_the_account_s_default_bucket_is_the_output_unless_told(aws):
    aws.create_bucket(Bucket="sagemaker-us-east-1-123456789012")
    done = launched(output=None)
    assert done.result.startswith("s3://sagemaker-us-east-1-123456789012/tilezoo/")


def test_jobs_are_listed_newest_first_and_said_how_they_go():
    first, second = made("one-a"), made("two-a")
    assert {job.name for job in list_jobs()} == {first, second}
    assert [job.name for job in list_jobs(contains="two")] == [second]
    status = job_status(first)
    assert (status.status, status.instance, status.count) == ("Completed", "ml.g5.2xlarge", 1)
    assert status.over
    assert status.result == "s3://results/jobs/one-a/checkpoints/"
    assert stop_job(first).status == "Completed"


@pytest.mark.parametrize(
    "ask", [job_status, stop_job, attach, lambda name: fetch_result(name, out=Path("x"))]
)
def test_a_job_that_is_not_there_is_told(ask):
    with pytest.raises(LaunchError, match="no training job 'nobody' in us-east-1: `tilezoo jobs"):
        ask("nobody")


def _log(name, *lines, host="algo-1"):
    logs = boto3.client("logs")
    if not logs.describe_log_groups(logGroupNamePrefix=_GROUP)["logGroups"]:
        logs.create_log_group(logGroupName=_GROUP)
    stream = f"{name}/{host}-1700000000"
    logs.create_log_stream(logGroupName=_GROUP, logStreamName=stream)
    import time

    now = int(time.time() * 1000)
    events = [{"timestamp": now + at, "message": line} for at, line in enumerate(lines)]
    logs.put_log_events(logGroupName=_GROUP, logStreamName=stream, logEvents=events)


def test_a_log_is_followed_to_its_end():
    name = made("logged")
    _log(name, *(f"step={number}" for number in range(30)))
    said = []
    assert follow_log(name, write=said.append).status == "Completed"
    assert [line for line in said if not line.startswith("--")] == [f"step={n}" for n in range(30)]


def test_lines_of_several_hosts_say_whose_they_are():
    name = made("hosts", hosts=2)
    _log(name, "a")
    _log(name, "b", host="algo-2")
    said = []
    follow_log(name, until_end=False, write=said.append)
    assert said == ["algo-1: a", "algo-2: b"]


def test_a_job_without_any_log_is_no_error():
    said = []
    follow_log(made("silent"), until_end=False, write=said.append)
    assert said == []


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on():
    name = made("watched")

    def interrupted(_line):
        raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError, match="watched goes on: `tilezoo jobs attach watched`"):
        follow_log(name, write=interrupted)


def _ends(name, status, reason=None):
    """Let a job be where a real one comes to; the service here completes all at once."""
    from moto.sagemaker.models import sagemaker_backends

    job = sagemaker_backends["123456789012"][_REGION].training_jobs[name]
    job.training_job_status, job.failure_reason = status, reason


def test_a_job_that_failed_says_why_with_the_end_of_its_log():
    name = made("failed")
    _log(name, *(f"line {number}" for number in range(50)))
    _ends(name, "Failed", "AlgorithmError: no space")
    with pytest.raises(LaunchError) as raised:
        attach(name, show_progress=False)
    first, *lines = str(raised.value).splitlines()
    assert first == "failed failed: AlgorithmError: no space"
    assert lines == [f"  line {number}" for number in range(30, 50)]


def test_a_job_is_followed_while_it_runs():
    import threading

    name = made("running")
    _ends(name, "InProgress")
    _log(name, "step=1")
    threading.Timer(0.5, _ends, (name, "Stopped")).start()
    said = []
    assert follow_log(name, write=said.append, look_every_s=0.1).status == "Stopped"
    assert said.count("step=1") == 1


def test_a_job_that_runs_is_asked_to_stop(monkeypatch):
    """By a service that says no more than this: the simulated one cannot stop jobs."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    asked = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.headers["X-Amz-Target"].partition(".")[2])
            status = "Stopping" if "StopTrainingJob" in asked else "InProgress"
            body = json.dumps({"TrainingJobName": "a", "TrainingJobStatus": status}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words):
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", f"http://127.0.0.1:{server.server_port}")
        assert stop_job("a").status == "Stopping"
        server.shutdown()
    assert asked == ["DescribeTrainingJob", "StopTrainingJob", "DescribeTrainingJob"]


@pytest.mark.parametrize(("allowed", "told"), [(0, "may run 0 of 'ml.g5.2xlarge for t"), (1, "")])
def test_a_quota_that_is_too_small_is_told(allowed, told, monkeypatch):
    """The service that keeps quotas is not simulated here: its answer is put in its place."""
    from botocore.stub import Stubber

    client = boto3.client("service-quotas")
    quotas = [{"QuotaName": "ml.g5.2xlarge for training job usage", "Value": allowed}]

    class Session(boto3.Session):
        def client(self, service, *more, **options):
            if service == "service-quotas":
                return client
            return super().client(service, *more, **options)

    monkeypatch.setattr(boto3, "Session", Session)
    with Stubber(client) as stubbed:
        stubbed.add_response("list_service_quotas", {"Quotas": quotas})
        found = ""
        try:
            launched()
        except LaunchError as error:
            found = str(error)
    assert told in found
    assert bool(found) is bool(told)


def test_a_result_is_fetched_whole_and_only_once(aws, tmp_path):
    name = made("fetched")
    for key in ("run.json", "model/config.json", "checkpoints/last.pth"):
        aws.put_object(Bucket="results", Key=f"jobs/{name}/checkpoints/{key}", Body=key.encode())
    assert fetch_result(name, out=tmp_path / "run") == 3
    assert (tmp_path / "run/model/config.json").read_text() == "model/config.json"
    before = (tmp_path / "run/run.json").stat().st_ino
    assert fetch_result(name, out=tmp_path / "run") == 3
    assert (tmp_path / "run/run.json").stat().st_ino == before


def test_a_job_that_wrote_nothing_is_told(tmp_path):
    with pytest.raises(LaunchError, match="nothing lies under s3://results/jobs/bare/checkpoints/"):
        fetch_result(made("bare"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_key_that_leads_out_of_the_folder_is_not_fetched(aws, tmp_path):
    name = made("sly")
    aws.put_object(Bucket="results", Key=f"jobs/{name}/checkpoints/../../out", Body=b"x")
    with pytest.raises(LaunchError, match="leads out of"):
        fetch_result(name, out=tmp_path / "a/b/c")


def test_the_command_line_follows_a_job_and_tells_what_stays():
    done = launching.launched(
        *("--name", "whole", "--role", "training", "--output", "s3://results/jobs"), "--", *_WORDS
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == "whole: Completed, result in s3://results/jobs/whole/checkpoints/\n"
    assert "aws s3 rm --recursive s3://results/jobs/whole/" in done.stderr
