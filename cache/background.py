"""Work that nobody waits for: bounded in number, logged when it fails, ended when the cache is."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from funnel.log import Seldom, get_logger

log = get_logger(__name__)


class Background:
    """At most ``limit`` tasks at once; more are refused, and counted by the caller."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._seldom = Seldom(log)

    def start(
        self, work: Callable[[], Coroutine[Any, Any, Any]], name: str
    ) -> "asyncio.Task[None] | None":
        """Run ``work()`` soon; returns its task, or None when there was no room for it."""
        if self._is_full():
            return None
        task = asyncio.ensure_future(self._guarded(work, name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _is_full(self) -> bool:
        if len(self._tasks) < self._limit:
            return False
        running = [task for task in self._tasks if not task.done()]  # the rest goes in a moment
        return len(running) >= self._limit

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, Any]], name: str) -> None:
        try:
            await work()
        except Exception as error:
            kind = type(error).__name__
            self._seldom.warning("cache.background_failed", about=name, work=name, error=kind)

    async def finish(self, timeout_s: float) -> None:
        """Wait a little for what runs."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    async def aclose(self) -> None:
        """Cancel what runs and wait for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
