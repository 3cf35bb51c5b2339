"""The plan: which window is which, without a list of them."""

from pathlib import Path

import making
import pytest
import rasterio

from tilezoo.reading import TilePlan, make_plan
from tilezoo.sources import discover
from tilezoo.tiles import Cut


def scenes(folder: Path) -> Path:
    """Two scenes, a file that is broken, and a tile that a window covers alone."""
    for name, side, height in (("a", 100, 40), ("c", 33, 70), ("d", 8, 8)):
        making.write_tiff(folder / f"{name}.tif", making.texture(0, side=side, height=height))
    (folder / "b.tif").write_text("text")
    return folder


def plan(folder: Path, cut: Cut | None, **how: object) -> TilePlan:
    options = {"limit": None, "shard": (0, 1), "workers": 2, **how}
    return make_plan(
        discover([folder]), request=making.request(given=("1", "2", "3")), cut=cut, **options
    )


@pytest.mark.parametrize("stride_px", [16, 32])
def test_windows_are_counted_through_all_sources(tmp_path: Path, stride_px: int) -> None:
    cut = Cut(tile_px=32, stride_px=stride_px)
    whole = plan(scenes(tmp_path), cut)
    expected = []
    for name in "abcd":
        if name == "b":  # it becomes an error when it is read
            expected.append("b.tif")
            continue
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            windows = [cut.window(n, file.width) for n in range(cut.count(file.width, file.height))]
        expected.extend(f"{name}.tif#{','.join(map(str, window))}" for window in windows)
    assert [ref.id for ref in whole.tiles(0, len(whole))] == expected
    alone = [next(whole.tiles(n, n + 1)).id for n in range(len(whole))]
    assert alone == expected


@pytest.mark.parametrize("cut", [None, Cut(tile_px=32, stride_px=32)])
def test_shards_put_together_are_the_whole_and_each_has_a_digest_of_its_own(
    tmp_path: Path, cut: Cut | None
) -> None:
    whole = plan(scenes(tmp_path), cut, limit=3)
    shards = [plan(tmp_path, cut, limit=3, shard=(n, 2)) for n in range(2)]
    ids = [ref.id for shard in shards for ref in shard.tiles(0, len(shard))]
    assert ids == [ref.id for ref in whole.tiles(0, 3)]
    assert len({whole.digest(), *(shard.digest() for shard in shards)}) == 3


def test_the_digest_tells_a_changed_file(tmp_path: Path) -> None:
    before = plan(scenes(tmp_path), None).digest()
    assert plan(tmp_path, None).digest() == before
    (tmp_path / "b.tif").write_text("other text")
    assert plan(tmp_path, None).digest() != before
