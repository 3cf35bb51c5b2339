"""Labels of tiles: read from Parquet, CSV or a vector file, or from the folders tiles lie in.

A null list of labels means that a tile was never labelled: joins leave it out. An empty list
means that somebody looked, and none of the classes is there.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from tilezoo.errors import LabelsError
from tilezoo.progress import say

LABELS_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("labels", pa.list_(pa.string())),
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),
    ]
)
# The first that is there counts. `name`, `new_labels` and `original_split` are BigEarthNet v1's
# metadata (its `labels` are the 43 old classes), `patch_id` is v2's.
ID_COLUMNS = ("id", "name", "patch_id")
LABEL_COLUMNS = ("new_labels", "labels", "label")
SPLIT_COLUMNS = ("split", "original_split")
GROUP_COLUMN = "group"

_SPLIT_NAMES = {"val": "validation", "valid": "validation"}
_PARQUET = b"PAR1"
_VECTOR_FILES = (".gpkg", ".shp", ".geojson", ".fgb")  # what analysts draw and mark labels in
# What programs write for a cell without a value: pandas' list (io.parsers.readers, STR_NA_VALUES).
_MISSING = frozenset(
    [
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"),
        *("1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    ]
)
_DIVIDERS = re.compile(r"[;|]")
_EXAMPLES = 2


def read_labels(source: str | Path) -> pa.Table:
    """Read the labels of tiles from a Parquet or CSV file, a GeoPackage, Shapefile or GeoJSON.

    Column names are taken in any case. `id` (or `name`, `patch_id`) names the tile; `new_labels`
    or `labels` is a list of classes, `label` one class. Text that begins with `[` is a JSON list
    (`["Pastures", "Inland waters"]`); other text in a column of lists is divided at `;` and `|`.
    An empty cell is a tile without labels (null), as are `NA`, `nan`, `null`, `None` and the like,
    which is told with their count; `[]` is one without any class. Names are the same however their
    accents are encoded (Unicode's NFC). `split` (or
    `original_split`) is optional, and so is `group`: tiles that resemble each other because they
    come from one scene, flight or sheet, and so count as one when something is drawn.

    Args:
        source: The file.

    Returns:
        Columns of `LABELS_SCHEMA`, in the file's order: `id`; `labels`, each class once; `split`
        in lower case, `val` and `valid` as `validation`, null where none is given; `group`, null
        where none is given.

    Raises:
        LabelsError: The file cannot be read, a column is missing or of another kind, ids are
            missing or repeated, or no tile has a label.
    """
    path = Path(source)
    found = _drop_missing(_read(path), path)
    ids = _check_ids(found, path)
    labels = _parse_lists(found, path, ids)
    if labels.null_count == len(labels):
        raise LabelsError(f"{path}: no row of {found.num_rows} has a label; is the column empty?")
    columns = [ids, labels, _name_splits(found, path), _take_groups(found, path)]
    return pa.table(columns, schema=LABELS_SCHEMA)


def _drop_missing(found: pa.Table, path: Path) -> pa.Table:
    """Make texts that stand for nothing null in all columns but the ids', and tell their count."""
    for number, name in enumerate(found.column_names[1:], 1):
        column = found.column(number).combine_chunks()
        texts = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        if not pa.types.is_string(texts.type) and not pa.types.is_large_string(texts.type):
            continue
        stripped = pc.utf8_trim_whitespace(texts)
        missing = pc.is_in(stripped, value_set=pa.array(sorted(_MISSING), texts.type))
        words = pc.unique(stripped.filter(missing)).to_pylist()
        named = ", ".join(word for word in words if word)
        if named:
            count = pc.sum(missing).as_py()
            say(f"{path}: {count:,} cells of {name!r} are {named}: taken as missing")
        emptied = pc.if_else(missing, pa.scalar(None, texts.type), texts)
        found = found.set_column(number, name, emptied)
    return found


def _unify(name: str) -> str:
    """Write a name in the one way that Unicode has for all its encodings."""
    return unicodedata.normalize("NFC", name.strip())


def split_name(word: str) -> str | None:
    """Write a split's name in one way: lower case, `val` and `valid` as `validation`."""
    plain = _unify(word).lower()
    return _SPLIT_NAMES.get(plain, plain) or None


