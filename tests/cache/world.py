"""A small world for the cache: questions "WORDS about TOPIC", where the topic is the meaning."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from funnel.cache.base import Answer, CacheRequest, Served
from funnel.cache.codec import Codec
from funnel.cache.semantic import SemanticCache
from funnel.cache.settings import CacheSettings
from funnel.cache.store import Store
from funnel.cache.store_memory import MemoryStore
from funnel.deadline import Deadline
from funnel.models.base import ScoredPairs, Side, TextPair
from funnel.query import Query
from funnel.types import Hit, ScoreKind

FloatArray = NDArray[np.float32]


def meaning(text: str) -> str:
    """What a question of this world is about."""
    return text.rsplit(" about ", 1)[-1].casefold()


class TopicEncoder:
    """Texts on one topic point one way, with a little of their own.

    ``sides`` records as what texts were read.
    """

    name = "world:topics"
    revision = "1"
    dim = 64
    max_tokens = 64

    def __init__(self) -> None:
        self.sides: list[Side | None] = []

    def count_tokens(self, texts: Sequence[str], *, side: Side | None = None) -> list[int]:
        self.sides.extend([side] * len(texts))
        return [len(text.split()) + 2 for text in texts]

    def encode(
        self, texts: Sequence[str], *, progress: bool = False, side: Side | None = None
    ) -> FloatArray:
        self.sides.extend([side] * len(texts))
        rows = [_unit(meaning(text)) + 0.2 * _unit(text) for text in texts]
        matrix = np.stack(rows).astype(np.float32)
        unit: FloatArray = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
        return unit

    async def aencode(self, texts: Sequence[str], *, side: Side | None = None) -> FloatArray:
        await asyncio.sleep(0)
        return self.encode(texts, side=side)

    def token_vectors(self, texts: Sequence[str], *, side: Side | None = None) -> list[FloatArray]:
        return [self.encode(text.split()) for text in texts]

    async def atoken_vectors(
        self, texts: Sequence[str], *, side: Side | None = None
    ) -> list[FloatArray]:
        return self.token_vectors(texts, side=side)


class TopicScorer:
    """Knows whether two questions mean the same: +8 or -8 logits, or what ``scores`` says."""

    name = "world/verifier"
    revision = "1"
    score_kind: ScoreKind = "logit"

    def __init__(self, *, delay_s: float = 0.0, window: int = 10_000) -> None:
        self.delay_s = delay_s
        self.window = window
        self.error: Exception | None = None
        self.scores: dict[TextPair, float] = {}
        self.calls: list[list[TextPair]] = []

    def score(self, pairs: Sequence[TextPair]) -> FloatArray:
        values = [self.scores.get(pair, self._judge(pair)) for pair in pairs]
        return np.asarray(values, dtype=np.float32)

    async def ascore(self, pairs: Sequence[TextPair], *, deadline: Deadline) -> ScoredPairs:
        self.calls.append(list(pairs))
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        truncated = sum(len(a.split()) + len(b.split()) > self.window for a, b in pairs)
        return ScoredPairs(self.score(pairs), truncated, len(pairs))

    def _judge(self, pair: TextPair) -> float:
        return 8.0 if meaning(pair[0]) == meaning(pair[1]) else -8.0


def _unit(text: str) -> FloatArray:
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    vector = np.random.default_rng(seed).standard_normal(TopicEncoder.dim)
    unit: FloatArray = (vector / np.linalg.norm(vector)).astype(np.float32)
    return unit


def settings(**changes: Any) -> CacheSettings:
    """Settings of the tests: a fixed threshold, no randomness, patient timeouts."""
    plain = {
        "verifier": {"model": "world/verifier", "timeout_ms": 5_000},
        "threshold": 2.0,
        "floor": 0.5,
        "ttl_jitter": 0.0,
        "early_refresh": 0.0,
        "audit_share": 0.0,
        "timeout_ms": 2_000,
    }
    return CacheSettings.model_validate({**plain, **changes})


class Clock:
    """Wall-clock seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Stages:
    """Stands for the chain: counts its runs and answers with documents named after the topic."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.runs: list[str] = []
        self.error: Exception | None = None
        self.degraded: tuple[str, ...] = ()
        self.documents: dict[str, tuple[str, ...]] = {}

    def of(self, text: str) -> Callable[[], Awaitable[Answer]]:
        async def compute() -> Answer:
            self.runs.append(text)
            await asyncio.sleep(self.delay_s)
            if self.error is not None:
                raise self.error
            topic = meaning(text)
            ids = self.documents.get(topic, (f"{topic}-1", f"{topic}-2"))
            return Answer(
                hits=tuple(hit(rank, id_) for rank, id_ in enumerate(ids, start=1)),
                degraded=self.degraded,
                elapsed_ms=100.0,
            )

        return compute


def hit(rank: int, id_: str) -> Hit:
    """A document of an answer."""
    return Hit(rank, id_, 1.0 / rank, "logit", "stage", "", f"text of {id_}")


class World:
    """A cache, its parts, and one-line questions to it."""

    def __init__(
        self,
        *,
        store: Store | None = None,
        scorer: TopicScorer | None = None,
        stages: Stages | None = None,
        clock: Clock | None = None,
        spread: Callable[[], float] = lambda: 0.5,
        **changes: Any,
    ) -> None:
        self.settings = settings(**changes)
        self.encoder = TopicEncoder()
        self.scorer = scorer or TopicScorer()
        self.stages = stages or Stages()
        self.clock = clock or Clock()
        self.store = store or MemoryStore(self.settings.limits, clock=self.clock)
        self.cache = SemanticCache(
            self.settings,
            self.store,
            self.encoder,
            self.scorer,
            codec=Codec(b"test", max_payload=self.settings.max_entry_bytes),
            clock=self.clock,
            spread=spread,
        )

    def request(
        self,
        text: str,
        *,
        scope: str | None = None,
        partition: Mapping[str, Any] | None = None,
        deadline_ms: float | None = None,
    ) -> CacheRequest:
        async def embed(text: str) -> FloatArray:
            vectors = await self.encoder.aencode([text], side="query")
            row: FloatArray = vectors[0]
            return row

        query = Query(text, query_id="q", embed=embed, scope=scope)
        return CacheRequest(query, partition or {"k": 2}, scope, Deadline.after_ms(deadline_ms))

    async def ask(self, text: str, **options: Any) -> Served:
        """Serve one query and let background work settle."""
        served = await self.cache.serve(self.request(text, **options), self.stages.of(text))
        await settle()
        return served


async def settle() -> None:
    """Let tasks that are ready run."""
    for _ in range(20):
        await asyncio.sleep(0)
