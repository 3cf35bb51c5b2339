"""From what the user names (files, folders, globs, lists of paths) to a sorted list of sources."""

import errno
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tilezoo.bigearthnet.labels import is_patch_name
from tilezoo.errors import SourceError, TileError, TileErrorKind
from tilezoo.formats import (
    COMMON_SUFFIXES,
    IMAGE_SUFFIXES,
    STORE_SUFFIXES,
    sort_out,
    split_part,
    suffix_of,
    tell_refused,
)
from tilezoo.lists import BrokenRow, exists, find_local, is_list, read_list, refuse_foreign
from tilezoo.products.product import find_product
from tilezoo.products.scenes import is_container
from tilezoo.progress import count_of
from tilezoo.sets import SEPARATORS, FileSet, band_names, find_sets
from tilezoo.zips import is_zipped_product, list_zipped, split_zipped

_AT_ONCE = 4096
_KINDS_SHOWN = 6  # of what is passed over
_COLUMNS = pa.schema(
    [
        pa.field("id", pa.large_string()),
        pa.field("path", pa.large_string()),  # empty where it is the base's folder and the id
        pa.field("rest", pa.int32()),  # which of the list of these
    ]
)
# What many sources have in common: their endings, fills_folder, product and problem.
_Rest = tuple[tuple[str, ...], bool, str, tuple[TileErrorKind, str] | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One image: a file, or a set of files with a band each.

    Runs have one of these per image (600,000 for BigEarthNet): `SourceList` holds them.

    Attributes:
        id: Patch name for BigEarthNet, else the path relative to what the user named.
        path: The file; for a set of band files what their paths begin with.
        endings: For a set of band files, what follows `path` in each (`B04.tif`).
        fills_folder: The set of band files is all the images its folder has.
        product: Key of the product it is of (see `tilezoo.products`); empty for no known one.
        problem: Kind and message of an error that discovery met already; None for none.
    """

    id: str
    path: str
    endings: tuple[str, ...] = ()
    fills_folder: bool = False
    product: str = ""
    problem: tuple[TileErrorKind, str] | None = None

    @property
    def uri(self) -> str:
        """The file, or for a set of band files their folder.

        Where it is not alone there folder/prefix, or the first file of those without a prefix.
        """
        if not self.endings:
            return self.path
        folder, prefix = os.path.split(self.path)
        stem = prefix.rstrip(SEPARATORS)
        if self.fills_folder:
            return folder
        return f"{folder}/{stem}" if stem else f"{self.path}{self.endings[0]}"

    @property
    def files(self) -> dict[str, str]:
        """Band name → file, for a set of band files; empty for a single file."""
        if not self.endings:
            return {}
        paths = [self.path + ending for ending in self.endings]
        return dict(zip(band_names(self.product, self.path, self.endings), paths, strict=True))


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What lies among images and is none.

    Attributes:
        kinds: Files of other formats, by suffix.
        beside: Image files that come with a product's imagery (masks, previews), by its key.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)


def discover(named: Sequence[str | Path]) -> "SourceList":
    """Find every image under what the user named, sorted by id.

    Args:
        named: Files, folders (walked, links to folders followed once), globs, or lists: Parquet or
            CSV with a column of paths (`path`, `source_uri`, `file`, `filename` or `uri`), or text
            with a path on each line.

    Returns:
        Which makes each source when it is asked for: there may be millions; and what is to be told
        of them.

    Raises:
        SourceError: A name leads nowhere, nothing is found, or two images share an id.
    """
    names = [_expand_name(str(name)) for name in named]
    if not names:
        msg = "No SOURCE given; name files, folders, globs or a Parquet/CSV list of paths"
        raise SourceError(msg)
    base = _find_base(names)
    passed_over = PassedOver()
    sources = gather_sources(map(_mark_unwritable, _find_all(names, base, passed_over)), base)
    sources.passed_over = passed_over
    if not sources:
        kinds = " ".join(sorted(COMMON_SUFFIXES))
        found = f"{_tell_passed_over(passed_over.kinds)}; " if passed_over.kinds else ""
        where = ", ".join(map(str, named))
        raise SourceError(f"No image under {where}; {found}looked for {kinds} and others")
    notes = [note for one in names for note in one.notes]
    if passed_over.kinds:
        notes.append(_tell_passed_over(passed_over.kinds))
    notes += [_tell_beside(key, count) for key, count in sorted(passed_over.beside.items())]
    sources.notes = tuple(notes)
    if clash := sources.clash():
        one, other = clash
        msg = f"Two images have the id {one.id!r}: {one.uri} and {other.uri}; rename one"
        raise SourceError(msg)
    return sources


def source_at(uri: str) -> Source:
    """Find the one source behind a `source_uri` of a table.

    Raises:
        SourceError: Nothing is there any more.
    """
    folder, name = os.path.split(uri)
    if os.path.isfile(split_part(uri)[0]):
        (found,) = _make_sources(folder, [name], folder)
        alone = Source(id=name, path=uri) if found.endings else found
        around = _find_around(folder) if found.product and found.endings else ()
        return next((source for source in around if source.uri == uri), alone)
    if zipped := split_zipped(uri):
        for source in _unzip(zipped[0], os.path.dirname(zipped[0]), PassedOver()):
            if source.uri == uri:
                return source
    folder = uri if os.path.isdir(uri) else folder
    if os.path.isdir(folder):
        for source in _find_around(folder):
            if source.uri == uri:
                return source
    msg = f"{uri} is gone; put it back to see it or to use it as a query"
    raise SourceError(msg)


def _find_around(folder: str) -> Iterator[Source]:
    """The sources of a folder, or of the product that it lies in."""
    root, base = folder, os.path.dirname(folder)
    while is_container(os.path.dirname(root)):
        root = os.path.dirname(root)
    if is_container(root):
        return _make_sources(root, _list_below(root), os.path.dirname(root), container=True)
    return _make_sources(folder, _list_images(folder), base)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Named:
    """What one name stands for.

    Attributes:
        roots: Files and folders.
        base: The folder that a list's ids are relative to; None where the roots tell.
        broken: Rows of a list that lead nowhere.
        notes: What is told of it.
    """

    roots: tuple[str, ...]
    base: str | None = None
    broken: tuple[BrokenRow, ...] = ()
    notes: tuple[str, ...] = ()


def _expand_name(name: str) -> _Named:
    path = find_local(name)
    if os.path.isfile(path) and is_list(path):
        found = read_list(path)
        return _Named(roots=found.paths, base=found.base, broken=found.broken, notes=found.notes)
    if exists(path):
        _refuse_packed(path)
        return _Named(roots=(path,))
    refuse_foreign(name)
    found_by_glob = _expand_glob(path) if glob.has_magic(path) else ()
    if found_by_glob:
        return _Named(roots=found_by_glob)
    raise SourceError(f"{name}: no such file, folder or glob; check the path")


def _refuse_packed(path: str) -> None:
    """Refuse an archive, or what else cannot be an image, at once when it is named."""
    if suffix_of(path) in COMMON_SUFFIXES or _holds_product(path):
        return
    why = tell_refused(path)
    if why:
        raise SourceError(f"{path}: {why}")


def _holds_product(path: str) -> bool:
    if suffix_of(path) != ".zip" or not os.path.isfile(path):
        return False
    try:
        return is_zipped_product(path) or list_zipped(path) is not None
    except TileError:
        return False


def _expand_glob(pattern: str) -> tuple[str, ...]:
    """What a glob finds: of files those that are images, unless it asks for a suffix."""
    found = sorted(glob.glob(pattern, recursive=True))
    suffix = suffix_of(pattern)
    if suffix and not glob.has_magic(suffix):
        return tuple(found)
    return tuple(path for path in found if os.path.isdir(path) or _is_named_image(path))


def _is_named_image(path: str) -> bool:
    folder, name = os.path.split(path)
    return suffix_of(name) in IMAGE_SUFFIXES or bool(sort_out(folder, [name])[0])


def _find_base(named: Sequence[_Named]) -> str:
    """The folder that ids are relative to: the named folder, or what all names have in common."""
    roots = [root for one in named for root in one.roots]
    if len(roots) == 1 and named[0].base is None and _is_one_image(roots[0]):
        return os.path.dirname(os.path.abspath(roots[0]))
    folders = {one.base for one in named if one.base is not None}
    folders |= {
        os.path.abspath(root if os.path.isdir(root) else os.path.dirname(root))
        for one in named
        if one.base is None
        for root in one.roots
    }
    return os.path.commonpath(folders)


def _is_one_image(path: str) -> bool:
    """Tell whether a path is the folder of a single set of band files: its own name is the id."""
    if not os.path.isdir(path):
        return False
    folder = os.path.abspath(path)
    container = is_container(folder)
    names = _list_below(folder) if container else _list_images(folder)
    return find_sets(folder, names, container=container).is_one_image


def _find_all(named: Sequence[_Named], base: str, passed_over: PassedOver) -> Iterator[Source]:
    loose: dict[str, dict[str, None]] = {}
    for root in chain.from_iterable(one.roots for one in named):
        path = os.path.abspath(root)
        if os.path.isdir(path):
            yield from _walk(path, base, frozenset(), passed_over)
        elif _holds_product(path):
            yield from _unzip(path, base, passed_over)
        else:
            folder, name = os.path.split(path)
            loose.setdefault(folder, {})[name] = None
    for folder, names in loose.items():
        yield from _make_sources(folder, list(names), base, passed_over=passed_over)
    for row in chain.from_iterable(one.broken for one in named):
        yield Source(id=row.id, path=row.path, problem=(row.kind, row.message))


def _walk(
    folder: str, base: str, above: frozenset[str], passed_over: PassedOver
) -> Iterator[Source]:
    real = os.path.realpath(folder)
    if real in above:
        yield _make_broken(folder, base, "link_loop", "a link that leads back to a folder above it")
        return
    try:
        images, folders, others = _list_folder(folder)
    except OSError as error:
        yield _make_broken(folder, base, "unreadable", f"folder cannot be read: {error.strerror}")
        return
    if is_container(folder):
        names = _list_below(folder)
        yield from _make_sources(folder, names, base, container=True, passed_over=passed_over)
        return
    passed_over.kinds.update(others)
    yield from _make_sources(folder, images, base, passed_over=passed_over)
    for below in folders:
        path = os.path.join(folder, below)
        if is_zipped_product(path) and os.path.isfile(path):
            yield from _unzip(path, base, passed_over)
        else:
            yield from _walk(path, base, above | {real}, passed_over)


def _unzip(path: str, base: str, passed_over: PassedOver) -> Iterator[Source]:
    """The scenes of a product in a zip file, called by that file."""
    own_id = _relative_to(path, base)
    try:
        found = list_zipped(path)
    except TileError as error:
        yield _make_broken(path, base, error.kind, str(error))
        return
    if found is None:
        yield _make_broken(
            path, base, "unreadable", "holds no folder of a known product; unpack it"
        )
        return
    root, names = found
    images = [name for name in names if suffix_of(name) in IMAGE_SUFFIXES]
    for source in _make_sources(root, images, root, container=True, passed_over=passed_over):
        yield replace(source, id=own_id if source.fills_folder else f"{own_id}/{source.id}")


def _list_below(folder: str) -> list[str]:
    """Paths of all images below a folder, relative to it, sorted; what cannot be read is left out."""
    found = []
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images = (n for n in names if suffix_of(n) in IMAGE_SUFFIXES and not n.startswith("."))
        found += [os.path.relpath(os.path.join(above, name), folder) for name in images]
    return sorted(found)


def _list_folder(folder: str) -> tuple[list[str], list[str], list[str]]:
    """Names of a folder's images and of the folders in it, sorted; suffixes of what else it holds.

    A folder that is a store of its own (.zarr) counts as one file.
    """
    images, folders, others = list[str](), list[str](), list[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if _is_folder(entry):
                (others if suffix_of(name) in STORE_SUFFIXES else folders).append(name)
            elif suffix_of(name) in IMAGE_SUFFIXES:
                images.append(name)
            elif is_zipped_product(name):
                folders.append(name)
            else:
                others.append(name)
    more, passed_over = sort_out(folder, others) if others else ([], [])
    return sorted(images + more), sorted(folders), passed_over


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links: a file with a problem, if it is called like an image
        return False


def _list_images(folder: str) -> list[str]:
    try:
        return _list_folder(folder)[0]
    except PermissionError:  # walking the folder tells so
        return []


def _make_sources(
    folder: str,
    names: Sequence[str],
    base: str,
    *,
    container: bool = False,
    passed_over: PassedOver | None = None,
) -> Iterator[Source]:
    """Turn one folder's image files into sources, putting files of one image together."""
    found = find_sets(folder, names, container=container)
    if found.beside and passed_over is not None:
        product = next(one.product for one in found.sets if one.product)
        passed_over.beside[product] += len(found.beside)
    for name in found.singles:
        yield _make_single(os.path.join(folder, name), base)
    for one in found.sets:
        yield _make_set(folder, one, base, whole=found.is_one_image)


def _make_set(folder: str, one: FileSet, base: str, *, whole: bool) -> Source:
    own_name = os.path.basename(folder)
    path = f"{folder}/{one.prefix}"
    if not one.endings:
        return replace(_make_single(path, base), product=one.product)
    is_patch = whole and is_patch_name(own_name)
    # A scene of one file is called as the file is, one without a prefix as its first.
    first = len(one.endings) == 1 or not os.path.basename(path)
    alone = f"{path}{one.endings[0]}" if first else path.rstrip(SEPARATORS)
    place = folder if whole else alone
    return Source(
        id=own_name if is_patch else _relative_to(place, base),
        path=path,
        endings=one.endings,
        fills_folder=whole,
        product=one.product,
        problem=one.problem,
    )


def _make_single(file: str, base: str) -> Source:
    return Source(id=_relative_to(file, base), path=file, problem=_find_problem(file))


def _find_problem(file: str) -> tuple[TileErrorKind, str] | None:
    if split_zipped(file):
        return None
    try:
        file, _part = split_part(file)
        if not stat.S_ISREG(os.stat(file).st_mode):  # to open a pipe is to wait for ever
            return ("unreadable", "not a regular file")
    except FileNotFoundError:
        return ("missing", "a link to a file that is not there" if os.path.islink(file) else "gone")
    except OSError as error:
        if error.errno == errno.ELOOP:
            return ("link_loop", "a link that leads back to itself")
        return ("unreadable", error.strerror or str(error))
    return None


def _make_broken(path: str, base: str, kind: TileErrorKind, message: str) -> Source:
    return Source(id=_relative_to(path, base), path=path, problem=(kind, message))


def _mark_unwritable(source: Source) -> Source:
    """Make a problem of a name that no table can hold."""
    try:
        (source.id + source.path).encode()
    except UnicodeEncodeError:
        shown = [os.fsencode(text).decode(errors="replace") for text in (source.id, source.path)]
        why = "a name that is not UTF-8; rename it"
        return Source(id=shown[0], path=shown[1], problem=("unreadable", why))
    return source


def _relative_to(path: str, base: str) -> str:
    relative = os.path.relpath(path, base)
    return os.path.basename(path) if relative == os.curdir else relative.replace(os.sep, "/")


def _tell_beside(key: str, count: int) -> str:
    return f"passed over {count_of(count, 'image file')} beside the bands of {find_product(key).title} (masks, previews …)"


def _tell_passed_over(kinds: Counter[str]) -> str:
    """Count what was no image, by suffix, in one short line."""
    shown = kinds.most_common(_KINDS_SHOWN)
    told = [f"{count} {kind or 'without suffix'}" for kind, count in shown]
    left = kinds.total() - sum(count for _, count in shown)
    return f"passed over {', '.join([*told, *([f'{left} others'] if left else [])])}"


class SourceList(Sequence[Source]):
    """Sources by id, each made when it is asked for: it takes its names and 20 bytes, not 500.

    Args:
        columns: As `gather_sources` makes them.
        rests: What their column of that name counts.
        base: The folder that ids are relative to.

    Attributes:
        notes: What is to be told of how they were found, a line each.
        passed_over: What lies among them and is no image.
    """

    def __init__(self, columns: pa.Table, rests: Sequence[_Rest], base: str) -> None:
        self._columns, self._rests, self._base = columns, rests, base
        self.notes: tuple[str, ...] = ()
        self.passed_over = PassedOver()

    def __len__(self) -> int:
        return int(self._columns.num_rows)

    @overload
    def __getitem__(self, place: int) -> Source: ...

    @overload
    def __getitem__(self, place: slice) -> "SourceList": ...

    def __getitem__(self, place: int | slice) -> "Source | SourceList":
        if isinstance(place, int):
            return self._make_source(*(column[place].as_py() for column in self._columns.columns))
        first, last, step = place.indices(len(self))
        if step == 1:
            some = self._columns.slice(first, max(0, last - first))
        else:
            some = self._columns.take(pa.array(np.arange(first, last, step)))
        return SourceList(some, self._rests, self._base)

    def __iter__(self) -> Iterator[Source]:
        for batch in self._columns.to_batches(max_chunksize=_AT_ONCE):
            yield from map(self._make_source, *(column.to_pylist() for column in batch.columns))

    def clash(self) -> tuple[Source, Source] | None:
        """The first two that share an id; None where no two do."""
        places = np.flatnonzero(_mark_repeats(self._columns["id"]))
        return (self[int(places[0]) - 1], self[int(places[0])]) if len(places) else None

    def _make_source(self, own_id: str, path: str, rest: int) -> Source:
        endings, fills_folder, product, problem = self._rests[rest]
        return Source(
            id=own_id,
            path=path or _join_base(self._base, own_id),
            endings=endings,
            fills_folder=fills_folder,
            product=product,
            problem=problem,
        )


def gather_sources(sources: Iterable[Source], base: str) -> SourceList:
    """Sort sources by id (as code points), and drop the repeats of one that was named twice.

    Args:
        sources: In any order.
        base: The folder that most ids are relative to; of one id, what lies there comes first.
    """
    numbers: dict[_Rest, int] = {}
    columns = pa.Table.from_batches(
        _make_batches(sources, base, numbers), _COLUMNS
    ).combine_chunks()
    columns = columns.take(pc.sort_indices(columns, [("id", "ascending"), ("path", "ascending")]))
    repeats = _mark_repeats(columns["id"]) & _mark_repeats(columns["path"])
    if repeats.any():
        columns = columns.filter(pa.array(~repeats)).combine_chunks()
    pa.default_memory_pool().release_unused()  # what sorting took
    return SourceList(columns, list(numbers), base)


def _make_batches(
    sources: Iterable[Source], base: str, numbers: dict[_Rest, int]
) -> Iterator[pa.RecordBatch]:
    """Put sources into columns, some thousands at a time; what is new gets a number."""
    rows = (_make_row(source, base, numbers) for source in sources)
    while some := list(islice(rows, _AT_ONCE)):
        arrays = [
            pa.array(values, field.type)
            for values, field in zip(zip(*some, strict=True), _COLUMNS, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=_COLUMNS)


def _make_row(source: Source, base: str, numbers: dict[_Rest, int]) -> tuple[str, str, int]:
    path = "" if source.path == _join_base(base, source.id) else source.path
    rest = (source.endings, source.fills_folder, source.product, source.problem)
    return source.id, path, numbers.setdefault(rest, len(numbers))


def _join_base(base: str, own_id: str) -> str:
    return f"{base}/{own_id}"


def _mark_repeats(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Mark the values that are those of the row before."""
    marked = np.zeros(len(column), np.bool_)
    marked[1:] = pc.equal(column.slice(1), column.slice(0, max(0, len(column) - 1))).to_numpy()
    return marked
