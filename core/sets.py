"""Which of a folder's image files are one image: a scene of a product, or files of a band each."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from tilezoo.bands import BAND_SUFFIX, FileBand, canonical, name_bands
from tilezoo.errors import TileError, TileErrorKind
from tilezoo.opening import crs_name, crs_wkt, gdal, open_dataset
from tilezoo.products.scenes import Scene, file_bands, sort_files

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

SEPARATORS = "_-. "
_BAND_FILES = frozenset({".tif", ".tiff", ".jp2"})
# What lies beside bands of no known product, by the part of the name after the set's own.
_BESIDE_BANDS = re.compile(
    r"(?:SCL|AOT|WVP|TCI|PVI|CLD|SNW|(?:MSK|QA|ST|SR)_.*|.*mask.*|visual|"
    r"(?:.*_)?(?:thumbnail|preview|quicklook|overview))$",
    re.IGNORECASE,
)
# Cells of a grid: `ortho_A1.tif` beside `ortho_B1.tif` says that B1 is a place and no band.
_CELL = re.compile(r"[AC-Z]\d{1,2}$", re.IGNORECASE)
_LAST_WORD = re.compile(r"[A-Za-z0-9]+(?:\.\w+)?$")
_HALF_PX = 0.5
_TRIED = 16  # sets of a folder whose headers are looked at, before the others are taken to be alike


@dataclass(frozen=True, kw_only=True)
class FileSet:
    """Files that are one image, or one file of a product that holds all bands.

    Attributes:
        prefix: What the files' paths (relative to the folder) begin with.
        endings: What follows the prefix in each; empty for one file of all bands.
        product: Key of the product it is of; empty for no known one.
        problem: Why it cannot be read; None for nothing.
    """

    prefix: str
    endings: tuple[str, ...] = ()
    product: str = ""
    problem: tuple[TileErrorKind, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Sets:
    """A folder's image files.

    Attributes:
        sets: Of several files, or of a known product.
        singles: Each an image of its own.
        beside: Files that come with a product's imagery and are none.
    """

    sets: tuple[FileSet, ...] = ()
    singles: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    @property
    def is_one_image(self) -> bool:
        """Whether the folder is one image of several files, and nothing else."""
        return len(self.sets) == 1 and bool(self.sets[0].endings) and not self.singles


def find_sets(folder: str, names: Sequence[str], *, container: bool = False) -> Sets:
    """Put the image files of a folder together, by their names.

    Args:
        folder: Its absolute path.
        names: Files' paths relative to it.
        container: All is one product: what is no scene's is no image either.
    """
    sorting = sort_files(folder, names)
    alone = container and len(sorting.scenes) == 1
    scenes = tuple(_take_scene(scene, whole=alone) for scene in sorting.scenes)
    if container and scenes:
        return Sets(sets=scenes, beside=(*sorting.beside, *sorting.others))
    sets, singles = _split_sets(folder, sorting.others)
    return Sets(sets=(*scenes, *sets), singles=tuple(singles), beside=sorting.beside)


def name_set(product: str, files: Mapping[str, str]) -> tuple[FileBand, ...]:
    """The bands of a set of files.

    Args:
        product: Key of its product; empty for none.
        files: Name of each file's band, as `band_names` gives it → file.
    """
    if product:
        return file_bands(product, files)
    return name_bands(list(files), number=lambda _, own: _read_number(own))


def band_names(product: str, prefix: str, endings: Sequence[str]) -> list[str]:
    """The name of each file's band in a set.

    Args:
        product: Key of its product; empty for none.
        prefix: What the paths of its files begin with.
        endings: What follows in each.
    """
    if not product:
        return [os.path.splitext(ending)[0] for ending in endings]
    folder = os.path.dirname(prefix)
    (scene,) = sort_files(folder, [prefix[len(folder) + 1 :] + ending for ending in endings]).scenes
    return list(scene.files)


def _read_number(own: str) -> int | None:
    return int(own[1:]) if own[:1] == "B" and own[1:].isdecimal() else None


def _take_scene(scene: Scene, *, whole: bool) -> FileSet:
    """Take a product's scene as a set: one file of all bands, or a file for each band.

    Args:
        scene: The scene.
        whole: It is all that its folder holds, and is called by it.
    """
    files = list(scene.files.values())
    if list(scene.files) == [""]:
        return FileSet(prefix=files[0], product=scene.product)
    prefix = "" if whole else _find_start(scene.token, files)
    return FileSet(
        prefix=prefix,
        endings=tuple(file[len(prefix) :] for file in files),
        product=scene.product,
        problem=_tell_twice(scene.twice),
    )


def _find_start(token: str, files: Sequence[str]) -> str:
    """What the paths of a scene's files begin with: its name, or whole words they have in common.

    Files of one folder whose names do not begin with the scene's have nothing in common: what they
    begin with may be the same for all scenes there.
    """
    folders, names = zip(*map(os.path.split, files), strict=True)
    if token and len(set(folders)) == 1:
        begins = all(name.lower().startswith(token.lower()) for name in names)
        return str(os.path.join(folders[0], names[0][: len(token)] if begins else ""))
    start = os.path.commonprefix(files)  # noqa: RUF071  # characters, not folders
    return _LAST_WORD.sub("", str(start))


def _tell_twice(files: tuple[str, str] | None) -> tuple[TileErrorKind, str] | None:
    if files is None:
        return None
    return ("contract", f"one band twice: {files[0]} and {files[1]}; take one of them away")


def _split_sets(folder: str, names: Iterable[str]) -> tuple[list[FileSet], list[str]]:
    """Sets of band files by what their names begin with, and the other files."""
    names = list(names)
    prefixes = sorted(
        {p for n in names if (p := _find_prefix(n)) is not None}, key=len, reverse=True
    )
    if not prefixes:
        return [], names
    found: dict[str, list[str]] = {}
    singles = []
    for name in names:
        prefix = _find_set(name, prefixes)
        if prefix is None:
            singles.append(name)
        else:
            found.setdefault(prefix, []).append(name)
    sets = []
    tried = 0
    for prefix, members in found.items():
        bands = [name for name in members if _find_prefix(name) is not None]
        looked_at = tried < _TRIED and bool(prefix)
        tried += looked_at
        if _has_cells(prefix, singles) or (looked_at and not _lie_together(folder, bands)):
            singles += members
        else:
            sets.append(_make_set(prefix, sorted(members), bands))
    return sets, sorted(singles)


def _find_prefix(name: str) -> str | None:
    """What stands before the band in a per-band file's name; None for other files."""
    stem, suffix = os.path.splitext(name)
    match = BAND_SUFFIX.search(stem) if suffix.lower() in _BAND_FILES else None
    return stem[: match.start("band")] if match else None


