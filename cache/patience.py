"""A limit to waiting that does not mistake an event loop that was away for a store that is slow.

When a thousand calls begin at once, the loop is busy with their first steps for longer than a cache
may take. Every timer is due by then, and no reply was read, though all have come.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakKeyDictionary

_TICK_S = 0.01
_TICK_COUNTS_S = 1.2 * _TICK_S  # at most, however late it was
_THERE_SHARE = 0.5  # of a wait; a loop that was there for less says nothing of others
_GRACE_SHARE = 0.5  # of a limit: for reading what came while the loop was away


class LoopClock:
    """Seconds in which an event loop was there: a turn that takes long counts as a short one.

    It ticks only while somebody waits.
    """

    def __init__(self) -> None:
        self._counted = 0.0
        self._last = 0.0
        self._waiting = 0
        self._next: asyncio.TimerHandle | None = None

    def now(self) -> float:
        """Seconds counted so far; comparable only within one ``ticking``."""
        return self._counted + min(time.monotonic() - self._last, _TICK_COUNTS_S)

    @contextmanager
    def ticking(self) -> Iterator[None]:
        """Count while the block runs."""
        if self._waiting == 0:
            self._last = time.monotonic()
            self._tick()
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0 and self._next is not None:
                self._next.cancel()

    def _tick(self) -> None:
        self._counted, self._last = self.now(), time.monotonic()
        self._next = asyncio.get_running_loop().call_later(_TICK_S, self._tick)


class Wait:
    """How a wait goes: ``seconds`` since it began, and whether the loop ``was_away`` for much."""

    def __init__(self, clock: LoopClock) -> None:
        self._clock = clock
        self._began, self._began_there = time.monotonic(), clock.now()

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    @property
    def was_away(self) -> bool:
        """Whether the loop missed so much of it that nothing can be said of who is waited for."""
        return self._clock.now() - self._began_there < _THERE_SHARE * self.seconds


_clocks: "WeakKeyDictionary[asyncio.AbstractEventLoop, LoopClock]" = WeakKeyDictionary()


@asynccontextmanager
async def patient(seconds: float) -> AsyncIterator[Wait]:
    """Let the block take so long, as ``asyncio.timeout`` does.

    If the loop was away for most of it, half as long again, in which it reads what has come.

    Raises:
        TimeoutError: it took longer.
    """
    loop = asyncio.get_running_loop()
    clock = _clocks.setdefault(loop, LoopClock())
    with clock.ticking():
        wait = Wait(clock)
        async with asyncio.timeout(None) as limit:

            def over() -> None:
                grace = _GRACE_SHARE if wait.was_away else 0.0
                limit.reschedule(loop.time() + grace * seconds)

            due = loop.call_later(seconds, over) if seconds < math.inf else None
            try:
                yield wait
            finally:
                if due is not None:
                    due.cancel()
