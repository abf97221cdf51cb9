"""A function as a stage: its threads are its own, and bounded."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from funnel.deadline import NO_DEADLINE
from funnel.errors import Overloaded, StageError
from funnel.stages.base import StageOutput, StageRequest
from funnel.stages.callable import _THREADS, CallableSettings, CallableStage
from funnel.types import Candidate, Document
from tests.funnel.chains import query

FOUND = [Candidate(Document(f"d{n}", "text")) for n in range(3)]


class Hanging:
    """A function that returns only when it is let go."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def __call__(self, text: str, candidates: Sequence[Candidate]) -> list[float]:
        self.released.wait(30)
        return [float(n) for n in range(len(candidates))]


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    function = Hanging()
    yield function
    function.released.set()


def stage(function: Hanging) -> CallableStage:
    return CallableStage(CallableSettings(function="hangs", k=3), function)


async def run(made: CallableStage, limit_s: float | None = None) -> StageOutput:
    request = StageRequest(query(), 3, made.settings, NO_DEADLINE)
    async with asyncio.timeout(limit_s):
        return await made.run(request, FOUND)


async def time_out(made: CallableStage, calls: int) -> None:
    ended = await asyncio.gather(*(run(made, 0.05) for _ in range(calls)), return_exceptions=True)
    assert all(isinstance(end, TimeoutError) for end in ended)


async def test_functions_that_outlive_their_time_hold_no_thread_of_others(
    hanging: Hanging,
) -> None:
    """The loop's own pool, which models and index use, stays free."""
    made = stage(hanging)
    await time_out(made, 100)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
    await made.aclose()


async def test_a_stage_whose_threads_are_all_held_refuses(hanging: Hanging) -> None:
    """Until one returns; a call that only waited for a thread holds none."""
    made = stage(hanging)
    await time_out(made, _THREADS + 5)
    with pytest.raises(Overloaded, match="'hangs'"):
        await run(made)
    hanging.released.set()
    for _ in range(500):
        if not made._outlived:
            break
        await asyncio.sleep(0.01)
    output = await run(made)
    assert [row.document.id for row in output.ranking] == ["d2", "d1", "d0"]
    await made.aclose()


@pytest.mark.parametrize("scores", [{"1": 0.5, "2": 0.1, "3": 0.2}, {1.0, 2.0, 3.0}, "123"])
async def test_what_has_no_such_order_is_no_list_of_scores(scores: Any) -> None:
    """The keys of a dictionary were taken as scores, those of a set for any document."""
    made = CallableStage(CallableSettings(function="odd", k=3), lambda _, __: scores)
    with pytest.raises(StageError, match=f"returned a {type(scores).__name__}; expected a list"):
        await run(made)
    await made.aclose()


@pytest.mark.parametrize("error", [StopIteration(), GeneratorExit()])
async def test_what_no_future_carries_is_an_error(error: BaseException) -> None:
    """Such as of a ``next`` that finds nothing: the query waited for ever."""

    def fails(text: str, candidates: Sequence[Candidate]) -> list[float]:
        raise error

    made = CallableStage(CallableSettings(function="fails", k=3), fails)
    with pytest.raises(RuntimeError, match=f"the function raised {type(error).__name__}"):
        await run(made, 10)
    await made.aclose()


async def test_closing_does_not_wait_for_a_function(hanging: Hanging) -> None:
    """It is done while the function still runs; its threads end with it."""
    before = set(threading.enumerate())
    made = stage(hanging)
    await time_out(made, 2)
    await asyncio.wait_for(made.aclose(), 5)
    assert not hanging.released.is_set()
    hanging.released.set()
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 5)
        assert not thread.is_alive(), thread.name
