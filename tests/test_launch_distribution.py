"""How processes start is chosen from the instance, and an impossible wish is refused at once."""

import json

import pytest

from tilezoo.errors import LaunchError, OptionError
from tilezoo.launch.instances import (
    PLAIN,
    Distribution,
    choose_distribution,
    estimate,
    find_instance,
    instances,
    prices,
)

_OLD = "1.dkr.ecr.eu-west-1.amazonaws.com/pytorch-training:2.5.1-gpu-py311-cu124"
_NEW = "1.dkr.ecr.eu-west-1.amazonaws.com/pytorch-training:2.8.0-gpu-py312-cu129"
_CPU = "1.dkr.ecr.eu-west-1.amazonaws.com/pytorch-training:2.5.1-cpu-py311"


def chosen(instance, count=1, wish="auto", verb="pretrain", image=None):
    return choose_distribution(verb, find_instance(instance), count=count, wish=wish, image=image)


@pytest.mark.parametrize(
    ("instance", "count", "wish", "expected"),
    [
        ("ml.p4d.24xlarge", 2, "auto", Distribution(backend="smddp", processes=8)),
        ("ml.p4de.24xlarge", 4, "auto", Distribution(backend="smddp", processes=8)),
        ("ml.p4d.24xlarge", 2, "nccl", Distribution(backend="nccl", processes=8)),
        ("ml.p4d.24xlarge", 1, "auto", Distribution(backend="nccl", processes=8)),
        ("ml.p5.48xlarge", 2, "auto", Distribution(backend="nccl", processes=8)),
        ("ml.g5.12xlarge", 1, "auto", Distribution(backend="nccl", processes=4)),
        ("ml.g6.xlarge", 2, "auto", Distribution(backend="nccl", processes=1)),
        ("ml.g5.2xlarge", 1, "auto", PLAIN),
        ("ml.g5.2xlarge", 1, "nccl", PLAIN),
        ("ml.c5.2xlarge", 1, "auto", PLAIN),
        ("ml.c5.2xlarge", 1, "gloo", Distribution(backend="gloo", processes=2)),
        ("ml.c5.2xlarge", 2, "auto", Distribution(backend="gloo", processes=2)),
    ],
)
def test_the_distribution_follows_the_instance(instance, count, wish, expected):
    assert chosen(instance, count, wish) == expected


def test_a_container_that_is_known_to_lack_smddp_is_not_asked_for_it():
    assert chosen("ml.p4d.24xlarge", 2, image=_NEW).backend == "nccl"
    assert chosen("ml.p4d.24xlarge", 2, image=_OLD).backend == "smddp"
    assert chosen("ml.p4d.24xlarge", 2, "smddp", image="mine:latest").backend == "smddp"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("ml.p5.48xlarge", 2, "smddp"),
         "on ml.p5.48xlarge: take --instance ml.p4d.24xlarge or ml.p4de.24xlarge, or --backend nccl"),
        (("ml.c5.xlarge", 2, "smddp"), "or --backend gloo"),
        (("ml.p4d.24xlarge", 1, "smddp"), "needs two instances or more: take --count 2, or"),
        (("ml.p4d.24xlarge", 2, "smddp", "pretrain", _NEW), "does not hold SMDDP, whose last"),
        (("ml.p4d.24xlarge", 2, "smddp", "pretrain", _CPU), "is for CPUs"),
        (("ml.m5.xlarge", 1, "nccl"), "ml.m5.xlarge has no GPU; take --backend gloo"),
        (("ml.g5.2xlarge", 2, "auto", "embed"), r"embed runs on one instance.*each --shard I/N"),
        (("ml.g5.2xlarge", 2, "auto", "probe"), "probe runs on one instance; only pretrain takes"),
        (("ml.g5.2xlarge", 1, "nccl", "compare"), "compare is one process; leave the option away"),
    ],
)  # fmt: skip
def test_an_impossible_wish_is_refused_with_what_to_choose(asked, told):
    with pytest.raises(OptionError, match=told):
        chosen(*asked)


def test_an_instance_that_is_not_there_is_told_with_those_near():
    with pytest.raises(OptionError, match=r"'ml.p4d.24large': no such.*mean ml.p4d.24xlarge"):
        find_instance("ml.p4d.24large")


def test_every_instance_of_the_table_is_one_that_sagemaker_trains_on():
    from botocore.session import get_session

    model = get_session().get_service_model("sagemaker")
    assert set(instances()) <= set(model.shape_for("TrainingInstanceType").enum)
    assert {name for name, one in instances().items() if one.smddp} == {
        "ml.p4d.24xlarge", "ml.p4de.24xlarge",
    }  # fmt: skip


def test_prices_say_where_and_when_they_are_from():
    told = estimate("pretrain", find_instance("ml.p4d.24xlarge"), count=2, max_hours=10)
    assert told.usd_at_most == pytest.approx(told.usd_per_hour * 10)
    assert f"recorded {prices().recorded}" in told.text()
    assert "us-east-1" in told.text()
    unknown = estimate("embed", find_instance("ml.g6e.48xlarge"), count=1, max_hours=1)
    assert unknown.text().startswith("price not known")


def test_ones_own_table_goes_before_ours(tmp_path, monkeypatch):
    own = {"ml.g5.2xlarge": {"usd_per_hour": 1.0, "pretrain_hours": 7}, "ml.x9.big": {"vcpus": 4}}
    (tmp_path / "own.json").write_text(json.dumps({"instances": own}))
    monkeypatch.setenv("TILEZOO_INSTANCES", str(tmp_path / "own.json"))
    told = estimate("pretrain", find_instance("ml.g5.2xlarge"), count=1, max_hours=24)
    assert told.text().startswith("about $1.00 an hour, at most $24.00 for 24 h, 7 h as recorded")
    assert find_instance("ml.g5.2xlarge").gpus == 1
    assert find_instance("ml.x9.big").vcpus == 4


@pytest.mark.parametrize("text", ["{", "[]", '{"ml.g5.2xlarge": 3}', '{"ml.a.b": {"cores": 3}}'])
def test_a_table_that_is_none_is_told(text, tmp_path, monkeypatch):
    (tmp_path / "own.json").write_text(text)
    monkeypatch.setenv("TILEZOO_INSTANCES", str(tmp_path / "own.json"))
    with pytest.raises(LaunchError, match=r"own.json"):
        find_instance("ml.g5.2xlarge")