def folder_labels(ids: Iterable[str]) -> pa.Table:
    """Label each tile with the folder it lies in: `forest/a.tif` is of class `forest`.

    Args:
        ids: Of tiles, as tables hold them: paths with `/`, windows with `#x,y,w,h`.

    Returns:
        Columns of `LABELS_SCHEMA`, in the order of `ids`; `split` and `group` are null.

    Raises:
        LabelsError: A tile lies in no folder, or an id comes twice.
    """
    names = list(ids)
    classes = [_unify(PurePosixPath(name).parent.name) for name in names]
    bare = [name for name, folder in zip(names, classes, strict=True) if not folder]
    if bare or not names:
        reason = f"the id {bare[0]!r} has no folder" if bare else "there are no tiles"
        raise LabelsError(f"labels by folder: {reason}; name the folder above the classes' folders")
    column = pa.array(names, pa.string())
    _refuse_repeated(column, "labels by folder")
    nothing = pa.nulls(len(names), pa.string())
    return pa.table(
        [column, pa.array([[folder] for folder in classes]), nothing, nothing],
        schema=LABELS_SCHEMA,
    )


def refuse_strangers(
    labels: str | Path, ids: pa.Array, tiles: Iterable[pa.Array], whose: str
) -> None:
    """Refuse labels that belong to none of the tiles, and show how both are called.

    Args:
        labels: What `--labels` names.
        ids: Of the labels.
        tiles: Ids of the tiles, some thousands at a time; read up to the first match.
        whose: Name of what holds the tiles.

    Raises:
        LabelsError: No id is a tile's.
    """
    ours = "none at all"
    for number, part in enumerate(tiles):
        if pc.any(pc.is_in(part, value_set=ids)).as_py():
            return
        ours = _examples(part) if number == 0 and len(part) else ours
    raise LabelsError(
        f"{labels}: none of its {len(ids)} ids is a tile of {whose}; they look like "
        f"{_examples(ids)}, the tiles' like {ours}; write ids as `tilezoo embed` and `pack` do: "
        "paths below the named folder, or patch names"
    )


def _examples(ids: pa.Array) -> str:
    return ", ".join(map(repr, ids[:_EXAMPLES].to_pylist()))


def _read(path: Path) -> pa.Table:
    """Read the columns that count, under the names they are documented by."""
    try:
        found = _read_columns(path)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        kind = path.suffix[1:] if _is_vector(path) else "Parquet or CSV"
        raise LabelsError(f"{path}: not a {kind} file of labels ({reason})") from error
    if not found.num_rows:
        raise LabelsError(f"{path}: holds no rows; labels need one row a tile")
    return found.rename_columns([_plain(name) for name in found.column_names])


def _read_columns(path: Path) -> pa.Table:
    """Read the columns that count under the file's own names."""
    if _is_vector(path):
        attributes = _read_attributes(path)
        return attributes.select(_choose_columns(attributes.column_names, path))
    if _starts_with(path, _PARQUET):
        return pq.read_table(path, columns=_choose_columns(pq.read_schema(path).names, path))
    return _read_csv(path, _choose_columns(_read_csv_header(path), path))


def _is_vector(path: Path) -> bool:
    return path.suffix.lower() in _VECTOR_FILES


def _read_attributes(path: Path) -> pa.Table:
    """Read the attributes of a vector file's first layer; its geometries are left out."""
    import geopandas  # heavy, and most labels are Parquet or CSV
    from pyogrio.errors import DataSourceError

    try:
        frame = geopandas.read_file(path, ignore_geometry=True)
    except DataSourceError as error:
        raise OSError(str(error)) from error
    return pa.Table.from_pandas(frame, preserve_index=False)


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _read_csv_header(path: Path) -> list[str]:
    with csv.open_csv(path) as reader:
        return list(reader.schema.names)


