"""Lists of paths (CSV, text, Parquet), and names that are no files of this machine.

Paths are text and stay as they are written: `00012`, `1e5` and `2020-02-23` are names of folders.
A list that is no plain CSV is read where it can be read in one way only, and that is told.
"""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tilezoo.errors import SourceError, TileErrorKind
from tilezoo.formats import IMAGE_SUFFIXES, split_part, suffix_of

if TYPE_CHECKING:
    import pyarrow as pa

LIST_SUFFIXES = frozenset({".parquet", ".csv", ".tsv", ".txt"})
PATH_COLUMNS = ("path", "source_uri", "file", "filename", "uri")
_ID = "id"  # of tiles, as labels have it
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_WHOLE_LINE = "\x1f"  # in no path: a line is one cell
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_LOOKED_AT = 1000  # lines of a text file, one of which must lead somewhere
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\\w")
# How to get what lies elsewhere, by the scheme of its URL.
_DOWNLOADS = {
    "s3": "aws s3 cp --recursive {name} FOLDER",
    "gs": "gcloud storage cp -r {name} FOLDER",
    "http": "curl -O {name}",
    "https": "curl -O {name}",
    "ftp": "curl -O {name}",
    "hf": "hf download --repo-type dataset --local-dir FOLDER NAME",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenRow:
    """A row of a list that cannot lead to an image.

    Attributes:
        id: What the row is called in a table's errors.
        path: What it says; the list itself where it says nothing.
        kind: Of the error.
        message: Why, with the row's number where the path does not tell it.
    """

    id: str
    path: str
    kind: TileErrorKind
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PathList:
    """What a list says.

    Attributes:
        paths: Where its rows lead to, each once, in their order.
        base: The folder that ids are relative to; None where rows have no folder in common with
            the list, so that it is the one they share.
        broken: Rows that lead nowhere by what they say.
        notes: How it was read, if not as a plain CSV, and what was left out.
    """

    paths: tuple[str, ...]
    base: str | None
    broken: tuple[BrokenRow, ...]
    notes: tuple[str, ...]


def is_list(path: str) -> bool:
    """Tell whether a name is that of a list of paths."""
    return suffix_of(path) in LIST_SUFFIXES


def read_list(path: str) -> PathList:
    """Read a list; relative paths start at its folder, else where we are.

    Raises:
        SourceError: It cannot be read, has no column of paths, or no row.
    """
    texts, named, dialect = _read_rows(path)
    if not texts:
        raise SourceError(f"{path}: lists no path; put one on each line below {PATH_COLUMNS[0]!r}")
    folder = os.path.dirname(os.path.abspath(path))
    rows = [_find_broken(path, number, text) or text or "" for number, text in enumerate(texts, 1)]
    broken = tuple(row for row in rows if isinstance(row, BrokenRow))
    places = [_resolve(folder, row) for row in rows if not isinstance(row, BrokenRow)]
    if broken and not places:
        raise SourceError(f"{path}: {broken[0].path}: {broken[0].message}")
    paths = tuple(dict.fromkeys(place for place, _ in places))
    base = _find_named_base([place for place, _ in places], named)
    return PathList(
        paths=paths,
        base=base or _choose_base(folder, {anchor for _, anchor in places}),
        broken=broken,
        notes=tuple(_tell(path, dialect, len(places) - len(paths))),
    )


def refuse_foreign(name: str) -> None:
    """Refuse a name that is no path of this machine, with how to get what it names.

    Raises:
        SourceError: It is a URL, a path of GDAL's virtual file systems, or one of Windows.
    """
    if why := _tell_foreign(name):
        raise SourceError(f"{name}: {why}")


def _tell_foreign(name: str) -> str | None:
    """Tell what can be done about a name that is no path of this machine."""
    if scheme := _SCHEME.match(name):
        known = scheme[1].lower()
        if known == "file":
            return None
        how = _DOWNLOADS.get(known, "with the tool of its store").format(name=name)
        return f"not on this machine; imagery is read from local files: download it first ({how})"
    if name.lower().startswith("/vsi"):
        return "GDAL's virtual paths are not read; unpack or download what it leads to first"
    if os.sep == "/" and _DRIVE.match(name):
        return "a path of Windows; name the folder as this machine sees it (under WSL: /mnt/c/…)"
    return None


def find_local(name: str) -> str:
    """Write `file:///data/a.tif` and `~/a.tif` as paths; others stay as they are."""
    if name.lower().startswith("file://"):
        return url2pathname(urlsplit(name).path)
    return os.path.expanduser(name)


def exists(path: str) -> bool:
    """Tell whether something is there, or a part of it is named (`a.tif:2`)."""
    try:
        return os.path.lexists(path) or split_part(path)[1] is not None
    except ValueError:  # a zero byte
        return False


def _find_broken(path: str, number: int, text: str | None) -> BrokenRow | None:
    own_id = f"{os.path.basename(path)}:{number}"
    if text is None or not text.strip():
        return BrokenRow(id=own_id, path=path, kind="missing", message=f"row {number} has no path")
    if "\0" in text:
        zero = f"row {number}: a path with a zero byte"
        return BrokenRow(id=own_id, path=path, kind="unreadable", message=zero)
    if isinstance(text, _Ragged):
        ragged = (
            f"row {number} has other columns than the header; quote a path with a divider in it"
        )
        return BrokenRow(id=own_id, path=path, kind="unreadable", message=ragged)
    shown = str(text.strip())
    if (why := _tell_foreign(shown)) and not exists(text):
        return BrokenRow(id=shown, path=shown, kind="missing", message=f"row {number}: {why}")
    return None


class _Ragged(str):
    """A row whose cells are more than the header's."""

    __slots__ = ()


def _resolve(folder: str, text: str) -> tuple[str, str]:
    """Where a row leads, and what its path is relative to; Windows' separators count if need be."""
    if os.path.lexists(place := os.path.join(folder, text)):  # nearly all
        return os.path.normpath(place), _find_anchor(folder, folder, text)
    forms = dict.fromkeys([text, text.strip(), find_local(text.strip())])
    if os.sep == "/":
        forms |= dict.fromkeys([form.replace("\\", "/") for form in forms])
    for form in forms:
        for anchor in (folder, os.getcwd()):
            if exists(place := os.path.join(anchor, form)):
                return os.path.normpath(place), _find_anchor(anchor, folder, form)
    last = list(forms)[-1]
    return os.path.normpath(os.path.join(folder, last)), _find_anchor(folder, folder, last)


def _find_anchor(anchor: str, folder: str, form: str) -> str:
    """The folder that a path is written relative to; empty for an absolute one outside."""
    if not os.path.isabs(form):
        return anchor
    return folder if form.startswith(folder.rstrip(os.sep) + os.sep) else ""


def _choose_base(folder: str, anchors: set[str]) -> str | None:
    """Ids are as the list writes its paths; of absolute paths elsewhere, what they share."""
    written = anchors - {""}
    return next(iter(written)) if len(written) == 1 else folder if written else None


def _find_named_base(places: Sequence[str], ids: Sequence[str | None]) -> str | None:
    """The folder that the list's own ids are relative to: `a.tif` beside `tiles/a.tif`.

    None where it has no column of ids, or they are not the ends of its paths.
    """
    if not places or len(ids) != len(places) or not ids[0]:
        return None
    base = places[0].removesuffix(os.sep + ids[0])
    agree = all(f"{base}{os.sep}{own}" == place for own, place in zip(ids, places, strict=True))
    return base if agree else None


def _tell(path: str, dialect: Sequence[str], repeats: int) -> Iterable[str]:
    name = os.path.basename(path)
    if dialect:
        yield f"{name}: read with {', '.join(dialect)}"
    if repeats:
        yield f"{name}: {repeats} of its paths are repeats; each image is taken once"


_Rows = Sequence[str | None]


def _read_rows(path: str) -> tuple[_Rows, _Rows, Sequence[str]]:
    """Read a list's paths, None where a row has none; its ids, if any; and how it is no plain CSV."""
    if suffix_of(path) == ".parquet":
        return *_read_parquet(path), ()
    return _read_text(path)


def _read_parquet(path: str) -> tuple[_Rows, _Rows]:
    import pyarrow as pa
    from pyarrow import parquet, types

    try:
        with parquet.ParquetFile(path) as file:
            columns = file.schema_arrow
            name = _find_column(columns.names)
            if name is None:
                raise SourceError(_tell_columns(path, columns))
            kind = columns.field(name).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if not (types.is_string(kind) or types.is_large_string(kind)):
                raise SourceError(f"{path}: its column {name!r} holds {kind}, no paths")
            ids = [field.name for field in columns if field.name == _ID and field.type == kind]
            table = file.read([name, *ids])
            return table[name].to_pylist(), table[_ID].to_pylist() if ids else ()
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a readable list of paths ({error})") from error


def _tell_columns(path: str, columns: "pa.Schema") -> str:
    """Why a Parquet file without a column of paths is no list."""
    pixels = [field.name for field in columns if _holds_bytes(field.type)]
    if not pixels:
        return _tell_missing(path, columns.names)
    fix = "write them out as files first, one an image"
    return f"{path}: holds images in its columns ({', '.join(pixels)}), not paths; {fix}"


def _holds_bytes(kind: "pa.DataType") -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _tell_missing(path: str, names: Sequence[str]) -> str:
    there = ", ".join(map(repr, names[:8]))
    return f"{path}: no column of paths; name it {' or '.join(PATH_COLUMNS)} (it has {there})"


def _find_column(names: Sequence[str]) -> str | None:
    """The column of paths; of several the one that `PATH_COLUMNS` names first."""
    plain = {name.strip().lower(): name for name in reversed(names)}
    return next((plain[name] for name in PATH_COLUMNS if name in plain), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """How a text file holds paths.

    Attributes:
        delimiter: Between cells.
        column: Which cell of a row is the path.
        id_column: Which is its id; None for none.
        cells: Of a row, at most; None where a line is a path whatever it holds.
        header: The first row is no path.
        quoting: Whether quotes stand around cells.
    """

    delimiter: str
    column: int = 0
    id_column: int | None = None
    cells: int | None = None
    header: bool
    quoting: bool = True

    def tell(self) -> Iterator[str]:
        """What about it is no plain CSV."""
        if self.cells is not None and self.delimiter != ",":
            yield f"{_DELIMITERS[self.delimiter]} between columns"
        if not self.header:
            whole = self.cells is None
            yield "one path a line" if whole else f"no header, paths in column {self.column + 1}"


def _read_text(path: str) -> tuple[_Rows, _Rows, Sequence[str]]:
    text, encoding = _decode(path)
    first = next((line for line in text.splitlines() if line.strip()), None)
    if first is None:
        return [], [], ()
    layout = _find_header(path, first) or _find_without_header(path, first, text)
    if layout is None:
        raise SourceError(_tell_missing(path, _split_line(first, _find_divider(first))))
    rows = csv.reader(
        StringIO(text, newline=""),
        delimiter=layout.delimiter,
        quoting=csv.QUOTE_MINIMAL if layout.quoting else csv.QUOTE_NONE,
    )
    try:
        kept = [row for row in rows if any(map(str.strip, row)) or row == [""]][layout.header :]
    except csv.Error as error:
        raise SourceError(f"{path}: line {rows.line_num} cannot be read ({error})") from error
    at = layout.id_column
    ids = [] if at is None else [row[at] if at < len(row) else None for row in kept]
    return [_take_cell(row, layout) for row in kept], ids, (*encoding, *layout.tell())


def _decode(path: str) -> tuple[str, tuple[str, ...]]:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: not a readable list of paths ({error.strerror})") from error
    try:
        if content.startswith(_UTF16_MARKS):
            return content.decode("utf-16"), ("UTF-16",)
        marked = content.startswith(_UTF8_MARK)
        return content.decode("utf-8-sig"), ("a byte order mark",) if marked else ()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}: line {line} is not UTF-8; save the list as UTF-8") from error


def _find_header(path: str, first: str) -> _Layout | None:
    if suffix_of(path) == ".txt" and _leads_somewhere(path, first):
        return None
    for delimiter in _DELIMITERS:
        names = _split_line(first, delimiter)
        if name := _find_column(names):
            if len(names) == 1:
                return _Layout(delimiter=_WHOLE_LINE, header=True)
            return _Layout(
                delimiter=delimiter,
                column=names.index(name),
                id_column=names.index(_ID) if _ID in names else None,
                cells=len(names),
                header=True,
            )
    return None


def _find_without_header(path: str, first: str, text: str) -> _Layout | None:
    """How a file without a header is to be read, if there is one way only."""
    lines = _Layout(delimiter=_WHOLE_LINE, header=False, quoting=suffix_of(path) != ".txt")
    if _leads_somewhere(path, first):
        return lines
    delimiter = _find_divider(first)
    cells = _split_line(first, delimiter)
    near = [place for place, cell in enumerate(cells) if _looks_like_path(path, cell)]
    if len(cells) > 1 and len(near) == 1:
        return _Layout(delimiter=delimiter, column=near[0], cells=len(cells), header=False)
    some = text.split("\n", _LOOKED_AT)[:_LOOKED_AT] if suffix_of(path) == ".txt" else []
    found = any(_leads_somewhere(path, line) for line in some)
    return lines if found or (len(cells) == 1 and near) else None


def _find_divider(line: str) -> str:
    """What divides a line into most cells; a comma where nothing does."""
    return max(_DELIMITERS, key=lambda delimiter: len(_split_line(line, delimiter)))


def _split_line(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [""])


def _take_cell(row: Sequence[str], layout: _Layout) -> str | None:
    text = row[layout.column] if layout.column < len(row) else None
    if layout.cells is not None and text and any(row[layout.cells :]):
        return _Ragged(text)
    return text


def _looks_like_path(path: str, text: str) -> bool:
    image = suffix_of(text.strip()) in IMAGE_SUFFIXES
    return image or _tell_foreign(text.strip()) is not None or _leads_somewhere(path, text)


def _leads_somewhere(path: str, text: str) -> bool:
    folder = os.path.dirname(os.path.abspath(path))
    return "\0" not in text and bool(text.strip()) and exists(_resolve(folder, text)[0])
