"""Rows a piece at a time, so that what is made of them stays small."""

from collections.abc import Iterator

CHUNK = 1 << 14


def chunks(count: int, size: int = CHUNK) -> Iterator[slice]:
    """Cut `count` rows into slices of `size`; the last may be shorter."""
    return (slice(first, min(first + size, count)) for first in range(0, count, size))
