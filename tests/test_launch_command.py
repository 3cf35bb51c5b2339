"""A command of this machine becomes the same command in a job."""

import json
import subprocess

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from tilezoo.cli.app import app
from tilezoo.errors import OptionError
from tilezoo.launch.command import CHANNELS, LAUNCHED_VERBS, OUT_FLAGS, Channel, read_command


def made(text: str):
    return read_command(text.split())


def test_every_s3_word_is_a_channel_named_by_its_option():
    job = made("compare s3://b-b/tiles --labels s3://b-b/m.parquet -m ours=s3://b-b/model/ -o run")
    assert job.channels == (
        Channel(name="tiles", uri="s3://b-b/tiles/", path="/opt/ml/input/data/tiles"),
        Channel(
            name="labels", uri="s3://b-b/m.parquet", path="/opt/ml/input/data/labels/m.parquet"
        ),
        Channel(name="model", uri="s3://b-b/model/", path="/opt/ml/input/data/model"),
    )
    assert " ".join(job.words) == (
        "compare /opt/ml/input/data/tiles --labels /opt/ml/input/data/labels/m.parquet "
        "-m ours=/opt/ml/input/data/model -o /opt/ml/checkpoints"
    )


def test_the_same_place_twice_is_one_channel_and_two_places_are_two():
    job = made("probe a=s3://b-b/t b=s3://b-b/u c=s3://b-b/t --labels=s3://b-b/l.csv -o p")
    assert [(channel.name, channel.uri) for channel in job.channels] == [
        ("table", "s3://b-b/t/"), ("table2", "s3://b-b/u/"), ("labels", "s3://b-b/l.csv"),
    ]  # fmt: skip
    assert job.words[1:4] == (
        "a=/opt/ml/input/data/table", "b=/opt/ml/input/data/table2", "c=/opt/ml/input/data/table",
    )  # fmt: skip
    assert "--labels=/opt/ml/input/data/labels/l.csv" in job.words


@pytest.mark.parametrize("spelt", ["-o s3://b-b/run", "--out s3://b-b/run/", "--out=s3://b-b/run"])
def test_a_place_in_s3_to_write_to_is_where_the_job_writes(spelt):
    job = made(f"pretrain s3://b-b/shards {spelt}")
    assert job.out == "s3://b-b/run/"
    assert [channel.uri for channel in job.channels] == ["s3://b-b/shards/"]
    assert job.words[-1].endswith("/opt/ml/checkpoints")


FOLDERS = st.lists(st.sampled_from("abc"), max_size=3).map(lambda parts: "/".join(["b-b", *parts]))


@given(data=FOLDERS, out=FOLDERS, slashes=st.tuples(st.booleans(), st.booleans()))
def test_a_result_lies_beside_its_data_and_never_in_them_or_around_them(
    data: str, out: str, slashes: tuple[bool, bool]
) -> None:
    read, write = (
        f"s3://{place}{'/' * slash}" for place, slash in zip((data, out), slashes, strict=True)
    )
    words = ["embed", "s3://b-other/t", read, "-o", write]
    if f"{data}/".startswith(f"{out}/") or f"{out}/".startswith(f"{data}/"):
        with pytest.raises(OptionError, match=r"the input s3://b-b.*choose a folder beside it"):
            read_command(words)
    else:
        assert read_command(words).out == f"s3://{out}/"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("embed s3://b-b/t -o s3://b-b/t/out", "-o s3://b-b/t/out/: lies in the input s3://b-b/t/"),
        ("pretrain s3://b-b/t -o s3://b-b/t", "-o s3://b-b/t/: is the input s3://b-b/t/"),
        ("probe s3://b-b/t --labels s3://b-b/x/l.csv --out=s3://b-b/x", "holds the input .*l.csv"),
        ("compare s3://b-b/t -m a=s3://b-b/m --labels folder -o s3://b-b/m/r", "lies in .*b-b/m/"),
    ],
)
def test_a_place_that_is_read_is_not_written_to(text: str, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        made(text)


def test_a_name_that_begins_like_anothers_is_another_place() -> None:
    assert made("embed s3://b-b/tiles -o s3://b-b/tiles2").out == "s3://b-b/tiles2/"


def test_a_plain_name_to_write_to_is_a_fresh_place_of_the_job():
    assert made("tilezoo pretrain s3://b-b/shards -o run").out is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' cannot be launched; launch one of pack, pretrain, embed"),
        ("search s3://b-b/t q.png", "'search' cannot be launched"),
        ("pretrain s3://b-b/t", "say once where the result goes, with -o"),
        ("pretrain s3://b-b/t -o a -o b", "say once where the result goes"),
        ("pretrain s3://B/t -o run", "'s3://B/t' should be s3://BUCKET/FOLDER"),
        ("pretrain s3://b-b/t,s3://b-b/u -o run", "give each s3://… as a word of its own"),
    ],
)
def test_what_no_job_can_run_is_told(text, told):
    with pytest.raises(OptionError, match=told):
        made(text)


