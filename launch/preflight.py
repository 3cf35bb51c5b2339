"""What is looked at in the user's account before anything is uploaded or costs money."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilezoo.errors import LaunchError
from tilezoo.launch.aws import error_code, is_denied, split_s3, told
from tilezoo.launch.command import Channel, JobCommand
from tilezoo.launch.instances import Instance
from tilezoo.launch.request import Places
from tilezoo.launch.settings import MAX_HOURS, LaunchSettings

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


_SERVICE = "sagemaker.amazonaws.com"
_PAGES = 100  # of 1,000 objects; beyond, the size is told as "at least"
_ROOM = 0.9  # of a volume, for data: what the job installs and writes needs some
_GB = 1e9


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies under a channel.

    Attributes:
        objects: Counted.
        size: Bytes.
        whole: Whether all were counted.
    """

    objects: int
    size: int
    whole: bool


def preflight(
    command: JobCommand,
    settings: LaunchSettings,
    places: Places,
    instance: Instance,
    session: Any,
) -> list[str]:
    """Look at role, buckets, channels, room and quota.

    Returns:
        What a user may want to know: sizes, and what could not be asked.

    Raises:
        LaunchError: What would make the job fail, all of it, a line each.
    """
    faults: list[str] = []
    notes: list[str] = []
    with told():
        faults += _name_faults(places.name, session)
        faults += _role_faults(places.role, session, notes)
        buckets = {split_s3(places.output)[0], split_s3(places.checkpoints(command))[0]}
        buckets |= {split_s3(channel.uri)[0] for channel in command.channels}
        missing = dict(_bucket_faults(sorted(buckets), places.region, session))
        faults += missing.values()
        there = [one for one in command.channels if split_s3(one.uri)[0] not in missing]
        faults += _channel_faults(there, settings, instance, session, notes)
        faults += _quota_faults(settings, session, notes)
    if faults:
        raise LaunchError("\n".join(faults))
    return notes


def _name_faults(name: str, session: Any) -> Iterator[str]:
    """See that no job has the name: an account's jobs keep theirs for ever."""
    from botocore.exceptions import ClientError

    try:
        session.client("sagemaker").describe_training_job(TrainingJobName=name)
    except ClientError as error:
        if error_code(error) not in ("ValidationException", "ResourceNotFound"):
            raise
        return
    yield f"--name {name}: there is a job of that name; choose another, or leave the option away"


def _role_faults(arn: str, session: Any, notes: list[str]) -> Iterator[str]:
    """See that the role exists and that SageMaker may take it."""
    from botocore.exceptions import ClientError

    name = arn.rpartition("/")[2]
    account = session.client("sts").get_caller_identity()["Account"]
    if arn.split(":")[4] != account:
        yield f"role {arn} is of another account than yours ({account}): take one of your own"
        return
    try:
        role = session.client("iam").get_role(RoleName=name)["Role"]
    except ClientError as error:
        if error_code(error) == "NoSuchEntity":
            yield f"no role {name!r} in account {account}: give --role of one that is there"
        elif is_denied(error):
            notes.append(f"role {name}: not looked at (you may not ask IAM)")
        else:
            raise
        return
    if not _trusts_sagemaker(role.get("AssumeRolePolicyDocument")):
        yield (
            f"role {name!r} cannot be taken by SageMaker: its trust policy should let "
            f"{_SERVICE} do sts:AssumeRole"
        )


def _trusts_sagemaker(policy: Any) -> bool:
    if not isinstance(policy, dict):
        return True  # not told: the service will say
    statements = policy.get("Statement", [])
    for statement in [statements] if isinstance(statements, dict) else statements:
        principal = statement.get("Principal", {})
        services = principal.get("Service", []) if isinstance(principal, dict) else [principal]
        services = [services] if isinstance(services, str) else services
        if statement.get("Effect") == "Allow" and {_SERVICE, "*"} & set(services):
            return True
    return False


