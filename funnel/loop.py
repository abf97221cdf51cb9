"""One event loop in one thread, on which a funnel does all its waiting.

Clients of servers belong to one loop; callers come from many (threads, loops, tasks). So every
call is handed to this loop and awaited from wherever it came.
"""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from funnel.errors import Closed, InputError

T = TypeVar("T")
_STOP_TIMEOUT_S = 5.0


class LoopThread:
    """A daemon thread running an event loop; started at first use."""

    def __init__(self, name: str = "funnel") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end from a thread without a running loop.

        Raises:
            InputError: the calling thread runs an event loop, which this would block.
            Closed: the loop was stopped.
        """
        if _inside_loop():
            coroutine.close()
            raise InputError(
                "run() was called inside a running event loop and would block it; "
                "use 'await funnel.arun(…)' there"
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self._started(coroutine))
        try:
            return future.result()
        except BaseException:  # an interrupted caller must not leave its work running
            future.cancel()
            raise

    async def acall(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine on this loop from any loop; cancelling the caller cancels it."""
        loop = self._started(coroutine)
        if asyncio.get_running_loop() is loop:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    def stop(self) -> None:
        """Cancel what still runs and end the thread; further calls raise Closed."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(_STOP_TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join(_STOP_TIMEOUT_S)

    @property
    def closed(self) -> bool:
        """Whether it was stopped."""
        return self._closed

    def _started(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                coroutine.close()
                raise Closed("this funnel is closed; make a new one with Funnel.from_yaml")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run, args=(self._loop,), name=self._name, daemon=True
                )
                self._thread.start()
            return self._loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _inside_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
