"""Many queries at once: near but different ones, and equal ones in a hurry."""

import asyncio
import time
from collections.abc import Iterator

import numpy as np
import pytest

from funnel.cache import decision, guards
from funnel.cache.base import Answer, Served
from funnel.cache.flights import Flight, Flights, Outcome
from funnel.cache.place import Place
from funnel.deadline import Deadline
from funnel.errors import StageTimeout
from tests.cache.world import FloatArray, Stages, TopicScorer, World, hit

PLACE = Place("aa", "00", "")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The queries that the guards compared with another one, in their order."""
    queries: list[str] = []

    def counting(query: str, *others: object) -> object:
        queries.append(query)
        return guards.inspect(query, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(decision, "inspect", counting)
    yield queries


def _words(count: int) -> list[str]:
    letters = "abcdefghij"
    return [
        f"wording {letters[n // 100]}{letters[n // 10 % 10]}{letters[n % 10]} about cats"
        for n in range(count)
    ]


async def _all(world: World, texts: list[str], deadline_ms: float | None = None) -> list[Served]:
    requests = [(world.request(text, deadline_ms=deadline_ms), text) for text in texts]
    return await asyncio.gather(
        *(world.cache.serve(request, world.stages.of(text)) for request, text in requests)
    )


async def test_a_near_question_is_compared_with_few_in_flight(compared: list[str]) -> None:
    """Of 150 near but different questions none is compared with all: fifteen at most."""
    world = World(threshold=100.0, stages=Stages(delay_s=0.3), flight_wait_s=60)
    texts = _words(150)
    await _all(world, texts)
    assert len(world.stages.runs) == 150
    assert max(compared.count(text) for text in texts) <= 3 * world.settings.candidates
    assert len(world.cache.flights) == 0


async def test_a_burst_leaves_the_loop_to_others(compared: list[str]) -> None:
    """Between two turns of the event loop few queries are compared."""
    world = World(threshold=100.0, stages=Stages(delay_s=0.3), flight_wait_s=60)
    await world.cache.start()
    burst = asyncio.ensure_future(_all(world, _words(100)))
    most = 0
    while not burst.done():
        before = len(compared)
        await asyncio.sleep(0)
        most = max(most, len(compared) - before)
    assert 0 < most <= 8 * world.settings.candidates


async def test_kept_neighbours_do_not_hide_the_one_in_flight() -> None:
    """With as many nearer kept ones as are looked at, a paraphrase still joins who computes."""
    world = World(stages=Stages(delay_s=0.1), candidates=1)
    await world.cache.start()
    texts = ["a word about cats", "other words about cats", "a third about cats"]
    vectors = {text: _axis(1, n / 5) for n, text in enumerate(texts)}
    world.encoder.encode = lambda of, **_: np.stack([vectors[t] for t in of])  # type: ignore[method-assign]
    world.scorer.scores = {(a, b): -8.0 for a in texts for b in texts if texts[1] in (a, b)}
    await world.ask(texts[1])
    world.stages.runs.clear()
    first = asyncio.ensure_future(_all(world, texts[:1]))
    await asyncio.sleep(0.03)
    await _all(world, texts[2:])
    await first
    assert world.stages.runs == texts[:1]


async def test_equal_queries_in_a_hurry_are_two_runs() -> None:
    """When half of their time is over one waiter computes too; the others take what comes first."""
    world = World(stages=Stages(delay_s=0.6))
    await world.cache.start()
    served = await _all(world, ["a word about cats"] * 50, deadline_ms=1_000)
    assert 2 <= len(world.stages.runs) <= 3  # the third if the machine is slow
    assert all(one.answer.hits for one in served)
    assert len(world.cache.flights) == 0


async def test_a_run_that_will_be_in_time_is_waited_for() -> None:
    """Once it is known how long runs take, no second one starts at half time."""
    world = World(stages=Stages(delay_s=0.6))
    await world.cache.start()
    await world.ask("a word about dogs")
    world.stages.runs.clear()
    await _all(world, ["a word about cats"] * 50, deadline_ms=1_000)
    assert len(world.stages.runs) == 1


async def test_paraphrases_in_a_hurry_are_two_runs() -> None:
    """Paraphrases that wait for a slow run do not all compute at once either."""
    world = World(stages=Stages(delay_s=0.6))
    await world.cache.start()
    served = await _all(world, _words(30), deadline_ms=1_000)
    assert 2 <= len(world.stages.runs) <= 3  # the third if the machine is slow
    assert {tuple(h.id for h in one.answer.hits) for one in served} == {("cats-1", "cats-2")}


async def test_who_waits_for_a_stuck_run_takes_the_answer_of_the_second() -> None:
    """A run that never ends: one waiter computes, all others get its answer, and it is kept."""
    world = World(stages=Stages(delay_s=3600))
    await world.cache.start()
    text = "a word about cats"
    stuck = asyncio.ensure_future(world.cache.serve(world.request(text), world.stages.of(text)))
    await asyncio.sleep(0.01)
    world.stages.delay_s = 0.05
    served = await _all(world, [text] * 50, deadline_ms=2_000)
    assert len(world.stages.runs) == 2
    assert [one.info.status for one in served].count("hit") == 49
    assert (await world.ask(text)).info.tier == "exact"
    stuck.cancel()
    await asyncio.gather(stuck, return_exceptions=True)
    assert len(world.cache.flights) == 0


class _Hurried:
    """Stages that take ``needs_s``, or end degraded shortly before the deadline of their caller.

    ``strict`` ones end in an error then.
    """

    def __init__(self, needs_s: float, *, strict: bool = False) -> None:
        self.needs_s = needs_s
        self.strict = strict
        self.runs = 0

    async def serve(self, world: World, text: str, deadline_ms: float | None = None) -> Served:
        request = world.request(text, deadline_ms=deadline_ms)

        async def compute() -> Answer:
            self.runs += 1
            left = request.deadline.remaining_s()
            if left is not None and left < 0.03:
                raise StageTimeout("no time")
            cut = left is not None and left < self.needs_s
            await asyncio.sleep(left - 0.02 if left is not None and cut else self.needs_s)
            if cut and self.strict:
                raise StageTimeout("ran past its time")
            return Answer((hit(1, "cats-1"),), degraded=("slow:timeout",) if cut else ())

        return await world.cache.serve(request, compute)


@pytest.mark.parametrize("in_front_ms", [None, 400.0], ids=["one in no hurry", "all in a hurry"])
async def test_who_has_no_time_left_takes_a_degraded_answer(in_front_ms: float | None) -> None:
    """As without a cache everybody gets one, and only few compute; nobody gets an error."""
    world, stages = World(), _Hurried(1.0)
    await world.cache.start()
    text = "a word about cats"
    first = asyncio.ensure_future(stages.serve(world, text, in_front_ms))
    await asyncio.sleep(0.02)
    served = await asyncio.gather(*(stages.serve(world, text, 400) for _ in range(40)))
    assert all(one.answer.degraded == ("slow:timeout",) for one in served)
    assert stages.runs <= 8
    assert bool((await first).answer.degraded) == (in_front_ms is not None)


async def test_who_has_time_does_not_share_the_errors_of_others_in_a_hurry() -> None:
    """Two that run out of time are not two tries that failed."""
    world, stages = World(), _Hurried(0.6, strict=True)
    await world.cache.start()
    text = "a word about cats"
    hurried = [asyncio.ensure_future(stages.serve(world, text, ms)) for ms in (150, 300)]
    await asyncio.sleep(0.02)
    patient = await stages.serve(world, text, 5_000)
    assert patient.answer.hits and not patient.answer.degraded
    ended = await asyncio.gather(*hurried, return_exceptions=True)
    assert [type(one) for one in ended] == [StageTimeout, StageTimeout]


async def test_who_waited_for_a_paraphrases_hit_is_told_of_it() -> None:
    """What matched, its score and its age: not that its own question was just computed."""
    world = World(scorer=TopicScorer(delay_s=0.05), ttl_s=100, stale_while_revalidate_s=1_000)
    await world.ask("one about cats")
    world.clock.now += 150
    served = await _all(world, ["two about cats"] * 3)
    assert {one.info.matched_query for one in served} == {"one about cats"}
    assert {(one.info.tier, one.info.stale) for one in served} == {("semantic", True)}
    assert [one.info.age_s for one in served] == [pytest.approx(150, abs=1)] * 3
    assert len({one.info.score for one in served} - {None}) == 1


async def test_who_waited_for_a_paraphrase_in_flight_is_told_of_it() -> None:
    """The same where that one is being computed."""
    world = World(stages=Stages(delay_s=0.1))
    await world.cache.start()
    first = asyncio.ensure_future(_all(world, ["one about cats"]))
    await asyncio.sleep(0.03)
    served = await _all(world, ["two about cats"] * 3)
    assert {one.info.matched_query for one in served} == {"one about cats"}
    assert {one.info.tier for one in served} == {"flight"}
    assert None not in {one.info.score for one in served}
    await first
    assert len(world.stages.runs) == 1


def _flight(flights: Flights, key: str, vector: FloatArray | None = None) -> Flight:
    flight = flights.register(
        Place("aa", key, ""), f"text {key}", 0, attempt=0, deadline=Deadline()
    )
    if vector is not None:
        flights.embed(PLACE, flight, vector)
    return flight


def _axis(*values: float) -> FloatArray:
    row = np.asarray(values, dtype=np.float32)
    unit: FloatArray = row / np.linalg.norm(row)
    return unit


async def test_similar_flights_come_nearest_first() -> None:
    """Leaders and earlier undecided ones at the floor; not later, gone or distant ones."""
    flights = Flights()
    near = [_flight(flights, f"{n:02}", _axis(1, n / 10)) for n in range(1, 20)]
    blind = _flight(flights, "20")
    asked = _flight(flights, "21", _axis(1, 0))
    _flight(flights, "22", _axis(1, 0))
    flights.lead(near[4])
    flights.follow(near[0])
    flights.leave(Place("aa", "02", ""), near[1])
    found = flights.similar(PLACE, asked, 0.8)
    assert [flight.key for flight, _ in found] == ["20", "03", "04", "05", "06", "07"]
    assert found[0] == (blind, 1.0)
    assert [cosine for _, cosine in found[1:]] == sorted(
        (cosine for _, cosine in found[1:]), reverse=True
    )


async def test_a_board_forgets_who_left() -> None:
    """Flights come and go in any order; the board finds exactly those that are there."""
    rng = np.random.default_rng(7)
    flights, there = Flights(), {}
    for n in range(300):
        there[n] = _flight(flights, f"{n:03}", _axis(*rng.standard_normal(4)))
        flights.lead(there[n])
        if n % 3:
            gone = int(rng.choice(list(there)))
            flights.leave(Place("aa", f"{gone:03}", ""), there.pop(gone))
    asked = _flight(flights, "999", _axis(1, 0, 0, 0))
    found = flights.similar(PLACE, asked, -1.0)
    assert {flight.key for flight, _ in found} == {flight.key for flight in there.values()}
    for flight, cosine in found:
        assert flight.vector is not None
        assert cosine == pytest.approx(float(flight.vector[0]), abs=1e-6)


async def test_how_long_a_flight_has_left_is_what_runs_take_lately() -> None:
    """Unknown before the first run ended; then the usual time less what has passed."""
    flights = Flights()
    first = _flight(flights, "00")
    assert flights.left_s(first) is None
    flights.lead(first)
    first.led_at = time.monotonic() - 2.0
    flights.land(first, Outcome(Answer((hit(1, "cats-1"),))))
    second = _flight(flights, "01")
    assert flights.left_s(second) == pytest.approx(2.0, abs=0.1)
    flights.lead(second)
    second.led_at = time.monotonic() - 1.5
    assert flights.left_s(second) == pytest.approx(0.5, abs=0.1)