def _bucket_faults(buckets: list[str], region: str, session: Any) -> Iterator[tuple[str, str]]:
    """See that each bucket is there, open to us, and in the job's region."""
    from botocore.exceptions import ClientError

    s3 = session.client("s3")
    for bucket in buckets:
        try:
            found = s3.head_bucket(Bucket=bucket)
        except ClientError as error:
            code = error_code(error)
            if code in ("404", "NoSuchBucket"):
                yield bucket, f"no bucket {bucket!r}: aws s3 mb s3://{bucket} --region {region}"
            elif code in ("301", "PermanentRedirect"):
                yield bucket, f"bucket {bucket!r} is not in {region}: choose its --region"
            elif is_denied(error):
                yield bucket, f"bucket {bucket!r} is closed to you: ask its owner for access"
            else:
                raise
            continue
        where = found.get("BucketRegion")
        if where and where != region:
            yield (
                bucket,
                (
                    f"bucket {bucket!r} is in {where} and the job in {region}: choose --region {where}"
                ),
            )


def _channel_faults(
    channels: list[Channel],
    settings: LaunchSettings,
    instance: Instance,
    session: Any,
    notes: list[str],
) -> Iterator[str]:
    """See that every channel holds something, and that all have room on an instance."""
    s3 = session.client("s3")
    total, whole = 0, True
    for channel in channels:
        found = _listing(channel.uri, s3)
        if not found.objects:
            yield f"nothing lies under {channel.uri} (channel {channel.name}): see `aws s3 ls`"
        total += found.size
        whole = whole and found.whole
    room = instance.storage_gb or settings.volume_gb
    at_least = "" if whole else "at least "
    notes.append(f"data: {at_least}{total / _GB:.3g} GB for {room} GB on each instance")
    if total > _ROOM * room * _GB:
        remedy = (
            "take an instance with larger disks"
            if instance.storage_gb
            else f"take --volume-gb {round(total / _ROOM / _GB) + 20}"
        )
        yield f"{at_least}{total / _GB:.0f} GB of data have no room in {room} GB: {remedy}"


def _listing(uri: str, s3: Any) -> Listing:
    bucket, prefix = split_s3(uri)
    objects = size = 0
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for number, page in enumerate(pages, start=1):
        found = [one for one in page.get("Contents", ()) if not one["Key"].endswith("/")]
        objects += len(found)
        size += sum(one["Size"] for one in found)
        if number == _PAGES:
            return Listing(objects=objects, size=size, whole=not page.get("IsTruncated"))
    return Listing(objects=objects, size=size, whole=True)


def _quota_faults(settings: LaunchSettings, session: Any, notes: list[str]) -> Iterator[str]:
    """See that the account may run so many, where it can be asked."""
    from botocore.exceptions import BotoCoreError, ClientError

    use = "spot training job usage" if settings.spot else "training job usage"
    name = f"{settings.instance} for {use}"
    try:
        value = _quota(name, session)
    except (ClientError, BotoCoreError):
        value = None  # where it cannot be asked, the service says so at once and for nothing
    if value is None:
        notes.append(f"quota: {name!r} could not be asked; the service will say")
    elif value < settings.count:
        yield (
            f"quota: your account may run {value:g} of {name!r}, and this asks for "
            f"{settings.count}: ask for more in the Service Quotas console, or take another --instance"
        )


def _quota(name: str, session: Any) -> float | None:
    from botocore.config import Config

    once = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15)
    client = session.client("service-quotas", config=once)
    pages = client.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    for page in pages:
        for quota in page.get("Quotas", ()):
            if quota.get("QuotaName") == name:
                return float(quota["Value"])
    return None


def check_image(image: str, region: str) -> None:
    """Refuse a container of another region's registry.

    Raises:
        LaunchError: SageMaker takes containers of its own region only.
    """
    match = re.search(r"\.dkr\.ecr\.([a-z0-9\-]+)\.", image)
    if match and match[1] != region:
        raise LaunchError(
            f"--image is in {match[1]} and the job in {region}: push it there, or choose "
            f"--region {match[1]}"
        )
