"""Print the lowest versions that pyproject.toml allows, as pip's constraints.

python .ci/floors.py > floors.txt
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
FLOOR = re.compile(r"([\w.-]+)(?:\[.*?\])?>=([\w.]+)")
EXTRAS = ("demo", "hub", "s3", "tensorboard", "test")  # what the oldest versions are tried with


def floors() -> Iterator[str]:
    """Yield NAME==VERSION for every dependency, those of `EXTRAS` too."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    for line in [*project["dependencies"], *extras]:
        if found := FLOOR.match(line):
            yield f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    print("\n".join(floors()))
