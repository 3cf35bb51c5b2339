"""The main path: table + query → answers."""

from tilezoo.errors import VectorIndexError
from tilezoo.options import verb
from tilezoo.progress import say
from tilezoo.search.answers import Answers, hit_from
from tilezoo.search.index import FLAT_ROWS, VectorIndex, open_index, scan
from tilezoo.search.options import SearchOptions
from tilezoo.search.query import Query, resolve
from tilezoo.table import Table, open_table


@verb(SearchOptions)
def search(options: SearchOptions) -> Answers:
    """Find the tiles that look most like a query.

    An image is embedded by the table's own model; a row that is the query is not among its answers.

    Raises:
        TilezooError: The query leads to no vector, or the index cannot be trusted.
    """
    table = open_table(options.table)
    index = _find_index(table)
    query = resolve(table, options)
    return _answer(table, index, query, options.k)


def _find_index(table: Table) -> VectorIndex:
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


def _answer(table: Table, index: VectorIndex, query: Query, k: int) -> Answers:
    scores, rows = index.nearest(query.vector, min(k + 1, table.row_count))
    found = [(int(r), float(s)) for r, s in zip(rows[0], scores[0], strict=True) if r >= 0]
    best = [(row, score) for row, score in found if row != query.row][:k]
    stored = table.take([row for row, _ in best])
    itself = query.row is not None and hit_from(query.row, 1.0, table.take([query.row])[0])
    return Answers(
        table=str(table.path),
        space=table.space.fingerprint,
        label=query.label,
        query=itself or None,
        image=str(query.image) if query.image else None,
        vector=query.vector,
        hits=tuple(hit_from(r, s, row) for (r, s), row in zip(best, stored, strict=True)),
    )
