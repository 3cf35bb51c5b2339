"""Memory does not grow with the input."""

import json
from pathlib import Path

import making
import numpy as np
import pytest

# VmHWM, because ru_maxrss is inherited from the process that starts this one.
RUN = """
import json, sys
from pathlib import Path
from tilezoo.embed import embed
found = embed(sys.argv[1], out=sys.argv[2], model=sys.argv[3], device="cpu", precision="fp32",
              workers=4, **json.loads(sys.argv[4]))
status = Path("/proc/self/status").read_text().splitlines()
print(found.rows, next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def peak_mib(tiles: Path, out: Path, model: Path, **options: int) -> tuple[int, float]:
    """Rows made and the most memory a process of its own took, MiB."""
    run = making.python(RUN, tiles, out, model, json.dumps(options))
    said = run.communicate(timeout=300)[0]
    assert run.returncode == 0, said
    rows, kib = said.splitlines()[-1].split()
    return int(rows), int(kib) / 1024


@LINUX
@pytest.mark.slow
def test_five_times_as_many_tiles_take_no_more_memory(vit: Path, tmp_path: Path) -> None:
    tiles = tmp_path / "tiles"
    making.write_tiles(tiles, 1, side=64)
    pixels = np.zeros((3, 64, 64), np.uint8)
    for number in range(1, 2000):
        pixels[:, number % 64] = number % 251 + 1
        making.write_tiff(tiles / f"tile_{number:04d}.tif", pixels, photometric="RGB")
    how = {"batch_size": 32, "part_rows": 64}
    few_rows, few = peak_mib(tiles, tmp_path / "few", vit, limit=400, **how)
    many_rows, many = peak_mib(tiles, tmp_path / "many", vit, limit=2000, **how)
    assert (few_rows, many_rows) == (400, 2000)
    # 1,600 tiles more hold 19 MB of pixels and as much again on their way; rows take 1.6 MB.
    assert many < few + 20


@LINUX
@pytest.mark.slow
def test_a_scene_is_never_read_whole(vit: Path, tmp_path: Path) -> None:
    band = making.texture(0, bands=3, side=1024)
    small = making.write_tiff(tmp_path / "small.tif", band, photometric="RGB", tiled=True)
    side = 9216
    large = np.tile(band, (1, side // 1024, side // 1024))
    making.write_tiff(tmp_path / "large.tif", large, photometric="RGB", tiled=True)
    _, few = peak_mib(small, tmp_path / "few", vit, tile_px=256, batch_size=8)
    rows, many = peak_mib(tmp_path / "large.tif", tmp_path / "many", vit, tile_px=256, batch_size=8)
    assert rows == (side // 256) ** 2
    assert many < few + large.nbytes / 2**20 / 2  # GDAL's own cache is 64 MiB of that
