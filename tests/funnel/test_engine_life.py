"""A funnel's life: threads, tasks and loops, start, cancelled callers, close."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import structlog

from funnel import Funnel, FunnelSettings
from funnel.cache.null import NullCache
from funnel.errors import Closed, ConfigError, InputError, StageTimeout
from funnel.models import encoder
from funnel.models.base import Side
from funnel.models.pool import ModelPool
from funnel.types import Candidate
from tests.fakes import FakeEncoder, FloatArray
from tests.funnel.funnels import CORPUS, make

AT_EXIT = """
import atexit
import sys
from tests.funnel.funnels import CORPUS, make

funnel = make(qdrant={"path": sys.argv[1]})
atexit.register(funnel.close)
funnel.index(CORPUS)
"""


@pytest.fixture
def funnel() -> Iterator[Funnel]:
    with make() as made:
        made.index(CORPUS)
        yield made


def test_threads_share_one_funnel(funnel: Funnel) -> None:
    """Many threads, each with its own right answer."""
    expected = {text: funnel.run(text).ids for text in ("password", "card", "parcel")}
    with ThreadPoolExecutor(8) as pool:
        texts = list(expected) * 20
        answers = list(pool.map(lambda text: funnel.run(text).ids, texts))
    assert answers == [expected[text] for text in texts]


async def test_tasks_and_loops_share_one_funnel() -> None:
    """Arun works on any loop, many at once."""
    funnel = make()
    await funnel.aindex(CORPUS)
    results = await asyncio.gather(*(funnel.arun("password") for _ in range(20)))
    assert len({result.ids for result in results}) == 1
    other = await asyncio.to_thread(lambda: asyncio.run(funnel.arun("password")))
    assert other.ids == results[0].ids
    await funnel.aclose()


async def test_run_inside_a_loop_says_use_arun() -> None:
    """Instead of a deadlock or a stack trace."""
    funnel = make()
    with pytest.raises(InputError, match="arun"):
        funnel.run("password")
    await funnel.aclose()


async def test_a_coroutine_starts_a_funnel_and_leaves_its_with_block() -> None:
    """It awaits the start; close at the end of the block works inside the running loop."""
    with make() as funnel:
        assert await funnel.astart() is funnel
        assert await funnel.arun("anything") is not None
    with pytest.raises(Closed):
        await funnel.arun("anything")


@pytest.mark.parametrize(
    ("stage", "cache", "loaded"),
    [
        ({"kind": "dense"}, None, True),
        ({"kind": "hybrid"}, None, True),
        ({"kind": "hybrid", "weights": {"dense": 0}}, None, False),
        ({"kind": "bm25"}, None, False),
        ({"kind": "bm25"}, {"store": "memory", "semantic": False}, False),
        ({"kind": "bm25"}, {"store": "memory"}, True),
    ],
)
def test_a_start_loads_the_embedder_if_a_query_needs_it(
    monkeypatch: pytest.MonkeyPatch, stage: dict[str, Any], cache: Any, loaded: bool
) -> None:
    """Then no query waits for it; and a funnel of BM25 starts without torch."""
    loads = Mock(wraps=encoder._load)
    monkeypatch.setattr(encoder, "_load", loads)
    given = {"stages": [{**stage, "k": 4}], "qdrant": ":memory:", "cache": cache}
    with Funnel(FunnelSettings.from_mapping(given), models=ModelPool()) as funnel:
        funnel.start()
    assert loads.called is loaded


async def test_a_cancelled_caller_stops_its_stages() -> None:
    """Work for nobody is not done."""
    cancelled = threading.Event()
    begun = threading.Event()

    async def slow(query: str, candidates: Sequence[Candidate]) -> list[float]:
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return []

    funnel = make(function=slow)
    await funnel.aindex(CORPUS)
    task = asyncio.create_task(funnel.arun("password"))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(cancelled.wait, 5)
    await funnel.aclose()


def test_close_is_final_and_idempotent() -> None:
    """After close calls say so; threads are gone."""
    before = set(threading.enumerate())
    funnel = make()
    funnel.run("anything")
    funnel.close()
    funnel.close()
    with pytest.raises(Closed):
        funnel.run("anything")
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), thread.name


@pytest.mark.parametrize("broken", ["cache", "stage"])
def test_a_part_that_fails_to_close_leaves_no_other_open(broken: str, tmp_path: Path) -> None:
    """The failure is logged, the index directory is free, and no thread is left."""

    async def fails() -> None:
        raise RuntimeError("cannot close")

    before = set(threading.enumerate())
    funnel = make(qdrant={"path": str(tmp_path / "index")})
    funnel.index(CORPUS)
    part: Any = funnel.cache if broken == "cache" else funnel.stages[0]
    part.aclose = fails
    with structlog.testing.capture_logs() as events:
        funnel.close()
    assert [e["part"] for e in events if e["event"] == "close_failed"] == [type(part).__name__]
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), thread.name
    with make(qdrant={"path": str(tmp_path / "index")}) as again:
        assert again.run("password").hits


@pytest.mark.parametrize("leaves", [True, False])
async def test_nobody_s_query_is_not_embedded(leaves: bool) -> None:
    """Of a caller who left or whose deadline passed: it would queue before those who come."""
    begun, ended = threading.Event(), threading.Event()

    class Slow(FakeEncoder):
        async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
            if side == "query":
                begun.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.set()
            return await super().aencode(texts, side=side)

    async with make(Slow()) as funnel:
        await funnel.aindex(CORPUS)
        call = asyncio.create_task(funnel.arun("password", deadline_ms=None if leaves else 50))
        await asyncio.to_thread(begun.wait, 5)
        if leaves:
            call.cancel()
        with pytest.raises(asyncio.CancelledError if leaves else StageTimeout):
            await call
        assert await asyncio.to_thread(ended.wait, 5)


async def test_a_failed_start_is_tried_again() -> None:
    """Also when the caller who began it did not wait for its end."""
    tries = 0
    begun, go_on = threading.Event(), threading.Event()

    class FailsOnce(NullCache):
        async def start(self) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                begun.set()
                await asyncio.to_thread(go_on.wait, 5)
                raise ConfigError("not yet")

    async with make(cache=FailsOnce()) as funnel:
        left = asyncio.create_task(funnel.astart())
        await asyncio.to_thread(begun.wait, 5)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        go_on.set()
        await asyncio.sleep(0.1)  # it ends with nobody there to hear how
        assert await funnel.astart() is funnel
        assert tries == 2


@pytest.mark.slow
def test_it_can_be_closed_at_exit(tmp_path: Path) -> None:
    """By an ``atexit`` handler, silently: the standard library's threads are over by then."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AT_EXIT, str(tmp_path / "index")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    with make(qdrant={"path": str(tmp_path / "index")}) as again:
        assert again.run("password").hits
