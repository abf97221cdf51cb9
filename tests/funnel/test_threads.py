"""Threads that take work until the process ends."""

import gc
import subprocess
import sys
import threading

import pytest

from funnel.threads import Threads

AFTER_MAIN = """
import atexit, threading, time
from funnel.threads import Threads

threads = Threads(2, "aside")

def later():
    threading.main_thread().join()
    time.sleep(0.05)  # by now the standard library's pools are closed
    print("thread", threads.submit(sum, [1, 2]).result(5), flush=True)

atexit.register(lambda: print("atexit", threads.submit(sum, [1, 3]).result(5), flush=True))
threading.Thread(target=later).start()
"""
WAITED_FOR = """
import time
from funnel.threads import Threads

def work():
    time.sleep(0.2)
    print("done", flush=True)

Threads(1, "aside").submit(work)
"""


def _printed(script: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stderr == ""
    return ended.stdout


def test_work_is_taken_after_the_main_thread() -> None:
    """By threads that go on without it, and in ``atexit`` handlers."""
    assert _printed(AFTER_MAIN) == "thread 3\natexit 4\n"


def test_the_process_ends_after_the_work() -> None:
    """What was taken is done, as with the standard library's pool."""
    assert _printed(WAITED_FOR) == "done\n"


def test_threads_are_started_as_needed_and_ended() -> None:
    """No more than asked for, whatever waits; none after the end, which refuses work."""
    threads, go_on = Threads(2, "few"), threading.Event()
    waiting = [threads.submit(go_on.wait, 10) for _ in range(4)]
    alive = [thread for thread in threading.enumerate() if thread.name.startswith("few-")]
    assert len(alive) == 2
    go_on.set()
    threads.shutdown()
    assert all(future.result() for future in waiting)
    assert not any(thread.is_alive() for thread in alive)
    with pytest.raises(RuntimeError, match="after its end"):
        threads.submit(sum, [])


def test_a_pool_that_nobody_holds_lets_its_threads_go() -> None:
    """Programs that forget to close what they drop do not gather threads."""
    threads = Threads(1, "dropped")
    assert threads.submit(sum, [1]).result(10) == 1
    alive = [thread for thread in threading.enumerate() if thread.name.startswith("dropped-")]
    del threads
    gc.collect()
    for thread in alive:
        thread.join(10)
    assert [thread.is_alive() for thread in alive] == [False]


def test_what_waits_can_be_cancelled() -> None:
    """What runs is not; an error is the future's."""
    threads, begun, go_on = Threads(1, "one"), threading.Event(), threading.Event()

    def fail() -> None:
        begun.set()
        go_on.wait(10)
        raise ValueError("mine")

    running = threads.submit(fail)
    waiting = threads.submit(print)
    begun.wait(10)
    threads.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    assert waiting.cancelled()
    with pytest.raises(ValueError, match="mine"):
        running.result(10)
