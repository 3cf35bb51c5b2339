"""The main path: table + query → answers."""

from pathlib import Path

from tilezoo.errors import OptionError, VectorIndexError
from tilezoo.progress import say
from tilezoo.search.answers import Answers, hit_from
from tilezoo.search.index import FLAT_ROWS, VectorIndex, open_index, scan
from tilezoo.search.query import Query, resolve
from tilezoo.table import Table, open_table


def search(
    table: str | Path,
    query: str | None = None,
    *,
    at: str | None = None,
    k: int = 10,
    device: str = "auto",
) -> Answers:
    """Find the tiles that look most like a query.

    Args:
        table: The table's folder.
        query: A row's id, or an image file, which is embedded by the table's own model.
        at: `LON,LAT` instead: the tile there.
        k: How many; a row that is the query is not among its own answers.
        device: Where an image is embedded.

    Raises:
        TilezooError: The query leads to no vector, or the index cannot be trusted.
    """
    if k < 1:
        raise OptionError(f"-k {k} should be at least 1")
    opened = open_table(table)
    index = _index_of(opened)
    asked = resolve(opened, query, at, device)
    return _answers(opened, index, asked, k)


def _index_of(table: Table) -> VectorIndex:
    index = open_index(table)
    if index is not None:
        return index
    make = f"`tilezoo index {table.path}`"
    if table.row_count > FLAT_ROWS:
        raise VectorIndexError(
            f"{table.path} has {table.row_count} rows and no index; make it: {make}"
        )
    say(f"no index, so every row is read; {make} keeps one")
    return scan(table)


def _answers(table: Table, index: VectorIndex, asked: Query, k: int) -> Answers:
    scores, rows = index.nearest(asked.vector, min(k + 1, table.row_count))
    found = [(int(r), float(s)) for r, s in zip(rows[0], scores[0], strict=True) if r >= 0]
    best = [(row, score) for row, score in found if row != asked.row][:k]
    stored = table.take([row for row, _ in best])
    itself = asked.row is not None and hit_from(asked.row, 1.0, table.take([asked.row])[0])
    return Answers(
        table=str(table.path),
        space=table.space.fingerprint,
        label=asked.label,
        query=itself or None,
        image=str(asked.image) if asked.image else None,
        vector=asked.vector,
        hits=tuple(hit_from(r, s, row) for (r, s), row in zip(best, stored, strict=True)),
    )
