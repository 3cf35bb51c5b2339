"""What SageMaker would refuse: botocore's own model of the service, and rules that it does not hold."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tilezoo.errors import LaunchError
from tilezoo.launch.instances import Instance
from tilezoo.launch.settings import MAX_HOURS

_CLASSES = ((r"\p{L}", r"\w"), (r"\p{Z}", r"\s"), (r"\p{N}", r"\d"), (r"\p{Alnum}", "a-zA-Z0-9"))
_RESERVED = ("code", "sm_drivers")  # channels of the SDK's own


def check_request(body: Mapping[str, Any], instance: Instance) -> None:
    """Hold a request of CreateTrainingJob to the service's model and to our rules.

    Raises:
        LaunchError: What the service would refuse, all of it.
    """
    faults = list(request_faults(body, instance))
    if faults:
        raise LaunchError("SageMaker would refuse this: " + "; ".join(faults))


def request_faults(body: Mapping[str, Any], instance: Instance) -> Iterator[str]:
    """Say everything that is wrong with a request."""
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    model = get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob")
    shape = model.input_shape
    report = ParamValidator().validate(body, shape)
    if report.has_errors():
        yield from report.generate_report().splitlines()
        return
    yield from _against(shape, body, "")
    yield from _own_rules(body, instance)


def _against(shape: Any, value: Any, name: str) -> Iterator[str]:
    """Compare a value with its shape's limits, which botocore itself leaves to the service."""
    if shape.type_name == "structure":
        for key, one in value.items():
            yield from _against(shape.members[key], one, f"{name}.{key}".lstrip("."))
        return
    yield from _limits(shape, value, name)
    if shape.type_name == "list":
        for place, one in enumerate(value):
            yield from _against(shape.member, one, f"{name}[{place}]")
    elif shape.type_name == "map":
        for key, one in value.items():
            yield from _against(shape.key, key, f"{name} {key!r}")
            yield from _against(shape.value, one, f"{name}[{key}]")


def _limits(shape: Any, value: Any, name: str) -> Iterator[str]:
    limits = shape.metadata
    if allowed := limits.get("enum"):
        if value not in allowed:
            yield f"{name} {value!r} is not known to this botocore"
        return
    size = value if shape.type_name in ("integer", "long", "float", "double") else _length(value)
    if "max" in limits and size is not None and size > limits["max"]:
        yield f"{name} has {size}, more than {limits['max']}"
    pattern = limits.get("pattern")
    if pattern and isinstance(value, str) and not _fits(pattern, value):
        yield f"{name} {value!r} does not fit {pattern}"


def _fits(pattern: str, value: str) -> bool:
    """Match as the service does; Python's `re` has no classes of Unicode, but what holds them."""
    for theirs, ours in _CLASSES:
        pattern = pattern.replace(theirs, ours)
    return re.fullmatch(pattern, value, re.DOTALL) is not None


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, str | Sequence | Mapping) else None


def _own_rules(body: Mapping[str, Any], instance: Instance) -> Iterator[str]:
    stop, resources = body["StoppingCondition"], body["ResourceConfig"]
    runtime, wait = stop["MaxRuntimeInSeconds"], stop.get("MaxWaitTimeInSeconds")
    if runtime > MAX_HOURS * 3600:
        yield f"the job may run {runtime} s, more than 28 days"
    if body.get("EnableManagedSpotTraining"):
        if wait is None or wait < runtime:
            yield f"a spot job waits {wait} s, less than the {runtime} s it may run"
        if "CheckpointConfig" not in body:
            yield "a spot job without checkpoints would begin anew each time"
    elif wait is not None:
        yield "only a spot job has a time to wait"
    room = instance.storage_gb
    if room and resources["VolumeSizeInGB"] > room:
        yield (
            f"--volume-gb {resources['VolumeSizeInGB']}: {instance.name} has disks of its own of "
            f"{room} GB, and takes no more"
        )
    channels = [channel["ChannelName"] for channel in body.get("InputDataConfig", ())]
    own = [name for name in channels if name not in _RESERVED]
    yield from (f"channel {name} twice" for name in _doubles(channels))
    if len(channels) - len(own) > len(_RESERVED):
        yield f"channels {' and '.join(_RESERVED)} are the SDK's own"
    yield from (f"tag {key!r} twice" for key in _doubles([t["Key"] for t in body.get("Tags", ())]))


def _doubles(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
