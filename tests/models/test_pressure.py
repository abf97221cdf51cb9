"""Pressure: bursts pass, overload is noticed and ends, whatever the size of the jobs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.bench.load import poisson
from funnel.models.pressure import AIM, BURST, MEMORY, Pressure, fitting_share


def _share_overloaded(load: float, *, job_s: float, jobs: int, seed: int) -> float:
    """Share of the last half of Poisson arrivals, in a queue that nobody keeps short."""
    pressure, start, free, told = Pressure(), 0.0, 0.0, []
    start = pressure.now()
    for at in poisson(load / job_s, jobs * job_s / load, seed):
        told.append(pressure.overloaded(max(0.0, free - at), start + at))
        pressure.offer(job_s, start + at)
        free = max(free, at) + job_s
    return float(np.mean(told[len(told) // 2 :]))


@pytest.mark.parametrize("job_s", [0.002, 0.2, 5.0])
def test_a_busy_worker_is_not_an_overloaded_one(job_s: float) -> None:
    """At 80% of capacity nearly no request is told to ask for less; at 136% nearly all are."""
    busy = [_share_overloaded(0.8, job_s=job_s, jobs=600, seed=seed) for seed in range(60)]
    over = [_share_overloaded(1.36, job_s=job_s, jobs=600, seed=seed) for seed in range(20)]
    assert np.mean(busy) < 0.05
    assert min(over) > 0.95


def test_an_overload_is_noticed_soon() -> None:
    """After about a burst's worth of excess: at 136% within some fifty jobs."""
    pressure, start = Pressure(), Pressure.now()
    for job in range(200):
        waiting = 0.36 * job
        if pressure.overloaded(waiting, start + job):
            break
        pressure.offer(1.36, start + job)
    assert 0.36 * job == pytest.approx(BURST * 1.36, rel=0.1)


def _overloaded_at(start: float) -> Pressure:
    pressure = Pressure()
    for _ in range(50):
        pressure.offer(1.0, start)
    assert pressure.overloaded(2 * BURST, start)
    return pressure


def test_it_lasts_while_more_is_asked_for_than_can_be_done() -> None:
    """Although depth was cut and nothing waits any more."""
    start = Pressure.now()
    pressure = _overloaded_at(start)
    for second in range(1, 500):
        pressure.offer(1.3, start + second)
        assert pressure.overloaded(0.0, start + second)


@pytest.mark.parametrize("load", [0.0, 0.5, 0.8])
def test_it_ends_when_pressure_falls(load: float) -> None:
    """As soon as the remembered excess would have been worked off at full depth."""
    start = Pressure.now()
    pressure = _overloaded_at(start)
    seconds = 0
    while pressure.overloaded(0.0, start + seconds):
        seconds += 1
        pressure.offer(load, start + seconds)
    bound = MEMORY * BURST / (1 - load)
    assert seconds <= 1.3 * bound + 1
    assert seconds >= BURST


@given(st.lists(st.floats(0, 10), max_size=30), st.floats(0, 100))
def test_nothing_asked_is_no_overload(works: list[float], pause: float) -> None:
    """A queue that is empty has never been an overload, whatever was asked before."""
    pressure, start = Pressure(), Pressure.now()
    for step, work in enumerate(works):
        assert not pressure.overloaded(0.0, start + step * pause)
        pressure.offer(work, start + step * pause)


def test_small_jobs_beside_large_ones_change_nothing() -> None:
    """Embedding a query is no job's worth of reranking."""
    start = Pressure.now()
    mixed = Pressure()
    for _ in range(50):
        mixed.offer(1.0, start)
        mixed.offer(0.001, start)
    assert not mixed.overloaded(0.9 * BURST, start)
    assert mixed.overloaded(1.1 * BURST, start)


def test_cuts_are_even_and_follow_the_queue_by_its_root() -> None:
    """Nothing is cut that fits; a job whose time is nearly up is cut further."""
    assert fitting_share(10, 10, 4 * AIM * 10, 1) == pytest.approx(0.5)
    assert fitting_share(10, 10, 0.9 * AIM * 10, 1) == 1
    assert fitting_share(10, 0.25, 2 * AIM * 10, 1) == pytest.approx(0.25)
    assert fitting_share(10, 0, 1, 1) == 0
    assert fitting_share(10, 5, 0, 0) == 1
