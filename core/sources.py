"""From what the user names (files, folders, globs, lists of paths) to a sorted list of sources."""

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from tilezoo.bands import BAND_SUFFIX, canonical
from tilezoo.bigearthnet import is_patch_name
from tilezoo.errors import SourceError, TileErrorKind

IMAGE_SUFFIXES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".jp2"})
_TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".jp2"})
_LIST_SUFFIXES = frozenset({".parquet", ".csv"})
_SEPARATORS = "_-. "
# What products ship beside their bands, by the part of the name after the set's own:
# Sentinel-2's SCL, AOT, WVP, TCI, PVI and MSK_*, Landsat's QA_*, masks, quicklooks.
_BESIDE_BANDS = re.compile(
    r"(?:SCL|AOT|WVP|TCI|PVI|CLD|SNW|(?:MSK|QA|ST|SR)_.*|.*mask.*|visual|"
    r"(?:.*_)?(?:thumbnail|preview|quicklook|overview))$",
    re.IGNORECASE,
)
# Landsat 4-7 number their bands otherwise than the B04 = red we know: keep them as written.
_OTHER_NUMBERING = frozenset({"LT04", "LT05", "LE07"})
_PATH_COLUMNS = ("path", "source_uri", "file", "filename", "uri")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One image: a file, or a set of files with a band each.

    Runs hold one of these per image (600,000 for BigEarthNet), so what follows from `path` is
    worked out on demand, and `endings` is one tuple that all patches share.

    Attributes:
        id: Patch name for BigEarthNet, else the path relative to what the user named.
        path: The file; for a set of band files what their paths begin with.
        endings: For a set of band files, what follows `path` in each (`B04.tif`).
        fills_folder: The set of band files is all the images its folder has.
        problem: Kind and message of an error that discovery met already; None for none.
    """

    id: str
    path: str
    endings: tuple[str, ...] = ()
    fills_folder: bool = False
    problem: tuple[TileErrorKind, str] | None = None

    @property
    def uri(self) -> str:
        """The file, or for a set of band files their folder (folder/prefix if not alone there)."""
        if not self.endings:
            return self.path
        folder, prefix = os.path.split(self.path)
        stem = prefix.rstrip(_SEPARATORS)
        return folder if self.fills_folder or not stem else f"{folder}/{stem}"

    @property
    def files(self) -> dict[str, str]:
        """Band name → file, for a set of band files; empty for a single file."""
        written = os.path.basename(self.path)[:4].upper() in _OTHER_NUMBERING
        stems = (os.path.splitext(ending)[0] for ending in self.endings)
        names = (stem if written else canonical(stem) for stem in stems)
        return dict(zip(names, (self.path + e for e in self.endings), strict=True))


def discover(named: Sequence[str | Path]) -> list[Source]:
    """Find every image under what the user named, sorted by id.

    Args:
        named: Files, folders (walked, links to folders followed once), globs, or Parquet/CSV
            lists with a column of paths (`path`, `source_uri`, `file`, `filename` or `uri`).

    Raises:
        SourceError: A name leads nowhere, nothing is found, or two images share an id.
    """
    roots = [root for name in named for root in _expand(str(name))]
    if not roots:
        msg = "No SOURCE given; name files, folders, globs or a Parquet/CSV list of paths"
        raise SourceError(msg)
    base = _base(roots)
    found = map(_in_utf8, _all_sources(roots, base))
    sources = sorted(found, key=lambda source: (source.id, source.uri))
    return _checked(_without_repeats(sources), named)


def source_at(uri: str) -> Source:
    """Find the one source behind a `source_uri` of a table.

    Raises:
        SourceError: Nothing is there any more.
    """
    path = Path(uri)
    if path.is_file():
        return Source(id=path.name, path=uri)
    folder = path if path.is_dir() else path.parent
    if folder.is_dir():
        for source in _in_folder(sorted(_image_files(folder)), folder.parent):
            if source.uri == uri:
                return source
    msg = f"{uri} is gone; put it back to see it or to use it as a query"
    raise SourceError(msg)


def _expand(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if os.path.isfile(path) and path.suffix.lower() in _LIST_SUFFIXES:
        return _listed(path)
    if os.path.lexists(path):
        return [path]
    found = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(name) else []
    if found:
        return [Path(match) for match in found]
    raise SourceError(f"{name}: no such file, folder or glob; check the path")


def _listed(path: Path) -> list[Path]:
    """Read a Parquet/CSV list; relative paths start at the list's folder, else where we are."""
    from pyarrow import ArrowException, csv, parquet

    try:
        table = csv.read_csv(path) if path.suffix.lower() == ".csv" else parquet.read_table(path)
    except (ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a readable list of paths ({error})") from error
    column = next((name for name in _PATH_COLUMNS if name in table.column_names), None)
    if column is None:
        raise SourceError(f"{path}: no column of paths; name it {' or '.join(_PATH_COLUMNS)}")
    return [_beside(path, Path(str(value))) for value in table[column].to_pylist()]


def _beside(list_file: Path, entry: Path) -> Path:
    beside = list_file.parent / entry
    return beside if os.path.lexists(beside) or not os.path.lexists(entry) else entry


def _base(roots: Sequence[Path]) -> Path:
    """The folder that ids are relative to: the named folder, or what all names have in common."""
    folders = [os.path.abspath(r if os.path.isdir(r) else r.parent) for r in roots]
    if len(roots) == 1 and os.path.isdir(roots[0]) and _is_one_image(roots[0]):
        return Path(folders[0]).parent
    return Path(os.path.commonpath(folders))


def _is_one_image(folder: Path) -> bool:
    """Tell whether a folder is a single set of band files, so its own name is the id."""
    return any(s.endings and s.fills_folder for s in _in_folder(_image_files(folder), folder))


def _all_sources(roots: Iterable[Path], base: Path) -> Iterator[Source]:
    loose: dict[Path, list[Path]] = {}
    for root in roots:
        path = Path(os.path.abspath(root))
        if os.path.isdir(path):
            yield from _walk(path, base, frozenset())
        else:
            loose.setdefault(path.parent, []).append(path)
    for files in loose.values():
        yield from _in_folder(files, base)


def _walk(folder: Path, base: Path, above: frozenset[str]) -> Iterator[Source]:
    real = os.path.realpath(folder)
    if real in above:
        yield _broken(folder, base, "link_loop", "a link that leads back to a folder above it")
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield _broken(folder, base, "unreadable", f"folder cannot be read: {error.strerror}")
        return
    folders = [Path(e.path) for e in entries if _is_folder(e) and not e.name.startswith(".")]
    yield from _in_folder([Path(e.path) for e in entries if _is_image(e)], base)
    for below in folders:
        yield from _walk(below, base, above | {real})


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links: told as a file, if it is called like an image
        return False


def _is_image(entry: "os.DirEntry[str]") -> bool:
    image = Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
    return image and not _is_folder(entry)


def _image_files(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if _is_image(entry)]
    except PermissionError:  # walking the folder tells so
        return []


def _in_folder(files: Sequence[Path], base: Path) -> Iterator[Source]:
    """Turn one folder's image files into sources, putting files of one band each together."""
    prefixes = sorted({p for f in files if (p := _prefix(f)) is not None}, key=len, reverse=True)
    grouped: dict[str, list[Path]] = {}
    for file in files:
        prefix = _group_of(file, prefixes)
        if prefix is None:
            yield _single(file, base)
        else:
            grouped.setdefault(prefix, []).append(file)
    whole = len(grouped) == 1 and sum(map(len, grouped.values())) == len(files)
    for prefix, members in grouped.items():
        yield _set_of_bands(prefix, sorted(members), base, whole=whole)


def _prefix(file: Path) -> str | None:
    """What stands before the band in a per-band file's name; None for other files."""
    match = BAND_SUFFIX.search(file.stem) if file.suffix.lower() in _TIFF_SUFFIXES else None
    return file.stem[: match.start("band")] if match else None


def _group_of(file: Path, prefixes: Sequence[str]) -> str | None:
    """Find the set that a band, or a mask or quicklook beside bands, belongs to.

    Another image beside them (scene_1.tif beside scene_B04.tif) is a source of its own.
    """
    own = _prefix(file)
    if own is not None:
        return own
    near = (p for p in prefixes if file.stem.startswith(p))
    return next((p for p in near if _BESIDE_BANDS.match(file.stem[len(p) :])), None)


def _set_of_bands(prefix: str, files: Sequence[Path], base: Path, *, whole: bool) -> Source:
    folder, stem = files[0].parent, prefix.rstrip(_SEPARATORS)
    is_patch = whole and is_patch_name(folder.name)
    return Source(
        id=folder.name if is_patch else _relative(folder if whole else folder / stem, base),
        path=f"{folder}/{prefix}",
        endings=_shared(tuple(file.name[len(prefix) :] for file in files)),
        fills_folder=whole,
    )


@lru_cache(maxsize=1024)
def _shared(endings: tuple[str, ...]) -> tuple[str, ...]:
    """Hand back one and the same tuple for equal ones."""
    return endings


def _single(file: Path, base: Path) -> Source:
    return Source(id=_relative(file, base), path=str(file), problem=_link_problem(file))


def _link_problem(file: Path) -> tuple[TileErrorKind, str] | None:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # to open a pipe is to wait for ever
            return ("unreadable", "not a regular file")
    except FileNotFoundError:
        return ("missing", "a link to a file that is not there" if file.is_symlink() else "gone")
    except RuntimeError:
        return ("link_loop", "a link that leads back to itself")
    except OSError as error:
        loop = "symbolic links" in (error.strerror or "")
        return ("link_loop" if loop else "unreadable", error.strerror or str(error))
    return None


def _broken(path: Path, base: Path, kind: TileErrorKind, message: str) -> Source:
    return Source(id=_relative(path, base), path=str(path), problem=(kind, message))


def _in_utf8(source: Source) -> Source:
    """Make a problem of a name that no table can hold."""
    try:
        (source.id + source.path).encode()
    except UnicodeEncodeError:
        told = [os.fsencode(text).decode(errors="replace") for text in (source.id, source.path)]
        why = "a name that is not UTF-8; rename it"
        return Source(id=told[0], path=told[1], problem=("unreadable", why))
    return source


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, base)).as_posix()


def _without_repeats(sources: Sequence[Source]) -> list[Source]:
    """Drop a source that was named twice (a folder and a file in it, say)."""
    return [s for i, s in enumerate(sources) if i == 0 or s.uri != sources[i - 1].uri]


def _checked(sources: list[Source], named: Sequence[str | Path]) -> list[Source]:
    if not sources:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise SourceError(f"No image under {', '.join(map(str, named))}; looked for {kinds}")
    for before, after in pairwise(sources):
        if before.id == after.id:
            msg = f"Two images have the id {after.id!r}: {before.uri} and {after.uri}; rename one"
            raise SourceError(msg)
    return sources
