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

Quality = Callable[[Sequence["Answered"]], float]
"""Mean nDCG@10 of some answers."""


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
    """One rate of the ladder. ``share`` is of the capacity measured at full depth.

    ``warm_up_p99_ms`` is that of the requests that the other figures leave out: an overload has to
    last before it is noticed. ``full_ndcg`` is what the same requests reach at full depth.
    """

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
    full_ndcg: float
    warm_up_p99_ms: float | None

    @property
    def ndcg_loss(self) -> float | None:
        """Share of the full depth's nDCG@10 that is lost; negative where less was better.

        None if nothing was answered.
        """
        if self.failed == self.requests:
            return None
        return 1 - self.ndcg / self.full_ndcg if self.full_ndcg else 0.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; shares are 0 to 1, and a time without end is None, as JSON has none."""
        plain = asdict(self)
        for name in ("p50_ms", "p95_ms", "p99_ms", "warm_up_p99_ms"):
            plain[name] = finite(plain[name])
        ndcg = plain.pop("ndcg")
        return {**plain, "ndcg@10": ndcg, "ndcg_loss": self.ndcg_loss}


def finite(value: float | None) -> float | None:
    """The value, None if it is not finite."""
    return value if value is not None and np.isfinite(value) else None


def half_depth(depth: int) -> int:
    """The depth of the second idle measurement, which tells what of the time is fixed."""
    return max(1, depth // 2)


def poisson(rate: float, seconds: float, seed: int, *, warm_up: float = 0.0) -> list[float]:
    """Due times of a Poisson process, in seconds from the start of ``warm_up``.

    Of the processes with that rate it is one with exactly ``rate * seconds`` arrivals (and
    ``rate * warm_up`` before), so that a short run is at the rate it is said to be at, and only
    when they come is left to chance.
    """
    random = np.random.default_rng(seed)
    parts = ((0.0, warm_up), (warm_up, seconds))
    return [
        float(due)
        for start, length in parts
        for due in np.sort(start + length * random.random(round(rate * length)))
    ]


def read_trace(path: Path) -> list[float]:
    """Due times, from the first on, from a file of one number of seconds on each line.

    Raises:
        ConfigError: a line is no number, times fall, or there are fewer than two.
    """
    try:
        times = [float(line) for line in path.read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: got {error}, expected one number of seconds a line") from error
    if not (np.isfinite(times).all() and times == sorted(times) and len({*times}) > 1):
        raise ConfigError(f"{path}: expected at least two rising times")
    return [due - times[0] for due in times]


def stretched(trace: Sequence[float], rate: float) -> list[float]:
    """The due times of a trace that starts at 0, at another mean rate."""
    stretch = len(trace) / rate / trace[-1]
    return [due * stretch for due in trace]


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


async def idle(ask: Ask, queries: Sequence[int]) -> list[Answered]:
    """The requests one at a time."""
    return [await _timed(ask, query, 0.0, time.perf_counter()) for query in queries]


def summarise(
    answers: Sequence[Answered],
    quality: Quality,
    *,
    share: float,
    rate: float,
    cache: bool,
    adapt: bool,
    warm_up: float = 0.0,
    full_quality: Quality | None = None,
) -> LoadPoint:
    """Figures of one rate; requests due within ``warm_up`` seconds do not count.

    A failed request counts as infinitely slow, so that refusing everything looks like what it is.

    Raises:
        ConfigError: no request was due in the time that counts.
    """
    counted = [each for each in answers if each.due_s >= warm_up]
    if not counted:
        raise ConfigError(f"no request was due at {rate:.2f} per second; raise --seconds")
    early = [each for each in answers if each.due_s < warm_up]
    good = [each for each in counted if not each.failed]
    ndcg = quality(good)
    return LoadPoint(
        share=share,
        rate=rate,
        cache=cache,
        adapt=adapt,
        requests=len(counted),
        p50_ms=_percentile_ms(counted, 50),
        p95_ms=_percentile_ms(counted, 95),
        p99_ms=_percentile_ms(counted, 99),
        degraded=float(np.mean([each.degraded for each in good])) if good else 0.0,
        cached=float(np.mean([each.cached for each in good])) if good else 0.0,
        failed=len(counted) - len(good),
        ndcg=ndcg,
        full_ndcg=ndcg if full_quality is None else full_quality(good),
        warm_up_p99_ms=_percentile_ms(early, 99) if early else None,
    )


def _percentile_ms(answers: Sequence[Answered], percent: float) -> float:
    times = [np.inf if each.failed else each.latency_s * 1000 for each in answers]
    return float(np.percentile(times, percent, method="higher"))
