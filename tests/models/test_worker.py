"""The worker: every item once, budgets kept, fair, bounded, and alive after failures."""

import asyncio
import gc
import itertools
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnel.deadline import Deadline
from funnel.errors import ModelError, Overloaded
from funnel.models.base import Shortening
from funnel.models.batching import pair_lengths, token_batches
from funnel.models.jobs import Lane, windows_of
from funnel.models.worker import ModelWorker, awaited

FORKS = """
import os, sys, threading
from funnel.models.worker import model_worker

held, go_on = threading.Event(), threading.Event()

def hold():
    with model_worker()._changed:
        held.set()
        go_on.wait(30)

threading.Thread(target=hold).start()
held.wait(30)
child = os.fork()
if child == 0:
    sys.exit(7)
go_on.set()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def worker() -> Iterator[ModelWorker]:
    made = ModelWorker(streams=2, threads_per_stream=1)
    yield made
    made.close()


@pytest.fixture
def single() -> Iterator[ModelWorker]:
    made = ModelWorker(streams=1, threads_per_stream=1)
    yield made
    made.close()


def _negate(items: Sequence[int]) -> list[int]:
    return [-item for item in items]


@given(
    lengths=st.lists(st.integers(1, 600), max_size=80),
    budget=st.integers(1, 2_000),
)
def test_batches_hold_every_item_once_within_budget(lengths: list[int], budget: int) -> None:
    """No batch's padded size passes the budget, unless one item alone does."""
    batches = token_batches(lengths, budget)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[position] for position in batch)
        assert padded <= budget or len(batch) == 1


@given(first=st.integers(0, 700), second=st.integers(0, 700), room=st.integers(2, 512))
def test_pairs_are_cut_to_the_room(first: int, second: int, room: int) -> None:
    """Nothing is cut that fits, and no room is wasted on what does not."""
    a, b = pair_lengths(first, second, room)
    assert a <= first
    assert b <= second
    assert a + b == min(room, first + second)


@settings(deadline=None, max_examples=40)
@given(
    jobs=st.lists(st.lists(st.integers(1, 50), max_size=30), max_size=6),
    budget=st.integers(1, 200),
)
def test_every_item_is_run_once_and_comes_back_in_order(jobs: list[list[int]], budget: int) -> None:
    """However many jobs share the worker and whatever the budget."""
    ran: list[int] = []
    lock = threading.Lock()

    def run(items: Sequence[tuple[int, int]]) -> list[int]:
        with lock:
            ran.extend(number for number, _ in items)
        return [-number for number, _ in items]

    lane: Lane[tuple[int, int], int] = Lane("test", run, budget=budget)
    shared = ModelWorker(streams=2, threads_per_stream=1)
    numbered = iter(range(10_000))
    work = [[(next(numbered), cost) for cost in costs] for costs in jobs]
    futures = [shared.submit(lane, items, [cost for _, cost in items]) for items in work]
    for items, future in zip(work, futures, strict=True):
        assert future.result(timeout=60).rows == [-number for number, _ in items]
    assert sorted(ran) == list(range(sum(map(len, jobs))))
    shared.close()


def test_jobs_of_one_model_share_batches(single: ModelWorker) -> None:
    """Ten callers with one item each do not make ten batches."""
    sizes: list[int] = []
    gate = threading.Event()

    def run(items: Sequence[int]) -> list[int]:
        gate.wait(5)
        sizes.append(len(items))
        return list(items)

    lane: Lane[int, int] = Lane("test", run, budget=100)
    futures = [single.submit(lane, [i], [10]) for i in range(11)]
    time.sleep(0.1)
    gate.set()
    assert [future.result(timeout=5).rows for future in futures] == [[i] for i in range(11)]
    assert len(sizes) <= 2


def test_a_short_job_passes_a_long_one(single: ModelWorker) -> None:
    """Five pairs do not wait for a thousand."""
    lane: Lane[int, int] = Lane("test", _slow, budget=10)
    long = single.submit(lane, list(range(200)), [10] * 200)
    time.sleep(0.05)
    short = single.submit(lane, [1], [10])
    assert short.result(timeout=1).done == 1
    assert not long.done()


def _slow(items: Sequence[int]) -> list[int]:
    time.sleep(0.01)
    return list(items)


def test_a_job_near_its_deadline_goes_first(single: ModelWorker) -> None:
    """It came later than the others and is done before them."""
    lane: Lane[int, int] = Lane("test", _slow, budget=10)
    single.submit(lane, [0], [10]).result(timeout=5)
    others = [single.submit(lane, list(range(10)), [10] * 10) for _ in range(5)]
    urgent = single.submit(lane, [1] * 5, [10] * 5, deadline=Deadline.after_ms(200))
    assert urgent.result(timeout=5).done == 5
    assert not any(other.done() for other in others[1:])


