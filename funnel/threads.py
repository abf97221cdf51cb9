"""Threads that take work until the process ends."""

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_Job = tuple["Future[Any]", Callable[[], Any]]


class Threads(ThreadPoolExecutor):
    """At most ``most`` threads, started as they are needed.

    The standard library's pool, of which only the type is used (asyncio wants it), refuses work as
    soon as the main thread is over, before other threads and ``atexit`` handlers have run: a
    service whose main thread only starts others could not search, and
    ``atexit.register(funnel.close)`` could not close. As there, the process ends only after the
    work that was taken, and the threads of a pool that nobody holds any more go.
    """

    def __init__(self, most: int, name: str) -> None:
        self._crew = _Crew(most, name)
        weakref.finalize(self, self._crew.end).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have a thread call it.

        Raises:
            RuntimeError: after :meth:`shutdown`.
        """
        future: Future[T] = Future()
        self._crew.take(future, partial(fn, *args, **kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work, and end the threads once they have done what was taken."""
        self._crew.end(cancel=cancel_futures)
        if wait:
            self._crew.join()


class _Crew:
    """The threads, which must not hold the pool, or it would never be forgotten."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._running: list[threading.Thread] = []
        self._unfinished = 0
        self._ended = False
        self._pid = os.getpid()

    def take(self, future: "Future[Any]", call: Callable[[], Any]) -> None:
        with self._changed:
            if self._ended:
                raise RuntimeError(f"{self._name}: got work after its end")
            self._jobs.put((future, call))
            self._unfinished += 1
            if len(self._running) < min(self._most, self._unfinished):
                self._start()

    def end(self, *, cancel: bool = False) -> None:
        with self._changed:
            self._ended = True
            if cancel:
                self._cancel()
            for _ in self._running:
                self._jobs.put(None)

    def join(self) -> None:
        with self._changed:
            running = list(self._running)
        for thread in running:
            thread.join()

    def _start(self) -> None:
        number = len(self._running)
        if number == 0:
            atexit.register(self._await_all)
        thread = threading.Thread(target=self._serve, name=f"{self._name}-{number}", daemon=True)
        self._running.append(thread)
        thread.start()

    def _cancel(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            if job is not None:
                job[0].cancel()
                self._unfinished -= 1
                self._changed.notify_all()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            _carry_out(*job)
            del job  # or an idle thread would keep what it has done
            with self._changed:
                self._unfinished -= 1
                self._changed.notify_all()
        with self._changed:
            self._running.remove(threading.current_thread())
            if not self._running:
                atexit.unregister(self._await_all)

    def _await_all(self) -> None:
        if os.getpid() != self._pid:  # a fork has no such threads
            return
        with self._changed:
            self._changed.wait_for(lambda: self._unfinished == 0)


def _carry_out(future: "Future[Any]", call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
