"""What is looked at before anything is uploaded or costs money: the request, and the account."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilezoo.errors import LaunchError
from tilezoo.launch.aws import (
    Places,
    Session,
    error_code,
    explain_errors,
    is_denied,
    split_s3,
)
from tilezoo.launch.command import Channel
from tilezoo.launch.instances import Instance, JobPlan
from tilezoo.launch.options import MAX_HOURS
from tilezoo.launch.sdk import AwsJson

_CLASSES = ((r"\p{L}", r"\w"), (r"\p{Z}", r"\s"), (r"\p{N}", r"\d"), (r"\p{Alnum}", "a-zA-Z0-9"))
_SERVICE = "sagemaker.amazonaws.com"
_PAGES = 100  # of 1,000 objects; beyond, the size is given as "at least"
_ROOM = 0.9  # of a volume, for data: what the job installs and writes needs some
_GB = 1e9


def check_request(body: AwsJson, instance: Instance) -> None:
    """Hold a request of CreateTrainingJob to the service's model and to our rules.

    Raises:
        LaunchError: What the service would refuse, all of it.
    """
    faults = list(_request_faults(body, instance))
    if faults:
        raise LaunchError("SageMaker would refuse this: " + "; ".join(faults))


def _request_faults(body: AwsJson, instance: Instance) -> Iterator[str]:
    """Say everything that is wrong with a request."""
    from botocore.session import get_session
    from botocore.validate import ParamValidator

    model = get_session().get_service_model("sagemaker").operation_model("CreateTrainingJob")
    shape = model.input_shape
    report = ParamValidator().validate(body, shape)
    if report.has_errors():
        yield from report.generate_report().splitlines()
        return
    yield from _compare(shape, body, "")
    yield from _rule_faults(body, instance)


def _compare(shape: Any, value: Any, name: str) -> Iterator[str]:
    """Compare a value with its shape's limits, which botocore itself leaves to the service."""
    if shape.type_name == "structure":
        for key, one in value.items():
            yield from _compare(shape.members[key], one, f"{name}.{key}".lstrip("."))
        return
    yield from _limits(shape, value, name)
    if shape.type_name == "list":
        for place, one in enumerate(value):
            yield from _compare(shape.member, one, f"{name}[{place}]")
    elif shape.type_name == "map":
        for key, one in value.items():
            yield from _compare(shape.key, key, f"{name} {key!r}")
            yield from _compare(shape.value, one, f"{name}[{key}]")


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
    if pattern and isinstance(value, str) and not fits_pattern(pattern, value):
        yield f"{name} {value!r} does not fit {pattern}"


def fits_pattern(pattern: str, value: str) -> bool:
    """Match as the service does; Python's `re` has no classes of Unicode, but what holds them."""
    for theirs, ours in _CLASSES:
        pattern = pattern.replace(theirs, ours)
    return re.fullmatch(pattern, value, re.DOTALL) is not None


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, str | Sequence | Mapping) else None


def _rule_faults(body: AwsJson, instance: Instance) -> Iterator[str]:
    """What the service's model does not say."""
    yield from _time_faults(body)
    volume, room = body["ResourceConfig"]["VolumeSizeInGB"], instance.storage_gb
    if room and volume > room:
        yield (
            f"--volume-gb {volume}: {instance.name} has disks of its own of {room} GB, and takes "
            "no more"
        )
    channels = [channel["ChannelName"] for channel in body.get("InputDataConfig", ())]
    yield from (f"channel {name} twice" for name in _doubles(channels))
    yield from (f"tag {key!r} twice" for key in _doubles([t["Key"] for t in body.get("Tags", ())]))


def _time_faults(body: AwsJson) -> Iterator[str]:
    stop = body["StoppingCondition"]
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