def test_a_deadline_gives_a_beginning(single: ModelWorker) -> None:
    """What is done when it passes comes back; the rest is not run any more."""
    ran: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        time.sleep(0.01)
        ran.extend(items)
        return list(items)

    lane: Lane[int, int] = Lane("test", run, budget=10)
    future = single.submit(lane, list(range(100)), [10] * 100, deadline=Deadline.after_ms(200))
    result = future.result(timeout=5)
    assert 0 < result.done < 100
    assert result.rows[: result.done] == list(range(result.done))
    time.sleep(0.1)
    assert len(ran) <= result.done + 2


def test_the_first_deadline_of_a_slow_model_gives_a_beginning(single: ModelWorker) -> None:
    """A lane begins with a guess: one that is three times too fast loses no whole first batch."""

    def run(items: Sequence[int]) -> list[int]:
        time.sleep(0.003 * len(items))
        return list(items)

    lane: Lane[int, int] = Lane("test", run, budget=4_096)
    future = single.submit(lane, list(range(1_000)), [10] * 1_000, deadline=Deadline.after_ms(400))
    assert 0 < future.result(timeout=10).done < 1_000


def test_background_work_waits_for_callers(single: ModelWorker) -> None:
    """Indexing does not delay a query by more than a batch."""
    lane: Lane[int, int] = Lane("test", _slow, budget=10)
    background = single.submit(lane, list(range(100)), [10] * 100, background=True)
    started = time.perf_counter()
    single.submit(lane, list(range(10)), [10] * 10).result(timeout=5)
    assert time.perf_counter() - started < 0.5
    assert not background.done()


def test_a_cancelled_job_is_not_run(single: ModelWorker) -> None:
    """Its caller gave up; the next caller does not wait for it."""
    lane: Lane[int, int] = Lane("test", _slow, budget=10)
    long = single.submit(lane, list(range(1_000)), [10] * 1_000)
    long.cancel()
    started = time.perf_counter()
    single.submit(lane, list(range(5)), [10] * 5).result(timeout=5)
    assert time.perf_counter() - started < 1


def test_a_full_queue_refuses(single: ModelWorker) -> None:
    """With what waits, what was asked and what fits."""
    small = ModelWorker(streams=1, threads_per_stream=1, max_pending_tokens=100)
    gate = threading.Event()

    def run(items: Sequence[int]) -> list[int]:
        gate.wait(5)
        return list(items)

    lane: Lane[int, int] = Lane("full", run, budget=10)
    waiting = small.submit(lane, list(range(10)), [10] * 10)
    with pytest.raises(Overloaded, match="100 tokens are waiting and 10 more"):
        small.submit(lane, [1], [10])
    gate.set()
    assert waiting.result(timeout=5).done == 10
    assert small.submit(lane, [1], [10]).result(timeout=5).rows == [1]
    small.close()


def test_a_cancelled_job_leaves_a_full_queue() -> None:
    """Its place is free at once."""
    small = ModelWorker(streams=1, threads_per_stream=1, max_pending_tokens=100)
    lane: Lane[int, int] = Lane("full", _slow, budget=10)
    first = small.submit(lane, list(range(100)), [10] * 100)
    first.cancel()
    assert small.submit(lane, [7], [10]).result(timeout=5).rows == [7]
    small.close()


def test_a_batch_without_memory_is_halved(worker: ModelWorker) -> None:
    """Until it fits."""
    sizes: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return list(items)

    lane: Lane[int, int] = Lane("big", run, budget=1_000)
    result = worker.submit(lane, list(range(16)), [10] * 16).result(timeout=5)
    assert result.rows == list(range(16))
    assert max(sizes) > 3


def test_an_item_that_never_fits_is_an_error(worker: ModelWorker) -> None:
    """Halving ends at one item."""

    def run(items: Sequence[int]) -> list[int]:
        raise MemoryError("no room")

    lane: Lane[int, int] = Lane("big", run, budget=1_000)
    with pytest.raises(ModelError, match=r"MemoryError: no room"):
        worker.submit(lane, [1, 2], [1, 1]).result(timeout=5)


def test_a_failed_batch_fails_its_job_only(worker: ModelWorker) -> None:
    """The worker goes on."""

    def run(items: Sequence[int]) -> list[int]:
        raise ValueError("broken")

    broken: Lane[int, int] = Lane("broken", run, budget=10)
    fine: Lane[int, int] = Lane("fine", _negate, budget=10)
    with pytest.raises(ModelError, match="'broken': a batch failed: ValueError: broken"):
        worker.submit(broken, [1], [1]).result(timeout=5)
    assert worker.submit(fine, [1], [1]).result(timeout=5).rows == [-1]


