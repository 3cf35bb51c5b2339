"""SMDDP for the SDK: a driver of our own, through its public extension point."""

import shutil
from pathlib import Path

from pydantic import PrivateAttr
from sagemaker.train.distributed import DistributedConfig

_DRIVER = "smddp_driver.py"


class Smddp(DistributedConfig):  # type: ignore[misc]  # the SDK is untyped
    """Start a job's processes by mpirun and smddprun.

    The SDK's third major version has no class for it. It copies the folder `driver_dir` into the
    job, so the driver is put alone into a folder first.

    Attributes:
        process_count_per_node: Processes on each host; its GPUs.
    """

    process_count_per_node: int | None = None
    _folder: Path = PrivateAttr()

    @classmethod
    def within(cls, folder: Path, *, processes: int) -> "Smddp":
        """Make one whose driver lies in `folder`, which is made."""
        folder.mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name(_DRIVER), folder / _DRIVER)
        made = cls(process_count_per_node=processes)
        made._folder = folder
        return made

    @property
    def driver_dir(self) -> str:
        """The folder that is copied among the job's drivers."""
        return str(self._folder)

    @property
    def driver_script(self) -> str:
        """The driver's file in that folder."""
        return _DRIVER
