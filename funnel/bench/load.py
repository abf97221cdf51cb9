"""Latency under load, measured in an open loop.

Requests are sent when they are due, whether or not earlier ones are done, and latency counts from
the intended time: what a user would wait, without coordinated omission.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from funnel.errors import ConfigError, FunnelError

WARM_UP_SHARE = 0.25
"""Of each run, not counted: depth adapts to lasting load, and that takes a while to show."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: when it was due, how long it took from then, and what came of it."""

    due_s: float
    latency_s: float
    query: int
    ids: tuple[str, ...] = ()
    degraded: bool = False
    cached: bool = False
    failed: str = ""


Ask = Callable[[int], Awaitable[Answered]]
"""Answers the query of that number; ``due_s`` and ``latency_s`` are filled in by the loop."""


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One rate of the ladder. ``share`` is of the capacity measured at full depth."""

    share: float
    rate: float
    cache: bool
    adapt: bool
    requests: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    degraded: float
    cached: float
    failed: int
    ndcg: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; shares are 0 to 1."""
        plain = asdict(self)
        return {**plain, "ndcg@10": plain.pop("ndcg")}


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Due times of a Poisson process, in seconds from the start."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(1 / rate, size=max(16, int(2 * rate * seconds) + 64))
    times = np.cumsum(gaps)
    return [float(due) for due in times[times < seconds]]


def read_trace(path: Path, rate: float) -> list[float]:
    """Due times from a file of one number of seconds on each line, stretched to a mean rate.

    Raises:
        ConfigError: a line is no number, times fall, or there are fewer than two.
    """
    try:
        times = [float(line) for line in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: got {error}, expected one number of seconds a line") from error
    if len(times) < 2 or times != sorted(times) or times[-1] <= times[0]:
        raise ConfigError(f"{path}: expected at least two rising times")
    stretch = len(times) / rate / (times[-1] - times[0])
    return [(due - times[0]) * stretch for due in times]


def zipf_queries(count: int, queries: int, seed: int, exponent: float = 1.0) -> list[int]:
    """Which query each request asks: a few often, most seldom, as users do."""
    weights = 1 / np.arange(1, queries + 1) ** exponent
    random = np.random.default_rng(seed)
    numbers = random.permutation(queries)
    chosen = random.choice(queries, size=count, p=weights / weights.sum())
    return [int(numbers[i]) for i in chosen]


async def open_loop(ask: Ask, due: Sequence[float], queries: Sequence[int]) -> list[Answered]:
    """Send each request when it is due."""
    start = time.perf_counter()
    tasks = []
    for at, query in zip(due, queries, strict=True):
        await asyncio.sleep(max(0.0, at - (time.perf_counter() - start)))
        tasks.append(asyncio.create_task(_timed(ask, query, at, start)))
    return list(await asyncio.gather(*tasks))


async def _timed(ask: Ask, query: int, due: float, start: float) -> Answered:
    try:
        answer = await ask(query)
    except FunnelError as error:
        answer = Answered(due, 0.0, query, failed=type(error).__name__)
    latency = time.perf_counter() - start - due
    return Answered(due, latency, query, answer.ids, answer.degraded, answer.cached, answer.failed)


async def capacity(ask: Ask, queries: Sequence[int], *, callers: int) -> float:
    """Requests per second when ``callers`` ask without pause."""
    waiting: Iterator[int] = iter(queries)

    async def caller() -> None:
        for query in waiting:
            await ask(query)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return len(queries) / (time.perf_counter() - began)


async def idle(ask: Ask, queries: Sequence[int]) -> list[float]:
    """Seconds of each request when they come one at a time."""
    times = []
    for query in queries:
        began = time.perf_counter()
        await ask(query)
        times.append(time.perf_counter() - began)
    return times


def summarise(
    answers: Sequence[Answered],
    quality: Callable[[Sequence[Answered]], float],
    *,
    share: float,
    rate: float,
    cache: bool,
    adapt: bool,
) -> LoadPoint:
    """One point of the ladder, without its warm-up; failed requests count as never answered.

    Raises:
        ConfigError: there were no requests at all.
    """
    counted = list(answers[int(len(answers) * WARM_UP_SHARE) :])
    if not counted:
        raise ConfigError(f"no request was due at {rate:.2f} per second; raise --seconds")
    times = [np.inf if each.failed else each.latency_s * 1000 for each in counted]
    p50, p95, p99 = (float(np.percentile(times, p, method="higher")) for p in (50, 95, 99))
    good = [each for each in counted if not each.failed]
    return LoadPoint(
        share=share,
        rate=rate,
        cache=cache,
        adapt=adapt,
        requests=len(counted),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        degraded=float(np.mean([each.degraded for each in good])) if good else 0.0,
        cached=float(np.mean([each.cached for each in good])) if good else 0.0,
        failed=len(counted) - len(good),
        ndcg=quality(good),
    )
