"""What a funnel is made of: opened at the first need, written to, closed together."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Literal, TypeVar

from funnel.cache.base import QueryCache
from funnel.errors import ConfigError
from funnel.index import DocumentIndex, IndexReport
from funnel.log import get_logger
from funnel.stages.base import Stage
from funnel.writing import Documents, Writer

log = get_logger(__name__)
T = TypeVar("T")


class Parts:
    """The index, the stages and the cache of one funnel, used on its loop only."""

    def __init__(
        self, documents: DocumentIndex, stages: Sequence[Stage], cache: QueryCache
    ) -> None:
        self._documents = documents
        self._stages = stages
        self._cache = cache
        self._writer = Writer(documents, cache)
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open everything, once for all callers; after a failure the next one tries again.

        A caller that gives up waiting does not stop it for the others.
        """
        if self._opening is None or _failed(self._opening):
            self._opening = asyncio.ensure_future(self._open())
        await asyncio.shield(self._opening)

    async def opened(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do some work with everything open."""
        await self.open()
        return await work()

    async def index(
        self,
        documents: Documents,
        *,
        on_bad: Literal["skip", "fail"],
        rebuild: bool,
        progress: bool,
    ) -> IndexReport:
        """Write documents; see :meth:`funnel.Funnel.index`.

        A rebuild also replaces a collection that cannot be opened, as other settings made it.
        """
        work = partial(
            self._writer.index, documents, on_bad=on_bad, rebuild=rebuild, progress=progress
        )
        try:
            await self.open()
        except ConfigError:
            if not (rebuild and self._documents.refused):
                raise
            await self._cache.start()  # to be told; the rest waits for the documents
            report = await work()
            await self.open()
            return report
        return await work()

    async def delete(self, ids: Iterable[str]) -> int:
        """Delete documents by id; returns how many there were."""
        await self.open()
        return await self._writer.delete(ids)

    async def close(self) -> None:
        """Close everything, also what is half open."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.wait({self._opening})
        await _closed(self._cache)
        for stage in self._stages:
            await _closed(stage)
        await _closed(self._documents)

    async def _open(self) -> None:
        await self._documents.start()
        for stage in self._stages:
            await stage.start()
        await self._cache.start()


def _failed(opening: "asyncio.Task[None]") -> bool:
    return opening.done() and (opening.cancelled() or opening.exception() is not None)


async def _closed(part: QueryCache | Stage | DocumentIndex) -> None:
    """Close a part; that it fails must not leave the others open."""
    try:
        await part.aclose()
    except (Exception, asyncio.CancelledError) as error:
        log.error("close_failed", part=type(part).__name__, exc_info=error)
