"""The loop thread on which a funnel waits."""

import asyncio
import threading

import pytest

from funnel.errors import Closed, InputError
from funnel.loop import LoopThread


async def thread_name() -> str:
    return threading.current_thread().name


def test_calls_from_threads_run_on_one_loop() -> None:
    """Whoever calls, the work is done in the loop's own thread."""
    loop = LoopThread("the-loop")
    try:
        assert loop.call(thread_name()) == loop.call(thread_name()) == "the-loop"
    finally:
        loop.stop()


async def test_call_inside_a_running_loop_says_use_arun() -> None:
    """Blocking the caller's loop is refused with the mend."""
    loop = LoopThread()
    try:
        with pytest.raises(InputError, match="use 'await funnel.arun"):
            loop.call(thread_name())
    finally:
        loop.stop()


async def test_cancelling_the_caller_cancels_the_work() -> None:
    """A caller that went away leaves nothing running."""
    loop = LoopThread()
    cancelled = threading.Event()
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    try:
        task = asyncio.create_task(loop.acall(work()))
        await asyncio.to_thread(begun.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(cancelled.wait, 5)
    finally:
        loop.stop()


def test_stop_ends_the_thread_and_refuses_calls() -> None:
    """After stop there is no thread left, and calls say Closed."""
    loop = LoopThread("short-lived")
    loop.call(thread_name())
    loop.stop()
    loop.stop()
    assert not any(thread.name == "short-lived" for thread in threading.enumerate())
    with pytest.raises(Closed):
        loop.call(thread_name())
