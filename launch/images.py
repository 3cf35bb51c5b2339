"""SageMaker's PyTorch containers, by region; the SDK's own table says where they are."""

import re

from tilezoo.errors import LaunchError

# The last one that holds SMDDP (2.6.0, CUDA 12.4); aws/deep-learning-containers has it in none after.
SMDDP_VERSION, SMDDP_PYTHON = "2.5.1", "py311"
# For all else: one that is in (nearly) every region; Python 3.12, CUDA 12.9.
VERSION, PYTHON = "2.8.0", "py312"
_DLC = re.compile(r"/pytorch-training:(\d+)\.(\d+)[^-]*-(cpu|gpu)-")


def find_image(region: str, instance: str, *, smddp: bool) -> str:
    """Name the container of a region for an instance.

    Raises:
        LaunchError: The region has none.
    """
    from tilezoo.launch.sdk import image_uris

    version, python = (SMDDP_VERSION, SMDDP_PYTHON) if smddp else (VERSION, PYTHON)
    try:
        found: str = image_uris().retrieve(
            "pytorch",
            region=region,
            version=version,
            py_version=python,
            instance_type=instance,
            image_scope="training",
        )
    except ValueError as error:
        raise LaunchError(
            f"region {region!r} has no PyTorch {version} container for {instance}: "
            "choose another --region, or name one with --image"
        ) from error
    return found


def image_fault_for_smddp(image: str | None) -> str | None:
    """Say why a container cannot hold SMDDP; None where it can, or where one cannot know."""
    match = _DLC.search(image or "")
    if match is None:
        return None
    if match[3] == "cpu":
        return f"{image} is for CPUs"
    if (int(match[1]), int(match[2])) > (2, 5):
        return f"{image} does not hold SMDDP, whose last container is PyTorch 2.5's"
    return None
