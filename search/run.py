"""The main path: table + query → answers."""

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from tilezoo.errors import VectorIndexError
from tilezoo.options import verb
from tilezoo.progress import say
from tilezoo.search.answers import HIT_COLUMNS, Answers, Took, hit_from
from tilezoo.search.index import FLAT_ROWS, VectorIndex, open_index, scan
from tilezoo.search.options import SearchOptions
from tilezoo.search.query import Query, resolve_query
from tilezoo.table import Table, open_table


@verb(SearchOptions)
def search(options: SearchOptions) -> Answers:
    """Find the tiles that look most like a query.

    An image is embedded by the table's own model; a row that is the query is not among its answers.

    Raises:
        TilezooError: The query leads to no vector, or the index cannot be trusted.
    """
    start = perf_counter()
    table = open_table(options.table)
    with ThreadPoolExecutor(
        1
    ) as aside:  # hashing an index and finding a row do not wait for each other
        opening = aside.submit(_find_index, table)
        query = resolve_query(table, options)
        index = opening.result()
    return _answer(table, index, query, options.k, start)


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


def _answer(table: Table, index: VectorIndex, query: Query, k: int, start: float) -> Answers:
    asked = perf_counter()
    scores, rows = index.nearest(query.vector, min(k + 1, table.row_count))
    index_s = perf_counter() - asked
    found = [(int(r), float(s)) for r, s in zip(rows[0], scores[0], strict=True) if r >= 0]
    best = [(row, score) for row, score in found if row != query.row][:k]
    itself = [] if query.row is None else [(query.row, 1.0)]
    wanted = [*itself, *best]
    stored = table.take([row for row, _ in wanted], HIT_COLUMNS)
    hits = tuple(hit_from(r, s, row) for (r, s), row in zip(wanted, stored, strict=True))
    return Answers(
        table=str(table.path),
        space=table.space.fingerprint,
        label=query.label,
        query=hits[0] if itself else None,
        image=str(query.image) if query.image else None,
        vector=query.vector,
        hits=hits[len(itself) :],
        took=Took(whole_s=perf_counter() - start, index_s=index_s),
    )