def _find_set(name: str, prefixes: Sequence[str]) -> str | None:
    """Find the set that a band, or a mask or quicklook beside bands, belongs to.

    Another image beside them (scene_1.tif beside scene_B04.tif) is a source of its own.
    """
    own = _find_prefix(name)
    if own is not None:
        return own
    stem = os.path.splitext(name)[0]
    near = (p for p in prefixes if stem.startswith(p))
    return next((p for p in near if _BESIDE_BANDS.match(stem[len(p) :])), None)


def _make_set(prefix: str, members: Sequence[str], bands: Sequence[str]) -> FileSet:
    first: dict[str, str] = {}
    twice = None
    for name in bands:
        own = canonical(os.path.splitext(name)[0][len(prefix) :])
        twice = twice or ((first[own], name) if own in first else None)
        first.setdefault(own, name)
    endings = tuple(name[len(prefix) :] for name in members)
    return FileSet(prefix=prefix, endings=endings, problem=_tell_twice(twice))


def _has_cells(prefix: str, others: Iterable[str]) -> bool:
    """Tell whether other files are cells of the same grid that these look to be bands of."""
    stems = (os.path.splitext(name)[0] for name in others)
    return any(s.startswith(prefix) and _CELL.match(s[len(prefix) :]) for s in stems)


