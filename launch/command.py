"""A tilezoo command on this machine → the same command in a job, with channels for its data."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from tilezoo.errors import OptionError

LAUNCHED_VERBS = ("pack", "pretrain", "embed", "probe", "compare")
INPUT = "/opt/ml/input/data"
OUT = "/opt/ml/checkpoints"  # what SageMaker keeps in step with S3 while the job runs
OUT_FLAGS = ("-o", "--out")
# Options whose place in S3 gets a channel of that name; the others' are named like the source's.
CHANNELS = {"--labels": "labels", "-m": "model", "--model": "model", "--update-card": "card"}
_SOURCE_CHANNELS = {"probe": "table"}  # else: tiles
_S3 = re.compile(r"s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/.*)?")
_FILE = re.compile(r"\.(parquet|csv|json|tiff?|png|jpe?g|txt|pth|npy|safetensors)$", re.IGNORECASE)
_COMMAND_MAX = 2500  # characters: the service's limit on one hyperparameter
_CHANNELS_MAX = 18  # the service's 20, without the SDK's two


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Data that SageMaker brings into the job before it starts.

    Attributes:
        name: Of its folder under /opt/ml/input/data.
        uri: `s3://BUCKET/FOLDER/`, or of one object.
        path: Where the job finds it.
    """

    name: str
    uri: str
    path: str


@dataclass(frozen=True, kw_only=True)
class JobCommand:
    """A command as the job runs it.

    Attributes:
        verb: `pretrain`, …
        words: With container paths in place of S3.
        channels: For every S3 word.
        out: The S3 folder after `-o`; None where a plain name stands there.
    """

    verb: str
    words: tuple[str, ...]
    channels: tuple[Channel, ...]
    out: str | None

    @property
    def backend(self) -> str | None:
        """The value of a pretraining's own `--backend`; None where it says none."""
        if self.verb != "pretrain":
            return None
        stated = [value for flag, _, value in _parts(self.words) if flag == "--backend"]
        return stated[0] if stated else None

    def with_words(self, *words: str) -> "JobCommand":
        """Add words at the end."""
        return replace(self, words=(*self.words, *words))

    def hyperparameter(self) -> str:
        """Write the words as the one hyperparameter they travel in.

        The SDK's drivers put hyperparameters between single quotes of a shell, so an apostrophe is
        written as JSON's escape, within one more JSON string, which they read and write unchanged.
        """
        text = json.dumps(list(self.words))
        if "'" in text:
            text = json.dumps(text.replace("'", "\\u0027"))
        if len(text) > _COMMAND_MAX:
            raise OptionError(
                f"the command has {len(text)} characters as JSON: SageMaker takes {_COMMAND_MAX}; "
                "put sources into one S3 folder, or a list of them into a Parquet file"
            )
        return text


def read_command(words: Sequence[str]) -> JobCommand:
    """Turn a tilezoo command into the job's.

    Args:
        words: As after `--`, with or without `tilezoo` in front.

    Raises:
        OptionError: No verb that can be launched, no `-o`, or data that is not in S3.
    """
    words = words[1:] if words and words[0] == "tilezoo" else words
    verb = words[0] if words else ""
    _check_verb(verb)
    channels: dict[str, Channel] = {}
    out: list[str] = []
    made = [verb]
    for flag, before, value in _parts(words[1:]):
        if flag in OUT_FLAGS:
            out.append(value)
            made.append(before + OUT)
        elif "s3://" in value:
            name = CHANNELS.get(flag, _SOURCE_CHANNELS.get(verb, "tiles"))
            made.append(before + _put_in_channel(value, name, channels))
        else:
            _check_not_local(value)
            made.append(before + value)
    if len(out) != 1:
        raise OptionError(f"{verb}: say once where the result goes, with -o NAME or -o s3://…")
    if len(channels) > _CHANNELS_MAX:
        raise OptionError(
            f"{len(channels)} places in S3: a job takes {_CHANNELS_MAX}; put them under one folder"
        )
    place = _end_folder(out[0]) if out[0].startswith("s3://") else None
    if place is not None:
        refuse_overlap("-o", place, channels.values())
    return JobCommand(verb=verb, words=tuple(made), channels=tuple(channels.values()), out=place)


