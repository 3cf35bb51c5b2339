"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import torch
from tilezoo.device import keep_freed_steps

if sys.argv[1] == "kept":
    keep_freed_steps()

def step():
    for _ in range(4):
        torch.ones(25_000_000).add(1)

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-W", "ignore", "-c", CODE, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_a_step_has_the_memory_of_the_one_before() -> None:
    assert 4 * faults("kept") < faults("as it is")