def _lie_together(folder: str, bands: Sequence[str]) -> bool:
    """Tell by their headers whether files can be bands of one image: of one band, on one ground.

    Files that cannot be opened are no reason against it: reading them tells what is wrong.
    """
    headers = [h for name in bands if (h := _read_header(os.path.join(folder, name)))]
    if any(header.bands > 1 for header in headers):
        return False
    placed = [header for header in headers if header.bounds is not None]
    return all(_overlap(a, b) for a, b in combinations(placed, 2))


@dataclass(frozen=True, kw_only=True)
class _Header:
    """How many bands a file has; its CRS, and left, bottom, right, top in it, where it has any."""

    bands: int
    crs: str | None
    bounds: tuple[float, float, float, float] | None


def _read_header(path: str) -> _Header | None:
    try:
        with gdal(), open_dataset(path) as dataset:
            placed = not dataset.transform.is_identity
            bounds = tuple(dataset.bounds) if placed else None
            return _Header(bands=dataset.count, crs=crs_wkt(dataset), bounds=bounds)
    except TileError:
        return None


def _overlap(one: _Header, other: _Header) -> bool:
    """Tell whether two files have ground in common; where it cannot be told, they may."""
    if one.bounds is None or other.bounds is None or one.crs != other.crs:
        return True
    left, bottom, right, top = one.bounds
    west, south, east, north = other.bounds
    return left < east and west < right and bottom < north and south < top


def refuse_other_ground(datasets: Sequence["DatasetReader"]) -> None:
    """Refuse band files of another zone, extent or place than the finest of them.

    Raises:
        TileError: Names the file that does not fit.
    """
    finest = max(datasets, key=lambda dataset: dataset.width)
    fix = "warp them to one grid, or take the wrong one away"
    for dataset in datasets:
        if dataset is finest:
            continue
        names = f"{os.path.basename(dataset.name)} and {os.path.basename(finest.name)}"
        if crs_wkt(dataset) != crs_wkt(finest):
            crs = " and ".join(_name_crs(each) for each in (dataset, finest))
            raise TileError("contract", f"{names} are bands of one image in two CRS ({crs}); {fix}")
        if why := _tell_other_extent(dataset, finest):
            raise TileError("contract", f"{names} are bands of one image but {why}; {fix}")


def _name_crs(dataset: "DatasetReader") -> str:
    wkt = crs_wkt(dataset)
    return crs_name(wkt) if wkt else "none"


def _tell_other_extent(dataset: "DatasetReader", finest: "DatasetReader") -> str:
    """Say how two grids differ beyond half a pixel of the coarser one; empty if they do not."""
    ratios = finest.width / dataset.width, finest.height / dataset.height
    sizes = f"are {dataset.width}x{dataset.height} and {finest.width}x{finest.height} px"
    if dataset.transform.is_identity or finest.transform.is_identity:
        whole = all(
            abs(ratio - round(ratio)) <= _HALF_PX * ratio / finest.width for ratio in ratios
        )
        return "" if whole or ratios[0] == ratios[1] else sizes
    pixel = max(abs(dataset.transform.a), abs(dataset.transform.b))
    apart = max(
        abs(a - b) for a, b in zip(_find_corners(dataset), _find_corners(finest), strict=True)
    )
    return "" if apart <= _HALF_PX * pixel else f"lie {apart / pixel:.3g} px apart"


def _find_corners(dataset: "DatasetReader") -> tuple[float, ...]:
    """Upper left and lower right of a grid, in its CRS."""
    return (*dataset.transform @ (0, 0), *dataset.transform @ (dataset.width, dataset.height))