def refuse_overlap(flag: str, place: str, channels: Iterable[Channel]) -> None:
    """Refuse a place to write to that is, holds, or lies in one that is read.

    In it, results would be read as data the next time; and a job is given all that a place to write
    to holds before it starts.

    Args:
        flag: The option that names the place.
        place: `s3://BUCKET/FOLDER/`.
        channels: What is read.

    Raises:
        OptionError: Naming both.
    """
    for channel in channels:
        folder = _end_folder(channel.uri)
        if place.startswith(folder) or folder.startswith(place):
            how = "lies in" if place.startswith(folder) else "holds"
            how = "is" if place == folder else how
            raise OptionError(
                f"{flag} {place}: {how} the input {channel.uri}; choose a folder beside it"
            )


def is_s3(uri: str) -> bool:
    """Whether a text is `s3://BUCKET`, with or without a folder."""
    return _S3.fullmatch(uri) is not None


def _check_verb(verb: str) -> None:
    if verb not in LAUNCHED_VERBS:
        near = get_close_matches(verb, LAUNCHED_VERBS, n=1)
        hint = f"did you mean {near[0]}? Launch" if near else "launch"
        raise OptionError(
            f"{verb!r} cannot be launched; {hint} one of {', '.join(LAUNCHED_VERBS)}: tilezoo launch -- "
            "pretrain s3://BUCKET/shards -o run"
        )


def _parts(words: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Give each word's option, what of the word stands before the value, and the value.

    `--labels=X` is ("--labels", "--labels=", "X"), and X after the word `--labels` is
    ("--labels", "", "X"). A word without an option has "" for it, and so has an option's own.
    """
    flag = ""
    for word in words:
        if word.startswith("--") and "=" in word:
            own, _, value = word.partition("=")
            yield own, f"{own}=", value
            flag = ""
        elif word.startswith("-"):
            yield "", word, ""
            flag = word
        else:
            yield flag, "", word
            flag = ""


def _put_in_channel(value: str, wanted: str, channels: dict[str, Channel]) -> str:
    """Give the container's path of an S3 value, which may have a NAME= in front."""
    name, _, rest = value.partition("s3://")
    if (name and not name.endswith("=")) or "s3://" in rest:
        raise OptionError(f"{value!r}: give each s3://… as a word of its own")
    uri = f"s3://{rest}"
    if uri not in channels:
        channels[uri] = _make_channel(wanted, uri, [one.name for one in channels.values()])
    return name + channels[uri].path


def _make_channel(wanted: str, uri: str, others: Sequence[str]) -> Channel:
    if not is_s3(uri):
        raise OptionError(f"{uri!r} should be s3://BUCKET/FOLDER")
    numbered = (f"{wanted}{number}" for number in range(2, 100))
    name = next(name for name in (wanted, *numbered) if name not in others)
    path = f"{INPUT}/{name}"
    if _FILE.search(uri):
        return Channel(name=name, uri=uri, path=f"{path}/{PurePosixPath(uri).name}")
    return Channel(name=name, uri=_end_folder(uri), path=path)


def _end_folder(uri: str) -> str:
    """End a folder's URI with a slash: S3 knows prefixes only, and `tiles` is one of `tiles2/`."""
    return uri.rstrip("/") + "/"


def _check_not_local(value: str) -> None:
    path = value.partition("=")[2] or value
    if path and Path(path).exists():
        raise OptionError(
            f"{path!r} lies on this machine, and the job sees S3 only: "
            f"aws s3 cp --recursive {path} s3://BUCKET/{Path(path).name}, then name that"
        )