@pytest.mark.parametrize("form", ["{}", "ours={}", "--labels={}"])
def test_what_lies_on_this_machine_is_told_with_how_to_copy_it(tmp_path, form):
    (tmp_path / "here").mkdir()
    local = tmp_path / "here"
    with pytest.raises(OptionError, match=r"lies on this machine.*aws s3 cp --recursive"):
        read_command(["pretrain", form.format(local), "-o", "run"])


def test_a_command_too_long_for_a_hyperparameter_is_told():
    long = read_command(["embed", "s3://b-b/t", *["x" * 99] * 30, "-o", "t"])
    with pytest.raises(OptionError, match="SageMaker takes 2500; put sources into one S3 folder"):
        long.hyperparameter()


def test_more_places_than_a_job_takes_are_told():
    with pytest.raises(OptionError, match="19 places in S3: a job takes 18"):
        read_command(["embed", *(f"s3://b-b/{number}" for number in range(19)), "-o", "t"])


def test_options_that_name_places_are_those_of_the_commands():
    commands = typer.main.get_command(app).commands
    flags = {
        verb: {flag for one in commands[verb].params for flag in one.opts}
        for verb in LAUNCHED_VERBS
    }
    assert all(set(OUT_FLAGS) <= each for each in flags.values())
    assert set(CHANNELS) <= set().union(*flags.values())


_WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8
).filter(lambda text: "s3://" not in text and not text.startswith("-"))


@settings(max_examples=15, deadline=None)
@given(st.lists(_WORDS, min_size=1, max_size=4), st.booleans())
def test_any_words_come_out_of_the_sdks_start_script_as_they_went_in(words, apostrophe):
    """Through its environment script, a shell that sources it, and its drivers' arguments."""
    words = [*words, "it's"] if apostrophe else words
    asked = read_command(["pretrain", "s3://b-b/t", "-o", "run", "--set", *words])
    exports, arguments = _through_the_sdk({"command": asked.hyperparameter()})
    assert json.loads(arguments[1]) == list(asked.words)
    told = _sourced(exports)["command"]
    if any("'" in word for word in words):  # then it is JSON within JSON, see JobCommand
        told = json.loads(told)
    assert told == list(asked.words)


def _through_the_sdk(hyperparameters):
    """What the SDK's scripts in the container make of hyperparameters."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sagemaker.train.container_drivers.common import utils
    values = {name: utils.safe_deserialize(value) for name, value in hyperparameters.items()}
    line = f"export SM_HPS='{utils.safe_serialize(values)}'\n"  # scripts/environment.py, set_env
    return line, utils.hyperparameters_to_cli_args(values)


def _sourced(exports):
    done = subprocess.run(
        ["bash", "-c", f'{exports}\nprintf %s "$SM_HPS"'], capture_output=True, check=True
    )
    return json.loads(done.stdout)
