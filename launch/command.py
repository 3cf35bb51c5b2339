"""A tilezoo command on this machine → the same command in a job, with channels for its data."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tilezoo.errors import OptionError

VERBS = ("pack", "pretrain", "embed", "probe", "compare")
INPUT = "/opt/ml/input/data"
OUT = "/opt/ml/checkpoints"  # what SageMaker keeps in step with S3 while the job runs
_OUT_OPTIONS = ("-o", "--out")
# Options whose S3 value gets a channel of that name; all else is the command's source.
_CHANNEL_OF = {"--labels": "labels", "-m": "model", "--model": "model", "--update-card": "card"}
_SOURCE_CHANNEL = {"probe": "table"}  # else: tiles
_FILE = re.compile(r"\.(parquet|csv|json|tiff?|png|jpe?g|txt|pth|npy|safetensors)$", re.IGNORECASE)
_COMMAND_MAX = 2500  # characters: the service's limit on one hyperparameter
_CHANNELS_MAX = 18  # the service's 20, without the SDK's two


@dataclass(frozen=True, kw_only=True)
class Channel:
    """Data that SageMaker brings into the job before it starts.

    Attributes:
        name: Of the folder under /opt/ml/input/data.
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

    def backend(self) -> str | None:
        """The value of the command's own `--backend`."""
        return option_value(self.words, "--backend")

    def with_words(self, *words: str) -> "JobCommand":
        """Add words at the end."""
        return JobCommand(
            verb=self.verb, words=(*self.words, *words), channels=self.channels, out=self.out
        )

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


def job_command(words: Sequence[str]) -> JobCommand:
    """Turn a tilezoo command into the job's.

    Args:
        words: As after `--`, with or without `tilezoo` in front.

    Raises:
        OptionError: No verb that can be launched, no `-o`, or data that is not in S3.
    """
    words = words[1:] if words and words[0] == "tilezoo" else words
    verb = words[0] if words else ""
    if verb not in VERBS:
        raise OptionError(
            f"{verb!r} cannot be launched; launch one of {', '.join(VERBS)}: tilezoo launch -- "
            "pretrain s3://BUCKET/shards -o run"
        )
    channels: dict[str, Channel] = {}
    out: list[str] = []
    made = [verb]
    before = ""
    for word in words[1:]:
        option, value = _split(word, before)
        head = word[: len(word) - len(value)]
        if option in _OUT_OPTIONS:
            out.append(value)
            made.append(head + OUT)
        elif "s3://" in value:
            made.append(head + _channelled(value, option, verb, channels))
        else:
            _check_not_local(value)
            made.append(word)
        before = word
    if len(out) != 1:
        raise OptionError(f"{verb}: say once where the result goes, with -o NAME or -o s3://…")
    if len(channels) > _CHANNELS_MAX:
        raise OptionError(
            f"{len(channels)} places in S3: a job takes {_CHANNELS_MAX}; put them under one folder"
        )
    return JobCommand(
        verb=verb,
        words=tuple(made),
        channels=tuple(channels.values()),
        out=_folder(out[0]) if out[0].startswith("s3://") else None,
    )


def option_value(words: Sequence[str], option: str) -> str | None:
    """Find what stands after an option, or after its `=`."""
    for place, word in enumerate(words):
        if word == option and place + 1 < len(words):
            return words[place + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _split(word: str, before: str) -> tuple[str, str]:
    """Say which option a word belongs to, and its value: `--labels=X`, or X after `--labels`."""
    if word.startswith("--") and "=" in word:
        option, _, value = word.partition("=")
        return option, value
    if word.startswith("-"):
        return "", ""
    return (before if before.startswith("-") and "=" not in before else ""), word


def _channelled(value: str, option: str, verb: str, channels: dict[str, Channel]) -> str:
    """Give the container's path of an S3 value, which may have a NAME= in front."""
    name, _, rest = value.partition("s3://")
    if (name and not name.endswith("=")) or "s3://" in rest:
        raise OptionError(f"{value!r}: give each s3://… as a word of its own")
    uri = f"s3://{rest}"
    if uri not in channels:
        wanted = _CHANNEL_OF.get(option, _SOURCE_CHANNEL.get(verb, "tiles"))
        channels[uri] = _channel(wanted, uri, [channel.name for channel in channels.values()])
    return name + channels[uri].path


def _channel(wanted: str, uri: str, taken: Sequence[str]) -> Channel:
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9](/.*)?", uri):
        raise OptionError(f"{uri!r} should be s3://BUCKET/FOLDER")
    numbered = (f"{wanted}{number}" for number in range(2, 100))
    name = next(name for name in (wanted, *numbered) if name not in taken)
    path = f"{INPUT}/{name}"
    if _FILE.search(uri):
        return Channel(name=name, uri=uri, path=f"{path}/{PurePosixPath(uri).name}")
    return Channel(name=name, uri=_folder(uri), path=path)


def _folder(uri: str) -> str:
    """End a folder's URI with a slash: S3 knows prefixes only, and `tiles` is one of `tiles2/`."""
    return uri.rstrip("/") + "/"


def _check_not_local(value: str) -> None:
    path = value.partition("=")[2] or value
    if path and Path(path).exists():
        raise OptionError(
            f"{path!r} lies on this machine, and the job sees S3 only: "
            f"aws s3 cp --recursive {path} s3://BUCKET/{Path(path).name}, then name that"
        )
