"""How a job's processes are started and talk, chosen from instance, count and wish."""

from dataclasses import dataclass
from typing import Literal

from tilezoo.errors import OptionError
from tilezoo.launch.instances import Instance, image_fault_for_smddp, smddp_instances
from tilezoo.launch.settings import BackendWish

Backend = Literal["smddp", "nccl", "gloo", "plain"]
_VCPUS_A_PROCESS = 4  # of gloo on CPUs: two cores, each with two threads


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How the processes of a job are started.

    Attributes:
        backend: `plain` for one process alone.
        processes: On each instance.
    """

    backend: Backend
    processes: int = 1


PLAIN = Distribution(backend="plain")


def choose_distribution(
    verb: str, instance: Instance, *, count: int, wish: BackendWish, image: str | None
) -> Distribution:
    """Choose how a job's processes talk, or refuse a wish that cannot come true.

    Args:
        verb: Only `pretrain` runs as several processes.
        instance: Where.
        count: Instances.
        wish: Of `--backend`.
        image: The user's own container, if any.

    Raises:
        OptionError: The wish is impossible; says what to choose instead.
    """
    if verb != "pretrain":
        return _alone(verb, count, wish)
    processes = instance.gpus or max(1, instance.vcpus // _VCPUS_A_PROCESS)
    if wish == "smddp":
        _refuse_smddp(instance, count, image)
        return Distribution(backend="smddp", processes=processes)
    if wish == "nccl" and not instance.gpus:
        raise OptionError(f"--backend nccl: {instance.name} has no GPU; take --backend gloo")
    if wish != "auto":
        return Distribution(backend=wish, processes=processes) if processes * count > 1 else PLAIN
    if instance.smddp and count > 1 and not image_fault_for_smddp(image):
        return Distribution(backend="smddp", processes=processes)
    if instance.gpus:
        return Distribution(backend="nccl", processes=processes) if processes * count > 1 else PLAIN
    return Distribution(backend="gloo", processes=processes) if count > 1 else PLAIN


def _alone(verb: str, count: int, wish: BackendWish) -> Distribution:
    if count > 1:
        raise OptionError(
            f"--count {count}: {verb} runs on one instance; only pretrain takes several"
            + ("; launch it once for each --shard I/N" if verb == "embed" else "")
        )
    if wish != "auto":
        raise OptionError(f"--backend {wish}: {verb} is one process; leave the option away")
    return PLAIN


def _refuse_smddp(instance: Instance, count: int, image: str | None) -> None:
    if not instance.smddp:
        raise OptionError(
            f"--backend smddp does not run on {instance.name}: take --instance "
            f"{' or '.join(smddp_instances())}, or --backend {'nccl' if instance.gpus else 'gloo'}"
        )
    if count < 2:
        raise OptionError(
            "--backend smddp needs two instances or more: take --count 2, or --backend nccl"
        )
    if fault := image_fault_for_smddp(image):
        raise OptionError(f"--backend smddp: {fault}; leave --image away, or take --backend nccl")
