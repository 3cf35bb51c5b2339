"""Table to index to answers one can look at."""

from typing import TYPE_CHECKING

from tilezoo.lazy import exports

if TYPE_CHECKING:
    from tilezoo.search.answers import Answers as Answers
    from tilezoo.search.answers import Hit as Hit
    from tilezoo.search.index import IndexFacts as IndexFacts
    from tilezoo.search.index import build_index as build_index
    from tilezoo.search.run import search as search

__getattr__ = exports(
    __name__,
    Answers="answers",
    Hit="answers",
    IndexFacts="index",
    build_index="index",
    search="run",
)
