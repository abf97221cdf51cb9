"""Many queries at once, so many at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from funnel.errors import InputError
from funnel.query import normalise_query
from funnel.result import FunnelResult


async def many(
    queries: Iterable[str], concurrency: int, run: Callable[[str], Awaitable[FunnelResult]]
) -> list[FunnelResult]:
    """Run each query, at most ``concurrency`` at a time; the results in the queries' order.

    The first failure ends those that still run.

    Raises:
        InputError: one of the arguments or queries is wrong; nothing is run in that case.
    """
    if isinstance(queries, str):
        raise InputError("queries: got one string, expected a list; use run for one query")
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 1:
        raise InputError(f"concurrency: got {concurrency!r}, expected an integer of at least 1")
    queries = list(queries)
    for text in queries:
        normalise_query(text)
    gate = asyncio.Semaphore(concurrency)

    async def one(text: str) -> FunnelResult:
        async with gate:
            return await run(text)

    tasks = [asyncio.ensure_future(one(text)) for text in queries]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