def _doubles(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """What lies under a channel.

    Attributes:
        objects: Counted.
        size: Bytes.
        whole: Whether all were counted.
    """

    objects: int
    size: int
    whole: bool


def check_account(plan: JobPlan, places: Places, session: Session) -> list[str]:
    """Look at role, buckets, channels, room and quota.

    Returns:
        What a user may want to know: sizes, and what could not be asked.

    Raises:
        LaunchError: What would make the job fail, all of it, a line each.
    """
    notes: list[str] = []
    with explain_errors():
        faults = [
            *_name_faults(places.name, session),
            *_role_faults(places.role, session, notes),
            *_storage_faults(plan, places, session, notes),
            *_quota_faults(plan, session, notes),
        ]
    if faults:
        raise LaunchError("\n".join(faults))
    return notes


def _name_faults(name: str, session: Session) -> Iterator[str]:
    """See that no job has the name: an account's jobs keep theirs for ever."""
    from botocore.exceptions import ClientError

    try:
        session.client("sagemaker").describe_training_job(TrainingJobName=name)
    except ClientError as error:
        if error_code(error) not in ("ValidationException", "ResourceNotFound"):
            raise
        return
    yield f"--name {name}: there is a job of that name; choose another, or leave the option away"


def _role_faults(arn: str, session: Session, notes: list[str]) -> Iterator[str]:
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
        return True  # not known: the service will say
    statements = policy.get("Statement", [])
    for statement in [statements] if isinstance(statements, dict) else statements:
        principal = statement.get("Principal", {})
        services = principal.get("Service", []) if isinstance(principal, dict) else [principal]
        services = [services] if isinstance(services, str) else services
        if statement.get("Effect") == "Allow" and {_SERVICE, "*"} & set(services):
            return True
    return False


def _storage_faults(
    plan: JobPlan, places: Places, session: Session, notes: list[str]
) -> Iterator[str]:
    """See that the buckets are there, that channels hold something, and that all have room."""
    s3 = session.client("s3")
    channels = plan.command.channels
    uris = (places.output, places.checkpoints, *(channel.uri for channel in channels))
    buckets = sorted({split_s3(uri)[0] for uri in uris})
    missing = {one: fault for one in buckets if (fault := _bucket_fault(one, places.region, s3))}
    yield from missing.values()
    there = [one for one in channels if split_s3(one.uri)[0] not in missing]
    yield from _channel_faults(there, plan, s3, notes)


def _bucket_fault(bucket: str, region: str, s3: Any) -> str | None:
    """Say why a bucket is not there, not open to us, or not in the job's region."""
    from botocore.exceptions import ClientError

    try:
        found = s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        code = error_code(error)
        if code in ("404", "NoSuchBucket"):
            return f"no bucket {bucket!r}: aws s3 mb s3://{bucket} --region {region}"
        if code in ("301", "PermanentRedirect"):
            return f"bucket {bucket!r} is not in {region}: choose its --region"
        if is_denied(error):
            return f"bucket {bucket!r} is closed to you: ask its owner for access"
        raise
    where = found.get("BucketRegion") or region
    if where == region:
        return None
    return f"bucket {bucket!r} is in {where} and the job in {region}: choose --region {where}"


def _channel_faults(
    channels: Sequence[Channel], plan: JobPlan, s3: Any, notes: list[str]
) -> Iterator[str]:
    found = [_list_objects(channel.uri, s3) for channel in channels]
    for channel, listing in zip(channels, found, strict=True):
        if not listing.objects:
            yield f"nothing lies under {channel.uri} (channel {channel.name}): see `aws s3 ls`"
    total = sum(listing.size for listing in found)
    at_least = "" if all(listing.whole for listing in found) else "at least "
    own = plan.instance.storage_gb
    room = own or plan.options.volume_gb
    notes.append(f"data: {at_least}{total / _GB:.3g} GB for {room} GB on each instance")
    if total > _ROOM * room * _GB:
        volume = round(total / _ROOM / _GB) + 20
        remedy = "an instance with larger disks" if own else f"--volume-gb {volume}"
        yield f"{at_least}{total / _GB:.0f} GB of data have no room in {room} GB: take {remedy}"


def _list_objects(uri: str, s3: Any) -> _Listing:
    """Count what lies under a place, and its bytes."""
    bucket, prefix = split_s3(uri)
    objects = size = 0
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for number, page in enumerate(pages, start=1):
        found = [one for one in page.get("Contents", ()) if not one["Key"].endswith("/")]
        objects += len(found)
        size += sum(one["Size"] for one in found)
        if number == _PAGES:
            return _Listing(objects=objects, size=size, whole=not page.get("IsTruncated"))
    return _Listing(objects=objects, size=size, whole=True)


def _quota_faults(plan: JobPlan, session: Session, notes: list[str]) -> Iterator[str]:
    """See that the account may run so many, where it can be asked."""
    from botocore.exceptions import BotoCoreError, ClientError

    asked = plan.options
    use = "spot training job usage" if asked.spot else "training job usage"
    name = f"{asked.instance} for {use}"
    try:
        value = _find_quota(name, session)
    except (ClientError, BotoCoreError):
        value = None  # where it cannot be asked, the service says so at once and for nothing
    if value is None:
        notes.append(f"quota: {name!r} could not be asked; the service will say")
    elif value < asked.count:
        yield (
            f"quota: your account may run {value:g} of {name!r}, and this asks for "
            f"{asked.count}: ask for more in the Service Quotas console, or take another --instance"
        )


def _find_quota(name: str, session: Session) -> float | None:
    from botocore.config import Config

    once = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=15)
    client = session.client("service-quotas", config=once)
    pages = client.get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    for page in pages:
        for quota in page.get("Quotas", ()):
            if quota.get("QuotaName") == name:
                return float(quota["Value"])
    return None