def _read_csv(path: Path, wanted: list[str]) -> pa.Table:
    """Read columns as text, so that the class `01` stays what it is; empty cells are null."""
    options = csv.ConvertOptions(
        include_columns=wanted,
        column_types=dict.fromkeys(wanted, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    return csv.read_csv(path, convert_options=options)


def _plain(name: str) -> str:
    return name.strip().lower()


def _choose_columns(names: list[str], path: Path) -> list[str]:
    """Choose the file's columns of ids, labels and, where there are any, splits and groups."""
    for name, times in Counter(map(_plain, names)).items():
        if times > 1 and name in (*ID_COLUMNS, *LABEL_COLUMNS, *SPLIT_COLUMNS, GROUP_COLUMN):
            raise LabelsError(f"{path}: {times} columns are called {name!r}; leave one")
    known = {_plain(name): name for name in names}
    chosen = []
    for what, candidates in (("ids", ID_COLUMNS), ("labels", LABEL_COLUMNS)):
        here = [known[name] for name in candidates if name in known]
        if not here:
            found = ", ".join(names)
            raise LabelsError(
                f"{path}: no column of {what} ({', '.join(candidates)}); there are: {found}"
            )
        chosen.append(here[0])
    chosen += [known[name] for name in SPLIT_COLUMNS if name in known][:1]
    return chosen + [known[name] for name in (GROUP_COLUMN,) if name in known]


def _check_ids(found: pa.Table, path: Path) -> pa.Array:
    column = _as_text(found.column(0).combine_chunks(), found.column_names[0], path)
    if column.null_count:
        row = pc.index(column.is_null(), pa.scalar(True)).as_py()
        raise LabelsError(f"{path}: row {row + 1} has no id; every row names its tile")
    _refuse_repeated(column, str(path))
    return column


def _refuse_repeated(ids: pa.Array, where: str) -> None:
    counts = ids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        example, times = repeated[0]["values"].as_py(), repeated[0]["counts"].as_py()
        raise LabelsError(
            f"{where}: {len(repeated)} ids come more than once ({example!r} {times} times); "
            "leave one row for each tile"
        )


def _as_text(column: pa.Array, name: str, path: Path) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(check(kind) for check in (*texts, pa.types.is_integer, pa.types.is_boolean)):
        raise LabelsError(f"{path}: column {name!r} is of type {kind}; text or whole numbers do")
    return column.cast(pa.string())


def _parse_lists(found: pa.Table, path: Path, ids: pa.Array) -> pa.Array:
    """Bring labels of any form to lists of text, each class once; nulls stay."""
    name, column = found.column_names[1], found.column(1).combine_chunks()
    if hasattr(column.type, "value_type") and not pa.types.is_dictionary(column.type):
        values = column.to_pylist()
        _as_text(pa.array([], column.type.value_type), name, path)  # refuses other kinds
        _refuse_multi_hot(column.type.value_type, values, path, name)
        rows = [None if row is None else _to_texts(row) for row in values]
    else:
        cells = _as_text(column, name, path).to_pylist()
        several = name != "label"
        rows = [None if cell is None else _parse_cell(cell, several, path) for cell in cells]
    for number, row in enumerate(rows):
        if row is not None and not all(row):
            raise LabelsError(f"{path}: tile {ids[number].as_py()!r} has a class without a name")
    return pa.array([row and list(dict.fromkeys(row)) for row in rows], LABELS_SCHEMA.types[1])


def _to_texts(row: list[object]) -> list[str]:
    return ["" if value is None else _unify(str(value)) for value in row]


def _refuse_multi_hot(
    kind: pa.DataType, rows: list[list[object] | None], path: Path, name: str
) -> None:
    """Refuse vectors of 0 and 1, which would be read as the classes 0 and 1."""
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        for row in filter(None, rows):
            if len(row) > 2 and set(row) <= {0, 1}:
                raise LabelsError(f"{path}: {name!r} is multi-hot; write lists of class names")


def _parse_cell(text: str, several: bool, path: Path) -> list[str]:
    """Read one cell: a JSON list; else classes divided by `;` or `|` if there may be several."""
    if not text.lstrip().startswith("["):
        parts = _DIVIDERS.split(text) if several else [text]
        return [_unify(part) for part in parts]
    try:
        return _to_texts(_refuse_nested(json.loads(text)))
    except (ValueError, RecursionError) as error:
        reason = text if len(text) <= 60 else f"{text[:57]}…"
        fix = 'write ["a", "b"] or a;b'
        raise LabelsError(f"{path}: the labels {reason} are no JSON list; {fix}") from error


def _refuse_nested(values: list[object]) -> list[object]:
    if any(isinstance(value, list | dict | float) for value in values):
        raise ValueError("classes are text or whole numbers")
    return values


def _name_splits(found: pa.Table, path: Path) -> pa.Array:
    words = _take_optional(found, SPLIT_COLUMNS, path).to_pylist()
    return pa.array([split_name(word) if word else None for word in words], pa.string())


def _take_groups(found: pa.Table, path: Path) -> pa.Array:
    names = _take_optional(found, (GROUP_COLUMN,), path).to_pylist()
    return pa.array([name and _unify(name) for name in names], pa.string())


def _take_optional(found: pa.Table, names: tuple[str, ...], path: Path) -> pa.Array:
    """Take the column that has one of these names as text; nulls where there is none."""
    name = next((name for name in names if name in found.column_names), None)
    if name is None:
        return pa.nulls(found.num_rows, pa.string())
    column = found[name].combine_chunks()
    return (
        column.cast(pa.string()) if pa.types.is_null(column.type) else _as_text(column, name, path)
    )