async def test_a_failure_is_told_once(single: ModelWorker) -> None:
    """To the caller; asyncio does not print the stack of a second copy that nobody looked at."""
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fails(_: Sequence[int]) -> list[int]:
        raise ValueError("no")

    lane: Lane[int, int] = Lane("broken", fails, budget=10)
    future = single.submit(lane, [1], [1])
    await awaited(future, single, Deadline())
    with pytest.raises(ModelError, match="no"):
        future.result()
    del future
    gc.collect()
    await asyncio.sleep(0)
    assert told == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_is_replaced(single: ModelWorker) -> None:
    """Its job fails with an error, the next one is served."""

    def run(items: Sequence[int]) -> list[int]:
        raise SystemExit("killed")

    deadly: Lane[int, int] = Lane("deadly", run, budget=10)
    fine: Lane[int, int] = Lane("fine", _negate, budget=10)
    with pytest.raises(ModelError, match="killed"):
        single.submit(deadly, [1], [1]).result(timeout=5)
    time.sleep(0.05)
    assert single.submit(fine, [1], [1]).result(timeout=5).rows == [-1]


def test_a_fork_comes_to_its_end() -> None:
    """Also one that was made while a thread, which it does not have, held the worker's lock."""
    ended = subprocess.run([sys.executable, "-c", FORKS], timeout=60, check=False)
    assert ended.returncode == 7


def test_a_closed_worker_says_so(worker: ModelWorker) -> None:
    """Waiting jobs fail, new ones are refused."""
    lane: Lane[int, int] = Lane("late", _slow, budget=1)
    waiting = worker.submit(lane, list(range(500)), [1] * 500)
    worker.close()
    with pytest.raises(ModelError, match="closed before"):
        waiting.result(timeout=5)
    with pytest.raises(ModelError, match="is closed"):
        worker.submit(lane, [1], [1])


def test_waiting_time_is_estimated(single: ModelWorker) -> None:
    """From measured batches, within a factor of two."""
    lane: Lane[int, int] = Lane("test", _slow, budget=10)
    single.submit(lane, list(range(30)), [10] * 30).result(timeout=5)
    assert 0.5 < single.expected_s(lane, 1_000) < 2
    long = single.submit(lane, list(range(100)), [10] * 100)
    assert 0.3 < single.queue_s() < 2
    long.cancel()


def test_torch_threads_of_the_program_stay_as_they_are(worker: ModelWorker) -> None:
    """The worker's own threads use one core each, and nobody else's number changes."""
    import torch

    before = torch.get_num_threads()
    lane: Lane[int, int] = Lane(
        "t", lambda items: [torch.get_num_threads() for _ in items], budget=1
    )
    assert set(worker.submit(lane, [1, 2, 3], [1, 1, 1]).result(timeout=10).rows) == {1}
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == before == seen[0]


def test_depth_is_decided_when_the_turn_comes(single: ModelWorker) -> None:
    """An overload noticed while jobs wait shortens those that have not begun, all alike."""
    gate = threading.Event()

    def run(items: Sequence[int]) -> list[int]:
        gate.wait(timeout=10)
        return _negate(items)

    class Steady(Lane[int, int]):
        def learn(self, tokens: int, seconds: float) -> None:
            """Stay at what is set below."""

    lane = Steady("gated", run, budget=100)
    lane.seconds_per_token = 0.1
    rule = Shortening(Deadline.after_ms(200_000), least=1)
    first = single.submit(lane, list(range(100)), [1] * 100, shortening=rule)
    time.sleep(0.1)
    waiting = [single.submit(lane, list(range(100)), [1] * 100, shortening=rule) for _ in range(30)]
    gate.set()
    rows = [future.result(timeout=10) for future in (first, *waiting)]
    left_out = [result.left_out for result in rows]
    assert left_out[0] == 0  # it had begun before anything waited
    assert 40 < left_out[1] < 60
    assert all(late <= early for early, late in itertools.pairwise(left_out[1:]))
    for result in rows:
        assert result.done == 100 - result.left_out
        assert result.rows[: result.done] == _negate(range(result.done))
        assert result.rows[result.done :] == [None] * result.left_out


