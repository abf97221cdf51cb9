"""One event loop in one thread, on which a funnel does all its waiting.

Clients of servers belong to one loop; callers come from many (threads, loops, tasks). So every
call is handed to this loop and awaited from wherever it came.
"""

import asyncio
import concurrent.futures
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from funnel.errors import Closed, InputError
from funnel.threads import Threads

T = TypeVar("T")
_STOP_TIMEOUT_S = 5.0
_THREADS = min(32, (os.cpu_count() or 1) + 4)  # as many as asyncio would start


class LoopThread:
    """A daemon thread running an event loop; started at first use, in the process of that use."""

    def __init__(self, name: str = "funnel") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._calls: set[asyncio.Task[Any]] = set()  # touched on the loop only
        self._closed = False
        self._pid: int | None = None

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end from a thread without a running loop.

        Raises:
            InputError: the calling thread runs an event loop, which this would block, or this
                process is a fork of the one whose loop it is.
            Closed: the loop was stopped, before or meanwhile.
        """
        if _inside_loop():
            coroutine.close()
            raise InputError(
                "a blocking call (run, index, start, …) inside a running event loop would block "
                "it; use 'await funnel.arun(…)' there (or aindex, adelete, astart, …)"
            )
        future = self._submit(coroutine)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            if self._closed:
                raise _closed() from error
            raise
        except BaseException:  # an interrupted caller must not leave its work running
            future.cancel()
            raise

    async def acall(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine on this loop from any loop; cancelling the caller cancels it."""
        if asyncio.get_running_loop() is self._loop:
            return await coroutine
        future = self._submit(coroutine)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed and (task is None or not task.cancelling()):
                raise _closed() from error
            raise

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel the calls in flight (they raise Closed), await ``last``, and end the thread.

        Blocks for that long, also inside a running event loop. Further calls raise Closed. In a
        fork there is nothing to end, and when the interpreter is being taken down, as for an
        object's ``__del__``, no thread is left that could.

        Raises:
            InputError: called on this very loop, as by a stage.
        """
        if threading.current_thread() is self._thread:
            raise InputError("a funnel cannot be closed from inside a call; close it outside")
        if self._is_fork() or sys.is_finalizing():
            return
        with self._lock:
            if self._closed:
                return
            loop, thread = self._running()
            self._closed = True
            self._loop = self._thread = None
            ended = asyncio.run_coroutine_threadsafe(self._end(last), loop)
        try:
            ended.result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_STOP_TIMEOUT_S)

    @property
    def closed(self) -> bool:
        """Whether it was stopped."""
        return self._closed

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        if self._is_fork():  # the thread did not come along: the call would wait for ever
            coroutine.close()
            raise InputError(
                f"this funnel was opened in process {self._pid}, got a call in its fork "
                f"{os.getpid()}; make one in each process, after the fork"
            )
        with self._lock:  # held while handing over, so that nothing comes after the end
            if self._closed or sys.is_finalizing():
                coroutine.close()
                raise _closed()
            return asyncio.run_coroutine_threadsafe(self._tracked(coroutine), self._running()[0])

    def _running(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        if self._loop is None or self._thread is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_run, args=(self._loop,), name=self._name, daemon=True
            )
            self._thread.start()
            self._pid = os.getpid()
        return self._loop, self._thread

    def _is_fork(self) -> bool:
        return self._pid not in (None, os.getpid())

    async def _tracked(self, coroutine: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        if task is not None:
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
        return await coroutine

    async def _end(self, last: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        await _cancelled(self._calls)
        try:
            if last is not None:
                await last()
        finally:
            await _cancelled(asyncio.all_tasks() - {asyncio.current_task()})


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.set_default_executor(Threads(_THREADS, "funnel-aside"))
    try:
        while not _ran_to_its_stop(loop):
            pass
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _ran_to_its_stop(loop: asyncio.AbstractEventLoop) -> bool:
    """Run; a call that ends its own caller's program must not end the loop of all the others."""
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt):  # the call's future holds it
        return False
    return True


def _inside_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _closed() -> Closed:
    return Closed("this funnel is closed; make a new one with Funnel.from_yaml")


async def _cancelled(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    waiting = {task for task in tasks if task is not None}
    for task in waiting:
        if not task.cancelling():  # a second time would cut short what it still puts in order
            task.cancel()
    if waiting:
        await asyncio.wait(waiting, timeout=_STOP_TIMEOUT_S)
