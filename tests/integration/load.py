"""A stream of questions through a semantic cache, with every answer checked."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from funnel.cache.base import Answer, CacheRequest, Served
from funnel.cache.factory import build_store
from funnel.cache.semantic import SemanticCache
from funnel.cache.settings import CacheSettings
from funnel.deadline import Deadline
from funnel.models.base import ScoredPairs, TextPair
from funnel.query import Query
from funnel.types import Hit
from tests.fakes import FakeEncoder

INTENTS = 40
PHRASINGS = 6
COMPUTE_S = 0.004
_FILLERS = ["please", "today", "online", "quickly", "somehow", "again"]


class IntentScorer:
    """Knows the same question by the name of its topic, as a verifier should."""

    name = "fake:intent"
    revision = "1"
    score_kind: Literal["logit"] = "logit"

    def score(self, pairs: Sequence[TextPair]) -> NDArray[np.float32]:
        same = [intent_of(a) == intent_of(b) for a, b in pairs]
        return np.where(same, 5.0, -5.0).astype(np.float32)

    async def ascore(self, pairs: Sequence[TextPair], *, deadline: Deadline) -> ScoredPairs:
        return ScoredPairs(self.score(pairs), truncated=0, scored=len(pairs))


def topic(intent: int) -> str:
    """A word of letters only, so that the number guard has nothing to compare."""
    return "topic" + "".join("abcdefghij"[int(digit)] for digit in f"{intent:04d}")


def question(intent: int, phrasing: int) -> str:
    """One of six phrasings of one of forty questions."""
    return f"how do i get my {topic(intent)} refund done {_FILLERS[phrasing]}"


def intent_of(text: str) -> str:
    """The word that tells the topic."""
    return next((word for word in text.split() if word.startswith("topic")), text)


@dataclass
class Seen:
    """What one query met. ``waited_ms`` leaves out what computing its answer took."""

    at: float
    status: str
    tier: str | None
    reason: str | None
    waited_ms: float
    wrong: str | None


@dataclass
class Stream:
    """Asks questions of one cache and remembers what came back.

    ``version`` is that of the index; an answer names the version it was computed from, and must
    not be older than the last write that the cache was told of.
    """

    cache: SemanticCache
    version: int = 0
    told: int = 0
    seen: list[Seen] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    async def ask(self, intent: int, phrasing: int) -> Served:
        """One query, checked."""
        text, computed_s, told = question(intent, phrasing), 0.0, self.told

        async def compute() -> Answer:
            nonlocal computed_s
            began, version = time.perf_counter(), self.version
            await asyncio.sleep(COMPUTE_S)
            computed_s = time.perf_counter() - began
            return Answer((_hit(intent, version),), elapsed_ms=computed_s * 1000)

        encoder = FakeEncoder()

        async def embed(text: str) -> NDArray[np.float32]:
            vector: NDArray[np.float32] = encoder.encode([text])[0]
            return vector

        request = CacheRequest(Query(text, query_id="q", embed=embed), partition={"k": 1})
        began = time.perf_counter()
        served = await self.cache.serve(request, compute)
        waited_s = time.perf_counter() - began - computed_s
        info = served.info
        self.seen.append(
            Seen(
                time.monotonic(),
                info.status,
                info.tier,
                info.reason,
                waited_s * 1000,
                _wrong(served, intent, told),
            )
        )
        return served

    async def write_index(self) -> None:
        """Change every answer, and tell the cache."""
        self.version += 1
        version = self.version
        await self.cache.documents_changed()
        self.told = version

    async def run(self, stop: Callable[[], bool], *, tasks: int = 8, seed: int = 0) -> None:
        """Ask at random from several tasks until told to stop; failures are collected."""

        async def asker(number: int) -> None:
            chance = random.Random(seed * 1000 + number)
            while not stop():
                try:
                    await self.ask(chance.randrange(INTENTS), chance.randrange(PHRASINGS))
                except Exception as error:
                    self.failures.append(error)
                await asyncio.sleep(chance.random() * 0.01)

        await asyncio.gather(*(asker(number) for number in range(tasks)))

    async def fill(self, *, within_s: float = 20.0) -> None:
        """Ask every question until all of them are in the store."""
        end = time.monotonic() + within_s
        while (await self.cache.guarded.store.stats()).entries < INTENTS:
            assert time.monotonic() < end, "the store does not fill"
            for intent in range(INTENTS):
                await self.ask(intent, 0)

    def wrong(self) -> list[str]:
        """Every wrong answer, said in words."""
        return [seen.wrong for seen in self.seen if seen.wrong]

    def percentile(self, share: float, *, since: float = 0.0, until: float = 1e18) -> float:
        """How long that share of the queries waited at most, in milliseconds."""
        waits = sorted(seen.waited_ms for seen in self.seen if since <= seen.at < until)
        return waits[min(len(waits) - 1, int(share * len(waits)))]

    def hits(self, *, since: float = 0.0) -> int:
        """How many queries the cache answered."""
        return sum(seen.status == "hit" for seen in self.seen if seen.at >= since)


def make_stream(url: str, *, timeout_ms: float = 150.0) -> Stream:
    """A stream on a cache of its own, as another process would have it."""
    settings = CacheSettings.model_validate(
        {
            "store": "redis",
            "url": url,
            "timeout_ms": timeout_ms,
            "threshold": 0.0,
            "floor": 0.5,
            "audit_share": 0.0,
            "early_refresh": 0.0,
            "ttl_s": 600,
        }
    )
    return Stream(SemanticCache(settings, build_store(settings), FakeEncoder(), IntentScorer()))


def _hit(intent: int, version: int) -> Hit:
    return Hit(1, f"d{intent}", 1.0, "logit", "fake", "", f"{topic(intent)} {version}")


def _wrong(served: Served, intent: int, told: int) -> str | None:
    (hit,) = served.answer.hits
    found, version = hit.text.split()
    if found != topic(intent):
        return f"asked for {topic(intent)}, got {found} ({served.info.tier})"
    if int(version) < told:
        return f"got version {version} after the cache was told of {told} ({served.info.tier})"
    return None