@settings(deadline=None, max_examples=40)
@given(
    costs=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    least=st.integers(0, 40),
    target_s=st.floats(0, 50),
)
def test_what_is_left_out_is_an_end_of_the_list(
    costs: list[int], least: int, target_s: float
) -> None:
    """At least one item and ``least`` of them are done, whatever the target."""
    worker = ModelWorker(streams=1, threads_per_stream=1)
    for _ in range(30):
        worker.pressure.offer(100.0)
    assert worker.pressure.overloaded(3_000.0)
    lane: Lane[int, int] = Lane("negate", _negate, budget=60)
    lane.seconds_per_token = 0.1
    rule = Shortening(Deadline().within(target_s), least)
    items = list(range(len(costs)))
    result = worker.submit(lane, items, costs, shortening=rule).result(timeout=10)
    worker.close()
    assert result.done == len(costs) - result.left_out >= min(len(costs), max(1, least))
    assert result.rows[: result.done] == _negate(items[: result.done])
    assert result.rows[result.done :] == [None] * result.left_out


def test_a_query_is_embedded_before_others_are_reranked(single: ModelWorker) -> None:
    """It would wait twice otherwise: behind all that came before, then behind that again."""
    reranking: Lane[int, int] = Lane("rerank", _slow, budget=10)
    embedding: Lane[int, int] = Lane("embed", _slow, budget=10)
    reranking.seconds_per_token = 1e-3
    long = [single.submit(reranking, list(range(10)), [10] * 10) for _ in range(5)]
    time.sleep(0.15)  # the first of them is done, nearly
    single.submit(embedding, [1], [10]).result(timeout=5)
    assert not any(future.done() for future in long[2:])


@pytest.mark.parametrize("believed", [1e-7, 1e-4])
def test_a_missed_deadline_keeps_most_of_what_was_run(believed: float) -> None:
    """However wrong the estimate: long items at the end do not go before short ones."""
    ran: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        time.sleep(0.005 * len(items))
        ran.extend(items)
        return list(items)

    worker = ModelWorker(streams=1, threads_per_stream=1)
    lane: Lane[int, int] = Lane("test", run, budget=40)
    lane.seconds_per_token = believed
    costs = [1 + position % 20 for position in range(400)]
    future = worker.submit(lane, list(range(400)), costs, deadline=Deadline.after_ms(500))
    result = future.result(timeout=5)
    worker.close()
    assert 20 < result.done < 400
    assert result.done > 0.5 * len(ran)


@pytest.mark.parametrize(("ms", "sorted_whole"), [(60_000, True), (1_000, False)])
def test_a_job_with_time_in_plenty_is_sorted_whole(ms: float, sorted_whole: bool) -> None:
    """Once its pace is known: windows cost time where nothing is gained by them."""
    ran: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        time.sleep(0.001 * len(items))
        ran.extend(items)
        return list(items)

    worker = ModelWorker(streams=1, threads_per_stream=1)
    lane: Lane[int, int] = Lane("test", run, budget=40)
    costs = [1 + position % 20 for position in range(200)]
    for deadline in (Deadline(), Deadline.after_ms(ms)):
        ran.clear()
        worker.submit(lane, costs, costs, deadline=deadline).result(timeout=60)
    worker.close()
    assert (ran == sorted(costs, reverse=True)) is sorted_whole


def test_time_spent_in_the_queue_is_no_plenty() -> None:
    """A short job behind much work may miss its deadline too: it is run in its order."""
    begun, go_on, ran = threading.Event(), threading.Event(), list[int]()

    def run(items: Sequence[int]) -> list[int]:
        begun.set()
        go_on.wait(60)
        ran.extend(items)
        return list(items)

    worker = ModelWorker(streams=1, threads_per_stream=1)
    lane: Lane[int, int] = Lane("test", run, budget=40)
    lane.seconds_per_token, lane._learnt = 0.001, 5
    before = [worker.submit(lane, [0] * 200, [10] * 200) for _ in range(30)]
    assert begun.wait(60)
    costs = [1 + position % 20 for position in range(200)]
    late = worker.submit(lane, costs, costs, deadline=Deadline.after_ms(65_000))
    go_on.set()
    for future in [*before, late]:
        future.result(timeout=60)
    worker.close()
    own = [cost for cost in ran if cost]
    assert sorted(own) == sorted(costs)
    assert own != sorted(costs, reverse=True)


@given(
    costs=st.lists(st.integers(1, 600), max_size=80),
    room=st.sampled_from([1.0, 100.0, 1_000.0, math.inf]),
)
def test_windows_follow_each_other_in_order(costs: list[int], room: float) -> None:
    """Every item is in one, none before the end of the one before, each little above its room."""
    windows = windows_of(costs, room)
    positions = [position for window in windows for position in sorted(window)]
    assert positions == list(range(len(costs)))
    for window in windows:
        assert sum(costs[i] for i in window) < room + max(costs)
