"""Requests that a server accepts: it refuses those over 32 MB."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
BATCH_POINTS = 256
BATCH_BYTES = 8_000_000
FLOAT_BYTES = 12  # as JSON


def cut(sized: Iterable[tuple[T, int]]) -> Iterator[list[T]]:
    """Items, each given with its bytes, in their order and in batches that fit a request."""
    batch: list[T] = []
    total = 0
    for item, size in sized:
        if batch and (len(batch) == BATCH_POINTS or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch
