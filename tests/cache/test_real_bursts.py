"""Bursts through a whole funnel with the shipped models, default limits, and a real Redis."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from funnel import Document, Funnel, FunnelSettings
from funnel.result import FunnelResult
from tests.redis_servers import RedisServer

pytestmark = pytest.mark.slow

QUESTION = "How do I reset my password?"
_OPENINGS = ("How do I", "How can I", "How could I", "how do i", "how can I")
_ENDS = ("?", "", "??", " please?", "!", " now?", " thanks?", " ?!")


class Burst:
    """A funnel whose one slow stage counts its runs."""

    def __init__(self, cache: dict[str, Any]) -> None:
        self.runs: list[str] = []

        def slow(query: str, candidates: Sequence[Document]) -> list[float]:
            self.runs.append(query)
            time.sleep(0.3)
            return [float(-place) for place in range(len(candidates))]

        data = {
            "collection": "burst",
            "stages": [
                {"kind": "bm25", "k": 5},
                {"kind": "callable", "name": "slow", "function": "slow", "k": 3},
            ],
            "qdrant": ":memory:",
            "cache": {"target_precision": 0.88, "audit_share": 0, **cache},
        }
        self.funnel = Funnel(FunnelSettings.from_mapping(data), functions={"slow": slow})
        self.funnel.index([{"id": "d", "text": "Reset your password with a link by mail"}])
        for number in range(3):
            self.funnel.run(f"warm up {number}")
        self.runs.clear()

    def ask(self, texts: Sequence[str]) -> list[FunnelResult]:
        async def all_at_once() -> list[FunnelResult]:
            return await asyncio.gather(*(self.funnel.arun(text) for text in texts))

        return asyncio.run(all_at_once())


@pytest.fixture
def made() -> Iterator[list[Burst]]:
    """Bursts to close."""
    bursts: list[Burst] = []
    yield bursts
    for burst in bursts:
        burst.funnel.close()


def test_paraphrases_in_a_burst_are_one_run(made: list[Burst]) -> None:
    """200 callers, 40 wordings: the models are behind for longer than one query would wait."""
    made.append(burst := Burst({"store": "memory"}))
    wordings = [f"{start} reset my password{end}" for start in _OPENINGS for end in _ENDS]
    assert len(wordings) == 40
    results = burst.ask((wordings * 5)[:200])
    assert len(burst.runs) == 1
    assert all(result.cache.status == "hit" for result in results[1:])


def test_equal_questions_in_a_burst_leave_redis_alone(
    made: list[Burst], redis_server: RedisServer
) -> None:
    """A thousand at once: one run, a few readings of the store, no breaker, and it is kept."""
    cache = {"store": "redis", "url": redis_server.url, "namespace": "burst"}
    made.append(burst := Burst(cache))
    results = burst.ask([QUESTION] * 1_000)
    assert len(burst.runs) == 1
    assert Counter(result.cache.tier for result in results) == {"flight": 999, None: 1}
    stats = burst.funnel.cache_stats()
    assert (stats["breaker"], sum(stats["store_faults"].values()) <= 2) == ("closed", True)
    assert burst.funnel.run(QUESTION).cache.tier == "exact"
