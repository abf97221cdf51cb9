"""The loop thread on which a funnel waits."""

import asyncio
import concurrent.futures
import contextlib
import os
import subprocess
import sys
import threading

import pytest

from funnel.errors import Closed, InputError
from funnel.loop import LoopThread

FORKS = """
import os
from funnel.errors import InputError
from funnel.loop import LoopThread

async def where():
    return os.getpid()

loop = LoopThread()
assert loop.call(where()) == os.getpid()
child = os.fork()
if child == 0:
    try:
        loop.call(where())
    except InputError as error:
        print(error, flush=True)
        loop.stop()
        os._exit(7)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert loop.call(where()) == os.getpid()
loop.stop()
"""

ENDS = """
from funnel.errors import Closed
from funnel.loop import LoopThread

async def nothing():
    pass

class Owner:
    def __init__(self):
        self.loop = LoopThread()
        self.loop.call(nothing())

    def __del__(self):
        try:
            self.loop.call(nothing())
        except Closed:
            print("refused", flush=True)
        self.loop.stop()
        print("stopped", flush=True)

owner = Owner()
"""


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


def test_stop_ends_calls_in_flight_before_the_last_work() -> None:
    """Waiting callers get Closed, not a cancellation; resources are released after them."""
    loop = LoopThread()
    begun = threading.Event()
    order: list[str] = []
    raised: list[BaseException] = []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            order.append("call")

    async def last() -> None:
        order.append("last")

    def caller() -> None:
        try:
            loop.call(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=caller)
    thread.start()
    assert begun.wait(5)
    loop.stop(last)
    thread.join(5)
    assert order == ["call", "last"]
    assert [type(error) for error in raised] == [Closed]


def test_stop_lets_an_interrupted_call_finish_its_tidying() -> None:
    """What a call does at its cancellation (telling the cache of a write) is not cut short."""
    loop = LoopThread()
    begun, tidying, tidied = (threading.Event() for _ in range(3))
    task: list[asyncio.Task[None] | None] = []

    async def work() -> None:
        task.append(asyncio.current_task())
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            tidying.set()
            await asyncio.sleep(0.05)
            tidied.set()
            raise

    async def interrupt() -> None:
        assert task[0] is not None
        task[0].cancel()

    def caller() -> None:
        with contextlib.suppress(Closed, concurrent.futures.CancelledError):
            loop.call(work())

    thread = threading.Thread(target=caller)
    thread.start()
    assert begun.wait(5)
    loop.call(interrupt())
    assert tidying.wait(5)
    loop.stop()
    thread.join(5)
    assert tidied.is_set()


async def test_a_waiting_task_learns_that_it_was_closed() -> None:
    """A task that nobody cancelled must not look cancelled."""
    loop = LoopThread()
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(loop.acall(work()))
    await asyncio.to_thread(begun.wait, 5)
    loop.stop()
    with pytest.raises(Closed):
        await task


def test_stop_from_inside_a_call_is_refused() -> None:
    """The loop cannot wait for itself."""
    loop = LoopThread()

    async def work() -> None:
        loop.stop()

    try:
        with pytest.raises(InputError, match="from inside a call"):
            loop.call(work())
    finally:
        loop.stop()


def test_stop_before_the_first_call_still_does_the_last_work() -> None:
    """What was made but never used is released, too."""
    loop, done = LoopThread(), threading.Event()

    async def last() -> None:
        done.set()

    loop.stop(last)
    assert done.is_set()


def test_a_call_that_ends_a_program_leaves_the_others_their_loop() -> None:
    """Its own caller gets what it raised; the loop goes on, and can be stopped."""
    loop = LoopThread("goes-on")

    async def leaves() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        loop.call(leaves())
    assert loop.call(thread_name()) == "goes-on"
    loop.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_fork_is_refused_instead_of_waiting_for_ever() -> None:
    """The thread stays in the process that opened it; there is nothing to close in another."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "make one in each process, after the fork" in done.stdout


def test_it_can_be_stopped_while_the_interpreter_is_taken_down() -> None:
    """As an object's ``__del__`` does; the thread is gone by then: the process never ended."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60, check=True
    )
    assert (ended.stdout, ended.stderr) == ("refused\nstopped\n", "")
