"""The request of a job: as it was when somebody read it, and as SageMaker's own model takes it."""

import json
import re
import shlex
from copy import deepcopy
from pathlib import Path

import launching
import pytest

from tilezoo.errors import LaunchError, TilezooError
from tilezoo.launch.instances import find_instance
from tilezoo.launch.preflight import check_request

pytestmark = pytest.mark.usefixtures("sdk_schema_checked_once")
_README = Path(__file__).parent.parent / "README.md"
_P4D = "pretrain-2-p4d-smddp"


@pytest.fixture(autouse=True)
def _nobody(monkeypatch, tmp_path):
    """No credentials, no configuration, and no network to go to."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "TILEZOO_INSTANCES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")


@pytest.mark.parametrize("name", launching.CASES)
def test_a_dry_run_prints_the_kept_request(name):
    assert launching.dry_request(name) == launching.kept_request(name)


@pytest.mark.parametrize("name", launching.CASES)
def test_a_kept_request_is_what_botocore_and_our_rules_take(name):
    request = launching.kept_request(name)
    check_request(request, find_instance(request["ResourceConfig"]["InstanceType"]))
    assert request == launching.kept_request(name), "a check changes nothing"


def test_each_distribution_has_its_container_and_its_processes():
    images = {
        name: launching.kept_request(name)["AlgorithmSpecification"]["TrainingImage"]
        for name in launching.CASES
    }
    assert images[_P4D].endswith("pytorch-training:2.5.1-gpu-py311")
    assert images["pretrain-p5-nccl"].endswith("pytorch-training:2.8.0-gpu-py312")
    assert images["embed-cpu"].endswith("pytorch-training:2.8.0-cpu-py312")


def test_a_spot_job_waits_longer_than_it_runs_and_keeps_its_checkpoints_where_asked():
    request = launching.kept_request("pretrain-spot")
    stop = request["StoppingCondition"]
    assert stop["MaxWaitTimeInSeconds"] >= stop["MaxRuntimeInSeconds"] == 30 * 3600
    assert request["CheckpointConfig"]["S3Uri"] == "s3://bigearth/runs/first/"


_WRONG = {
    "a name too long": (("TrainingJobName",), "x" * 64, "TrainingJobName has 64, more than 63"),
    "a name of no form": (("TrainingJobName",), "a_b", "TrainingJobName 'a_b' does not fit"),
    "no such instance": (("ResourceConfig", "InstanceType"), "ml.p9.huge", "'ml.p9.huge' is not known"),
    "too long": (("StoppingCondition", "MaxRuntimeInSeconds"), 29 * 86400, "more than 28 days"),
    "no wait": (("EnableManagedSpotTraining",), True, "a spot job waits None s, less than"),
    "no role": (("RoleArn",), "somebody-or-other-else", "RoleArn 'somebody"),
    "no count": (("ResourceConfig", "InstanceCount"), "two", "Invalid type for parameter Resource"),
    "no such field": (("Colour",), "red", 'Unknown parameter in input: "Colour"'),
    "a value too long": (("Environment", "A"), "x" * 513, r"Environment\[A\] has 513, more than 512"),
    "too many tags": (("Tags",), [{"Key": str(i), "Value": ""} for i in range(51)], "Tags has 51"),
    "a tag twice": (("Tags",), [{"Key": "a", "Value": ""}] * 2, "tag 'a' twice"),
    "a disk too large": (("ResourceConfig", "VolumeSizeInGB"), 9000, "8000 GB, and takes no more"),
}  # fmt: skip


@pytest.mark.parametrize("what", _WRONG)
def test_what_the_service_would_refuse_is_refused_here(what):
    path, value, told = _WRONG[what]
    request = deepcopy(launching.kept_request(_P4D))
    place = request
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(LaunchError, match=told):
        check_request(request, find_instance("ml.p4d.24xlarge"))


def test_every_pattern_of_a_request_is_one_that_python_reads():
    from botocore.session import get_session

    from tilezoo.launch.preflight import fits_pattern

    model = get_session().get_service_model("sagemaker")
    shapes = [model.operation_model("CreateTrainingJob").input_shape]
    seen = set()
    while shapes:
        shape = shapes.pop()
        if shape.name not in seen:
            seen.add(shape.name)
            fits_pattern(shape.metadata.get("pattern", ""), "a")
            shapes += getattr(shape, "members", {}).values()
            shapes += [getattr(shape, part) for part in _PARTS.get(shape.type_name, ())]
    assert len(seen) > 100


_PARTS = {"list": ("member",), "map": ("key", "value")}


def test_a_channel_twice_is_refused():
    request = deepcopy(launching.kept_request(_P4D))
    request["InputDataConfig"].append(request["InputDataConfig"][0])
    with pytest.raises(LaunchError, match="channel tiles twice"):
        check_request(request, find_instance("ml.p4d.24xlarge"))


_ASKED = ("--dry-run", "--region", "us-east-1")
_SLIPS = {
    "launched verb": (("search", "s3://b-b/t", "q"), 2, "'search' cannot be launched; launch one of"),
    "no such verb": (("pretrian", "s3://b-b/t"), 2, "'pretrian' cannot be launched; did you mean pretrain?"),
    "no such option": (("pretrain", "s3://b-b/t", "-o", "r", "--epochs", "3"), 2,
                       "tilezoo pretrain: No such option: --epochs"),
    "no such value": (("embed", "s3://b-b/t", "-o", "t", "--precision", "fp8"), 2,
                      "tilezoo embed: Invalid value for '--precision'"),
    "no source": (("pretrain", "-o", "run"), 2, "tilezoo pretrain: Missing argument"),
    "no such recipe": (("pretrain", "s3://b-b/t", "-o", "r", "--recipe", "dino"), 2, "no recipe 'dino'"),
    "no such setting": (("pretrain", "s3://b-b/t", "-o", "r", "--set", "epoch=3"), 2, "epoch"),
    "a batch that does not divide": (
        ("pretrain", "s3://b-b/t", "-o", "r", "--set", "batch_size=130"), 2,
        "batch_size=130 does not divide among 4 processes: --set batch_size=128"),
    "two backends": (("pretrain", "s3://b-b/t", "-o", "r", "--backend", "gloo"), 2,
                     "say one of them"),
    "published table": (("embed", "s3://b-b/t", "-o", "t"), 2, "--publish-as is for pretrain"),
}  # fmt: skip


@pytest.mark.parametrize("what", _SLIPS)
def test_a_slip_in_the_command_is_told_before_anything_is_built(what):
    command, code, told = _SLIPS[what]
    more = {"two backends": ("--backend", "nccl"), "published table": ("--publish-as", "a/b")}
    options = (*_ASKED, *more.get(what, ()), "--instance", "ml.g5.12xlarge")
    error = launching.launched(*options, "--", *command).exception
    assert isinstance(error, TilezooError)
    assert error.exit_code == code
    assert told in str(error)


_OPTIONS = {
    "name too long": (("--name", "x" * 64), "has 64 characters: SageMaker takes at most 63"),
    "name of no form": (("--name", "my_run"), "SageMaker takes letters, digits and single -"),
    "no instances": (("--count", "0"), "--count 0: must be 1 or more"),
    "too many hours": (("--max-hours", "700"), "at most 672"),
    "no time": (("--max-hours", "0.0001"), "must be a minute (0.02) or more"),
    "less than none": (("--max-hours", "-1"), "must be a minute"),
    "no number": (("--max-hours", "nan"), "--max-hours nan: must be"),
    "data's own place": (("--output", "s3://b-b/t/jobs"), "lies in the input s3://b-b/t/"),
    "the whole bucket": (("--output", "s3://b-b/t"), "lies in the input s3://b-b/t/"),
    "no pair": (("--env", "A"), "--env 'A' should be NAME=VALUE"),
    "no name": (("--env", "1A=2"), "begins with no digit"),
    "a tag twice": (("--tag", "a=1", "--tag", "a=2"), "--tag a: given twice"),
    "half a VPC": (("--subnet", "subnet-1"), "--subnet and --security-group go together"),
    "no bucket": (("--output", "bucket/x"), "should be s3://BUCKET/FOLDER"),
    "no role": (("--role", "arn:aws:iam::1:user/me"), "give a role's name, or arn:aws:iam"),
    "no place": (("--publish-as", "model"), "--publish-as 'model': give org/name"),
    "no disk": (("--volume-gb", "9000"), "has disks of its own of 450 GB, and takes no more"),
    "elsewhere": (("--image", "1.dkr.ecr.eu-west-1.amazonaws.com/mine:1"), "--image is in eu-west-1"),
    "no container": (("--region", "us-mars-1"), "'us-mars-1' has no PyTorch 2.8.0 container"),
    "no instance": (("--instance", "ml.g5.3xlarge"), "no such instance in tilezoo's table; did you"),
}  # fmt: skip


@pytest.mark.parametrize("what", _OPTIONS)
def test_an_option_that_makes_no_sense_is_one_line(what):
    options, told = _OPTIONS[what]
    done = launching.launched(*_ASKED, *options, "--", "pretrain", "s3://b-b/t", "-o", "run")
    assert isinstance(done.exception, TilezooError)
    assert told in str(done.exception)
    assert "\n" not in str(done.exception)


def test_a_dry_run_without_role_output_and_name_says_what_is_made_up():
    done = launching.launched(*_ASKED, "--", "pretrain", "s3://b-b/t", "-o", "run")
    assert done.exit_code == 0, done.output
    request = json.loads(done.stdout)
    assert request["RoleArn"] == "arn:aws:iam::000000000000:role/ROLE-TO-BE-NAMED"
    assert request["OutputDataConfig"]["S3OutputPath"].endswith("us-east-1-000000000000/tilezoo")
    assert "launching takes --role" in done.stderr
    assert "price: about $1.5" in done.stderr


def test_the_launches_of_the_readme_are_requests_that_hold():
    """And what one of them writes, the next one reads."""
    chapter = (
        _README.read_text(encoding="utf-8").partition("## On SageMaker")[2].partition("\n## ")[0]
    )
    text = chapter.replace("\\\n", " ").replace("BUCKET", "bigearth").replace("ROLE", "training")
    lines = [line.partition("   #")[0] for line in text.splitlines()]
    launches = [shlex.split(line)[2:] for line in lines if line.startswith("tilezoo launch ")]
    assert len(launches) == 5
    for words in launches:
        where = ("--dry-run", "--region", "us-east-1")
        assert launching.launched(*where, *words).exit_code == 0, words


def test_what_follows_the_verb_is_the_commands_without_dashes_too():
    done = launching.launched(*_ASKED, "--name", "a", "pretrain", "s3://b-b/t", "-o", "run")
    assert json.loads(json.loads(done.stdout)["HyperParameters"]["command"])[-2:] == [
        "-o", "/opt/ml/checkpoints",
    ]  # fmt: skip


def test_no_region_at_all_is_told():
    done = launching.launched("--dry-run", "--", "pretrain", "s3://b-b/t", "-o", "run")
    assert "no region: give --region" in str(done.exception)


def test_the_users_sagemaker_defaults_are_read(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
SchemaVersion: '1.0'
SageMaker:
  TrainingJob:
    RoleArn: {launching.ROLE}
    OutputDataConfig: {{KmsKeyId: 'key-1'}}
    VpcConfig: {{Subnets: ['subnet-9'], SecurityGroupIds: ['sg-9']}}
    Environment: {{TEAM: maps}}
  PythonSDK:
    Modules:
      Session: {{DefaultS3Bucket: ours, DefaultS3ObjectKeyPrefix: jobs}}
      ModelTrainer: {{compute: {{keep_alive_period_in_seconds: 600}}}}
"""
    )
    monkeypatch.setenv("SAGEMAKER_USER_CONFIG_OVERRIDE", str(config))
    asked = ("--env", "A=B", "--", "pretrain", "s3://b-b/t", "-o", "run")
    request = json.loads(launching.launched(*_ASKED, *asked).stdout)
    assert request["RoleArn"] == launching.ROLE
    assert request["OutputDataConfig"]["S3OutputPath"] == "s3://ours/jobs/tilezoo"
    assert request["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 600
    assert request["OutputDataConfig"]["KmsKeyId"] == "key-1"
    assert request["VpcConfig"] == {"Subnets": ["subnet-9"], "SecurityGroupIds": ["sg-9"]}
    assert request["Environment"] == {
        "TEAM": "maps", "A": "B", "TILEZOO_TENSORBOARD": "/opt/ml/output/tensorboard",
    }  # fmt: skip


def test_a_job_that_is_kept_from_the_network_needs_a_container_of_its_own(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    text = "{SchemaVersion: '1.0', SageMaker: {TrainingJob: {EnableNetworkIsolation: true}}}"
    config.write_text(text)
    monkeypatch.setenv("SAGEMAKER_USER_CONFIG_OVERRIDE", str(config))
    words = ("--", "pretrain", "s3://b-b/t", "-o", "run")
    assert "give --image with one that holds" in str(launching.launched(*_ASKED, *words).exception)
    image = ("--image", "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1")
    request = json.loads(launching.launched(*_ASKED, *image, *words).stdout)
    assert request["EnableNetworkIsolation"] is True


def test_a_config_that_is_broken_is_told(tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("SageMaker: [")
    monkeypatch.setenv("SAGEMAKER_USER_CONFIG_OVERRIDE", str(tmp_path / "config.yaml"))
    done = launching.launched(*_ASKED, "--", "pretrain", "s3://b-b/t", "-o", "run")
    assert "SageMaker's config file cannot be read" in str(done.exception)


def test_metrics_find_their_numbers_in_what_pretraining_says():
    from tilezoo.launch.request import METRICS

    line = "step=20 epoch=1.5 loss=4.15888 entropy=4.15 lr=1.2e-05 images_per_s=123.4"
    found = {name: re.findall(regex, line) for name, regex in METRICS.items()}
    assert found.pop("knn_accuracy") == []
    assert {name: value[0] for name, value in found.items()} == dict(
        word.split("=") for word in line.split()
    )
