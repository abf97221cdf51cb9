"""The circuit breaker's three states."""

from funnel.cache.breaker import BreakerSettings, CircuitBreaker


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker(clock: Clock, **settings: float) -> CircuitBreaker:
    """A breaker that opens at three failures, without jitter."""
    given = {"failures": 3, "pause_s": 1.0, "max_pause_s": 4.0, "jitter": 0.0, **settings}
    return CircuitBreaker(BreakerSettings(**given), clock=clock)  # type: ignore[arg-type]


def trip(it: CircuitBreaker, times: int = 3) -> None:
    """Fail that often."""
    for _ in range(times):
        it.failed()


def test_it_opens_after_failures_in_a_row() -> None:
    """Below the limit it lets calls through; at the limit it does not."""
    it = breaker(Clock())
    trip(it, 2)
    assert it.allows()
    it.failed()
    assert (it.allows(), it.state, it.opened) == (False, "open", 1)


def test_a_success_starts_the_count_again() -> None:
    """Failures that are not in a row do not add up."""
    it = breaker(Clock())
    for _ in range(10):
        trip(it, 2)
        it.succeeded()
    assert it.state == "closed"


def test_after_the_pause_one_caller_may_try() -> None:
    """Half open admits one until it reports."""
    clock = Clock()
    it = breaker(clock)
    trip(it)
    clock.now += 1.0
    assert it.state == "half_open"
    assert [it.allows() for _ in range(3)] == [True, False, False]


def test_a_good_trial_closes() -> None:
    """The first success lets everybody through again."""
    clock = Clock()
    it = breaker(clock)
    trip(it)
    clock.now += 1.0
    assert it.allows()
    it.succeeded()
    assert [it.allows() for _ in range(3)] == [True] * 3


def test_failed_trials_double_the_pause_up_to_a_limit() -> None:
    """1, 2, 4, 4 … seconds."""
    clock = Clock()
    it = breaker(clock)
    trip(it)
    for pause in (1.0, 2.0, 4.0, 4.0):
        clock.now += pause - 0.01
        assert not it.allows()
        clock.now += 0.01
        assert it.allows()
        it.failed()
    assert it.opened == 1


def test_stragglers_do_not_prolong_the_pause() -> None:
    """Failures reported while it is open change nothing."""
    clock = Clock()
    it = breaker(clock)
    trip(it, 50)
    clock.now += 1.0
    assert it.allows()


def test_a_trial_that_never_reports_is_forgotten() -> None:
    """A cancelled caller does not block the store for ever."""
    clock = Clock()
    it = breaker(clock, trial_s=5.0)
    trip(it)
    clock.now += 1.0
    assert it.allows()
    clock.now += 4.9
    assert not it.allows()
    clock.now += 0.1
    assert it.allows()


def test_pauses_are_spread() -> None:
    """Jitter stretches the pause by the share it was given."""
    clock = Clock()
    it = CircuitBreaker(
        BreakerSettings(failures=1, pause_s=1.0, jitter=0.5), clock=clock, spread=lambda _, b: b
    )
    it.failed()
    clock.now += 1.4
    assert not it.allows()
    clock.now += 0.2
    assert it.allows()
